"""The table of a sweep as text: Markdown, CSV, LaTeX (JSON: json_form.py).

    SweepResults -> heads and cells -> to_markdown, to_latex, page.to_html        SweepResults -> to_csv

A row for each configuration; the best figure of a column in bold. Under ours stand the paper's figures, in a block
whose heading says that definitions differ. Remarks are footnotes; what says how figures were measured stands below.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from proteinlm.platform.results.formatting import scientific
from proteinlm.sweeps.results.values import ConfigurationResult, Figure, SweepResults

PAPER_HEADING = "The paper's Table 7 (Xiao et al. 2021): DEFINITIONS DIFFER, single runs, never ranked with the above"
SIMULATED = "SIMULATED PROTEINS: the figures are of made-up data and say nothing about real proteins"
NOTHING = "-"


@dataclass(frozen=True)
class Cell:
    """What stands in one place of the table."""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class TextTable:
    """The table in words: as many cells in each row as there are heads."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    paper_rows: tuple[tuple[Cell, ...], ...]
    footnotes: tuple[str, ...]
    """Numbered from 1; the first cell of a row refers to them."""


def text_table(results: SweepResults) -> TextTable:
    """All figures as text: mean ± standard deviation over seeds, counts to the digits that tell models apart."""
    footnotes: dict[str, int] = {}
    for remark in (remark for line in results.lines for remark in line.remarks):
        footnotes.setdefault(remark, len(footnotes) + 1)
    best = {column: results.best(column) for column in results.columns}
    rows = []
    for place, line in enumerate(results.lines):
        marks = "".join(f" [{footnotes[remark]}]" for remark in line.remarks)
        state = "" if line.state == "finished" else f" ({line.state})"
        figures = [Cell(shown(line.figures.get(column)), place in best[column]) for column in results.columns]
        rows.append((Cell(f"{line.name}{state}{marks}"), Cell(line.mode), *figures, *_costs(line)))
    paper = [
        (Cell(line.name), Cell(line.mode), *(Cell(shown(line.figures.get(c))) for c in results.columns), *_costs(line))
        for line in results.paper
    ]
    heads = ("configuration", "mode", *(column.title for column in results.columns), *cost_heads(results))
    return TextTable(heads, tuple(rows), tuple(paper), tuple(footnotes))


def cost_heads(results: SweepResults) -> tuple[str, ...]:
    """Heads of the columns of size and cost."""
    return "parameters", "training FLOPs", "residues", "GPU-hours" if results.device == "gpu" else "core-hours"


def title(results: SweepResults) -> str:
    """What stands over the table."""
    return f"Sweep {results.name}{' (SIMULATED PROTEINS)' if results.is_simulated else ''}"


def all_notes(results: SweepResults) -> tuple[str, ...]:
    """Everything that is said below the table of ours."""
    return (*([SIMULATED] if results.is_simulated else []), *results.notes)


def to_markdown(results: SweepResults) -> str:
    """The table, the paper's lines in a block of their own, footnotes and notes."""
    table = text_table(results)
    rows = [table.heads, ["---", "---", *["---:"] * (len(table.heads) - 2)]]
    rows += [[_markdown(cell) for cell in row] for row in table.rows]
    if table.paper_rows:
        rows.append([f"*{PAPER_HEADING}*", *[""] * (len(table.heads) - 1)])
        rows += [[_markdown(cell) for cell in row] for row in table.paper_rows]
    parts = [f"## {title(results)}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    if table.footnotes:
        parts.append("\n".join(f"- [{number}] {_plain(note)}" for number, note in enumerate(table.footnotes, 1)))
    parts.append("Best of a column in **bold**.")
    parts.append("\n".join(f"- {_plain(note)}" for note in all_notes(results)))
    if results.paper_notes:
        parts.append("The paper's figures:\n\n" + "\n".join(f"- {note}" for note in results.paper_notes))
    return "\n\n".join(parts) + "\n"


def _markdown(cell: Cell) -> str:
    text = _plain(cell.text).replace("|", "\\|")
    return f"**{text}**" if cell.is_best else text


def _plain(text: str) -> str:
    """`text` such that Markdown takes no part of it for HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def to_csv(results: SweepResults) -> str:
    """A line for each configuration, then the paper's; value, spread and number of seeds of a figure apart.

    `source` is "measured" or "paper" (other definitions); what is not known is empty.
    """
    heads = ["source", "configuration", "mode", "like", "state", "hidden_size", "num_hidden_layers"]
    heads += ["num_attention_heads", "parameters", "training_flops", "residues", f"{results.device}_hours"]
    for column in results.columns:
        heads += [column.title, f"{column.title} spread", f"{column.title} num_seeds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, "simulated_proteins", "remarks"])
    for source, lines in (("measured", results.lines), ("paper", results.paper)):
        for line in lines:
            about = [source, line.name, line.mode, line.like, line.state]
            sizes = [line.hidden_size, line.num_hidden_layers, line.num_attention_heads, line.parameters]
            costs = [line.training_flops, line.residues, line.device_hours]
            figures = [value for column in results.columns for value in _csv_figure(line.figures.get(column))]
            is_simulated = results.is_simulated and source == "measured"
            writer.writerow([*about, *(size or "" for size in sizes), *costs, *figures, is_simulated, _joined(line)])
    return text.getvalue()


def _joined(line: ConfigurationResult) -> str:
    return "; ".join(line.remarks)


def _csv_figure(figure: Figure | None) -> tuple[float | None, float | None, int | None]:
    return (figure.value, figure.spread, figure.num_seeds) if figure else (None, None, None)


def to_latex(results: SweepResults) -> str:
    r"""A `table` for an article with `\usepackage{booktabs}`: downstream figures, and below them pretraining and cost.

    What is no ASCII becomes "?" but for ± and ×, so that it compiles with every engine.
    """
    table = text_table(results)
    num_downstream = sum(column.is_downstream for column in results.columns)
    downstream = list(range(2, 2 + num_downstream))
    others = list(range(2 + num_downstream, len(table.heads)))
    blocks = [_tabular(table, [0, 1, *places]) for places in (downstream, others) if places]
    notes = [f"[{number}] {note}" for number, note in enumerate(table.footnotes, 1)]
    notes += [*all_notes(results), *results.paper_notes]
    lines = [
        r"\begin{table}[p]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex(title(results))}. Best of a column in bold; mean $\pm$ standard deviation over seeds.}}",
        "\n\n\\medskip\n".join(blocks),
        r"\end{table}",
        r"\begingroup\footnotesize",
        "\n\n".join(rf"\noindent {_latex(note)}" for note in notes),
        r"\par\endgroup",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: TextTable, places: Sequence[int]) -> str:
    """The columns of these places, centred even where they are wider than the text."""
    heads = " & ".join(_latex(table.heads[place]) for place in places)
    lines = [rf"\makebox[\textwidth][c]{{\begin{{tabular}}{{ll{'r' * (len(places) - 2)}}}", r"\toprule"]
    lines += [rf"{heads} \\", r"\midrule", *(_latex_row(row, places) for row in table.rows)]
    paper_rows = [row for row in table.paper_rows if any(row[place].text != NOTHING for place in places[2:])]
    if paper_rows:
        heading = rf"\multicolumn{{{len(places)}}}{{l}}{{\emph{{{_latex(PAPER_HEADING)}}}}} \\"
        lines += [r"\midrule", heading, *(_latex_row(row, places) for row in paper_rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


def _latex_row(row: Sequence[Cell], places: Sequence[int]) -> str:
    cells = [
        rf"\textbf{{{_latex(row[place].text)}}}" if row[place].is_best else _latex(row[place].text) for place in places
    ]
    return " & ".join(cells) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign if sign.isascii() else "?") for sign in text)


def shown(figure: Figure | None) -> str:
    """Such as "0.503 ± 0.004"; "-" where there is none."""
    if figure is None:
        return NOTHING
    places = 3 if not math.isfinite(figure.value) or abs(figure.value) < 10 else 2
    spread = "" if figure.spread is None else f" ± {figure.spread:.{places}f}"
    return f"{figure.value:.{places}f}{spread}"


def _costs(line: ConfigurationResult) -> tuple[Cell, ...]:
    hours = line.device_hours
    return (
        Cell(f"{line.parameters:,}" if line.parameters else NOTHING),
        Cell(NOTHING if line.training_flops is None else scientific(line.training_flops)),
        Cell(NOTHING if line.residues is None else f"{line.residues:,}"),
        Cell(NOTHING if hours is None else f"{hours:,.3f}" if hours < 1 else f"{hours:,.2f}"),
    )

"""Tables and rows for other programs: LaTeX for an article, CSV for a spreadsheet, JSON for scripts, and a page.

    Table -> to_latex, to_csv, to_json          rows -> rows_to_csv, rows_to_json (every field; seeds are not pooled)
    tables, findings, plots -> to_html: one file that needs no other one

In JSON a number that is not finite is null. In CSV what is not known is empty.
"""

import csv
import io
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from proteinlm.platform.results.formatting import UNKNOWN
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.table_text import TextTable, all_notes, joined, text_table
from proteinlm.platform.results.tables import Fact, Table


def to_latex(*tables: Table) -> str:
    r"""Each of `tables` as a `table` environment for an article with `\usepackage{booktabs}`, and its notes below it.

    Metrics of finetuning and of pretraining are two `tabular`s, one above the other. Signs beyond ASCII become "?",
    except ± and ×, so that every LaTeX engine compiles it.
    """
    return "\n".join(map(_latex_table, tables))


def _latex_table(table: Table) -> str:
    text = text_table(table)
    indices = range(text.num_leading, len(text.heads))
    downstream = [index for index, column in zip(indices, table.columns, strict=False) if column.is_downstream]
    others = [index for index in indices if index not in downstream]
    notes = [
        *text.numbered_footnotes,
        *all_notes(table),
        *(note for notes in table.more_notes.values() for note in notes),
    ]
    lines = [
        r"\begin{table}[p]",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_latex('. '.join(filter(None, (table.title, table.caption))))}}}",
        "\n\n\\medskip\n".join(_tabular(text, block) for block in (downstream, others) if block),
        r"\end{table}",
        r"\begingroup\footnotesize",
        "\n\n".join(rf"\noindent {_latex(note)}" for note in notes),
        r"\par\endgroup",
    ]
    return "\n".join(lines) + "\n"


def _tabular(text: TextTable, block: Sequence[int]) -> str:
    """A `tabular` of the leading columns and those with the indices `block`, centred even where wider than the text."""
    indices = [*range(text.num_leading), *block]
    sides = "".join(text.sides[index][0] for index in indices)
    heads = [r" \\ ".join(map(_latex, text.heads[index])) for index in indices]
    heads = [rf"\shortstack[r]{{{head}}}" if r"\\" in head else head for head in heads]
    lines = [rf"\makebox[\textwidth][c]{{\begin{{tabular}}{{{sides}}}", r"\toprule", rf"{' & '.join(heads)} \\"]
    for heading, group in text.groups:
        shown = [each for each in group if not each.line.is_published or each.has_any(block)]
        lines += [r"\midrule"] if shown else []
        if heading and shown:
            lines.append(rf"\multicolumn{{{len(indices)}}}{{l}}{{\emph{{{_latex(heading)}}}}} \\")
        for each in shown:
            cells = [joined(each.cells[index], _latex, r"\textbf{{{}}}") for index in indices]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"])


_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "[": "{[}",  # after the end of a line it would begin a length
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


def to_csv(table: Table) -> str:
    """One record for each line of `table`: its name, all facts, and for each column value, deviation and num_seeds.

    Raises ValueError where a line has several values in one column.
    """
    records = []
    for line in table.lines:
        record: dict[str, Fact] = {table.subject: line.name}
        record |= {column.key: line.facts.get(column.key) for column in (*table.facts, *table.costs)}
        for column in table.columns:
            cells = line.cells.get(column, ())
            if len(cells) > 1:
                raise ValueError(f"{line.name} has {len(cells)} values of {column.title!r}; CSV takes one")
            for name in ("value", "deviation", "num_seeds"):
                title = column.title if name == "value" else f"{column.title} {name}"
                record[title] = getattr(cells[0], name) if cells else None
        records.append({**record, "remarks": "; ".join(line.remarks)})
    return _csv(list(records[0]) if records else [], records)


def rows_to_csv(rows: Sequence[ResultRow]) -> str:
    """One record for each row, with all its fields; `settings` is JSON."""
    records = ({**row.model_dump(), "settings": row.settings and json.dumps(row.settings)} for row in rows)
    return _csv(list(ResultRow.model_fields), records)


def _csv(heads: Sequence[str], records: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def to_json(table: Table) -> str:
    """All of `table`: {"columns": [...], "lines": [{<name and facts>, "cells": [{"column": title, ...}]}], ...}."""
    values = {name: getattr(table, name) for name in ("title", "warning", "caption", "notes", "more_notes")}
    values["columns"] = [asdict(column) for column in table.columns]
    values["lines"] = [
        {
            table.subject: line.name,
            **line.facts,
            "heading": line.heading,
            "remarks": line.remarks,
            "cells": [{"column": column.title, **asdict(cell)} for column, of in line.cells.items() for cell in of],
        }
        for line in table.lines
    ]
    return json.dumps(_finite(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    """`value` with null for numbers that are not finite, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inside) for name, inside in value.items()}
    return [_finite(inside) for inside in value] if isinstance(value, list | tuple) else value


def rows_to_json(rows: Sequence[ResultRow]) -> str:
    """A list of all rows, with all their fields."""
    return "[\n" + ",\n".join(row.model_dump_json() for row in rows) + "\n]\n"


TEMPLATE = "page.html.jinja"
MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


def to_html(
    title: str,
    tables: Sequence[Table],
    findings: Sequence[str] = (),
    plots: Mapping[str, Path] | None = None,
    notes: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The text of the page: `tables` with their remarks, `findings` (sentences), `plots` (caption -> file), `notes`
    (heading -> texts), and the notes of the tables, in this order.

    A table that has the page's own title gets no heading of its own. Raises ValueError for a plot that is neither .png
    nor .svg, and OSError where its file cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=title,
        warnings=dict.fromkeys(table.warning for table in tables if table.warning),
        tables=[(table, text_table(table)) for table in tables],
        findings=findings,
        plots={caption: _inside(path) for caption, path in (plots or {}).items()},
        notes=notes or {},
        unknown=UNKNOWN,
    )


def _inside(path: Path) -> str:
    """The file as a data URL."""
    if path.suffix not in MEDIA:
        raise ValueError(f"cannot show {path}: the suffix is {path.suffix or 'missing'!r}, accepted are .png and .svg")
    return f"data:{MEDIA[path.suffix]};base64,{b64encode(path.read_bytes()).decode('ascii')}"

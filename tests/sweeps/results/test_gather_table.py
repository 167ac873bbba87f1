"""A sweep's table in every form: layout, what is bold, and that nothing in a message breaks it."""

import csv
import io
import json
import math
import re
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from proteinlm.platform.results.table_export import to_csv, to_json, to_latex
from proteinlm.platform.results.table_text import render, to_markdown
from proteinlm.platform.results.tables import Cell
from proteinlm.sweeps.results.gather import PAPER_HEADING, sweep_table
from tests.made.sweep_results import HOSTILE, P_AT_L5, Q3, VALID, make_line, make_results, small_results


def cells(markdown: str, text: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith("|") and text in line)
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_a_row_for_each_configuration_and_the_best_in_bold() -> None:
    markdown = to_markdown(sweep_table(small_results()))
    heads = ["configuration", "mode", "P@L/5", "SS Q3", "valid loss", "parameters", "training FLOPs", "residues"]
    assert cells(markdown, "configuration") == [*heads, "core-hours"]
    costs = ["105,953", "1.3e15", "2,000,000", "0.250"]
    small = ["hidden-64-layer-2-head-2", "full", "0.251 ± 0.010", "**0.600**", "**2.500**", *costs]
    assert cells(markdown, "hidden-64") == small
    assert cells(markdown, "hidden-96")[2:5] == ["**0.300 ± 0.020**", "**0.600**", "2.600"], "ties are all bold"
    assert cells(markdown, "hidden-128")[:4] == ["hidden-128-layer-2-head-2 (failed) [1]", "full", "-", "-"]
    assert cells(markdown, "one-hot") == ["one-hot window", "baseline", "-", "0.550", *["-"] * 5]
    assert cells(markdown, "hidden-512")[2] == "0.503", "the paper's is never bold"
    lines = markdown.splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1
    places = [
        next(n for n, line in enumerate(lines) if text in line) for text in ("one-hot", PAPER_HEADING, "hidden-512")
    ]
    assert places == sorted(places)
    assert "- [1] pretraining failed at step 3: loss_1 &amp; gradient &lt;not finite>" in markdown
    assert "every pair counts twice" in markdown
    assert "SIMULATED" not in markdown


def test_one_model_is_not_the_best_of_anything() -> None:
    alone = make_results(make_line("only", {"P@L/5": Cell(0.3, None, 1)}), make_line("other"))
    assert "|**" not in to_markdown(sweep_table(alone)).replace(" ", "")
    unranked = replace(small_results(), unranked=(Q3, P_AT_L5, VALID))
    assert "**0" not in to_markdown(sweep_table(unranked))
    nan = make_line("odd", {"P@L/5": Cell(float("nan"), None, 1)})
    for lines in ((nan, *alone.lines), (*alone.lines, nan)):
        assert "nan" in to_markdown(sweep_table(make_results(*lines)))
        assert "**0" not in to_markdown(sweep_table(make_results(*lines))), "what is no number does not compete"


def test_simulated_proteins_are_said_loudly() -> None:
    results = replace(small_results(), is_simulated=True)
    for text in (to_markdown(sweep_table(results)), to_latex(sweep_table(results))):
        assert text.count("SIMULATED PROTEINS") == 2
    assert {line["simulated_proteins"] for line in read_csv(to_csv(sweep_table(results)))} == {"True", "False"}


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_holds_every_figure_with_spread_and_seeds_apart() -> None:
    results = small_results()
    lines = read_csv(to_csv(sweep_table(results)))
    assert [line["source"] for line in lines] == [*["measured"] * 4, "paper"]
    for line, expected in zip(lines, (*results.lines, *results.paper), strict=True):
        assert (line["configuration"], line["mode"], line["state"]) == (expected.name, expected.mode, expected.state)
        assert line["like"] == (expected.like or "")
        assert line["remarks"] == "; ".join(expected.remarks)
        for name in ("parameters", "training_flops", "residues", "hidden_size"):
            assert (float(line[name]) if line[name] else None) == (getattr(expected, name) or None)
        assert (float(line["core_hours"]) if line["core_hours"] else None) == expected.device_hours
        for column in results.columns:
            cell = expected.values.get(column)
            read = [line[f"{column.title}{more}"] for more in ("", " deviation", " num_seeds")]
            assert read == (
                ["", "", ""] if cell is None else [str(cell.value), str(cell.deviation or ""), str(cell.num_seeds)]
            )


def test_latex_braces_and_columns_balance_and_nothing_special_is_left() -> None:
    latex = to_latex(sweep_table(small_results()))
    plain = latex.replace(r"\\", "").replace(r"\{", "").replace(r"\}", "")
    depths = [0]
    for sign in plain:
        depths.append(depths[-1] + {"{": 1, "}": -1}.get(sign, 0))
    assert depths[-1] == 0
    assert min(depths) == 0
    assert latex.isascii()
    assert plain.count("$") - plain.count(r"\$") == 2 * latex.count(r"$\pm$")
    for environment in ("table", "tabular"):
        assert latex.count(rf"\begin{{{environment}}}") == latex.count(rf"\end{{{environment}}}") > 0
    tabulars = re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", latex, re.S)
    assert [len(places) for places, _ in tabulars] == [2 + 2, 2 + 1 + 4]
    for places, body in tabulars:
        rows = [row for row in body.splitlines() if row.endswith(r"\\") and "multicolumn" not in row]
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(places) - 1}
    notes = latex[latex.index(r"\begingroup") :]
    assert not re.search(r"(?<!\\)[%#_&]", notes)
    assert not re.search(r"[\^~<>|]", notes)
    assert r"made\_up" in latex
    assert r"loss\_1 \& gradient \textless{}not finite\textgreater{}: 100 \% \#1 \$x\textasciicircum{}2\$" in latex
    assert r"\textbf{0.300 $\pm$ 0.020}" in latex
    assert all(rule in latex for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "DEFINITIONS DIFFER" in latex


def test_latex_has_no_sign_that_an_engine_may_not_know() -> None:
    latex = to_latex(
        sweep_table(make_results(make_line("a", {"P@L/5": Cell(0.3, None, 1)}, remarks=("failed: 3 µm × α",))))
    )
    assert r"failed: 3 ?m $\times$ ?" in latex


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, "-"),
        (Cell(0.50349, None, 1), "0.503"),
        (Cell(-0.1, 0.02, 2), "-0.100 ± 0.020"),
        (Cell(14.406, 0.5, 3), "14.41 ± 0.50"),
    ],
)
def test_values_have_digits_that_fit_their_size(cell: Cell | None, text: str) -> None:
    results = make_results(make_line("a", {"P@L/5": cell} if cell else {}), make_line("b", {"P@L/5": Cell(0.1)}))
    assert cells(to_markdown(sweep_table(replace(results, unranked=(P_AT_L5,)))), "| a |")[2] == text


def test_json_holds_everything_by_name() -> None:
    table = json.loads(to_json(sweep_table(small_results())))
    first = table["lines"][0]
    assert first["cells"][0] == {
        "column": "P@L/5",
        "value": 0.2512,
        "deviation": 0.0104,
        "num_seeds": 3,
        "interval": None,
        "floor": None,
        "num_scored": None,
        "note": "",
        "is_best": False,
    }
    assert table["columns"][0] == {**asdict(P_AT_L5), "title": "P@L/5"}
    assert (first["configuration"], first["core_hours"], first["training_flops"]) == (
        "hidden-64-layer-2-head-2",
        0.25,
        1.26e15,
    )
    assert [line["source"] for line in table["lines"]] == [*["measured"] * 4, "paper"]
    assert [line["state"] for line in table["lines"][:3]] == ["finished", "finished", "failed"]
    assert table["lines"][2]["remarks"] == [f"pretraining failed at step 3: {HOSTILE}"]
    assert table["more_notes"] == {"The paper's values": ["P@L/5: every pair counts twice"]}


def test_a_value_that_is_not_finite_is_null_in_json() -> None:
    text = to_json(sweep_table(make_results(make_line("odd", {"P@L/5": Cell(math.nan, math.inf, 2)}))))
    cell = json.loads(text, parse_constant=pytest.fail)["lines"][0]["cells"][0]
    assert (cell["value"], cell["deviation"], cell["num_seeds"]) == (None, None, 2)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_the_terminal_shows_the_whole_table(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    render([sweep_table(small_results())], console)
    text = console.export_text()
    for words in ("0.251 ± 0.010", "2.500", "105,953", "1.3e15", "core-hours", "one-hot window", "0.503"):
        assert words in text
    assert text.index("one-hot") < text.index("DEFINITIONS DIFFER") < text.index("0.503")
    assert f"[1] pretraining failed at step 3: {HOSTILE}" in text.replace("\n", " ").replace("  ", " ")


def test_hostile_text_is_hostile() -> None:
    assert set("_&<>%#$^{~}|\\") <= set(HOSTILE)

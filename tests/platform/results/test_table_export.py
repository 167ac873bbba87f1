"""Tables of runs for other programs: LaTeX that an article takes, rows in CSV and JSON without a loss."""

import csv
import io
import json
import re

import pytest

from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.table_export import rows_to_csv, rows_to_json, to_csv, to_latex
from tests.made.result_rows import baseline, make_row


def test_latex_has_the_head_in_lines_the_best_in_bold_and_every_note() -> None:
    rows = [make_row(low=0.6, high=0.62), baseline(), make_row(task="fluorescence", metric="spearman")]
    latex = to_latex(*make_tables(rows))
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 2
    heads = r"model & parameters & mode & run & \shortstack[r]{cb513 \\ Q3 \\ n 84,765 \\ {[}1a]} \\"
    line = r"hidden-64-layer-2-head-2 & 107 k & full & full & \textbf{0.610} {[}0.600, 0.620] \\"
    assert heads in latex
    assert line in latex
    assert r"\begin{tabular}{lrllr}" in latex
    assert r"\noindent {[}a] cb513: 513 proteins, data abc, split rule: 25 \% identity" in latex
    assert not re.search(r"\\\\\s*\[", latex), "a line's end would take it for a length"


def test_csv_and_json_hold_every_field_of_every_row() -> None:
    rows = [make_row(settings={"learning_rate": 1e-3}, low=0.6), baseline(value=float("nan"))]
    lines = list(csv.DictReader(io.StringIO(rows_to_csv(rows))))
    assert list(lines[0]) == list(ResultRow.model_fields)
    assert (lines[0]["value"], lines[0]["settings"], lines[1]["settings"]) == ("0.61", '{"learning_rate": 0.001}', "")
    written = json.loads(rows_to_json(rows), parse_constant=pytest.fail)
    assert written[1]["value"] is None
    again = [ResultRow.model_validate(row) for row in written]
    assert again[0] == rows[0]
    assert str(again[1].value) == "nan"


def test_csv_of_a_table_refuses_two_values_in_one_place() -> None:
    rows = [make_row(), make_row(definition="another")]
    with pytest.raises(ValueError, match="has 2 values of"):
        to_csv(make_tables(rows)[0])

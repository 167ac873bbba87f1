"""The table as JSON: everything goes out and comes back."""

import json
import math
from dataclasses import replace

from proteinlm.sweeps.results.json_form import from_json, to_json
from proteinlm.sweeps.results.values import Column, Figure
from tests.made.sweep_results import P_AT_L5, Q3, make_line, make_results, small_results


def test_what_goes_out_comes_back() -> None:
    results = small_results()
    assert from_json(to_json(results)) == results
    other = Column("SS Q3 on simulated_test", Q3.task, "simulated_test", Q3.metric)
    line = replace(make_line("a"), figures={other: Figure(0.5, 0.1, 3)})
    changed = replace(results, lines=(line,), columns=(other,), unranked=(other,), device="gpu", is_simulated=True)
    assert from_json(to_json(changed)) == changed


def test_columns_and_lines_are_found_by_name() -> None:
    values = json.loads(to_json(small_results()))
    assert values["lines"][0]["figures"]["P@L/5"] == {"value": 0.2512, "spread": 0.0104, "num_seeds": 3}
    assert values["columns"][0]["metric"] == P_AT_L5.metric


def test_a_figure_that_is_no_number_is_text() -> None:
    results = make_results(make_line("odd", {"P@L/5": Figure(math.nan, math.inf, 2)}))
    text = to_json(results)
    assert "NaN" not in text
    figure = from_json(text).lines[0].figures[P_AT_L5]
    assert math.isnan(figure.value)
    assert figure.spread == math.inf

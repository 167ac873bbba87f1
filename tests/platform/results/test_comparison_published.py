"""Published rows: beside ours where they count alike, ranked where the proteins are as many, else apart."""

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console

from proteinlm.platform.results.comparison import make_tables, published_rows
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.table_export import rows_to_csv, rows_to_json
from proteinlm.platform.results.table_text import render
from tests.made.result_rows import baseline, line_of, make_row, markdown_of

APART = "secondary_structure: published, other definitions"


def published(**changes: Any) -> ResultRow:
    values = {
        "run": "TAPE",
        "kind": "published",
        "model": "Transformer",
        "data_hash": "-",
        "split_rule": "Rao et al. 2019, Table 2",
        "value": 0.73,
    }
    return make_row(**{**values, **changes})


def test_it_stands_below_ours_and_is_ranked_with_them_on_as_many_proteins() -> None:
    markdown = markdown_of([make_row(), published(), baseline()])
    assert "**0.730** [1b]" in line_of(markdown, "Transformer (published)")
    assert markdown.count("**") == 2
    assert "- [b] cb513: 513 proteins; Rao et al. 2019, Table 2" in markdown
    assert "**0.610**" in line_of(markdown_of([published(value=0.6), make_row()]), "hidden-64")


@pytest.mark.parametrize(
    ("difference", "of_ours"),
    [
        ({"num_proteins": 21}, {}),
        ({"num_proteins": 0}, {"num_proteins": 0}),
        ({"split": "ts115"}, {}),
        ({}, {"is_simulated": True}),
    ],
)
def test_it_is_not_ranked_on_other_proteins(difference: dict[str, object], of_ours: dict[str, object]) -> None:
    rows = [published(**difference), make_row(**of_ours)]
    assert "**" not in markdown_of(rows)
    assert [table.title.split(" (")[0] for table in make_tables(rows)] == ["secondary_structure"]


def test_it_has_no_say_among_ours_where_it_cannot_be_ranked() -> None:
    markdown = markdown_of([published(num_proteins=21), make_row(), baseline()])
    assert "**0.610**" in markdown
    assert markdown.count("**") == 2


def test_other_definitions_are_a_table_of_their_own_without_a_best() -> None:
    rows = [published(definition="all residues; valid_mask is not applied"), make_row(), baseline()]
    rows.append(published(model="LSTM", value=0.9, definition="all residues; valid_mask is not applied"))
    first, second = markdown_of(rows).split(f"## {APART}")
    assert "Transformer" not in first
    assert "published" not in second
    assert "**" not in second
    assert "- [1] Q3: all residues; valid_mask is not applied\n" in second


def test_the_title_says_simulated_of_ours_alone() -> None:
    assert "## secondary_structure (simulated proteins)" in markdown_of([make_row(is_simulated=True), published()])


def test_published_rows_alone_are_not_said_to_differ() -> None:
    (table,) = make_tables([published(), published(model="LSTM")])
    assert table.title == "secondary_structure: published"


def test_data_sets_of_ours_are_not_ranked_together_by_a_published_row_that_fits_both() -> None:
    rows = [published(value=0.65), make_row(value=0.6), make_row(run="other", data_hash="def", value=0.7)]
    markdown = markdown_of(rows)
    assert "**0.700**" in markdown
    assert "**0.600**" not in markdown
    assert "**0.650**" not in markdown, "it is best on one data set and not on the other"
    assert markdown_of([*rows[:2], make_row(run="other", data_hash="def", value=0.6)]).count("**0.650**") == 1


def test_the_head_says_what_ours_share_and_the_published_cell_what_is_otherwise() -> None:
    markdown = markdown_of([make_row(), baseline(), published(deviation=0.02, num_seeds=3)])
    assert line_of(markdown, "| model |").endswith("cb513<br>Q3<br>n 84,765<br>[1a] |")
    assert line_of(markdown, "(published)").endswith("| **0.730 ± 0.020** [1b] |")
    assert "Table 2; means over 3 seeds" in markdown
    assert "Q3: right class of 3 / residues with a valid label; n counts residues" in markdown


def test_a_metric_that_is_not_main_is_shown_where_it_was_published() -> None:
    rows = [make_row(), make_row(metric="counted twice", is_main=False, value=0.5)]
    assert "0.500" not in markdown_of(rows)
    assert "0.500" in markdown_of([*rows, published(metric="counted twice")])


def test_rows_come_for_the_tasks_asked_for_with_our_own_definition() -> None:
    rows = published_rows(["fluorescence", "masked_language_modeling", "unheard of"])
    assert {row.task for row in rows} == {"fluorescence"}
    assert len({row.key for row in rows}) == len(rows)
    assert {row.definition for row in rows} != {row.definition for row in published_rows(["stability"])}
    ours = make_row(task="fluorescence", split="test", metric="spearman", definition=rows[0].definition, value=0.9)
    assert [table.title for table in make_tables([ours, *rows])] == ["fluorescence"]
    assert published_rows([]) == []


def test_secondary_structure_stands_apart_with_the_reason() -> None:
    rows = published_rows(["secondary_structure_q3"])
    assert all("valid_mask" in row.definition or "another test set" in row.definition for row in rows)


def test_remote_homology_is_shown_and_not_ranked_on_a_part_of_its_proteins() -> None:
    rows = published_rows(["remote_homology"])
    part = make_row(
        task="remote_homology",
        split="test_fold_holdout",
        metric="accuracy",
        definition=rows[0].definition,
        num_proteins=340,
        value=0.9,
    )
    assert "**" not in markdown_of([part, *rows])
    assert "**0.900**" in markdown_of([part.model_copy(update={"num_proteins": 718}), *rows])


def test_csv_json_and_the_terminal_hold_them() -> None:
    rows = [make_row(task="stability", metric="spearman"), *published_rows(["stability"])]
    assert [ResultRow.model_validate(row) for row in json.loads(rows_to_json(rows))] == rows
    lines = list(csv.DictReader(io.StringIO(rows_to_csv(rows))))
    assert [line["kind"] for line in lines] == [row.kind for row in rows]
    assert next(line for line in lines if line["model"] == "ProtBert")["deviation"] == "0.02"
    console = Console(width=120, record=True, file=io.StringIO())
    render(make_tables(rows), console)
    text = console.export_text()
    assert "stability: published, other definitions" in text
    assert "0.771 ± 0.020" in text
    assert all(row.split_rule in text for row in rows)


def test_the_terminal_leaves_out_lines_that_a_part_of_a_wide_table_has_nothing_of() -> None:
    ours = [make_row(split=f"{number}{'x' * 30}") for number in range(3)]
    console = Console(width=60, record=True, file=io.StringIO())
    render(make_tables([*ours, published(split=ours[0].split)]), console)
    text = console.export_text()
    assert text.count("hidden-64") >= 3
    assert text.count("Transformer") == 1

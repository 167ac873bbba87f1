"""The results table: only like is ranked with like, and a figure says how it was measured."""

import io
import json

import pytest
from rich.console import Console

from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.table_export import rows_to_json
from proteinlm.platform.results.table_text import render
from tests.made.result_rows import baseline, line_of, make_row, markdown_of


def test_the_best_of_equal_measure_is_bold() -> None:
    markdown = markdown_of([make_row(), baseline()])
    assert "| **0.610** |" in line_of(markdown, "hidden-64")
    assert "| 0.550 |" in line_of(markdown, "one-hot")


def test_a_smaller_loss_is_better() -> None:
    markdown = markdown_of([make_row(larger_is_better=False), baseline(larger_is_better=False)])
    assert "**0.550**" in line_of(markdown, "one-hot")
    assert markdown.count("**") == 2


def test_a_single_figure_is_not_the_best_of_anything() -> None:
    assert "**" not in markdown_of([make_row(), make_row(metric="Q8")])


@pytest.mark.parametrize(
    "difference",
    [
        {"definition": "right class of 8"},
        {"data_hash": "def"},
        {"split_rule": "random"},
        {"mask_seed": 1},
        {"num_proteins": 512},
    ],
)
def test_what_is_measured_otherwise_is_never_ranked(difference: dict[str, object]) -> None:
    rows = [make_row(), baseline(value=0.9, **difference)]
    markdown = markdown_of(rows)
    assert "**" not in markdown
    cells = [line_of(markdown, name).rstrip(" |").split("| ")[-1] for name in ("hidden-64", "one-hot")]
    assert cells[0].split()[-1] != cells[1].split()[-1], "each cell refers to its own notes"
    assert not any(
        cell.is_best for line in make_tables(rows)[0].lines for cells in line.cells.values() for cell in cells
    )


def test_another_split_or_task_is_another_column_or_table() -> None:
    rows = [make_row(), baseline(split="casp12"), baseline(task="fluorescence")]
    assert "**" not in markdown_of(rows)
    assert [table.title for table in make_tables(rows)] == ["secondary_structure", "fluorescence"]
    assert [(column.split, column.metric) for column in make_tables(rows)[0].columns] == [
        ("cb513", "Q3"),
        ("casp12", "Q3"),
    ]
    assert line_of(markdown_of(rows), "hidden-64").endswith("| 0.610 | - |")


def test_several_seeds_become_mean_and_standard_deviation() -> None:
    rows = [
        make_row(run=f"any-{seed}", configuration="any", seed=seed, value=value, low=0.1, high=0.9)
        for seed, value in enumerate((0.60, 0.61, 0.62))
    ]
    assert "| any | 0.610 ± 0.010 (3 seeds) |" in markdown_of(rows)


def test_runs_whose_names_alone_look_like_seeds_are_not_pooled() -> None:
    rows = [make_row(run=f"my-seed-{seed}-test", seed=seed, value=0.6 + seed / 100) for seed in (1, 7)]
    markdown = markdown_of(rows)
    assert ["| my-seed-1-test | 0.610 |" in markdown, "| my-seed-7-test | **0.670** |" in markdown] == [True, True]


def test_one_seed_shows_its_bootstrap_interval() -> None:
    assert "| 0.610 [0.600, 0.620] |" in markdown_of([make_row(low=0.6, high=0.62)])


def test_floor_count_and_note_stand_in_the_head_where_they_are_shared() -> None:
    rows = [make_row(floor=2.7), baseline(floor=2.7)]
    head = line_of(markdown_of(rows), "| model |")
    assert "cb513<br>Q3<br>floor 2.700<br>n 84,765<br>[1a]" in head


def test_floor_count_and_note_stand_in_the_cell_where_they_differ() -> None:
    markdown = markdown_of([make_row(floor=2.7), baseline(floor=2.8, num_scored=9, definition="other")])
    assert line_of(markdown, "| model |").endswith("cb513<br>Q3 |")
    assert "0.610 floor 2.700 n 84,765 [1a]" in markdown
    assert "0.550 floor 2.800 n 9 [2a]" in markdown


def test_notes_say_definition_and_data() -> None:
    markdown = markdown_of([make_row(mask_seed=7)])
    assert "- [1] Q3: right class of 3 / residues with a valid label; n counts residues" in markdown
    assert "- [a] cb513: 513 proteins, data abc, split rule: 25 % identity, mask seed 7" in markdown


def test_simulated_rows_say_so() -> None:
    markdown = markdown_of([make_row(is_simulated=True, data_hash="made up"), baseline()])
    assert "## secondary_structure (some on simulated proteins)" in markdown
    assert "hidden-64-layer-2-head-2 (simulated) |" in markdown
    assert "513 simulated proteins, data made up" in markdown
    assert "one-hot window (baseline) |" in markdown
    assert "## secondary_structure (simulated proteins)" in markdown_of([make_row(is_simulated=True)])
    assert "simulated" not in markdown_of([make_row()])


def test_a_value_that_is_no_number_is_shown_and_never_best() -> None:
    markdown = markdown_of([make_row(value=float("nan")), make_row(run="other"), make_row(run="third", value=0.5)])
    assert "| nan |" in markdown
    assert markdown.count("**0.610**") == 1


def test_lines_go_from_baselines_to_published_and_bars_do_not_break_them() -> None:
    rows = [baseline(kind="published", model="TAPE transformer", data_hash="-"), make_row(model="a|b"), baseline()]
    lines = [line for line in markdown_of(rows).splitlines() if line.startswith("|")][2:]
    assert [line.split(" | ")[0] for line in lines] == [
        "| one-hot window (baseline)",
        "| a\\|b",
        "| TAPE transformer (published)",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(2.6655, "2.666"), (14.406, "14.41"), (1234.5, "1,234"), (0.0004, "4.00e-04"), (0.0, "0.000"), (-0.5, "-0.500")],
)
def test_figures_have_digits_that_fit_their_size(value: float, shown: str) -> None:
    assert f"| {shown} |" in markdown_of([make_row(value=value)])


def test_no_rows_make_no_table() -> None:
    assert make_tables([]) == ()
    assert markdown_of([]) == ""
    assert json.loads(rows_to_json([])) == []


def test_the_terminal_says_mode_and_run_even_where_they_are_called_alike() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    render(make_tables([make_row(run="full", mode="full")]), console)
    lines = [line.strip() for line in console.export_text().splitlines()]
    index = lines.index("full, 107 k")
    assert lines[index - 1].startswith("hidden-64-layer-2-head-2")
    assert lines[index + 1] == "full"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_terminal_shows_every_figure_at_any_width(width: int) -> None:
    rows = [make_row(split=f"split{number}", value=number + 0.123, low=1.0, high=2.0, seed=0) for number in range(7)]
    console = Console(width=width, record=True, file=io.StringIO())
    render(make_tables([*rows, baseline(split="split3")]), console)
    text = console.export_text()
    assert all(f"{number}.123" in text and f"split{number}" in text for number in range(7))
    assert text.count("[1.000, 2.000]") == 7
    assert all(len(line) <= width for line in text.splitlines() if "0.123" in line)

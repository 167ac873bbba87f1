"""Published figures: as printed, known by whose they are and what they measure, comparable where we define alike."""

import pytest

from proteinlm.tasks.catalog import TAPE_TASKS, TASKS, build_task
from proteinlm.tasks.published import PublishedFigure, published_figures

TABLE_7 = """
512-32-8   .503 .477 .409 .679 .205 .716 .578 .758
768-12-6   .487 .428 .369 .677 .198 .721 .570 .770
768-16-16  .534 .469 .396 .676 .205 .722 .575 .762
768-16-24  .519 .427 .376 .678 .192 .719 .572 .687
1024-12-16 .572 .490 .419 .676 .209 .729 .584 .744
1024-12-32 .500 .446 .377 .680 .201 .721 .575 .762
2048-12-16 .676 .576 .495 .677 .266 .752 .614 .732
2048-24-16 .710 .658 .563 .678 .271 .791 .652 .679
2048-24-8  .673 .600 .531 .674 .262 .762 .624 .785
3072-24-16 .753 .662 .566 .681 .298 .791 .654 .794
"""
"""Xiao et al. 2021: hidden-layers-heads; contacts at L/5, L/2 and L, fluorescence, homology, Q3, Q8, stability."""


def figures(table: str, model: str, mode: str = "full") -> dict[tuple[str, str], float]:
    """(task, split or metric name) -> value of one model."""
    chosen = [f for f in published_figures() if (f.table, f.model, f.mode) == (table, model, mode)]
    return {(figure.measure.task, figure.measure.metric): figure.value for figure in chosen}


def known_by(figure: PublishedFigure) -> tuple[str, ...]:
    measure = figure.measure
    return figure.table, figure.model, figure.mode, measure.task, measure.split, measure.metric


def test_every_figure_is_known_by_one_key_and_says_whose_it_is_and_what() -> None:
    all_figures = published_figures()
    assert len({known_by(figure) for figure in all_figures}) == len(all_figures)
    for figure in all_figures:
        assert all((figure.table, figure.source, figure.model, figure.mode)), figure
        assert len(figure.measure.definition) > 30, figure
        assert 2019 <= figure.year <= 2024, figure


def test_figures_are_fractions_and_a_mean_has_its_seeds() -> None:
    for figure in published_figures():
        lowest = -1 if figure.measure.task in {"fluorescence", "stability"} else 0  # Spearman's rho; shares
        assert lowest <= figure.value <= 1, figure
        assert figure.deviation is None or (0 < figure.deviation < 0.1 and figure.seeds > 1), figure


def test_a_figure_is_comparable_with_a_metric_of_ours_or_says_why_not() -> None:
    for measure in {figure.measure for figure in published_figures()}:
        assert measure.task in TAPE_TASKS
        assert (measure.comparable_with is None) != (measure.difference is None), measure
        assert (measure.num_proteins is None) <= bool(measure.caveat or measure.difference), measure
        if measure.task not in TASKS:
            continue
        task = build_task(measure.task)
        assert measure.split in task.test_splits or measure.split == "test", measure
        if measure.comparable_with:
            assert measure.metric == measure.comparable_with
            assert measure.metric in {metric.name for metric in task.metrics}, measure


def test_table_7_is_the_paper_s() -> None:
    for line in TABLE_7.split("\n")[1:-1]:
        model, *values = line.split()
        hidden, layers, heads = model.split("-")
        found = figures("ProteinLM Table 7", f"hidden-{hidden}-layer-{layers}-head-{heads}")
        assert list(found.values()) == [float(value) for value in values]
        assert [task for task, _ in found] == [
            *["contact_prediction"] * 3,
            *["fluorescence", "remote_homology", "secondary_structure_q3", "secondary_structure_q8", "stability"],
        ]
    assert sum(figure.table == "ProteinLM Table 7" for figure in published_figures()) == 80


@pytest.mark.parametrize(
    ("table", "model", "mode", "expected"),
    [
        ("TAPE", "Transformer", "full", [0.73, 0.36, 0.21, 0.68, 0.73]),
        ("TAPE", "ResNet", "scratch", [0.70, 0.20, 0.10, -0.28, 0.61]),
        ("ProteinLM", "ProteinLM 200M", "full", [0.75, 0.52, 0.26, 0.68, 0.77]),
        ("ProteinLM", "ProteinLM 3B", "full", [0.79, 0.75, 0.30, 0.68, 0.79]),
        ("PEER", "ESM-1b", "frozen", [0.404, 0.300, 0.831, 0.430, 0.750]),
        ("Schmirler et al.", "ESM-2 3B", "lora", [0.699, 0.841, 0.864]),
    ],
)
def test_figures_are_as_printed(table: str, model: str, mode: str, expected: list[float]) -> None:
    assert list(figures(table, model, mode).values()) == expected


def test_contact_figures_of_other_counting_are_comparable_with_nothing_of_ours_but_the_paper_s() -> None:
    contacts = [figure for figure in published_figures() if figure.measure.task == "contact_prediction"]
    of_paper = {figure.table for figure in contacts if figure.measure.comparable_with}
    assert of_paper == {"ProteinLM", "ProteinLM Table 7"}
    assert {figure.model for figure in contacts if figure.table == "ProteinLM" and figure.measure.comparable_with} == {
        "ProteinLM 3B"
    }

"""Which result rows may be compared, and which of those is best: rows -> one table for each task.

The *measure* of a row is its definition with the data set, the split's rule and the masks. Rows of different measures
may share a column, never a ranking: the best is marked among at least two of equal measure.

Published figures (tasks/published.py) become rows too. One whose definition is that of a metric of ours carries that
metric's own definition; any other says in its definition how it differs. A published row has no data hash: it stands
below ours where its definition is that of a row of ours, and is ranked with ours where it also has the same split and
as many proteins. All other published rows are a table of their own.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from proteinlm.platform.results.rows import ResultRow
from proteinlm.tasks.catalog import TASKS, build_task
from proteinlm.tasks.published import PublishedFigure, PublishedMeasure, published_figures

PUBLISHED = "published"
_KINDS = ("baseline", "pretrain", "finetune", PUBLISHED)  # order of the lines


@dataclass(frozen=True)
class Measure:
    """How a figure was measured: only figures of equal measure are ranked together."""

    split: str
    metric: str
    definition: str
    data_hash: str
    split_rule: str
    mask_seed: int | None

    @property
    def data(self) -> tuple[str, str, str, int | None]:
        """What was scored: (split, data hash, split rule, mask seed)."""
        return self.split, self.data_hash, self.split_rule, self.mask_seed


@dataclass(frozen=True)
class Cell:
    """One model's figure under one measure, over its seeds."""

    measure: Measure
    value: float
    """Mean over seeds."""
    spread: float | None
    """Standard deviation over seeds; None of one seed, or where it was not published."""
    num_seeds: int
    interval: tuple[float, float] | None
    """95 % bootstrap interval over proteins; None where not given, or of several seeds."""
    floor: float | None
    num_scored: int | None
    """None of a published figure: the note of its data says what is known."""
    is_best: bool
    """Best of at least two that may be compared."""


@dataclass(frozen=True)
class Line:
    """One model: what it is, and its cells by (split, metric)."""

    kind: str
    model: str
    mode: str
    run: str
    parameters: int | None
    is_simulated: bool
    cells: dict[tuple[str, str], tuple[Cell, ...]]
    """Mostly one; several where the same run was measured in several ways."""


@dataclass(frozen=True)
class TaskTable:
    """The table of one task, or of the published figures on it that stand apart."""

    task: str
    group: str
    """What stands apart in it, in words; "" for the task's table itself."""
    columns: tuple[tuple[str, str], ...]
    """(split, metric)"""
    lines: tuple[Line, ...]
    definitions: dict[tuple[str, str], str]
    """(metric, definition) -> note; numbered from 1 in this order."""
    data: dict[tuple[str, str, str, int | None], str]
    """(split, data hash, split rule, mask seed) -> note; lettered from a in this order."""


def make_tables(rows: Sequence[ResultRow]) -> tuple[TaskTable, ...]:
    """One table a task of the main metrics, in the order in which tasks, splits and metrics first occur in `rows`.

    Runs that differ in nothing but their seed are one line. A metric that is not a main one is shown where published
    rows have its definition. Published rows of other definitions are a second table of their task.
    """
    published = {_known_by(row) for row in rows if row.kind == PUBLISHED}
    rows = [row for row in rows if row.is_main or _known_by(row) in published]
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        ours = {_known_by(row) for row in of_task if row.kind != PUBLISHED}
        beside = [row for row in of_task if _known_by(row) in ours]
        apart = [row for row in of_task if _known_by(row) not in ours]
        group = f"{PUBLISHED}, other definitions" if beside else PUBLISHED
        tables += [_make_table(task, "", beside)] if beside else []
        tables += [_make_table(task, group, apart)] if apart else []
    return tuple(tables)


def _known_by(row: ResultRow) -> tuple[str, str, str]:
    """What is asked and how it is counted, on whatever data."""
    return row.task, row.metric, row.definition


def _make_table(task: str, group: str, rows: Sequence[ResultRow]) -> TaskTable:
    columns = tuple(dict.fromkeys((row.split, row.metric) for row in rows))
    runs: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: _KINDS.index(row.kind)):
        runs.setdefault((row.kind, row.model, row.mode, row.configuration), []).append(row)
    best = _best_figures(list(runs.values()))
    lines = tuple(_make_line(run, columns, best) for run in runs.values())
    definitions: dict[tuple[str, str], str] = {}
    ordered = sorted(rows, key=lambda row: columns.index((row.split, row.metric)))
    for row in ordered:
        if row.kind != PUBLISHED or (row.metric, row.definition) not in definitions:
            definitions[row.metric, row.definition] = _definition_note(row)
    return TaskTable(task, group, columns, lines, definitions, {_measure(row).data: _data_note(row) for row in ordered})


def _best_figures(runs: Sequence[Sequence[ResultRow]]) -> dict[Measure, float | None]:
    """The best figure of every measure, seeds' means compared; None where fewer than two may be compared.

    A published figure competes under every measure of ours that it may be compared with, and is best where it is so
    under all of them.
    """
    means: dict[Measure, list[float]] = {}
    for run in runs:
        for measure in dict.fromkeys(map(_measure, run)):
            means.setdefault(measure, []).append(_mean(run, measure))
    of_measure: dict[Measure, list[ResultRow]] = {}
    for row in (row for run in runs for row in run):
        of_measure.setdefault(_measure(row), []).append(row)
    ours = [measure for measure, rows in of_measure.items() if rows[0].kind != PUBLISHED]
    rivals = {
        measure: [other for other in ours if _may_be_ranked(rows, of_measure[other])]
        for measure, rows in of_measure.items()
        if rows[0].kind == PUBLISHED
    }
    best: dict[Measure, float | None] = {}
    for measure in ours:
        theirs = [value for other, under in rivals.items() if measure in under for value in means[other]]
        figures = [value for value in means[measure] + theirs if not math.isnan(value)]
        better = max if of_measure[measure][0].larger_is_better else min
        best[measure] = better(figures) if len(figures) > 1 else None
    for measure, under in rivals.items():
        figures_to_be = {best[other] for other in under}
        best[measure] = figures_to_be.pop() if len(figures_to_be) == 1 else None
    return best


def _may_be_ranked(published: Sequence[ResultRow], ours: Sequence[ResultRow]) -> bool:
    """Whether all of these rows ask the same of as many proteins of the same split, none of them made up."""
    asked = {(row.split, row.metric, row.definition, row.num_proteins) for row in (*published, *ours)}
    return len(asked) == 1 and published[0].num_proteins > 0 and not any(row.is_simulated for row in ours)


def _make_line(
    rows: Sequence[ResultRow], columns: Sequence[tuple[str, str]], best: dict[Measure, float | None]
) -> Line:
    cells: dict[tuple[str, str], tuple[Cell, ...]] = {}
    for column in columns:
        measures = dict.fromkeys(_measure(row) for row in rows if (row.split, row.metric) == column)
        cells[column] = tuple(_make_cell(rows, measure, best[measure]) for measure in measures)
    parameters = next((row.parameters for row in rows if row.parameters is not None), None)
    first = rows[0]
    is_simulated = any(row.is_simulated for row in rows)
    return Line(first.kind, first.model, first.mode, first.configuration, parameters, is_simulated, cells)


def _make_cell(rows: Sequence[ResultRow], measure: Measure, best: float | None) -> Cell:
    of_seeds = [row for row in rows if _measure(row) == measure]
    row, value = of_seeds[0], _mean(rows, measure)
    interval = None
    if len(of_seeds) == 1 and row.low is not None and row.high is not None:
        interval = (row.low, row.high)
    return Cell(
        measure=measure,
        value=value,
        spread=stdev(row.value for row in of_seeds) if len(of_seeds) > 1 else row.deviation,
        num_seeds=len(of_seeds) if len(of_seeds) > 1 else row.num_seeds,
        interval=interval,
        floor=row.floor,
        num_scored=None if row.kind == PUBLISHED else row.num_scored,
        is_best=value == best,
    )


def _measure(row: ResultRow) -> Measure:
    return Measure(row.split, row.metric, row.definition, row.data_hash, row.split_rule, row.mask_seed)


def _mean(rows: Sequence[ResultRow], measure: Measure) -> float:
    return mean(row.value for row in rows if _measure(row) == measure)


def _definition_note(row: ResultRow) -> str:
    return f"{row.metric}: {row.definition}" + (f"; n counts {row.unit}" if row.kind != PUBLISHED else "")


def _data_note(row: ResultRow) -> str:
    if row.kind == PUBLISHED:
        proteins = f"{row.num_proteins:,} proteins" if row.num_proteins else "it is not known how many proteins"
        seeds = f"; means over {row.num_seeds} seeds" if row.num_seeds > 1 else ""
        return f"{row.split}: {proteins}; {row.split_rule}{seeds}"
    masks = "" if row.mask_seed is None else f", mask seed {row.mask_seed}"
    proteins = "simulated proteins" if row.is_simulated else "proteins"
    return f"{row.split}: {row.num_proteins:,} {proteins}, data {row.data_hash}, split rule: {row.split_rule}{masks}"


def published_rows(tasks: Iterable[str]) -> list[ResultRow]:
    """The published rows of `tasks`; none for a task that nobody published figures of."""
    wanted = set(tasks) & TASKS.keys()
    return [_row(figure) for figure in published_figures() if figure.measure.task in wanted]


def _row(figure: PublishedFigure) -> ResultRow:
    measure = figure.measure
    return ResultRow(
        run=figure.table,
        kind="published",
        model=figure.model,
        mode=figure.mode,
        parameters=figure.parameters,
        task=measure.task,
        split=measure.split,
        metric=measure.metric,
        definition=_definition(measure),
        value=figure.value,
        deviation=figure.deviation,
        num_seeds=figure.seeds,
        larger_is_better=True,
        num_proteins=measure.num_proteins or 0,
        num_scored=measure.num_proteins or 0,
        unit="proteins",
        seed=0,
        data_hash="-",
        split_rule="; ".join(filter(None, (figure.source, measure.caveat))),
        code_version="-",
        created=f"{figure.year}-01-01T00:00:00+00:00",
    )


def _definition(measure: PublishedMeasure) -> str:
    """That of our metric, or how the source measured and what is different there."""
    if measure.comparable_with is None:
        return f"{measure.definition}. Not as ours: {measure.difference}"
    metrics = {metric.name: metric.definition for metric in build_task(measure.task).metrics}
    return metrics[measure.comparable_with]

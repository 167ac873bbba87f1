"""Which result rows may be compared, and which of those is best: rows -> one table for each task.

The *measure* of a row is its definition with the data set, the split's rule and the masks. Rows of different measures
may share a column, never a ranking: the best is marked among at least two of equal measure.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from proteinlm.platform.results.store import ResultRow

_KINDS = ("published", "baseline", "pretrain", "finetune")  # order of the lines: what there was first, ours below it


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
    """Standard deviation over seeds; None of one seed."""
    num_seeds: int
    interval: tuple[float, float] | None
    """95 % bootstrap interval over proteins; None where not given, or of several seeds."""
    floor: float | None
    num_scored: int
    is_best: bool
    """Best of at least two of equal measure."""


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
    """The table of one task."""

    task: str
    columns: tuple[tuple[str, str], ...]
    """(split, metric)"""
    lines: tuple[Line, ...]
    definitions: dict[tuple[str, str], str]
    """(metric, definition) -> note; numbered from 1 in this order."""
    data: dict[tuple[str, str, str, int | None], str]
    """(split, data hash, split rule, mask seed) -> note; lettered from a in this order."""


def make_tables(rows: Sequence[ResultRow]) -> tuple[TaskTable, ...]:
    """One table a task of the main metrics, in the order in which tasks, splits and metrics first occur in `rows`.

    Runs that differ in nothing but their seed are one line.
    """
    rows = [row for row in rows if row.is_main]
    tasks = dict.fromkeys(row.task for row in rows)
    return tuple(_make_table(task, [row for row in rows if row.task == task]) for task in tasks)


def _make_table(task: str, rows: Sequence[ResultRow]) -> TaskTable:
    groups: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: _KINDS.index(row.kind)):
        groups.setdefault((row.kind, row.model, row.mode, _without_seed(row.run)), []).append(row)
    means: dict[Measure, list[float]] = {}
    for group in groups.values():
        for measure in dict.fromkeys(map(_measure, group)):
            means.setdefault(measure, []).append(_mean(group, measure))
    better = {_measure(row): max if row.larger_is_better else min for row in rows}
    best = {}
    for measure, values in means.items():
        comparable = [value for value in values if not math.isnan(value)]
        best[measure] = better[measure](comparable) if len(comparable) > 1 else None
    columns = tuple(dict.fromkeys((row.split, row.metric) for row in rows))
    lines = tuple(_make_line(group, columns, best) for group in groups.values())
    ordered = sorted(rows, key=lambda row: columns.index((row.split, row.metric)))
    definitions = {
        (row.metric, row.definition): f"{row.metric}: {row.definition}; n counts {row.unit}" for row in ordered
    }
    return TaskTable(task, columns, lines, definitions, {_measure(row).data: _data_note(row) for row in ordered})


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
    return Line(first.kind, first.model, first.mode, _without_seed(first.run), parameters, is_simulated, cells)


def _make_cell(rows: Sequence[ResultRow], measure: Measure, best: float | None) -> Cell:
    of_seeds = [row for row in rows if _measure(row) == measure]
    row, value = of_seeds[0], _mean(rows, measure)
    spread = stdev(row.value for row in of_seeds) if len(of_seeds) > 1 else None
    interval = None
    if len(of_seeds) == 1 and row.low is not None and row.high is not None:
        interval = (row.low, row.high)
    return Cell(measure, value, spread, len(of_seeds), interval, row.floor, row.num_scored, value == best)


def _without_seed(run: str) -> str:
    """A sweep's trials that differ in their seed alone are named the same but for `-seed-N`."""
    return re.sub(r"-seed-\d+", "", run)


def _measure(row: ResultRow) -> Measure:
    return Measure(row.split, row.metric, row.definition, row.data_hash, row.split_rule, row.mask_seed)


def _mean(rows: Sequence[ResultRow], measure: Measure) -> float:
    return mean(row.value for row in rows if _measure(row) == measure)


def _data_note(row: ResultRow) -> str:
    masks = "" if row.mask_seed is None else f", mask seed {row.mask_seed}"
    proteins = "simulated proteins" if row.is_simulated else "proteins"
    return f"{row.split}: {row.num_proteins:,} {proteins}, data {row.data_hash}, split rule: {row.split_rule}{masks}"

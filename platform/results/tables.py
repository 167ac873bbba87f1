"""Tables of results as values: columns, lines, cells over seeds, and the notes to read with them.

    result rows -> comparison.make_tables -> Tables -> table_text.py, table_export.py
    a sweep -> gather.sweep_table -> Table

The *measure* of a row is its definition with the data set, the split's rule and the masks. Rows of different measures
may share a column, never a ranking.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from proteinlm.platform.results.rows import ResultRow
from proteinlm.tasks.masked_language_modeling import NAME as MASKED_LANGUAGE_MODELING

PUBLISHED = "published"
Fact = str | int | float | bool | None
"""What a line says besides its measured values, such as its number of parameters; None: not known."""


@dataclass(frozen=True)
class Column:
    """A column of measured values: one metric of one split."""

    title: str
    """Its head, unique in the table; may have several lines of text."""
    task: str
    split: str
    metric: str
    larger_is_better: bool = True

    @property
    def is_downstream(self) -> bool:
        """Whether it is a metric of finetuning, not of pretraining."""
        return self.task != MASKED_LANGUAGE_MODELING


@dataclass(frozen=True)
class FactColumn:
    """A column of facts about the lines, such as their numbers of parameters."""

    key: str
    """Key of the fact in `Line.facts`, and its name in CSV and JSON."""
    title: str = ""
    """Its head as people read it; a column without a title appears in CSV and JSON only."""
    form: Literal["text", "amount", "count", "power", "hours"] = "text"
    """How its facts are written for people: as they are, or as 1.65 M, 1,654,321, 1.7e6, 0.250."""


@dataclass(frozen=True)
class Cell:
    """One metric of one model: its mean over seeds, and how certain it is."""

    value: float
    """Mean over seeds."""
    deviation: float | None = None
    """Sample standard deviation over seeds; None for a single seed, or where it was not published."""
    num_seeds: int = 1
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval over proteins; None where it is not known, and for several seeds."""
    floor: float | None = None
    """The same metric of a model that ignores all context."""
    num_scored: int | None = None
    """How many residues, proteins or pairs were scored; None for a published value, whose note says what is known."""
    note: str = ""
    """Reference to the notes that say how it was measured, such as "[1a]"."""
    is_best: bool = False
    """Whether it is the best of at least two comparable values."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a model or a configuration."""

    name: str
    facts: Mapping[str, Fact]
    """`FactColumn.key` -> fact."""
    cells: Mapping[Column, tuple[Cell, ...]]
    """Mostly one cell in a column; several where the same run was measured in several ways."""
    qualifiers: tuple[str, ...] = ()
    """Words in parentheses after the name, such as "baseline" or "failed"."""
    remarks: tuple[str, ...] = ()
    """What is missing and why; they become footnotes."""
    is_published: bool = False
    heading: str = ""
    """Written once above neighbouring lines of the same heading; "": nothing."""


@dataclass(frozen=True)
class Table:
    """A table with everything that must be read with it."""

    title: str
    subject: str
    """Head of the column of names, such as "model"."""
    facts: tuple[FactColumn, ...]
    """Columns before the values."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """How the values were measured, a sentence each."""
    costs: tuple[FactColumn, ...] = ()
    """Columns after the values."""
    more_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Heading -> further notes."""
    caption: str = ""
    """How to read the table, in one sentence."""
    warning: str = ""
    """What no reader may overlook, such as that the proteins are simulated."""
    is_brief: bool = False
    """Whether only values and deviations are written for people; intervals, floors and counts are then in JSON only."""


LARGEST = 1e100
"""Squares of values below it, of which deviations are made, are finite."""


def pool(rows: Sequence[ResultRow]) -> Cell:
    """The cell of `rows` (at least one): seeds of one configuration, all measured alike."""
    first = rows[0]
    value, num_scored = fmean(row.value for row in rows), None if first.kind == PUBLISHED else first.num_scored
    if len(rows) > 1:
        values = [row.value for row in rows]
        deviation = stdev(values) if max(map(abs, values)) < LARGEST else math.nan  # it raises for infinity
        return Cell(value, deviation, len(rows), floor=first.floor, num_scored=num_scored)
    interval = None if first.low is None or first.high is None else (first.low, first.high)
    return Cell(value, first.deviation, first.num_seeds, interval, first.floor, num_scored)


def best_value(values: Iterable[float], *, larger_is_better: bool) -> float | None:
    """The best of `values`; NaN does not count. None where fewer than two are left: alone, nothing is best."""
    rivals = [value for value in values if not math.isnan(value)]
    if len(rivals) < 2:
        return None
    return max(rivals) if larger_is_better else min(rivals)


Sample = tuple[str, str, str, int | None, int]
"""What was scored: split, data hash, split rule, mask seed, proteins. A prefix of a split is another sample."""
Measure = tuple[tuple[str, str], Sample]
"""How a value was measured: (metric, definition) and on what. Only values of equal measure are ranked together."""


def measure_of(row: ResultRow) -> Measure:
    """The measure of `row`."""
    sample = (row.split, row.data_hash, row.split_rule, row.mask_seed, row.num_proteins)
    return (row.metric, row.definition), sample


def data_note(row: ResultRow) -> str:
    """A note on the data that `row` was measured on: split, number of proteins, data hash, how the split was made."""
    if row.kind == PUBLISHED:
        proteins = f"{row.num_proteins:,} proteins" if row.num_proteins else "it is not known how many proteins"
        seeds = f"; means over {row.num_seeds} seeds" if row.num_seeds > 1 else ""
        return f"{row.split}: {proteins}; {row.split_rule}{seeds}"
    masks = "" if row.mask_seed is None else f", mask seed {row.mask_seed}"
    proteins = "simulated proteins" if row.is_simulated else "proteins"
    return f"{row.split}: {row.num_proteins:,} {proteins}, data {row.data_hash}, split rule: {row.split_rule}{masks}"

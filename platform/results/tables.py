"""Tables of results as values: columns, lines, cells over seeds, and the notes to read with them.

    result rows -> comparison.make_tables -> Tables -> table_text.py, table_export.py, page.py
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
"""What a table says of a line beside its values; None where it is not known."""


@dataclass(frozen=True)
class Column:
    """A column of measured values: one metric of one split."""

    title: str
    """Head of the column, unique in its table; may have several lines of text."""
    task: str
    split: str
    metric: str
    larger_is_better: bool = True

    @property
    def is_downstream(self) -> bool:
        """Whether it is a metric of finetuning."""
        return self.task != MASKED_LANGUAGE_MODELING


@dataclass(frozen=True)
class FactColumn:
    """A column that says something of each line, such as its number of parameters."""

    key: str
    """Under which lines hold their fact; its name in CSV and JSON."""
    title: str = ""
    """Head of the column; a column without one is in CSV and JSON alone."""
    form: Literal["text", "amount", "count", "power", "hours"] = "text"
    """How text forms write its numbers: 1.65 M, 1,654,321, 1.7e6, 0.250."""


@dataclass(frozen=True)
class Cell:
    """The value of one metric of one model, over its seeds."""

    value: float
    """Mean over seeds."""
    deviation: float | None = None
    """Standard deviation over seeds; None of one seed, or where it was not published."""
    num_seeds: int = 1
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval over proteins; None where not given, or of several seeds."""
    floor: float | None = None
    """Value of a model that ignores all context."""
    num_scored: int | None = None
    """Residues, proteins or pairs that were scored; None of a published value: its note says what is known."""
    note: str = ""
    """Number and letter of the notes that say how it was measured, such as [1a]."""
    is_best: bool = False
    """Best of at least two that may be compared."""


@dataclass(frozen=True)
class Line:
    """One line of a table: a model or a configuration."""

    name: str
    facts: Mapping[str, Fact]
    """By `FactColumn.key`."""
    cells: Mapping[Column, tuple[Cell, ...]]
    """Mostly one; several where the same run was measured in several ways."""
    qualifiers: tuple[str, ...] = ()
    """What stands in brackets after the name, such as "baseline" or "failed"."""
    remarks: tuple[str, ...] = ()
    """Sentences on what is missing, which become footnotes."""
    is_published: bool = False
    heading: str = ""
    """What stands above the line and its neighbours with the same heading."""


@dataclass(frozen=True)
class Table:
    """A table with everything that must be read with it; `table_text.py` and `page.py` write it."""

    title: str
    subject: str
    """Head of the column of names."""
    facts: tuple[FactColumn, ...]
    """Those before the values."""
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    """How the values were measured."""
    costs: tuple[FactColumn, ...] = ()
    """Those after the values."""
    more_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Heading -> notes on something else than this table's own values."""
    caption: str = ""
    warning: str = ""
    """What nobody may overlook."""
    is_brief: bool = False
    """Whether text forms write values with their deviation alone: intervals, floors and counts are then in JSON."""


def pool(rows: Sequence[ResultRow]) -> Cell:
    """The cell of `rows` (at least one) of one configuration under one measure, which differ in their seed alone."""
    first = rows[0]
    value, num_scored = fmean(row.value for row in rows), None if first.kind == PUBLISHED else first.num_scored
    if len(rows) > 1:
        deviation = stdev(row.value for row in rows)
        return Cell(value, deviation, len(rows), floor=first.floor, num_scored=num_scored)
    interval = None if first.low is None or first.high is None else (first.low, first.high)
    return Cell(value, first.deviation, first.num_seeds, interval, first.floor, num_scored)


def best_value(values: Iterable[float], *, larger_is_better: bool) -> float | None:
    """The best of `values`, NaN left out; None where fewer than two compete."""
    rivals = [value for value in values if not math.isnan(value)]
    if len(rivals) < 2:
        return None
    return max(rivals) if larger_is_better else min(rivals)


Measure = tuple[tuple[str, str], tuple[str, str, str, int | None]]
"""How a value was measured: (metric, definition) and (split, data hash, split rule, mask seed). Only values of equal
measure are ranked together."""


def measure_of(row: ResultRow) -> Measure:
    """How the row was measured."""
    return (row.metric, row.definition), (row.split, row.data_hash, row.split_rule, row.mask_seed)


def data_note(row: ResultRow) -> str:
    """What was scored, in words: split, proteins, data and how the split was made."""
    if row.kind == PUBLISHED:
        proteins = f"{row.num_proteins:,} proteins" if row.num_proteins else "it is not known how many proteins"
        seeds = f"; means over {row.num_seeds} seeds" if row.num_seeds > 1 else ""
        return f"{row.split}: {proteins}; {row.split_rule}{seeds}"
    masks = "" if row.mask_seed is None else f", mask seed {row.mask_seed}"
    proteins = "simulated proteins" if row.is_simulated else "proteins"
    return f"{row.split}: {row.num_proteins:,} {proteins}, data {row.data_hash}, split rule: {row.split_rule}{masks}"

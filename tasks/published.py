"""Published figures on the five TAPE tasks, each with its source and with what it measures (data: published.yaml).

A figure is comparable with one of ours where both have the same definition; where not, the difference is said. Figures
are as printed, fractions of 1, larger is better.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

DATA_FILE = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class PublishedMeasure:
    """What a source measured."""

    task: str
    split: str
    metric: str
    """Name of our metric where it has that definition, else the name that the source uses."""
    definition: str
    num_proteins: int | None
    """Proteins that were scored; None where the source does not let one know."""
    comparable_with: str | None
    """Name of our metric of `task` that is defined alike."""
    difference: str | None
    """How it differs from every metric of ours; None where it is comparable with one."""
    caveat: str | None = None
    """What may have been left out of the set."""


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of one model."""

    table: str
    """Short name of whose it is, such as "PEER"."""
    source: str
    """Paper or repository, and table."""
    year: int
    model: str
    parameters: int | None
    mode: str
    """"scratch", "full", "frozen", "lora", "multitask", or "-" where that says nothing."""
    measure: PublishedMeasure
    value: float
    deviation: float | None
    """Standard deviation over `seeds`, where it is known."""
    seeds: int


@cache
def published_figures() -> tuple[PublishedFigure, ...]:
    """All published figures, source after source."""
    data = yaml.safe_load(DATA_FILE.read_text(encoding="utf-8"))
    measures = {name: _measure(**values) for name, values in data["measures"].items()}
    return tuple(
        _figure(table, row, measures[name], value)
        for table in data["tables"]
        for row in table["rows"]
        for name, value in zip(table["figures"], row["values"], strict=True)
        if value is not None
    )


def _measure(*, metric: str, comparable_with: str | None, **others: Any) -> PublishedMeasure:
    return PublishedMeasure(metric=comparable_with or metric, comparable_with=comparable_with, **others)


def _figure(
    table: dict[str, Any], row: dict[str, Any], measure: PublishedMeasure, value: float | list[float]
) -> PublishedFigure:
    mean, deviation = value if isinstance(value, list) else (value, None)
    return PublishedFigure(
        table=table["name"],
        source=table["source"],
        year=table["year"],
        model=row["model"],
        parameters=row.get("parameters"),
        mode=row["mode"],
        measure=measure,
        value=mean,
        deviation=deviation,
        seeds=table["seeds"],
    )

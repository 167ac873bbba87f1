"""The table of a sweep as JSON, and back: every field of every line, with its columns, notes and remarks.

    {"name": ..., "columns": [{"title": ...}], "lines": [{"name": ..., "figures": {title: {"value": ...}}}], ...}

A number that is not finite is the text "nan", "inf" or "-inf", for JSON has none.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from proteinlm.sweeps.results.values import COLUMNS, Column, ConfigurationResult, Figure, SweepResults

_COLUMNS, _LINES = ("columns", "unranked"), ("lines", "paper")


def to_json(results: SweepResults) -> str:
    """Everything that `results` holds."""
    values: dict[str, Any] = {field.name: getattr(results, field.name) for field in fields(results)}
    values |= {name: [asdict(column) for column in values[name]] for name in _COLUMNS}
    values |= {name: [_line(line) for line in values[name]] for name in _LINES}
    return json.dumps(_finite(values), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def from_json(text: str) -> SweepResults:
    """What `to_json` wrote; KeyError, TypeError or ValueError for anything else."""
    values = json.loads(text)
    columns = {column["title"]: Column(**column) for column in values["columns"]}
    known = {column.title: column for column in COLUMNS} | columns
    return SweepResults(
        **{
            **values,
            "columns": tuple(columns.values()),
            "unranked": tuple(Column(**column) for column in values["unranked"]),
            **{name: tuple(_read_line(line, known) for line in values[name]) for name in _LINES},
            "notes": tuple(values["notes"]),
            "paper_notes": tuple(values["paper_notes"]),
        }
    )


def _line(line: ConfigurationResult) -> dict[str, Any]:
    values = {field.name: getattr(line, field.name) for field in fields(line)}
    return values | {"figures": {column.title: asdict(figure) for column, figure in line.figures.items()}}


def _read_line(values: dict[str, Any], columns: dict[str, Column]) -> ConfigurationResult:
    figures = {columns[title]: Figure(**_numbers(figure)) for title, figure in values["figures"].items()}
    read = {**_numbers(values), "figures": figures, "remarks": tuple(values["remarks"])}
    return ConfigurationResult(**read)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(inside) for name, inside in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(inside) for inside in value]
    return value


_NUMBERS = ("value", "spread", "training_flops", "device_hours")


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with the texts that stand for numbers that are not finite read back."""
    return {name: float(value) if name in _NUMBERS and value is not None else value for name, value in values.items()}

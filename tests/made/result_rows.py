"""Result rows that a test changes one value of, and the line of a rendered table that names something."""

from collections.abc import Sequence
from typing import Any

from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.table_text import to_markdown


def make_row(**changes: Any) -> ResultRow:
    values: dict[str, Any] = {
        "run": "full",
        "kind": "finetune",
        "model": "hidden-64-layer-2-head-2",
        "mode": "full",
        "task": "secondary_structure",
        "split": "cb513",
        "metric": "Q3",
        "definition": "right class of 3 / residues with a valid label",
        "value": 0.61,
        "larger_is_better": True,
        "num_proteins": 513,
        "num_scored": 84765,
        "unit": "residues",
        "seed": 0,
        "parameters": 107_000,
        "data_hash": "abc",
        "split_rule": "25 % identity",
        "code_version": "0.1.0",
        "created": "2021-12-02T10:00:00+00:00",
    }
    return ResultRow(**{**values, **changes})


def baseline(**changes: Any) -> ResultRow:
    values = {
        "run": "base",
        "kind": "baseline",
        "model": "one-hot window",
        "mode": "-",
        "parameters": None,
        "value": 0.55,
    }
    return make_row(**{**values, **changes})


def markdown_of(rows: Sequence[ResultRow]) -> str:
    """Their tables in Markdown."""
    return to_markdown(*make_tables(rows))


def line_of(markdown: str, text: str) -> str:
    return next(line for line in markdown.splitlines() if text in line)

"""Broken twins: a good file with one fault in it."""

import copy
from collections.abc import Sequence
from typing import Any

MISSING = object()
"""In place of a value: the key is left out."""


def twin(good: dict[str, Any], path: Sequence[str | int], value: object) -> dict[str, Any]:
    """A copy of `good` in which what lies at `path` is `value`, or is not there."""
    broken = copy.deepcopy(good)
    parent: Any = broken
    for step in path[:-1]:
        parent = parent[step]
    if value is MISSING:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return broken

"""The configurations of a sweep as changes by dotted name: an explicit list, a grid, or random draws.

Such a *point* may break a constraint of the sweep. Points of a grid or a search are then left out; in an explicit list
it is a fault, because somebody wrote that very configuration down.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import numpy as np

from proteinlm.models.config import TABLE_7_SHAPES, expand_preset, num_parameters
from proteinlm.models.messages import printable
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import Fault, SettingsError
from proteinlm.sweeps.planning.config import LIKE, TRAINING_FLOPS, ConstraintSection, SearchSection, SweepConfig

DRAWS_PER_TRIAL = 200
"""Draws for each configuration wanted before a search is given up."""


@dataclass(frozen=True)
class Point:
    """One configuration before it is checked."""

    source: str
    """What messages call it."""
    changes: Mapping[str, Any]
    is_explicit: bool


def points(sweep: SweepConfig) -> Iterator[Point]:
    """Yield all points of the sweep in order; without end for a search."""
    if sweep.configurations:
        for number, changes in enumerate(sweep.configurations):
            yield Point(f"configurations[{number}]", changes, is_explicit=True)
    elif sweep.grid:
        for changes in grid_points(sweep.grid):
            yield Point(f"grid point {_shown(changes)}", changes, is_explicit=False)
    elif sweep.search:
        yield from _draws(sweep.search)


def grid_points(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the lists of values by dotted name; of no lists, one point without changes."""
    return (dict(zip(grid, values, strict=True)) for values in product(*grid.values()))


def _draws(search: SearchSection) -> Iterator[Point]:
    for number in count():
        generator = np.random.default_rng([search.seed, number])
        changes = {name: distribution.draw(generator) for name, distribution in search.space.items()}
        yield Point(f"search draw {number} ({_shown(changes)})", changes, is_explicit=False)


def most_points(sweep: SweepConfig) -> tuple[int | None, int | None]:
    """Return (points wanted, points to look at) of a search; (None, None) for lists and grids: all there are."""
    if sweep.search is None:
        return None, None
    return sweep.search.trials, DRAWS_PER_TRIAL * sweep.search.trials


def settings_of(point: Point) -> dict[str, Any]:
    """Return the point's settings by dotted name, without the two keys that are none: `like` and `training_flops`."""
    return {name: value for name, value in point.changes.items() if name not in (LIKE, TRAINING_FLOPS)}


def like_of(point: Point) -> str | None:
    """Return the paper's configuration that the point stands for; SettingsError where it is none of Table 7."""
    like = point.changes.get(LIKE)
    if like is not None and like not in list(TABLE_7_SHAPES):
        text = f"found {like!r}; accepted: {', '.join(TABLE_7_SHAPES)}"
        raise SettingsError([Fault(LIKE, point.source, text)])
    return like


def flops_of(point: Point, constraints: ConstraintSection) -> float | None:
    """Return the model FLOPs that pretraining is to spend; None: the settings say its length.

    SettingsError for what is no positive number.
    """
    flops = point.changes.get(TRAINING_FLOPS, constraints.training_flops)
    if flops is None:
        return None
    if isinstance(flops, bool) or not isinstance(flops, int | float) or flops <= 0:
        text = f"found {flops!r}; accepted: a positive number of FLOPs"
        raise SettingsError([Fault(TRAINING_FLOPS, point.source, text)])
    return float(flops)


def shape_out_of_bounds(model: object, constraints: ConstraintSection) -> str | None:
    """Return why the shape in an unchecked `model` section breaks a constraint; None where it keeps them."""
    values = expand_preset(model) if isinstance(model, dict) else {}
    width, heads = values.get("hidden_size"), values.get("num_attention_heads")
    if not (isinstance(width, int) and isinstance(heads, int) and heads > 0 and constraints.heads_divide_width):
        return None
    return f"{heads} heads do not divide a width of {width}" if width % heads else None


def size_out_of_bounds(config: PretrainConfig, constraints: ConstraintSection) -> str | None:
    """Return why the number of parameters breaks a constraint; None where it keeps it."""
    if constraints.parameters is None:
        return None
    fewest, most = constraints.parameters
    parameters = num_parameters(config.model)
    if fewest <= parameters <= most:
        return None
    return f"{parameters:,} parameters; constraints.parameters is {fewest:,.0f} to {most:,.0f}"


def _shown(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={printable(str(value))}" for name, value in changes.items())

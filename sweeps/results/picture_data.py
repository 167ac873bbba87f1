"""What lies behind the pictures of a sweep: styles, loss curves over residues, limits, where names of points go.

Shapes: n points of a curve, P points of a picture.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from proteinlm.platform.results.plots import COLOURS, Floats
from proteinlm.sweeps.results.runs import ConfigurationResult

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (7, 2, 1, 2)))
"""As matplotlib takes them."""
MARKERS = ("o", "s", "^", "D")


def colour_of(number: int) -> str:
    """Of configuration `number`; with marker and dash it tells 28 of them apart."""
    return COLOURS[number % len(COLOURS)]


def marker_of(number: int) -> str:
    """Of configuration `number`: those of equal colour differ in it."""
    return MARKERS[(number + 2 * (number // len(COLOURS))) % len(MARKERS)]


def dash_of(number: int) -> Any:
    """Of configuration `number`: those of equal colour differ in it."""
    return DASHES[(number // len(COLOURS)) % len(DASHES)]


class Law(Protocol):
    """A fitted curve with its interval, such as scaling.PowerLaw."""

    def predict(self, x: Floats, /) -> tuple[Floats, Floats, Floats]:
        """Loss at `x` [n], with the ends of its interval."""

    def as_text(self, x: str, /) -> str:
        """The law in words."""


def pretrained_lines(lines: Sequence[ConfigurationResult]) -> list[ConfigurationResult]:
    """The first line of each pretrained configuration: those finetuned in several ways were pretrained once."""
    found: dict[str, ConfigurationResult] = {}
    for line in lines:
        if line.pretraining:
            found.setdefault(line.pretraining, line)
    return list(found.values())


def short_name(line: ConfigurationResult) -> str:
    """Width-depth-heads, with what else the name says: "512-32-8" of hidden-512-layer-32-head-8.

    A line without a shape, such as a baseline, has its whole name.
    """
    if not line.hidden_size:
        return line.name
    return f"{line.hidden_size}-{line.num_hidden_layers}-{line.num_attention_heads}{line.extras}"


def curve(rows: Sequence[Mapping[str, object]], key: str) -> Floats:
    """(residues seen, loss) [n, 2] of the finite figures under `key`; a step written again counts as written last.

    A validation's row does not say its residues: it has those of the training row of its step, or between two of them.
    """
    residues, losses = _by_step(rows, "residues"), _by_step(rows, key)
    steps = np.array(sorted(step for step, loss in losses.items() if math.isfinite(loss)))
    if not len(steps) or not residues:
        return np.zeros((0, 2))
    known = np.array(sorted(residues))
    seen = np.interp(steps, np.append(0.0, known), np.append(0.0, [residues[step] for step in known]))
    return np.column_stack([seen, [losses[step] for step in steps]])


def _by_step(rows: Sequence[Mapping[str, object]], key: str) -> dict[float, float]:
    found = {}
    for row in rows:
        step, value = row.get("step"), row.get(key)
        if isinstance(step, int | float) and isinstance(value, int | float):
            found[float(step)] = float(value)
    return found


def place_names(points: Floats, sizes: Floats, frame: Box, drawn: Floats) -> Floats:
    """Left lower corners [P, 2] of names of `sizes` [P, 2] near `points` [P, 2], in pixels, within `frame`.

    Each name goes to the nearest place around its point that is free of points, of what else is `drawn` [n, 2] and of
    the names before it, or, where none is, to the one that covers least.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points] + [(x - 2, y - 2, x + 2, y + 2) for x, y in drawn]
    corners = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        boxes = [_at(x, y, width, height, angle, gap) for gap in (9, 18, 30, 45, 65, 90) for angle in range(0, 360, 30)]
        inside = [box for box in boxes if _covered(box, frame) >= 0.999 * width * height] or boxes
        best = min(inside, key=lambda box: sum(_covered(box, other) for other in taken))
        taken.append(best)
        corners.append(best[:2])
    return np.array(corners, np.float64).reshape(-1, 2)


def _at(x: float, y: float, width: float, height: float, angle: int, gap: float) -> Box:
    """The box in this direction (degrees from the right) whose edge is `gap` away from the point."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = x + across * (gap + width / 2) - width / 2
    bottom = y + up * (gap + height / 2) - height / 2
    return left, bottom, left + width, bottom + height


def _covered(one: Box, other: Box) -> float:
    """Area that both boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)

"""The plot of loss curves (`plot_curves`), PNG or SVG by the file's suffix, and what all plots share.

Shared are colours, markers and dashes; a blank plot that looks the same on every machine and how it becomes a file;
reading, smoothing and cutting of curves; and where the names of points go.

In the plot of loss curves the training loss is pale, with its running mean over it. Validation and holdout loss, under
the same mix of masks as training, are marked points. Dashed lines are the context-free floors: a model whose loss is
not below them has learned nothing from context.

Shapes: n points of a curve, P points with names.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.storage.atomic import staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito: colour-blind safe."""
DOTS = 150
"""Pixels per inch."""
SMOOTHED = 50
"""The running mean is over one part in this many of a curve."""
FIRST_LEFT_OUT = 1 / 20
"""Share of the training that the loss axis need not show: its steep start would flatten the rest."""

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (7, 2, 1, 2)))
"""Line styles of matplotlib."""
MARKERS = ("o", "s", "^", "D")


def colour_of(number: int) -> str:
    """Colour of curve or point `number` (from 0); with marker and dash, 28 of them can be told apart."""
    return COLOURS[number % len(COLOURS)]


def marker_of(number: int) -> str:
    """Marker of curve or point `number`; it differs between equal colours."""
    return MARKERS[(number + 2 * (number // len(COLOURS))) % len(MARKERS)]


def dash_of(number: int) -> Any:
    """Line style of curve `number`, for matplotlib; it differs between equal colours."""
    return DASHES[(number // len(COLOURS)) % len(DASHES)]


@contextmanager
def blank_plot(size: tuple[float, float], font_size: int) -> Iterator["Figure"]:
    """A matplotlib figure of `size` inches to draw on and save in the body. Needs no display; SVG keeps its text."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": font_size, "svg.fonttype": "none", "svg.hashsalt": "proteinlm"}):
        figure = Figure(figsize=size, dpi=DOTS, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def plot_file(path: Path, size: tuple[float, float], font_size: int) -> Iterator["Figure"]:
    """A blank plot of `size` inches that is written to `path` when the body ends without an error.

    Raises ValueError for a suffix that is neither .png nor .svg.
    """
    check_suffix(path)
    with blank_plot(size, font_size) as figure:
        yield figure
        save_plot(figure, path)


def check_suffix(path: Path) -> None:
    """Raise ValueError unless `path` ends in .png or .svg."""
    if path.suffix not in {".png", ".svg"}:
        raise ValueError(f"cannot draw {path}: the suffix is {path.suffix or 'missing'!r}, accepted are .png and .svg")


def tidy(axes: "Axes") -> None:
    """A faint grid behind the data, and no frame above and to the right."""
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save_plot(figure: "Figure", path: Path) -> None:
    """Write `figure` to `path`, as PNG or SVG by its suffix, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as staging:
        figure.savefig(staging, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def by_step(rows: Sequence[Mapping[str, object]], key: str) -> dict[float, float]:
    """Step -> value of `key`, in order of the steps, from `rows` of metrics.jsonl.

    Of a step that a resumed run wrote again, the last value counts.
    """
    found = {}
    for row in rows:
        step, value = row.get("step"), row.get(key)
        if isinstance(step, int | float) and isinstance(value, int | float):
            found[float(step)] = float(value)
    return dict(sorted(found.items()))


def smooth(values: Floats) -> Floats:
    """Centred running mean [n] of `values` [n] over a fiftieth of them; over fewer at both ends."""
    reach = max(1, len(values) // (2 * SMOOTHED))
    return np.array([values[max(0, index - reach) : index + reach + 1].mean() for index in range(len(values))])


def loss_limits(curves: Sequence[Floats], levels: Sequence[float] = ()) -> tuple[float, float]:
    """Limits (low, high) of the loss axis for `curves` [n, 2] of (x, loss) and for level lines at `levels`.

    The first twentieth of the longest curve is not considered.
    """
    points = np.concatenate(curves)
    late = points[points[:, 0] >= points[:, 0].max() * FIRST_LEFT_OUT, 1]
    losses = np.append(late[np.isfinite(late)], levels)
    if not len(losses):
        losses = np.zeros(1)
    margin = 0.05 * float(np.ptp(losses)) or 0.05
    return float(losses.min()) - margin, float(losses.max()) + margin


_MARKERS = {"valid": "o", "holdout": "s"}
Point = tuple[float, float]
"""(optimizer step, loss)"""


def plot_curves(
    runs: Mapping[str, Sequence[Mapping[str, object]]],
    path: Path,
    floors: Mapping[str, float] | None = None,
    *,
    is_simulated: bool = False,
) -> Path:
    """Draw the loss curves of `runs` (name -> rows of its metrics.jsonl) into `path`, and return it.

    `floors`: split -> context-free floor under the training mix, in nats. Raises ValueError where no row holds a loss
    or the suffix is neither .png nor .svg.
    """
    check_suffix(path)
    curves = {name: {split: _points(rows, split) for split in ("train", *_MARKERS)} for name, rows in runs.items()}
    if not any(points for splits in curves.values() for points in splits.values()):
        raise ValueError(f"cannot draw {path}: no row of {', '.join(runs) or 'any run'} holds a loss")
    _draw(curves, path, floors or {}, "Masked language modelling" + (", simulated proteins" if is_simulated else ""))
    return path


def _draw(curves: Mapping[str, Mapping[str, list[Point]]], path: Path, floors: Mapping[str, float], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    with plot_file(path, (8, 5), font_size=10) as figure:
        axes = figure.add_subplot()
        for number, (name, splits) in enumerate(curves.items()):
            _draw_run(axes, name, splits, COLOURS[number % len(COLOURS)])
        for number, (split, floor) in enumerate(floors.items()):
            style = (0, (6, 2)) if number == 0 else (0, (2, 2))
            axes.axhline(
                floor, color="0.35", linewidth=1, linestyle=style, label=f"context-free floor, {split}: {floor:.3f}"
            )
        drawn = [np.array(points) for splits in curves.values() for points in splits.values() if points]
        axes.set_ylim(*loss_limits(drawn, list(floors.values())))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, loc="left")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("loss (nats per scored residue)")
        tidy(axes)
        axes.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_run(axes: "Axes", name: str, splits: Mapping[str, list[Point]], colour: str) -> None:
    if splits["train"]:
        steps, losses = zip(*splits["train"], strict=True)
        axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smooth(np.array(losses)), color=colour, alpha=0.55, linewidth=1.2, label=f"{name}, training")
    for split, marker in _MARKERS.items():
        if splits[split]:
            steps, losses = zip(*splits[split], strict=True)
            hollow = "white" if split == "holdout" else colour
            label = f"{name}, {split}: {losses[-1]:.3f}"
            style = "-" if split == "valid" else ":"
            axes.plot(steps, losses, style, color=colour, marker=marker, markersize=4.5, mfc=hollow, label=label)


def _points(rows: Sequence[Mapping[str, object]], split: str) -> list[Point]:
    """Step and loss of `split` in order of the steps."""
    return list(by_step(rows, "loss" if split == "train" else f"{split}/loss").items())


def place_names(points: Floats, sizes: Floats, frame: Box, drawn: Floats) -> Floats:
    """Lower left corners [P, 2] for names of `sizes` [P, 2] (width, height) near `points` [P, 2]; all in pixels.

    Each name goes as near to its point as it can without covering points, `drawn` pixels [n, 2] or an earlier name, and
    within `frame`. Where everything is taken it goes where it covers least.
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
    """The box in direction `angle` (degrees from the right) whose edge is `gap` pixels away from the point (x, y)."""
    across, up = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    left = x + across * (gap + width / 2) - width / 2
    bottom = y + up * (gap + height / 2) - height / 2
    return left, bottom, left + width, bottom + height


def _covered(one: Box, other: Box) -> float:
    """Area that both boxes share, in square pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)

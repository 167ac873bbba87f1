"""Loss curves as one plot, PNG or SVG by the file's suffix, and what all plots share: colours, an empty plot that
looks alike on every machine, how it becomes a file, and how loss curves are smoothed and cut.

Training loss is drawn light with its running mean over it; validation and holdout loss under the training mix are the
marked points, and the context-free floors the dashed lines that a model must get under to have learned any context.

Shapes: n points of a curve.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.storage.atomic import staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito: colour-blind safe."""
DOTS = 150
"""Pixels of an inch."""
SMOOTHED = 50
"""The running mean of a curve is over so many parts of it."""
FIRST_LEFT_OUT = 1 / 20
"""Share of training whose steep loss would flatten all that comes after."""

Floats = NDArray[np.float64]


@contextmanager
def blank_picture(size: tuple[float, float], font_size: int) -> Iterator["Figure"]:
    """A picture of `size` inches to draw on, and to save, in the body: no display, text stays text in SVG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": font_size, "svg.fonttype": "none", "svg.hashsalt": "proteinlm"}):
        picture = Figure(figsize=size, dpi=DOTS, layout="constrained")
        FigureCanvasAgg(picture)
        yield picture


def save_picture(picture: "Figure", path: Path) -> None:
    """Write `picture` to `path`, as PNG or SVG by its suffix, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged_file(path) as staging:
        picture.savefig(staging, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def smooth(values: Floats) -> Floats:
    """Centred running mean of `values` [n] over a fiftieth of them, over fewer at both ends."""
    reach = max(1, len(values) // (2 * SMOOTHED))
    return np.array([values[max(0, place - reach) : place + reach + 1].mean() for place in range(len(values))])


def loss_limits(curves: Sequence[Floats], levels: Sequence[float] = ()) -> tuple[float, float]:
    """Limits of the loss axis for curves [n, 2] and level lines: all but the first twentieth of the longest curve."""
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
    if path.suffix not in {".png", ".svg"}:
        raise ValueError(f"cannot draw {path}: the suffix is {path.suffix or 'missing'!r}, accepted are .png and .svg")
    curves = {name: {split: _points(rows, split) for split in ("train", *_MARKERS)} for name, rows in runs.items()}
    if not any(points for splits in curves.values() for points in splits.values()):
        raise ValueError(f"cannot draw {path}: no row of {', '.join(runs) or 'any run'} holds a loss")
    _draw(curves, path, floors or {}, "Masked language modelling" + (", simulated proteins" if is_simulated else ""))
    return path


def _draw(curves: Mapping[str, Mapping[str, list[Point]]], path: Path, floors: Mapping[str, float], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    with blank_picture((8, 5), font_size=10) as figure:
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
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper right")
        save_picture(figure, path)


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
    """Step and loss of `split` in order of the steps; what a resumed run wrote again counts once, as written last."""
    key = "loss" if split == "train" else f"{split}/loss"
    points: dict[float, float] = {}
    for row in rows:
        step, loss = row.get("step"), row.get(key)
        if isinstance(step, int | float) and isinstance(loss, int | float):
            points[float(step)] = float(loss)
    return sorted(points.items())

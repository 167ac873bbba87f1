"""What all pictures share: colours, a blank picture that looks alike on every machine, how it becomes a file, and how
loss curves are smoothed and cut.

Shapes: n points of a curve.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
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
    """Write `picture` aside, as PNG or SVG by the suffix of `path`, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".writing-{path.name}")
    picture.savefig(aside, metadata={"Date": None} if path.suffix == ".svg" else None)
    aside.replace(path)


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

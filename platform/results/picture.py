"""What all pictures share: colours, a blank picture that looks alike on every machine, and how it becomes a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito: colour-blind safe."""
DOTS = 150
"""Pixels of an inch."""


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

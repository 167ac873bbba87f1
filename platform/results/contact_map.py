"""Contact maps: truth above the diagonal, prediction below, in one square, PNG and SVG (the paper's section 5).

Truth: all pairs of residues whose C-alpha atoms are less than 8 Angstrom apart. Prediction: the L most probable pairs
of residues 6 or more apart, in strong colours where they are contacts and pale where not, over the probability in grey.
The colour shows the range: short, medium or long.

Shapes: L residues of the protein, M pairs.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.places.places import fetched, place
from proteinlm.platform.results.plots import blank_plot, check_suffix, save_plot
from proteinlm.platform.storage.run_directory import PREDICTIONS_FOLDER
from proteinlm.tasks.contact_prediction import (
    CONTACT_DISTANCE,
    COORDINATES_COLUMN,
    MASK_COLUMN,
    MIN_SEPARATION,
    PROBABILITY,
    RANGES,
    scored_pairs,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

RANGE_NAMES: Mapping[str, str] = {"long": "sep24", "medium": "sep12_23", "short": "sep6_11"}
COLOURS: Mapping[str, tuple[str, str]] = {
    "long": ("#0072B2", "#8CC6EA"),
    "medium": ("#D55E00", "#F5BE93"),
    "short": ("#009E73", "#93DAC3"),
}
"""Range -> strong and pale colour (Okabe and Ito: safe for the colour-blind)."""
NEAR_COLOUR = "#C4C4C4"
"""Of contacts that are too close along the chain to be scored."""
UNKNOWN_COLOUR = "#F3E9D2"
"""Of rows and columns of residues without coordinates."""
HITS, PICKED = "hits_l5_sep6", "picked_l5_sep6"
"""Columns whose ratio is P@L/5 of a protein."""
NEEDED_COLUMNS = ("row", "id", "length", PROBABILITY, COORDINATES_COLUMN, MASK_COLUMN, HITS, PICKED)


def plot_contacts(
    run: Path | str, split: str = "test", proteins: Sequence[str] = (), out: Path | str | None = None
) -> list[Path]:
    """Draw proteins of `<run>/predictions/<split>.parquet`, each as PNG and SVG; returns the files.

    `proteins` are ids; without any, those with the best, the median and the worst P@L/5 are drawn. The files go into
    the folder `out`, by default `<run>/contact_maps`. Raises FileNotFoundError where there are no predictions, and
    ValueError where they are of another task or an id is not among them.
    """
    directory = place(run)
    table = _read(directory, split)
    folder = directory / "contact_maps" if out is None else place(out)
    paths = []
    for row in _rows_to_draw(table, proteins, f"{directory.name}, {split}"):
        name, number = (table.column(column)[row].as_py() for column in ("id", "row"))
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{split}-{number}-{name}")  # ids are not unique in every data set
        pair = [folder / f"{stem}.png", folder / f"{stem}.svg"]
        title = f"{name} ({directory.name}, {split})"
        draw_contact_map(*_arrays(table, row), title, pair, float(_precisions(table)[row]))
        paths += pair
    return paths


def draw_contact_map(
    probability: NDArray[np.floating[Any]],
    coordinates: NDArray[np.floating[Any]],
    known: NDArray[np.bool_],
    title: str,
    paths: Sequence[Path],
    precision: float | None = None,
) -> None:
    """Draw the contact map of one protein into each of `paths` (.png or .svg).

    `probability` [L, L] is the prediction (symmetric), `coordinates` [L, 3] are those of the C-alpha atoms in Angstrom,
    and `known` [L] is false for residues without coordinates. `precision` is the P@L/5 to print; None computes it from
    `probability`, which may be rounded.

    Raises ValueError where shapes do not fit, or for another suffix.
    """
    length = len(known)
    coordinates = np.where(known[:, None], coordinates, np.nan).astype(np.float32)
    if probability.shape != (length, length) or coordinates.shape != (length, 3):
        raise ValueError(
            f"cannot draw {title}: probability {list(probability.shape)} and coordinates {list(coordinates.shape)} "
            f"for {length} residues; accepted: [L, L] and [L, 3]"
        )
    for path in paths:
        check_suffix(path)
    with blank_plot((6.4, 7.6), font_size=10) as figure:
        axes = figure.add_subplot()
        _draw_ground(axes, probability, known)
        _draw_contacts(axes, coordinates)
        hits = _draw_predicted(axes, probability, coordinates)
        if precision is None:
            precision = float(hits[: max(1, length // 5)].mean()) if len(hits) else float("nan")
        figure.suptitle(
            f"{title}\nP@L/5 ({MIN_SEPARATION} or more residues apart): {precision:.2f}, L = {length}",
            fontsize=11,
            x=0.02,
            ha="left",
        )
        figure.legend(handles=_legend(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        for path in paths:
            save_plot(figure, path)


def _draw_ground(axes: "Axes", probability: NDArray[np.floating[Any]], known: NDArray[np.bool_]) -> None:
    """Axes in residue numbers, bands of unknown residues, the diagonal, and the probability below it."""
    from matplotlib.colors import ListedColormap

    length = len(known)
    extent = (0.5, length + 0.5, length + 0.5, 0.5)
    unknown = ~(known[:, None] & known[None, :])
    axes.imshow(np.ma.masked_where(~unknown, unknown), cmap=ListedColormap([UNKNOWN_COLOUR]), extent=extent)
    below = np.ma.masked_where(unknown | np.triu(np.ones_like(unknown)), probability.astype(np.float32))
    axes.imshow(below, cmap="Greys", vmin=0.0, vmax=1.6, extent=extent, interpolation="nearest")  # never quite black
    axes.plot([0.5, length + 0.5], [0.5, length + 0.5], color="0.4", linewidth=0.8)
    axes.set_xlim(0.5, length + 0.5)
    axes.set_ylim(length + 0.5, 0.5)
    axes.set_aspect("equal")
    axes.set_xlabel("residue")
    axes.set_ylabel("residue")
    axes.text(0.98, 0.98, "truth", transform=axes.transAxes, ha="right", va="top", color="0.35")
    axes.text(0.02, 0.02, "prediction", transform=axes.transAxes, ha="left", va="bottom", color="0.35")


def _draw_contacts(axes: "Axes", coordinates: NDArray[np.float32]) -> None:
    """Every contact i < j at column j, row i: above the diagonal."""
    squared_distance = np.square(coordinates[:, None] - coordinates[None]).sum(axis=-1)
    first, second = np.nonzero(np.triu(squared_distance < CONTACT_DISTANCE**2, 1))
    near = second - first < MIN_SEPARATION
    _scatter(axes, second[near], first[near], NEAR_COLOUR, len(coordinates))
    for name, (strong, _) in COLOURS.items():
        own = _in_range(second - first, name)
        _scatter(axes, second[own], first[own], strong, len(coordinates))


def _draw_predicted(
    axes: "Axes", probability: NDArray[np.floating[Any]], coordinates: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """The L most probable scored pairs i < j at column i, row j; which of them are contacts, best first."""
    first, second, is_contact = scored_pairs(coordinates)
    best = np.argsort(-probability[first, second].astype(np.float64), kind="stable")[: len(coordinates)]
    first, second, is_contact = first[best], second[best], is_contact[best]
    for name, (strong, pale) in COLOURS.items():
        own = _in_range(second - first, name)
        for chosen, colour in ((own & ~is_contact, pale), (own & is_contact, strong)):
            _scatter(axes, first[chosen], second[chosen], colour, len(coordinates))
    return is_contact


def _scatter(axes: "Axes", column: NDArray[np.int64], row: NDArray[np.int64], colour: str, length: int) -> None:
    side = max(1.5, 0.9 * 72 * 5.3 / length)  # points; the axes are about 5.3 inches wide
    axes.scatter(column + 1, row + 1, side**2, colour, marker="s", linewidths=0)


def _in_range(apart: NDArray[np.int64], name: str) -> NDArray[np.bool_]:
    nearest, farthest = RANGES[RANGE_NAMES[name]]
    return (apart >= nearest) & (apart <= (farthest or np.inf))


def _legend() -> "list[Line2D]":
    """Strong colours in the first column, pale ones and greys in the second."""
    from matplotlib.lines import Line2D

    marks = []
    for name, (strong, _) in COLOURS.items():
        nearest, farthest = RANGES[RANGE_NAMES[name]]
        words = f"{nearest} or more" if farthest is None else f"{nearest} to {farthest}"
        marks.append((f"contact, {name} range ({words} apart)", strong))
    marks.append((f"contact, less than {MIN_SEPARATION} apart (not scored)", NEAR_COLOUR))
    marks += [(f"no contact, but predicted ({name} range)", pale) for name, (_, pale) in COLOURS.items()]
    marks.append(("residue without coordinates", UNKNOWN_COLOUR))
    return [Line2D([], [], color=colour, marker="s", linestyle="none", label=label) for label, colour in marks]


def _read(run: Path, split: str) -> "pa.Table":
    """The predictions of a split; errors name what there is instead."""
    import pyarrow.parquet as pq

    if not run.is_dir():
        raise FileNotFoundError(f"no run at {run}")
    folder = run / PREDICTIONS_FOLDER
    file = folder / f"{split}.parquet"
    if not file.is_file():
        splits = ", ".join(sorted(path.stem for path in folder.glob("*.parquet"))) or "none"
        raise FileNotFoundError(f"{run} has no predictions of split {split!r} (found: {splits}); finetune writes them")
    with fetched(file) as local:
        names = pq.read_schema(local).names
        if missing := [name for name in NEEDED_COLUMNS if name not in names]:
            raise ValueError(f"{file} has no column {missing[0]!r}: it is not of contact_prediction")
        return pq.read_table(local, columns=list(NEEDED_COLUMNS))


def _rows_to_draw(table: "pa.Table", proteins: Sequence[str], where: str) -> list[int]:
    """Rows of `table` to draw: those of the ids, else the ones with the best, median and worst P@L/5."""
    names = table.column("id").to_pylist()
    for name in proteins:
        if name not in names:
            near = get_close_matches(name, names, n=3) or names[:3]
            raise ValueError(f"no protein {name!r} in {where}; near: {', '.join(near)} (of {len(names)})")
    if proteins:
        return [names.index(name) for name in proteins]
    precisions = _precisions(table)
    order = [int(row) for row in np.argsort(-precisions, kind="stable") if not np.isnan(precisions[row])]
    if len(order) <= 3:
        return order or list(range(min(1, len(names))))
    return [order[0], order[len(order) // 2], order[-1]]


def _precisions(table: "pa.Table") -> NDArray[np.float64]:
    """P@L/5 of each protein [B], NaN where no pair is scored."""
    hits, picked = (table.column(name).to_numpy().astype(np.float64) for name in (HITS, PICKED))
    precisions = np.full(len(hits), np.nan)
    np.divide(hits, picked, out=precisions, where=picked > 0)
    return precisions


def _arrays(table: "pa.Table", row: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Probability [L, L], coordinates [L, 3] and known residues [L] of the protein in `row`."""
    length = int(table.column("length")[row].as_py())
    probability = np.zeros((length, length), np.float32)
    upper, coordinates, known = (
        table.column(name)[row].values.to_numpy(zero_copy_only=False)
        for name in (PROBABILITY, COORDINATES_COLUMN, MASK_COLUMN)
    )
    probability[np.triu_indices(length, 1)] = upper
    return probability + probability.T, coordinates.reshape(length, 3), known

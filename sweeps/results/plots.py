"""The plots of a sweep, PNG or SVG by the file's suffix (the paper's Figures 6 to 9 and 13 to 21).

    plot_loss_against   valid loss against training FLOPs and parameters, with the fitted laws and their 95 % bands
    plot_against_shape  each metric of finetuning against depth, width and heads, beside the noise of seeds
    plot_pretraining    loss curves of all configurations against residues seen

A configuration has the same colour, marker and dash in all of them. Shapes: n points.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

import numpy as np

from proteinlm.platform.results.formatting import axis_unit
from proteinlm.platform.results.plots import (
    DOTS,
    Floats,
    by_step,
    colour_of,
    dash_of,
    loss_limits,
    marker_of,
    place_names,
    plot_file,
    smooth,
    tidy,
)
from proteinlm.platform.results.tables import Column
from proteinlm.sweeps.results.runs import ConfigurationResult, SweepResults
from proteinlm.sweeps.results.table7 import VALID_LOSS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Sequence[Mapping[str, object]]]


FONT_SIZE = 9
MOST_NAMED = 14
"""Up to this many points of a plot all have names; of more, only the `BEST_NAMED` best ones."""
BEST_NAMED = 5
LOSS = "valid loss (nats per scored residue)"
COSTS = (("training_flops", "training FLOPs", "C"), ("parameters", "parameters", "N"))
SHAPES = (("num_hidden_layers", "layers"), ("hidden_size", "width"), ("num_attention_heads", "heads"))


class Law(Protocol):
    """A fitted law with its interval, such as a power law."""

    def predict(self, x: Floats, /) -> tuple[Floats, Floats, Floats]:
        """Loss [n] at `x` [n], and the lower and upper ends [n] of its interval."""

    def as_text(self, x: str, /) -> str:
        """The law in words."""


def pretrained_lines(lines: Sequence[ConfigurationResult]) -> list[ConfigurationResult]:
    """One line (the first) for each pretrained configuration, which may have been finetuned in several modes."""
    found: dict[str, ConfigurationResult] = {}
    for line in lines:
        if line.pretraining:
            found.setdefault(line.pretraining, line)
    return list(found.values())


def short_name(line: ConfigurationResult) -> str:
    """Width, depth, heads and extras: "512-32-8" for hidden-512-layer-32-head-8; the whole name without a shape."""
    if not line.hidden_size:
        return line.name
    return f"{line.hidden_size}-{line.num_hidden_layers}-{line.num_attention_heads}{line.extras}"


def plot_loss_against(results: SweepResults, path: Path, fits: tuple[Law | None, Law | None]) -> Path:
    """Plot valid loss against training FLOPs and against parameters into `path`; `fits`: a law for each panel, or None.

    Raises ValueError where no configuration has a valid loss, or for a suffix that is neither .png nor .svg.
    """
    numbered = [(n, line) for n, line in enumerate(pretrained_lines(results.lines)) if _is_finite(line, VALID_LOSS)]
    if not numbered:
        raise ValueError(f"cannot draw {path}: no configuration of {results.name} has a valid loss")
    with plot_file(path, (11.5, 5.2), font_size=FONT_SIZE) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        named = sorted((line for _, line in numbered), key=lambda line: line.values[VALID_LOSS].value)
        named = named if len(named) <= MOST_NAMED else named[:BEST_NAMED]
        which = "points" if len(named) == len(numbered) else f"the {BEST_NAMED} best"
        title = _title(f"Valid loss, {which} named width-depth-heads", results)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for axes, (name, label, letter), fit in zip(panels, COSTS, fits, strict=True):
            tidy(axes)
            axes.set_xscale("log")
            axes.set_xlabel(label + (f"\n{textwrap.fill(fit.as_text(letter), 74)}" if fit else ""))
            for number, line in numbered:
                if getattr(line, name):
                    _draw_point(axes, getattr(line, name), line, VALID_LOSS, number)
        panels[0].set_ylabel(LOSS)
        for axes, (name, *_), fit in zip(panels, COSTS, fits, strict=True):
            sized = [(line, x) for _, line in numbered if (x := getattr(line, name))]
            points = [(short_name(line), x, line.values[VALID_LOSS].value) for line, x in sized if line in named]
            if fit and sized:
                _draw_law(axes, fit, np.array([x for _, x in sized], np.float64))
            figure.canvas.draw()  # places of points in pixels are known after this
            _write_names(axes, points)
    return path


def plot_against_shape(results: SweepResults, path: Path) -> Path:
    """Plot each metric of finetuning (a row of panels) against depth, width and heads into `path`.

    Error bars are standard deviations over seeds. The grey band is the mean of all configurations, plus and minus the
    pooled deviation over seeds: what noise alone would do. Raises ValueError where no metric
    of finetuning was measured, or for another suffix.
    """
    lines = [line for line in results.lines if not line.is_baseline and line.hidden_size]
    columns = [c for c in results.columns if c.is_downstream and any(_is_finite(line, c) for line in lines)]
    if not columns:
        raise ValueError(f"cannot draw {path}: no configuration of {results.name} has a downstream metric")
    with plot_file(path, (9.5, 1.2 + 2.1 * len(columns)), font_size=FONT_SIZE) as figure:
        grid = figure.subplots(len(columns), len(SHAPES), sharex="col", sharey="row", squeeze=False)
        title = _title("Downstream metrics against shape (± deviation over seeds; grey: seeds' noise)", results)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        for row, column in zip(grid, columns, strict=True):
            row[0].set_ylabel(textwrap.fill(column.title, 16))
            for axes, (name, _) in zip(row, SHAPES, strict=True):
                _draw_against(axes, lines, column, name)
        for axes, (_, label) in zip(grid[-1], SHAPES, strict=True):
            axes.set_xlabel(label)
        handles = {
            label: handle
            for axes in grid[:, 0]
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        order = [label for label in (_label(line, lines) for line in lines) if label in handles]
        figure.legend([handles[label] for label in order], order, loc="outside lower center", ncols=5, fontsize=8)
    return path


def plot_pretraining(curves: Curves, path: Path, *, is_simulated: bool = False) -> Path:
    """Plot loss curves (name -> rows of metrics.jsonl) over residues into `path`; the legend has the last valid losses.

    Raises ValueError where no row holds a loss, or for another suffix.
    """
    points = {name: (curve(rows, "loss"), curve(rows, "valid/loss")) for name, rows in curves.items()}
    drawn = [part for parts in points.values() for part in parts if len(part)]
    if not drawn:
        raise ValueError(f"cannot draw {path}: no row of {', '.join(curves) or 'any run'} holds a loss")
    size, unit = axis_unit(max(part[:, 0].max() for part in drawn))
    with plot_file(path, (11, 5.5), font_size=FONT_SIZE) as figure:
        axes = figure.subplots()
        tidy(axes)
        for number, (name, (training, valid)) in enumerate(points.items()):
            colour, dash = colour_of(number), dash_of(number)
            if len(training):
                axes.plot(
                    training[:, 0] / size, smooth(training[:, 1]), color=colour, linewidth=0.7, alpha=0.45, zorder=1
                )
            last = f"{valid[-1, 1]:.3f}" if len(valid) else "not validated"
            seen = valid if len(valid) else training[:0]
            style = {"color": colour, "linestyle": dash, "marker": marker_of(number), "markersize": 4, "linewidth": 1.4}
            axes.plot(seen[:, 0] / size, seen[:, 1], label=f"{name}: {last}", **style)
        axes.set(xlim=(0, None), ylim=loss_limits(drawn))
        axes.set(xlabel=f"residues seen ({unit})", ylabel="loss (nats per scored residue)")
        said = ", simulated proteins" if is_simulated else ""
        axes.set_title(f"Pretraining: valid loss (marked) and smoothed training loss (thin){said}", loc="left")
        figure.legend(loc="outside right upper", frameon=False, fontsize=8, title="last valid loss", handlelength=3.5)
    return path


def _title(words: str, results: SweepResults) -> str:
    return f"{results.name}: {words}" + (", simulated proteins" if results.is_simulated else "")


def _draw_point(
    axes: "Axes", x: float, line: ConfigurationResult, column: Column, number: int, label: str = ""
) -> None:
    """Draw a value with its deviation over seeds; hollow where the configuration is not finished."""
    cell, colour = line.values[column], colour_of(number)
    axes.errorbar(
        [x],
        [cell.value],
        yerr=None if cell.deviation is None else [cell.deviation],
        color=colour,
        marker=marker_of(number),
        markersize=5,
        zorder=4,  # names go behind
        mfc=colour if line.state == "finished" else "white",
        capsize=2,
        elinewidth=1,
        linestyle="none",
        label=label,
    )


def _draw_law(axes: "Axes", law: Law, x: Floats) -> None:
    """Draw the law and its band over the range of `x` [n] and half a decade to each side."""
    places = np.geomspace(x.min() / 3, x.max() * 3, 200)
    value, low, high = law.predict(places)
    bottom, top = axes.get_ylim()
    axes.fill_between(places, low, high, color="0.85", linewidth=0, zorder=0, label="95 % interval of the law")
    axes.plot(places, value, color="0.35", linewidth=1.2, zorder=1, label="fitted law")
    axes.set_ylim(bottom, top)  # a wide band must not flatten the points
    axes.set_xlim(places[0], places[-1])
    axes.legend(frameon=False, fontsize=8, loc="best")


def _write_names(axes: "Axes", places: Sequence[tuple[str, float, float]]) -> None:
    """Write the names of points (name, x, y) so that none covers another; the plot must have been laid out before."""
    if not places:
        return
    size, scale = 7.0, axes.transData.transform
    points = scale(np.array([(x, y) for _, x, y in places]))
    pixels = DOTS / 72  # of a point of type
    sizes = np.array([(0.62 * size * len(name), 1.6 * size) for name, _, _ in places]) * pixels
    frame = axes.get_window_extent()
    drawn = scale(np.concatenate([np.asarray(line.get_xydata()) for line in axes.lines]))
    corners = place_names(points, sizes, (frame.x0, frame.y0, frame.x1, frame.y1), drawn)
    behind = {"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6}
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
    for (name, x, y), offset in zip(places, (corners - points) / pixels, strict=True):
        axes.annotate(
            name, (x, y), tuple(offset), textcoords="offset points", fontsize=size, arrowprops=line, bbox=behind
        )


def _draw_against(axes: "Axes", lines: Sequence[ConfigurationResult], column: Column, name: str) -> None:
    """Draw one panel: values of `column` against the size `name` of `lines`, and the band of noise between seeds."""
    tidy(axes)
    axes.set_xscale("log", base=2)
    sizes = sorted({getattr(line, name) for line in lines})
    if len(sizes) <= 8:  # more would not fit
        axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    gap = 0.035 * (np.log2(sizes[-1] / sizes[0]) or 1)
    measured = [(number, line) for number, line in enumerate(lines) if _is_finite(line, column)]
    spreads = [line.values[column].deviation for _, line in measured]
    noise = [spread for spread in spreads if spread is not None]
    if noise:
        middle, deviation = fmean(line.values[column].value for _, line in measured), fmean(s * s for s in noise) ** 0.5
        axes.axhspan(middle - deviation, middle + deviation, color="0.9", linewidth=0, zorder=0)
        axes.axhline(middle, color="0.7", linewidth=0.8, zorder=0)
    for number, line in measured:
        size = getattr(line, name)
        equals = [other for other, peer in measured if getattr(peer, name) == size]
        apart = 2 ** (gap * (equals.index(number) - (len(equals) - 1) / 2))  # of equal size: side by side
        _draw_point(axes, size * apart, line, column, number, _label(line, lines))


def _is_finite(line: ConfigurationResult, column: Column) -> bool:
    return column in line.values and math.isfinite(line.values[column].value)


def _label(line: ConfigurationResult, lines: Sequence[ConfigurationResult]) -> str:
    return short_name(line) + (f", {line.mode}" if len({other.mode for other in lines}) > 1 else "")


def curve(rows: Sequence[Mapping[str, object]], key: str) -> Floats:
    """(residues seen, loss) [n, 2] of the finite values of `key` in `rows` of metrics.jsonl.

    Rows of validations do not hold their residues: they are interpolated between the training rows around their step.
    """
    residues, losses = by_step(rows, "residues"), by_step(rows, key)
    steps = np.array(sorted(step for step, loss in losses.items() if math.isfinite(loss)))
    if not len(steps) or not residues:
        return np.zeros((0, 2))
    known = np.array(list(residues))
    seen = np.interp(steps, np.append(0.0, known), np.append(0.0, [residues[step] for step in known]))
    return np.column_stack([seen, [losses[step] for step in steps]])

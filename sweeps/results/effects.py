"""Which of depth, width and heads mattered, and whether beyond noise: least squares over the lines of the table.

A figure is taken as a constant and a change for each doubling of each factor. Its interval at 95 % is Student's, of the
spread that the factors leave over: of seeds and of all else in which configurations differ (residues, learning rate).

Shapes: n configurations, F factors that varied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from proteinlm.platform.results.formatting import two_digits
from proteinlm.platform.results.tables import Cell, Column
from proteinlm.sweeps.results.least_squares import Array, Interval
from proteinlm.sweeps.results.runs import ConfigurationResult

FACTORS = {"depth": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads"}
"""In this order: of those that go together the first is kept."""
MAX_SHARED = 0.99
"""A factor counts as varied where at most this much of its variation follows from those before it."""


@dataclass(frozen=True)
class Effect:
    """What doubling one factor changed."""

    factor: str
    change: float
    """Of the figure, for each doubling."""
    interval: Interval
    """At 95 %."""
    goes_with: tuple[str, ...]
    """Factors that this sweep did not vary apart from it: the change is of all together."""

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Effects:
    """What a column's figures say of depth, width and heads."""

    column: Column
    mode: str
    num_configurations: int
    effects: tuple[Effect, ...]
    """Empty where nothing can be said."""
    left_out: dict[str, str]
    """Factor -> why nothing is said of it."""
    residual_spread: float | None
    """Standard deviation that the factors leave over; None without effects."""
    seed_spread: float | None
    """Standard deviation between seeds of one configuration, pooled; None of single seeds."""
    seed_spread_of_means: float | None
    """What of it remains in means over as many seeds as the figures have."""
    reason: str | None
    """Why nothing can be said."""

    def as_text(self) -> str:
        """A few sentences for people."""
        if self.reason:
            return f"{self.title}: nothing can be said of depth, width and heads: {self.reason}."
        parts = [_sentence(effect, self.is_better(effect)) for effect in self.effects]
        parts += [f"{factor} {why}" for factor, why in self.left_out.items()]
        return f"{self.title}: {'; '.join(parts)}. {self._spreads()}"

    @property
    def title(self) -> str:
        """The column's, with the mode where there is one."""
        return self.column.title + (f" ({self.mode})" if self.mode != "-" else "")

    def is_better(self, effect: Effect) -> bool:
        """Whether doubling that factor made the figure better."""
        return (effect.change > 0) == self.column.larger_is_better

    def _spreads(self) -> str:
        """How far configurations lie from this, beside what seeds alone do to means over as many of them."""
        spread = two_digits(self.residual_spread or 0.0)
        rest = f"the {self.num_configurations} configurations spread by {spread} around this"
        if not self.seed_spread or not self.residual_spread or not self.seed_spread_of_means:
            known = "No seeds to tell noise by" if self.seed_spread is None else "Seeds alone do not differ"
            return f"{known}; {rest}."
        times = self.residual_spread / self.seed_spread_of_means
        seeds = f"Seeds alone differ by {two_digits(self.seed_spread)}"
        return f"{seeds}; {rest}, {times:.1f} times what seeds explain."


def effects(results: Sequence[ConfigurationResult], column: Column) -> Effects:
    """What doubling depth, width and heads changed in the figure of `column`, by least squares.

    Baselines, lines without the figure, and those in which it is not finite do not count. Raises ValueError where the
    lines that count are of several modes, which are never compared.
    """
    lines = [line for line in _with_figure(results, column) if math.isfinite(line.values[column].value)]
    modes = sorted({line.mode for line in lines})
    if len(modes) > 1:
        raise ValueError(f"mode of {column.title}: found {' and '.join(modes)}, accepted is one mode at a time")
    logs = {name: np.log2([float(getattr(line, source)) for line in lines]) for name, source in FACTORS.items()}
    partners, left_out = _told_apart(logs)
    figures = [line.values[column] for line in lines]
    reason = _why_nothing(len(lines), list(partners))
    found: tuple[Effect, ...] = ()
    spread = None
    if reason is None:
        columns = np.stack([logs[name] for name in partners], axis=1)
        changes, reach, spread = _least_squares(columns, np.array([figure.value for figure in figures]))
        found = tuple(
            Effect(name, change, (change - far, change + far), goes_with)
            for (name, goes_with), change, far in zip(partners.items(), changes.tolist(), reach.tolist(), strict=True)
        )
    mode = modes[0] if modes else "-"
    return Effects(column, mode, len(lines), found, left_out, spread, *_seed_spread(figures), reason)


def what_mattered(results: Sequence[ConfigurationResult], columns: Sequence[Column]) -> tuple[str, list[str]]:
    """What came out beyond noise, in a few sentences, and a text for each of `columns` in each mode that has it."""
    found: list[Effects] = []
    for column in columns:
        lines = _with_figure(results, column)
        if not column.is_downstream:  # the same figure stands on the line of every mode
            lines = list({line.pretraining or line.name: replace(line, mode="-") for line in lines}.values())
        for mode in dict.fromkeys(line.mode for line in lines):
            found.append(effects([line for line in lines if line.mode == mode], column))
    return _summary(found), [each.as_text() for each in found]


def _summary(found: Sequence[Effects]) -> str:
    """For each factor the figures that it made better and worse; and how many would come out by chance."""
    tests = [(each, effect) for each in found for effect in each.effects]
    if not tests:
        return "No test was made: nothing can be said of depth, width and heads."
    sentences = []
    for factor in dict.fromkeys(_name(effect) for _, effect in tests):
        clear = [(each, effect) for each, effect in tests if _name(effect) == factor and effect.is_beyond_noise]
        said = []
        for word, wanted in (("better", True), ("worse", False)):
            titles = [each.title for each, effect in clear if each.is_better(effect) == wanted]
            said += [f"{word} {', '.join(titles)}"] if titles else []
        sentences.append(f"More {factor}: {'; '.join(said) or 'nothing beyond noise'}.")
    beyond = sum(effect.is_beyond_noise for _, effect in tests)
    sentences.append(
        f"{len(tests)} tests were made, of which {beyond} came out beyond noise; at 95 % one in twenty is expected by "
        f"chance alone, here {len(tests) / 20:.2g}."
    )
    return " ".join(sentences)


def _with_figure(results: Sequence[ConfigurationResult], column: Column) -> list[ConfigurationResult]:
    return [line for line in results if column in line.values and not line.is_baseline]


def _told_apart(logs: dict[str, Array]) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Factors that varied, each with those that go with it, and those left out with the reason; `logs`: name -> [n]."""
    kept: dict[str, tuple[str, ...]] = {}
    left_out: dict[str, str] = {}
    centred = {name: values - values.mean() if len(values) else values for name, values in logs.items()}
    for name, values in centred.items():
        was = "were" if name == "heads" else "was"
        if not np.any(np.abs(values) > 1e-9):
            left_out[name] = f"{was} not varied"
        elif kept and _shared(values, [centred[other] for other in kept]) > MAX_SHARED:
            alone = [other for other in kept if _shared(values, [centred[other]]) > MAX_SHARED]
            left_out[name] = f"{was} not varied apart from {' and '.join(alone or kept)}"
            kept |= {other: (*kept[other], name) for other in alone or list(kept)}
        else:
            kept[name] = ()
    return kept, left_out


def _shared(values: Array, others: Sequence[Array]) -> float:
    """Which share of the variation of `values` [n] follows linearly from `others`; all are centred."""
    columns = np.stack(others, axis=1)
    left = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return float(1 - left @ left / (values @ values))


def _why_nothing(count: int, factors: Sequence[str]) -> str | None:
    if not count:
        return "no configuration has this figure"
    if not factors:
        return f"all configurations that have this figure ({count}) are of one shape"
    needed = len(factors) + 2
    if count < needed:
        return (
            f"{count} configurations leave no noise to measure {' and '.join(factors)} by; it takes at least {needed}"
        )
    return None


def _least_squares(logs: Array, figures: Array) -> tuple[Array, Array, float]:
    """Changes per doubling [F], half their 95 % intervals [F], and the residual standard deviation; `logs` [n, F]."""
    from scipy.special import stdtrit

    columns = np.column_stack([np.ones(len(figures)), logs])
    degrees = len(figures) - columns.shape[1]
    found = np.asarray(np.linalg.lstsq(columns, figures, rcond=None)[0], np.float64)
    left = figures - columns @ found
    rounding = 1e-13 * float(np.abs(figures).max())
    spread = max(float(np.sqrt(left @ left / degrees)), rounding)
    errors = spread * np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
    return found[1:], float(stdtrit(degrees, 0.975)) * errors[1:], spread


def _seed_spread(figures: Sequence[Cell]) -> tuple[float | None, float | None]:
    """The pooled standard deviation between seeds, and of means over as many seeds as `figures` have."""
    repeated = [(each.deviation**2, each.num_seeds - 1) for each in figures if each.deviation is not None]
    degrees = sum(count for _, count in repeated)
    if degrees <= 0:
        return None, None
    pooled = math.sqrt(sum(variance * count for variance, count in repeated) / degrees)
    return pooled, pooled * math.sqrt(sum(1 / each.num_seeds for each in figures) / len(figures))


def _name(effect: Effect) -> str:
    return f"{effect.factor} (with {' and '.join(effect.goes_with)})" if effect.goes_with else effect.factor


def _sentence(effect: Effect, is_better: bool) -> str:
    """Such as: width +0.031 per doubling [0.012, 0.050], beyond noise, for the better."""
    low, high = effect.interval
    decimals = min(max(0, 1 - math.floor(math.log10((high - low) / 2))), 12) if high > low else 3
    change = f"{_name(effect)} {effect.change:+.{decimals}f} per doubling [{low:.{decimals}f}, {high:.{decimals}f}]"
    if not effect.is_beyond_noise:
        return f"{change}, not told from noise"
    return f"{change}, beyond noise, for the {'better' if is_better else 'worse'}"

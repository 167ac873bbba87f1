"""Effects of depth, width and heads: slopes and intervals are scipy's, and what a sweep cannot tell is said."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.stats import linregress, t

from proteinlm.platform.results.tables import Cell, Column
from proteinlm.sweeps.results.effects import Effects, effects, what_mattered
from proteinlm.sweeps.results.runs import ConfigurationResult
from proteinlm.sweeps.results.table7 import COLUMNS

CONTACTS, LOSS = (next(column for column in COLUMNS if column.title == title) for title in ("P@L/5", "valid loss"))
WIGGLE = (0.003, -0.004, 0.002, 0.0, -0.003, 0.004, -0.001, 0.002, -0.003)
"""Noise [9] of the configurations of GRID."""
GRID = tuple(product((64, 128, 256), (2, 4, 8)))
"""(width, depth) of 9 configurations."""


def line(
    width: int, depth: int, heads: int, value: float, column: Column = CONTACTS, seeds: int = 1, **changes: Any
) -> ConfigurationResult:
    figure = Cell(value, 0.012 if seeds > 1 else None, seeds)
    name = f"hidden-{width}-layer-{depth}-head-{heads}"
    plain = ConfigurationResult(name, "full", None, width, depth, heads, 1000, None, None, None, {column: figure})
    return replace(plain, **changes)


def grid(column: Column = CONTACTS, seeds: int = 1, **changes: Any) -> list[ConfigurationResult]:
    """Width +0.03 for each doubling, depth +0.001, heads always width / 32."""
    values = [0.2 + 0.03 * math.log2(w / 64) + 0.001 * math.log2(d) for w, d in GRID]
    return [
        line(w, d, w // 32, value + noise, column, seeds, **changes)
        for (w, d), value, noise in zip(GRID, values, WIGGLE, strict=True)
    ]


def slopes(found: Effects) -> dict[str, tuple[float, float, float]]:
    return {effect.factor: (effect.change, *effect.interval) for effect in found.effects}


@pytest.mark.parametrize("factor", ["depth", "width", "heads"])
def test_one_factor_is_a_straight_line(factor: str) -> None:
    sizes, figures = [8, 16, 32, 64, 128], [0.21, 0.26, 0.24, 0.31, 0.30]
    shapes = {"depth": (64, None, 8), "width": (None, 4, 8), "heads": (64, 4, None)}[factor]
    lines = [line(*(part or size for part in shapes), value) for size, value in zip(sizes, figures, strict=True)]
    expected = linregress(np.log2(sizes), figures)
    half = t.ppf(0.975, 3) * expected.stderr
    found = effects(lines, CONTACTS)
    assert slopes(found) == {
        factor: pytest.approx((expected.slope, expected.slope - half, expected.slope + half), rel=1e-9)
    }
    left = np.array(figures) - expected.intercept - expected.slope * np.log2(sizes)
    assert found.residual_spread == pytest.approx(math.sqrt(left @ left / 3))
    assert set(found.left_out) == {"depth", "width", "heads"} - {factor}


def test_several_factors_are_told_apart() -> None:
    shapes = [(64, 2, 2), (64, 4, 4), (128, 2, 8), (128, 8, 2), (256, 4, 8), (256, 8, 4), (512, 2, 2)]
    logs = np.log2(np.array(shapes, float))
    noise = [0.002, -0.001, 0.001, 0.003, -0.002, -0.003, 0.0]
    values = logs @ [0.03, 0.01, -0.02] + noise
    found = effects([line(*shape, float(value)) for shape, value in zip(shapes, values, strict=True)], CONTACTS)
    columns = np.column_stack([np.ones(7), logs])
    expected = np.linalg.solve(columns.T @ columns, columns.T @ values)
    left = values - columns @ expected
    errors = np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)) * (left @ left) / 3)
    for place, factor in enumerate(("width", "depth", "heads"), start=1):
        half = t.ppf(0.975, 3) * errors[place]
        ends = expected[place] - half, expected[place] + half
        assert slopes(found)[factor] == pytest.approx((expected[place], *ends), rel=1e-9)
    assert found.left_out == {}


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        lines = [line(w, d, w // 32, 0.1 * math.log2(w) + 0.02 * generator.normal()) for w, d in GRID]
        low, high = next(effect.interval for effect in effects(lines, CONTACTS).effects if effect.factor == "width")
        held += low <= 0.1 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_heads_that_go_with_width_are_left_out_and_named() -> None:
    found = effects(grid(), CONTACTS)
    assert found.left_out == {"heads": "were not varied apart from width"}
    assert {effect.factor: effect.goes_with for effect in found.effects} == {"depth": (), "width": ("heads",)}


def test_a_factor_that_follows_from_two_others_is_left_out_and_named() -> None:
    lines = [line(w, d, w * d // 16, 0.01 * i * i) for i, (w, d) in enumerate(GRID)]
    found = effects(lines, CONTACTS)
    assert found.left_out == {"heads": "were not varied apart from depth and width"}
    assert [effect.goes_with for effect in found.effects] == [("heads",), ("heads",)]


def test_the_text_says_changes_intervals_and_noise() -> None:
    said = (
        "P@L/5 (full): depth +0.0012 per doubling [-0.0022, 0.0045], not told from noise; width (with heads) "
        "+0.0295 per doubling [0.0262, 0.0328], beyond noise, for the better; heads were not varied apart from width. "
    )
    rest = "the 9 configurations spread by 0.0033 around this"
    assert effects(grid(), CONTACTS).as_text() == f"{said}No seeds to tell noise by; {rest}."
    seeds = f"Seeds alone differ by 0.012; {rest}, 0.5 times what seeds explain."
    assert effects(grid(seeds=3), CONTACTS).as_text() == said + seeds


def test_lower_is_better_for_a_loss() -> None:
    text = effects(grid(LOSS, mode="-"), LOSS).as_text()
    assert text.startswith("valid loss: ")
    assert "width (with heads) +0.0295 per doubling [" in text
    assert "], beyond noise, for the worse;" in text


def test_seeds_are_pooled_by_their_degrees_of_freedom() -> None:
    values = {0.01: 2, 0.03: 5, None: 1}
    lines = [
        line(64 * 2**place, 2, 2, 0.1 * place, values={CONTACTS: Cell(0.1 * place, spread, seeds)})
        for place, (spread, seeds) in enumerate(values.items())
    ]
    found = effects(lines, CONTACTS)
    pooled = math.sqrt((0.01**2 + 4 * 0.03**2) / 5)
    assert found.seed_spread == pytest.approx(pooled)
    assert found.seed_spread_of_means == pytest.approx(pooled * math.sqrt((1 / 2 + 1 / 5 + 1) / 3))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "P@L/5: nothing can be said of depth, width and heads: no configuration has this figure."),
        ([line(64, 2, 2, math.nan)], "no configuration has this figure."),
        ([line(0, 0, 0, 0.5, is_baseline=True)], "no configuration has this figure."),
        ([line(64, 2, 2, 0.1)] * 4, "all configurations that have this figure (4) are of one shape."),
        (
            [line(64, 2, 2, 0.1), line(128, 4, 2, 0.2), line(128, 2, 2, 0.2)],
            "3 configurations leave no noise to measure depth and width by; it takes at least 4.",
        ),
    ],
)
def test_nothing_is_said_where_nothing_can_be(lines: Sequence[ConfigurationResult], words: str) -> None:
    found = effects(lines, CONTACTS)
    assert found.effects == ()
    assert found.residual_spread is None
    assert found.as_text().endswith(words)


def test_equal_figures_are_no_effect() -> None:
    found = effects([line(w, d, 2, 0.7) for w, d in GRID], CONTACTS)
    assert not any(effect.is_beyond_noise for effect in found.effects)


def test_modes_are_never_mixed() -> None:
    lines = [*grid(mode="full"), *grid(mode="frozen")]
    with pytest.raises(ValueError, match="mode of P@L/5: found frozen and full, accepted is one mode at a time"):
        effects(lines, CONTACTS)
    _, texts = what_mattered(lines, [CONTACTS])
    assert [text.split(":")[0] for text in texts[:2]] == ["P@L/5 (full)", "P@L/5 (frozen)"]
    assert texts[0].split(": ")[1:] == effects(grid(), CONTACTS).as_text().split(": ")[1:]


def test_a_loss_of_pretraining_counts_once_whatever_it_was_finetuned_for() -> None:
    lines = [*grid(LOSS, mode="full"), *grid(LOSS, mode="frozen")]
    lines = [replace(each, pretraining=each.name, name=f"{each.name}-{each.mode}") for each in lines]
    assert what_mattered(lines, [LOSS])[1][0] == effects(grid(LOSS, mode="-"), LOSS).as_text()


def test_the_summary_names_what_came_out_and_counts_the_tests() -> None:
    losses = [line(64 * 2**place, 2, 2, value, LOSS) for place, value in enumerate((2.9, 2.8, 2.69, 2.6))]
    lines = [*grid(mode="full"), *grid(mode="frozen"), *losses, line(64, 2, 2, 0.5, COLUMNS[-1])]
    summary, texts = what_mattered(lines, COLUMNS)
    assert len(texts) == 4
    assert summary == (
        "More depth: nothing beyond noise. More width (with heads): better P@L/5 (full), P@L/5 (frozen). "
        "More width: better valid loss. 5 tests were made, of which 3 came out beyond noise; "
        "at 95 % one in twenty is expected by chance alone, here 0.25."
    )
    assert "More width (with heads): worse valid loss." in what_mattered(grid(LOSS, mode="-"), [LOSS])[0]
    assert what_mattered([], COLUMNS) == ("No test was made: nothing can be said of depth, width and heads.", [])

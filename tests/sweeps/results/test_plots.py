"""The plots of a sweep: what is drawn, told apart and named, and what cannot be."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proteinlm.platform.results.plots import colour_of, dash_of, marker_of, place_names
from proteinlm.platform.results.tables import Cell
from proteinlm.sweeps.results.plots import (
    curve,
    plot_against_shape,
    plot_loss_against,
    plot_pretraining,
    short_name,
)
from proteinlm.sweeps.results.runs import SweepResults
from tests.made.sweep_results import make_line, make_results, small_results

NAMES = [f"hidden-{32 * number}-layer-{number}-head-4" for number in range(1, 11)]


class Straight:
    """A law, for the tests."""

    def predict(self, x: Any) -> tuple[Any, Any, Any]:
        value = 3 - 0.1 * np.log10(x)
        return value, value - 0.1, value + 0.1

    def as_text(self, x: str = "x") -> str:
        return f"3 - 0.1 log {x}"


def ten_lines() -> SweepResults:
    return make_results(
        *(
            make_line(
                name,
                {"valid loss": Cell(2.6 - number / 50, None, 1), "SS Q3": Cell(0.6 + number / 100, 0.01, 3)},
                training_flops=10.0 ** (13 + number / 4),
                parameters=10**6 * number,
                hidden_size=32 * number,
                num_hidden_layers=number,
                num_attention_heads=4,
            )
            for number, name in enumerate(NAMES, start=1)
        )
    )


def rows(offset: float) -> list[dict[str, object]]:
    training = [{"step": s, "loss": 2.5 + offset + 1 / s, "residues": 1e5 * s} for s in range(1, 101)]
    return [*training, {"step": 50, "valid/loss": 2.6 + offset}, {"step": 100, "valid/loss": 2.5 + offset}]


def draw_loss(path: Path) -> Path:
    return plot_loss_against(ten_lines(), path, (Straight(), None))


def draw_shape(path: Path) -> Path:
    return plot_against_shape(ten_lines(), path)


def draw_curves(path: Path) -> Path:
    return plot_pretraining({name: rows(number / 10) for number, name in enumerate(NAMES)}, path)


DRAW = [draw_loss, draw_shape, draw_curves]


def drawn_text(path: Path) -> list[str]:
    """The words in an SVG plot."""
    return ["".join(element.itertext()).strip() for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_loss_has_both_panels_all_names_and_the_law(tmp_path: Path) -> None:
    text = drawn_text(draw_loss(tmp_path / "loss.svg"))
    short = [name.replace("hidden-", "").replace("-layer-", "-").replace("-head-", "-") for name in NAMES]
    assert [text.count(name) for name in short] == [2] * len(short)
    assert {"training FLOPs", "parameters", "3 - 0.1 log C", "95 % interval of the law", "fitted law"} <= set(text)
    assert text.count("fitted law") == 1
    assert "valid loss (nats per scored residue)" in text


def test_shape_has_a_panel_for_depth_width_and_heads_and_all_names(tmp_path: Path) -> None:
    text = drawn_text(draw_shape(tmp_path / "shape.svg"))
    assert {"layers", "width", "heads", "SS Q3", "32-1-4", "320-10-4"} <= set(text)
    assert "valid loss" not in text


def test_curves_name_every_configuration_with_its_last_valid_loss(tmp_path: Path) -> None:
    text = drawn_text(draw_curves(tmp_path / "curves.svg"))
    assert {f"{name}: {2.5 + number / 10:.3f}" for number, name in enumerate(NAMES)} <= set(text)
    assert "residues seen (millions)" in text


@pytest.mark.parametrize("draw", DRAW)
def test_png_is_not_blank_and_nothing_else_is_left(tmp_path: Path, draw: Callable[[Path], Path]) -> None:
    from PIL import Image

    path = draw(tmp_path / "deep" / "plot.png")
    pixels = np.asarray(Image.open(path).convert("L"))
    assert 0.005 < (pixels < 200).mean() < 0.5
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("draw", DRAW)
def test_another_suffix_is_refused(tmp_path: Path, draw: Callable[[Path], Path]) -> None:
    with pytest.raises(ValueError, match=r"suffix is '\.pdf', accepted are \.png and \.svg"):
        draw(tmp_path / "plot.pdf")


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    bare = make_results(make_line("a"))
    with pytest.raises(ValueError, match="no configuration of made_up has a valid loss"):
        plot_loss_against(bare, tmp_path / "a.svg", (None, None))
    with pytest.raises(ValueError, match="no configuration of made_up has a downstream metric"):
        plot_against_shape(bare, tmp_path / "a.svg")
    with pytest.raises(ValueError, match="no row of a, b holds a loss"):
        plot_pretraining({"a": [], "b": [{"step": 1}]}, tmp_path / "a.svg")


def test_failed_lines_and_baselines_are_no_points(tmp_path: Path) -> None:
    results = small_results()
    text = drawn_text(plot_loss_against(results, tmp_path / "a.svg", (None, None)))
    text += drawn_text(plot_against_shape(results, tmp_path / "b.svg"))
    assert any("64-2-2" in words for words in text)
    assert not any("128-2-2" in words or "one-hot" in words for words in text)
    assert drawn_text(plot_pretraining({"a": rows(0)}, tmp_path / "c.svg", is_simulated=True))[-1] != ""


def test_validations_have_the_residues_of_their_step() -> None:
    found = curve(
        [*rows(0.0), {"step": 100, "valid/loss": 2.4}, {"step": 60, "valid/loss": float("nan")}], "valid/loss"
    )
    assert found.tolist() == [[5e6, 2.6], [1e7, 2.4]]
    assert curve([{"step": 1, "loss": 2.0}], "loss").shape == (0, 2)


def test_of_many_configurations_the_best_are_named(tmp_path: Path) -> None:
    lines = [
        make_line(
            f"hidden-{8 * number}-layer-2-head-4",
            {"valid loss": Cell(2.6 + number / 50, None, 1)},
            training_flops=1e13 * number,
            parameters=10**6 * number,
            hidden_size=8 * number,
            num_attention_heads=4,
        )
        for number in range(1, 16)
    ]
    text = plot_loss_against(make_results(*lines), tmp_path / "loss.svg", (None, None)).read_text()
    assert "the 5 best named" in text
    assert [f">{8 * number}-2-4<" in text for number in range(1, 8)] == [True] * 5 + [False] * 2
    text = plot_loss_against(make_results(*lines[:14]), tmp_path / "loss.svg", (None, None)).read_text()
    assert all(f">{8 * number}-2-4<" in text for number in range(1, 15))


def test_twelve_configurations_are_told_apart() -> None:
    styles = {(colour_of(number), marker_of(number)) for number in range(12)}
    assert len(styles) == 12
    assert len({(colour_of(number), str(dash_of(number))) for number in range(12)}) == 12


def test_names_of_crowded_points_do_not_cover_each_other() -> None:
    points = np.array([[400.0 + 3 * number, 300.0 + number] for number in range(10)])
    sizes = np.tile([60.0, 20.0], (10, 1))
    corners = place_names(points, sizes, (0, 0, 800, 600), np.zeros((0, 2)))
    for one in range(10):
        for other in range(one):
            assert (np.abs(corners[one] - corners[other]) >= sizes[one] - 1e-9).any()
    assert (corners >= 0).all()
    assert (corners + sizes <= [800, 600]).all()


def test_names_are_short() -> None:
    shape = {"hidden_size": 512, "num_hidden_layers": 32, "num_attention_heads": 8}
    assert short_name(make_line("any name", extras=", learning_rate 0.1", **shape)) == "512-32-8, learning_rate 0.1"
    assert short_name(make_line("one-hot-layer-window", hidden_size=0)) == "one-hot-layer-window"

"""Loss curves: what is drawn, and what cannot be."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from proteinlm.platform.results.plots import plot_curves

ROWS: list[dict[str, object]] = [
    *({"step": step, "loss": 2.6 + 1 / step, "learning_rate": 1e-3} for step in range(1, 101)),
    {"step": 50, "valid/loss": 2.66, "holdout/loss": 2.68, "valid/masked_loss": 2.8},
    {"step": 100, "valid/loss": 2.65, "holdout/loss": 2.67},
]


def drawn_text(path: Path) -> list[str]:
    """The words in an SVG picture."""
    return ["".join(element.itertext()).strip() for element in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_all_runs_splits_floors_and_units_are_named(tmp_path: Path) -> None:
    path = plot_curves(
        {"small": ROWS, "large": ROWS[:100]}, tmp_path / "deep" / "loss.svg", {"valid": 2.7, "holdout": 2.71}
    )
    text = drawn_text(path)
    for words in [
        "small, training",
        "small, valid: 2.650",
        "small, holdout: 2.670",
        "large, training",
        "context-free floor, valid: 2.700",
        "context-free floor, holdout: 2.710",
        "optimizer step",
        "loss (nats per scored residue)",
        "Masked language modelling",
    ]:
        assert words in text
    assert not any("large, valid" in words or "simulated" in words for words in text)


def test_simulated_proteins_are_said_in_the_title(tmp_path: Path) -> None:
    path = plot_curves({"demo": ROWS}, tmp_path / "loss.svg", is_simulated=True)
    assert "Masked language modelling, simulated proteins" in drawn_text(path)


def test_png_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = plot_curves({"demo": ROWS}, tmp_path / "loss.png", {"valid": 2.7})
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_equal_runs_give_equal_pictures(tmp_path: Path) -> None:
    one, two = (plot_curves({"demo": ROWS}, tmp_path / f"{name}.svg").read_bytes() for name in "ab")
    assert one == two


def test_a_step_written_again_counts_as_written_last(tmp_path: Path) -> None:
    rows = [*ROWS, {"step": 100, "valid/loss": 1.5}]
    assert "demo, valid: 1.500" in drawn_text(plot_curves({"demo": rows}, tmp_path / "loss.svg"))


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [{"step": 1, "valid/loss": 2.0}],
        [{"step": 1, "loss": float("nan")}],
        [*ROWS, {"step": 101, "loss": float("inf")}],
    ],
)
def test_short_and_odd_runs_are_drawn(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    assert plot_curves({"demo": rows}, tmp_path / "loss.png").is_file()


def test_what_cannot_be_drawn_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix is '\.pdf', accepted are \.png and \.svg"):
        plot_curves({"demo": ROWS}, tmp_path / "loss.pdf")
    with pytest.raises(ValueError, match="no row of demo, other holds a loss"):
        plot_curves({"demo": [], "other": [{"step": 1}]}, tmp_path / "loss.png")

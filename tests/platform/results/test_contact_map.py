"""Contact maps: what is drawn and named, from arrays and from a predictions file, and what cannot be."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from proteinlm.cli import app
from proteinlm.platform.results.contact_map import COLOURS, NEAR_COLOUR, draw_contact_map, plot_contacts

SVG = "{http://www.w3.org/2000/svg}"


def hairpin(length: int) -> np.ndarray:
    """C-alpha atoms [L, 3] of two strands side by side: residue i lies 5 Angstrom from residue L - 1 - i."""
    half = length // 2
    along = np.array([*range(half), *reversed(range(length - half))], float) * 3.8
    side = np.repeat([0.0, 5.0], [half, length - half])
    return np.stack([along, side, np.zeros(length)], axis=1).astype(np.float32)


def mirrored(length: int) -> np.ndarray:
    """A probability [L, L] that knows the hairpin."""
    place = np.arange(length)
    return np.where(place[:, None] + place == length - 1, 0.9, 0.05).astype(np.float32)


def drawn_text(path: Path) -> str:
    return "\n".join("".join(element.itertext()).strip() for element in ET.parse(path).iter(f"{SVG}text"))


def marks(path: Path, colour: str) -> list[tuple[float, float]]:
    """Places of the markers of `colour` in an SVG picture, x and y in its own units (y downwards)."""
    uses = ET.parse(path).iter(f"{SVG}use")
    own = [
        use for use in uses if f"fill: {colour.lower()}" in use.get("style", "").lower() and "clip" not in use.attrib
    ]
    return [(float(use.get("x")), float(use.get("y"))) for use in own]


def draw(
    tmp_path: Path, length: int = 40, probability: np.ndarray | None = None, known: np.ndarray | None = None
) -> Path:
    path = tmp_path / "map.svg"
    chosen = mirrored(length) if probability is None else probability
    everything = np.ones(length, bool)
    draw_contact_map(chosen, hairpin(length), everything if known is None else known, "1ABC_A", [path])
    return path


def test_title_axes_and_legend_say_what_is_drawn(tmp_path: Path) -> None:
    text = drawn_text(draw(tmp_path))
    for words in [
        "1ABC_A",
        "P@L/5 (6 or more residues apart): 1.00, L = 40",
        "contact, long range (24 or more apart)",
        "contact, medium range (12 to 23 apart)",
        "contact, short range (6 to 11 apart)",
        "no contact, but predicted (long range)",
        "residue without coordinates",
        "truth",
        "prediction",
    ]:
        assert words in text
    assert text.count("residue\n") == 2


def test_truth_lies_above_and_prediction_below_the_diagonal(tmp_path: Path) -> None:
    long_range = marks(draw(tmp_path), COLOURS["long"][0])[:-1]  # the last one is the legend's
    axis = re.findall(r'd="M ([0-9.]+) ([0-9.]+) *\nL ([0-9.]+) ([0-9.]+) *\n"', (tmp_path / "map.svg").read_text())
    left, top, right, bottom = next(
        (x0, y0, x1, y1) for x0, y0, x1, y1 in (map(float, found) for found in axis) if x1 - x0 > 100 and y1 - y0 > 100
    )
    above = [x - left - (y - top) * (right - left) / (bottom - top) > 0 for x, y in long_range]
    true_pairs = sum(39 - 2 * i >= 24 for i in range(20)) + 2 * sum(38 - 2 * i >= 24 for i in range(20))
    assert sum(above) >= true_pairs // 2
    assert 0 < len(above) - sum(above) <= sum(above)


def test_wrong_and_near_pairs_have_their_own_colours(tmp_path: Path) -> None:
    right = draw(tmp_path / "right")
    wrong = draw(tmp_path / "wrong", probability=1 - mirrored(40))
    assert len(marks(wrong, COLOURS["long"][1])) > len(marks(right, COLOURS["long"][1])) + 5
    assert len(marks(right, NEAR_COLOUR)) > 40
    assert "P@L/5 (6 or more residues apart): 0.00" in drawn_text(wrong)


def test_residues_without_coordinates_are_neither_truth_nor_counted(tmp_path: Path) -> None:
    known = np.ones(40, bool)
    known[:20] = False
    assert "P@L/5 (6 or more residues apart): 0.00" in drawn_text(draw(tmp_path, known=known))
    known[:] = False
    assert "P@L/5 (6 or more residues apart): nan" in drawn_text(draw(tmp_path, known=known))


def test_precision_is_that_of_ten_lines(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for length in (7, 23, 60):
        probability = generator.random((length, length))
        coordinates, known = 4 * generator.normal(size=(length, 3)), generator.random(length) < 0.9
        pairs = [(i, j) for i in range(length) for j in range(i + 6, length) if known[i] and known[j]]
        pairs.sort(key=lambda pair: -probability[pair])
        best = pairs[: max(1, length // 5)]
        expected = np.mean([np.linalg.norm(coordinates[i] - coordinates[j]) < 8 for i, j in best])
        draw_contact_map(probability, coordinates, known, "x", [tmp_path / "x.svg"])
        assert f"apart): {expected:.2f}, L = {length}" in drawn_text(tmp_path / "x.svg")


def test_shapes_and_suffixes_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"probability \[3, 3\] and coordinates \[40, 3\] for 40 residues"):
        draw(tmp_path, probability=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"suffix is '\.pdf', accepted are \.png and \.svg"):
        draw_contact_map(mirrored(9), hairpin(9), np.ones(9, bool), "x", [tmp_path / "x.pdf"])
    assert not list(tmp_path.iterdir())


def write_predictions(
    run: Path, split: str = "test", ids: tuple[str, ...] = ("1ABC_A", "2XYZ_B", "d1/a", "4GOO_D", "5BAD_E")
) -> None:
    """Proteins of P@L/5 6/6, 5/6, ...; probabilities are written as float16, upper triangles."""
    rows = []
    for number, name in enumerate(ids):
        length = 30 + number
        noise = np.random.default_rng(number).random((length, length)) * number
        upper = (mirrored(length) + noise)[np.triu_indices(length, 1)].astype(np.float16)
        coordinates = hairpin(length).reshape(-1)
        rows.append({"row": number, "id": name, "sequence": "A" * length, "length": length,
                     "hits_l5_sep6": 6.0 - number, "picked_l5_sep6": 6.0,
                     "contact_probability": upper, "tertiary": coordinates, "valid_mask": [True] * length})  # fmt: skip
    types = {"row": pa.int64(), "id": pa.string(), "sequence": pa.string(), "length": pa.int32(),
             "hits_l5_sep6": pa.float64(), "picked_l5_sep6": pa.float64(),
             "contact_probability": pa.list_(pa.float16()), "tertiary": pa.list_(pa.float32()),
             "valid_mask": pa.list_(pa.bool_())}  # fmt: skip
    (run / "predictions").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(types.items())), run / "predictions" / f"{split}.parquet")


def test_best_median_and_worst_are_drawn_unasked(tmp_path: Path) -> None:
    write_predictions(tmp_path / "run")
    paths = plot_contacts(tmp_path / "run")
    assert [path.suffix for path in paths] == [".png", ".svg"] * 3
    assert paths[0] == tmp_path / "run/contact_maps/test-0-1ABC_A.png"
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    figures = [re.search(r"apart\): ([0-9.]+)", drawn_text(path)).group(1) for path in paths[1::2]]
    assert figures == ["1.00", "0.67", "0.33"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(path.name for path in paths)


def test_the_verb_draws_what_it_is_asked_for(tmp_path: Path) -> None:
    write_predictions(tmp_path / "run", "valid")
    out = tmp_path / "pictures"
    command = ["plot", "contacts", str(tmp_path / "run"), "--split", "valid", "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--protein", "d1/a", "--protein", "5BAD_E"])
    assert result.exit_code == 0, result.output
    names = ["valid-2-d1_a.png", "valid-2-d1_a.svg", "valid-4-5BAD_E.png", "valid-4-5BAD_E.svg"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [Path(line).name for line in result.output.split()] == names
    assert "d1/a (run, valid)" in drawn_text(out / "valid-2-d1_a.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no run at"),
        (["empty"], "has no predictions of split 'test' (found: none); finetune writes them"),
        (["run", "--split", "tset"], "no predictions of split 'tset' (found: other, test)"),
        (["run", "--protein", "1ABD_A"], "no protein '1ABD_A' in run, test; near: 1ABC_A"),
        (["run", "--protein", "zzz"], "near: 1ABC_A, 2XYZ_B, d1/a (of 5)"),
        (["run", "--split", "other"], "has no column 'contact_probability': it is not of contact_prediction"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_predictions(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"row": [0], "id": ["a"], "length": [3]}), tmp_path / "run/predictions/other.parquet")
    result = CliRunner().invoke(app, ["plot", "contacts", str(tmp_path / arguments[0]), *arguments[1:]])
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert not (tmp_path / "run/contact_maps").exists()


def test_equal_predictions_give_equal_pictures(tmp_path: Path) -> None:
    one, two = (draw(tmp_path / name).read_bytes() for name in "ab")
    assert one == two

"""The picture of the house is that of the source as it is, and leaves out what follows from the rest."""

import pytest

from tests.architecture.picture import PICTURE, draw, levels, place, reduced
from tests.architecture.source import Modules


def test_the_committed_picture_is_current(modules: Modules) -> None:
    assert PICTURE.read_text() == draw(modules), "run `make architecture` and commit docs/architecture.svg"


def test_arrows_that_follow_from_others_are_left_out() -> None:
    assert reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    with pytest.raises(ValueError, match="in a circle"):
        reduced({"a": {"b"}, "b": {"a"}})


def test_folders_stand_above_what_they_import_and_never_overlap() -> None:
    rows = levels({"top": {"left", "low"}, "left": {"low"}, "right": {"low"}, "low": set()})
    assert rows == [["low"], ["left", "right"], ["top"]]
    boxes = place(rows, {"top": 1, "left": 9, "right": 3, "low": 30})
    assert boxes["top"].top + boxes["top"].height < boxes["left"].top < boxes["low"].top
    assert boxes["left"].left + boxes["left"].width < boxes["right"].left

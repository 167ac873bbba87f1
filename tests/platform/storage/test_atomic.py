"""A file is old or new, never half."""

from pathlib import Path

import pytest

from proteinlm.platform.storage.atomic import staged_directory, staged_file, write_atomically


def test_content_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "old")
    write_atomically(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.json", "old")

    def fail(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:1])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_directory_is_whole_or_not_there(tmp_path: Path, is_shared: bool) -> None:
    target = tmp_path / "made"

    def interrupted() -> None:
        with staged_directory(target, is_shared=is_shared) as staging:
            (staging / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with staged_directory(target, is_shared=is_shared) as staging:
        (staging / "whole").touch()
        assert not target.exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["made", "made/whole"]


def test_a_directory_that_came_first_stays(tmp_path: Path) -> None:
    def too_late() -> None:
        with staged_directory(tmp_path / "made") as staging:
            (staging / "late").touch()
            (tmp_path / "made").mkdir()
            (tmp_path / "made" / "first").touch()

    with pytest.raises(OSError, match="made"):
        too_late()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["made", "made/first"]


def test_what_a_killed_process_left_under_the_shared_name_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "made.staging" / "old").mkdir(parents=True)
    with staged_directory(tmp_path / "made", is_shared=True) as staging:
        assert list(staging.iterdir()) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with staged_file(tmp_path / "a") as first, staged_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert (tmp_path / "a").read_text() == "first"

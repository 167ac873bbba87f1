"""TAPE's archives come from the first mirror that has them, are unpacked whole or not at all, and never beside."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from proteinlm.platform.labelled import tape_download
from proteinlm.platform.labelled.tape_download import ARCHIVES, MD5, MIRRORS, fetch_tape, places
from tests.made.archive_server import ArchiveServer, link, packed, serve

STABILITY = "/data_pytorch/stability.tar.gz"
TREE = {"stability/stability_train.lmdb/data.mdb": b"train" * 9999, "stability/stability_test.lmdb/data.mdb": b"test"}
ARCHIVE = packed(TREE)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArchiveServer]:
    """The only mirror, whose archives are the accepted ones."""
    with serve({STABILITY: ARCHIVE}) as archive:
        monkeypatch.setattr(tape_download, "MIRRORS", (archive.address,))
        monkeypatch.setattr(tape_download, "MD5", {"stability": hashlib.md5(ARCHIVE).hexdigest()})
        monkeypatch.setattr(tape_download, "FURTHER", {})
        yield archive


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_archive_is_unpacked_and_nothing_else_is_left(server: ArchiveServer, tmp_path: Path) -> None:
    assert fetch_tape(["stability"], tmp_path / "new" / "tape") == [tmp_path / "new" / "tape" / "stability"]
    assert tree(tmp_path / "new" / "tape") == TREE


def test_a_task_that_is_there_is_not_asked_for_again(server: ArchiveServer, tmp_path: Path) -> None:
    fetch_tape(["stability"], tmp_path)
    before = len(server.requests)
    assert fetch_tape(["stability", "stability"], tmp_path) == [tmp_path / "stability"]
    assert len(server.requests) == before


def test_a_download_of_an_earlier_run_goes_on(server: ArchiveServer, tmp_path: Path) -> None:
    server.break_after = [100, 0]
    with pytest.raises(OSError, match="broke off after 100 of"):
        fetch_tape(["stability"], tmp_path)
    fetch_tape(["stability"], tmp_path)
    assert server.requests[-1] == (STABILITY, "bytes=100-")
    assert tree(tmp_path) == TREE


def test_the_next_mirror_is_asked_where_one_fails(server: ArchiveServer, tmp_path: Path) -> None:
    with serve({}) as empty, serve({STABILITY: packed({"x": b"forged"})}) as forged:
        fetch_tape(["stability"], tmp_path, mirrors=["http://127.0.0.1:9/", empty.address + "/", forged.address])
    assert empty.requests == forged.requests == [(STABILITY, None)]
    assert tree(tmp_path) == TREE


def test_a_wrong_md5_is_refused_and_nothing_is_kept(server: ArchiveServer, tmp_path: Path) -> None:
    server.files = {STABILITY: packed({"stability/stability_train.lmdb/data.mdb": b"other"})}
    with pytest.raises(OSError, match=r"the archive's md5 is [0-9a-f]{32}; accepted: [0-9a-f]{32}"):
        fetch_tape(["stability"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_where_all_mirrors_fail_each_is_named(server: ArchiveServer, tmp_path: Path) -> None:
    server.files = {}
    with pytest.raises(OSError, match="no mirror gave") as caught:
        fetch_tape(["stability"], tmp_path, mirrors=["http://127.0.0.1:9/m"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "stability: no mirror gave TAPE's archive (lmdb)"
    assert lines[1].startswith(f"  http://127.0.0.1:9/m{STABILITY}: ")
    assert "refused" in lines[1]
    assert lines[2:] == [f"  {server.address}{STABILITY}: the server answered 404 Not Found"]


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (packed({**TREE, "../outside": b"x"}), "outside"),
        (packed({**TREE, "stability/../../outside": b"x"}), "outside"),
        (packed({**TREE, "/tmp/proteinlm-outside": b"x"}), "'/tmp/proteinlm-outside', which is no plain file"),
        (packed(TREE, link("stability/link", "/etc")), "'stability/link', which is no plain file"),
        (packed(TREE, link("stability/link", "stability_train.lmdb", tarfile.LNKTYPE)), "no plain file"),
        (packed(TREE, link("stability/pipe", "", tarfile.FIFOTYPE)), "'stability/pipe', which is no plain file"),
        (packed({"other/file": b"x"}), "holds no stability_train.lmdb"),
        (ARCHIVE[:-40], "end-of-stream|ended"),
        (b"<html>not here</html>", "not a gzip file"),
    ],
)
def test_a_bad_archive_is_refused_and_leaves_nothing(
    server: ArchiveServer, archive: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tape_download, "MD5", {})
    server.files = {STABILITY: archive}
    out = tmp_path / "a" / "tape"
    with pytest.raises(OSError, match=message):
        fetch_tape(["stability"], out)
    assert [path for path in tmp_path.rglob("*") if path not in (tmp_path / "a", out)] == []
    assert not Path("/tmp/proteinlm-outside").exists()


def test_files_without_their_folder_and_the_json_flavour_are_taken(server: ArchiveServer, tmp_path: Path) -> None:
    server.files = {"/data_raw_pytorch/proteinnet.tar.gz": packed({"proteinnet_train.json": b"[]"})}
    assert fetch_tape(["contact_prediction"], tmp_path, flavour="json") == [tmp_path / "proteinnet"]
    assert tree(tmp_path) == {"proteinnet/proteinnet_train.json": b"[]"}


def test_a_folder_that_is_something_else_is_left_alone(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "stability").mkdir()
    with pytest.raises(ValueError, match=r"stability exists and holds no stability_train\.lmdb; remove it"):
        fetch_tape(["stability"], tmp_path)
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["fluorscence"]}, "TAPE has no archive 'fluorscence'; accepted: secondary_structure, proteinnet"),
        ({"flavour": "tfrecord"}, "flavour is 'tfrecord'; accepted: lmdb, json"),
        ({"mirrors": ["file:///etc"]}, "mirror is 'file:///etc'; accepted: an address that begins with http"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fetch_tape(**{"names": ["stability"], "out": tmp_path / "out", **arguments})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_unasked_the_five_supervised_archives_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[str] = []
    monkeypatch.setattr(tape_download, "_fetch", lambda name, *_: wanted.append(name))
    fetch_tape([], tmp_path)
    assert wanted == ["secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability"]


def test_the_known_places_are_tapes_own_with_their_sums() -> None:
    for name in ARCHIVES:
        first, *_ = places(name, "lmdb", [])
        assert first.url == f"https://s3.amazonaws.com/songlabdata/proteindata/data_pytorch/{name}.tar.gz"
        assert first.md5 == MD5.get(name)
        assert [place.md5 for place in places(name, "json", ["http://mirror/"])] == [None] * (len(MIRRORS) + 1)
    assert places("proteinnet", "lmdb", [])[-1].md5 == "ab44ab201b1570c0171a2bba9eb4d389"
    assert places("stability", "json", ["http://m/"])[0].url == "http://m/data_raw_pytorch/stability.tar.gz"

"""A download goes on where it broke off, and starts anew where the server's file or habits demand it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from proteinlm.platform.labelled.tape_download import download
from tests.made.archive_server import ArchiveServer, serve

CONTENT = np.random.default_rng(0).bytes(900_000)


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serve({"/file": CONTENT}) as archive:
        yield archive


def fetched(server: ArchiveServer, part: Path) -> list[tuple[int, int | None]]:
    """Download /file; what was reported."""
    reported: list[tuple[int, int | None]] = []
    download(f"{server.address}/file", part, lambda completed, total: reported.append((completed, total)))
    return reported


def ranges(server: ArchiveServer) -> list[str | None]:
    return [asked for _, asked in server.requests]


def test_a_whole_file_comes_and_its_bytes_are_reported(server: ArchiveServer, tmp_path: Path) -> None:
    reported = fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert reported[0] == (0, len(CONTENT))
    assert reported[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(reported) == reported


def test_a_broken_transfer_is_taken_up_by_a_range(server: ArchiveServer, tmp_path: Path) -> None:
    server.break_after = [100_000, 300_000]
    reported = fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=400000-"]
    assert reported[-1] == (len(CONTENT), len(CONTENT))


def test_a_part_of_an_earlier_run_is_taken_up(server: ArchiveServer, tmp_path: Path) -> None:
    server.break_after = [100_000, 0]
    with pytest.raises(OSError, match="broke off after 100,000 of 900,000 bytes"):
        fetched(server, tmp_path / "part")
    assert fetched(server, tmp_path / "part")[0] == (100_000, len(CONTENT))
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(server)[-1] == "bytes=100000-"


def test_a_server_without_ranges_sends_all_again(server: ArchiveServer, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [100_000]
    fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-"]


def test_another_version_of_the_file_is_not_glued_to_the_old_one(server: ArchiveServer, tmp_path: Path) -> None:
    server.break_after = [100_000, 0]
    with pytest.raises(OSError, match="broke off"):
        fetched(server, tmp_path / "part")
    server.files, server.tag = {"/file": CONTENT[::-1]}, '"two"'
    fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT[::-1]


def test_a_part_that_is_whole_is_left_as_it_is(server: ArchiveServer, tmp_path: Path) -> None:
    fetched(server, tmp_path / "part")
    fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=900000-"]


def test_a_part_that_is_too_long_is_begun_anew(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(CONTENT + b"more")
    fetched(server, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_what_went_wrong_is_said(server: ArchiveServer, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^the server answered 404 Not Found$"):
        download(f"{server.address}/none", tmp_path / "part", lambda completed, total: None)
    address = server.address.replace("127.0.0.1", "no-such-host.invalid")
    with pytest.raises(OSError, match=r"not known|resolution|No address"):
        download(f"{address}/file", tmp_path / "part", lambda completed, total: None)
    assert list(tmp_path.iterdir()) == []

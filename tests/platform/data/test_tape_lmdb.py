"""An LMDB is read as LMDB's own library reads it; one that is cut short or damaged is named, and nothing crashes."""

import random
from pathlib import Path

import lmdb
import pytest

from proteinlm.platform.data.tape_lmdb import TapeLmdb, is_lmdb_file


def write(path: Path, transactions: int, seed: int, subdir: bool = True) -> dict[bytes, bytes]:
    """What an LMDB holds after puts, overwrites and deletions of values that fit into a leaf, or into no page."""
    draw, held = random.Random(seed), dict[bytes, bytes]()
    with lmdb.open(str(path), map_size=1 << 28, subdir=subdir) as environment:
        for _ in range(transactions):
            with environment.begin(write=True) as transaction:
                for _ in range(draw.randrange(1, 300)):
                    key = str(draw.randrange(500)).encode()
                    if key in held and draw.random() < 0.25:
                        transaction.delete(key)
                        del held[key]
                    else:
                        held[key] = draw.randbytes(draw.choice([3, 100, 1000, 3000, 30_000]))
                        transaction.put(key, held[key])
    return held


@pytest.mark.parametrize("seed", range(6))
def test_every_value_is_the_one_that_was_put(tmp_path: Path, seed: int) -> None:
    held = write(tmp_path / "a.lmdb", seed + 1, seed)
    with TapeLmdb(tmp_path / "a.lmdb") as database:
        assert database.num_entries == len(held)
        for number in range(501):
            key = str(number).encode()
            assert database.get(key) == held.get(key), key


def test_an_lmdb_may_be_one_file_and_may_be_empty(tmp_path: Path) -> None:
    held = write(tmp_path / "a.mdb", 1, 0, subdir=False)
    assert is_lmdb_file(tmp_path / "a.mdb")
    with TapeLmdb(tmp_path / "a.mdb") as database:
        assert all(database.get(key) == value for key, value in held.items())
    write(tmp_path / "b.lmdb", 0, 0)
    with TapeLmdb(tmp_path / "b.lmdb") as database:
        assert (database.num_entries, database.get(b"0")) == (0, None)
    (tmp_path / "c").write_bytes(b"id,sequence\n")
    assert not is_lmdb_file(tmp_path / "c")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_its_own_header(tmp_path: Path, share: float) -> None:
    write(tmp_path / "a.lmdb", 1, 0)
    data = tmp_path / "a.lmdb" / "data.mdb"
    whole = data.stat().st_size
    with data.open("r+b") as file:
        file.truncate(int(share * whole))
    with pytest.raises(
        ValueError, match=rf"data\.mdb has {int(share * whole):,} bytes, and {whole:,} by its own header"
    ):
        TapeLmdb(tmp_path / "a.lmdb")


@pytest.mark.parametrize("content", [b"", b"x" * 9000, bytes(20_000)])
def test_what_is_no_lmdb_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.mdb").write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.mdb is not a readable LMDB"):
        TapeLmdb(tmp_path)


def test_the_second_meta_page_counts_where_the_first_is_damaged(tmp_path: Path) -> None:
    held = write(tmp_path / "a.mdb", 1, 0, subdir=False)
    content = bytearray((tmp_path / "a.mdb").read_bytes())
    content[16:20] = b"oops"
    (tmp_path / "a.mdb").write_bytes(content)
    with TapeLmdb(tmp_path / "a.mdb") as database:
        assert database.get(b"3") == held.get(b"3")


def test_damaged_pages_are_value_errors(tmp_path: Path) -> None:
    """Bits flipped in meta pages, branches and leaves: page numbers, offsets, lengths, flags."""
    held = write(tmp_path / "a.mdb", 1, 1, subdir=False)
    content, draw, refused = (tmp_path / "a.mdb").read_bytes(), random.Random(0), 0
    heads = [start + place for start in range(0, len(content), 4096) for place in range(64)]
    for _ in range(400):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[draw.choice(heads)] ^= 1 << draw.randrange(8)
        (tmp_path / "b.mdb").write_bytes(damaged)
        try:
            with TapeLmdb(tmp_path / "b.mdb") as database:
                for key in list(held)[:20]:
                    database.get(key)
        except ValueError as error:
            assert "b.mdb" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 10


def test_pages_that_refer_to_each_other_end(tmp_path: Path) -> None:
    write(tmp_path / "a.mdb", 2, 3, subdir=False)
    content = bytearray((tmp_path / "a.mdb").read_bytes())
    branches = [start for start in range(0, len(content), 4096) if content[start + 10] == 1 and start > 8192]
    for start in branches:
        lower = int.from_bytes(content[start + 12 : start + 14], "little")
        for place in range(start + 16, start + lower, 2):
            node = start + int.from_bytes(content[place : place + 2], "little")
            content[node : node + 4] = (start // 4096).to_bytes(4, "little")  # each branch leads to itself
    (tmp_path / "a.mdb").write_bytes(content)
    assert branches
    with TapeLmdb(tmp_path / "a.mdb") as database, pytest.raises(ValueError, match="refer to each other without end"):
        database.get(b"3")

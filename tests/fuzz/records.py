"""Fuzzing of labelled records in all their forms, and of pickles and LMDBs.

python -m tests.fuzz.records --seconds 300
"""

import json
import pickle
import sys
import tempfile
from pathlib import Path

import numpy as np

from proteinlm.platform.data.unpickle import load_plain
from proteinlm.platform.labelled.files import FileReading, checked_rows
from proteinlm.tasks.catalog import build_task
from tests.fuzz.runner import Target, main
from tests.made.protein_files import write_lmdb
from tests.made.tape_records import tape_record

RECORDS = [tape_record("secondary_structure", number) for number in range(4)]
TABLE = "id,primary,ss3,valid_mask,set\n" + "".join(
    f'{number},MKTV,"[0, 1, 2, {number % 3}]",[1 0 1 1],{"train" if number % 2 else ""}\n' for number in range(9)
)
PROTEINNET = (
    "[ID]\n1ABC\n[PRIMARY]\nMKT\n[TERTIARY]\n" + "1.\t100.\t2.\t1.\t-250.5\t2.\t1.\t0\t2.\n" * 3 + "[MASK]\n++-\n\n"
)
JSON_WORDS = (b"},{", b"]", b"[", b'{"a":', b'"primary": ""', b'"set": 5', b"9" * 40, b"\\u")
PICKLE_WORDS = (
    *(
        b"r\xff\xff\xff\x0b",
        b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00",
        b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",
        b"\x85" * 30,
    ),
    *(
        b"cbuiltins\neval\n",
        b"cos\nsystem\n",
        b"c\x1b]0;x\nsystem\n",
        b"(",
        b"R",
        b"\x94",
        b"h\x00",
        b"\x93",
        b"\x8f",
        b"\x90",
    ),
    *(b"e", b"a", b"s", b"u", b"b", b"t", b"l", b"d", b"\x8b\xff\xff\xff\x7f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f"),
)
LMDB_WORDS = (
    b"\xde\xc0\xef\xbe",
    b"\x01\x00",
    b"\x02\x00",
    b"\x04\x00",
    b"\xff" * 8,
    b"\x00\x10\x00\x00",
    b"\x10\x00" * 8,
)


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value.tolist() if isinstance(value, np.ndarray) else value


def read_rows(path: Path) -> None:
    """All rows of a labelled file, checked; a ValueError with the first faults."""
    schema = build_task("contact_prediction" if path.suffix == ".txt" else "secondary_structure_q3").records
    assert schema is not None
    reading = FileReading(path, ["train"])
    for split, row in checked_rows(schema, reading):
        assert split == "train"
        str(row["id"]).encode()
    if reading.faults:
        raise ValueError("\n".join(fault[:700] for fault in reading.faults[:5]))


def read_pickle(path: Path) -> None:
    """The value of a pickle."""
    load_plain(path.read_bytes())


def _lmdbs() -> dict[str, bytes]:
    """Small ones, of few pages, so that damage hits what the pages say."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (2, 4, 40):
            made = write_lmdb(Path(folder) / f"{count}", [RECORDS[number % 4] for number in range(count)])
            found[f"{count}.lmdb"] = (made / "data.mdb").read_bytes()
    return found


LINES = [json.dumps({key: _plain(value) for key, value in record.items()}) for record in RECORDS]
ODD = {"numbers": [1, 2.5, None, True, 2**70, (1, 2), {3}, frozenset("a"), 1j], **RECORDS[0]}
TARGETS = [
    Target("json lines", read_rows, {"a.jsonl": "\n".join(LINES).encode()}, JSON_WORDS),
    Target("json list", read_rows, {"a.json": f"[{','.join(LINES)}]".encode()}, JSON_WORDS),
    Target("table", read_rows, {"a.csv": TABLE.encode()}, (b",", b'"', b"train", b"valid", b"[0 1", b"...", b"nan")),
    Target(
        "proteinnet", read_rows, {"a.txt": (PROTEINNET * 3).encode()}, (b"[ID]\n", b"[MASK]\n", b"+", b"1_0", b"\t")
    ),
    Target("lmdb", read_rows, _lmdbs(), LMDB_WORDS),
    Target("pickle", read_pickle, {f"{n}.pkl": pickle.dumps(ODD, n) for n in range(6)}, PICKLE_WORDS, must_name=False),
]

if __name__ == "__main__":
    sys.exit(main(TARGETS))

"""Plain values and numpy arrays come out of a pickle as they went in; everything else is refused and nothing runs."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proteinlm.platform.data.unpickle import load_plain
from proteinlm.platform.labelled.files import read_records
from tests.made.protein_files import write_lmdb

VALUES = {
    "bytes": b"abc\xff",
    "none": b"",
    "text": "ACDé",
    "numbers": [1, -2.5, True, None, 2**70, 1j],
    "set": {1, 2},
    "tuple": (1, [2, {"deep": np.arange(3)}]),
    "matrix": np.arange(6.0, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "mask": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "letters": np.array(["ab", "c"]),
    "no rows": np.zeros((0, 3)),
    "scalar": np.float32(0.5),
    "count": np.int64(7),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_out_as_they_went_in(protocol: int) -> None:
    read = load_plain(pickle.dumps(VALUES, protocol))
    np.testing.assert_equal(read, VALUES)
    for name, value in VALUES.items():
        assert type(read[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert read[name].dtype == value.dtype
            assert read[name].flags.writeable


def test_names_of_numpy_1_and_2_are_both_known() -> None:
    content = pickle.dumps(np.arange(3), 2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != content
    assert load_plain(old).tolist() == [0, 1, 2]


class _Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (_Hostile(os.system, "touch hacked"), r"(posix|nt)\.system"),
        (_Hostile(eval, "open('hacked', 'w')"), r"\.eval"),
        (_Hostile(getattr, "", "join"), r"\.getattr"),
        (Path("x"), r"pathlib"),
        (np.array([1, "a"], dtype=object), r"dtype 'O8'|dtype 'O'"),
        (np.array([(1, 2.0)], dtype="i4,f4"), r"dtype with fields|dtype 'V8'"),
        (_Hostile(np.frombuffer, b"12345678", "O"), r"numpy\.frombuffer|numpy\._core\S*\._?frombuffer"),
        (_Hostile(bytes, 10**12), r"refused a call of bytes"),
    ],
)
def test_everything_else_is_refused_by_name_and_not_run(
    value: Any, refused: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=refused):
        load_plain(pickle.dumps({"primary": value}, protocol))
    assert not Path("hacked").exists()


def test_a_hostile_record_is_named_with_file_and_number(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "bad.lmdb", [{"primary": "ACD"}, {"primary": _Hostile(os.system, "true")}])
    with pytest.raises(ValueError, match=r"bad\.lmdb record 1: refused to load posix\.system"):
        list(read_records(path))


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"nonsense", pickle.dumps([1, 2])[:-2], b"cos\nsystem\n(S'true'\ntR."]
)
def test_damaged_streams_are_value_errors(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"pickle"):
        load_plain(content)

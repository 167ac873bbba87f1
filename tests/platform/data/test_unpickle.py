"""Plain values and numpy arrays come out of a pickle as they went in; everything else is refused and nothing runs."""

import os
import pickle
import struct
import sys
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.platform.data.unpickle import MAX_DEPTH, load_plain
from proteinlm.platform.labelled.files import read_records
from tests.made.protein_files import write_lmdb

VALUES = {
    "bytes": b"abc\xff",
    "none": b"",
    "text": "ACDé",
    "numbers": [1, -2.5, True, None, 2**70, 1j],
    "set": {1, 2},
    "empty set": set(),
    "frozen": frozenset({"a", b"b"}),
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
        (_Hostile(bytearray, 10**11), r"bytearray"),  # one value of 10^11 bytes
        (_Hostile(np.dtype, np.float32), r"numpy\.float32|refused a call of dtype"),
        (_Hostile(set, "ab"), r"refused a call of set\(str\)"),
        (_Hostile(complex, "1" * 100), r"refused a call of complex\(str\)"),
        (_Hostile(str.upper, "a"), r"getattr|str"),
        (np.float32, r"refused to load numpy\.float32|refused to load numpy"),
        (set, r"refused the function (builtins|__builtin__)\.set as a value"),
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


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
_PLAIN = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(-9, 9), inner),
    max_leaves=20,
)


@given(value=_PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_whatever_is_plain_comes_out_as_python_reads_it(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert repr(load_plain(content)) == repr(pickle.loads(content))


def test_an_ordered_dict_is_a_dict() -> None:
    read = [load_plain(pickle.dumps(OrderedDict(b=1, a=[2]), protocol)) for protocol in range(6)]
    assert read == [{"b": 1, "a": [2]}] * 6
    assert [list(value) for value in read] == [["b", "a"]] * 6


def _sized(operation: bytes, size: int) -> bytes:
    return b"\x80\x05" + operation + struct.pack("<Q", size)


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = (value,)
    return value


def _shared(depth: int) -> Any:
    value: Any = [1]
    for _ in range(depth):
        value = [value, value]
    return value


_MANY_SETS = b"(" + b"K\x01" * 60_000 + b"l\x94" + b"cbuiltins\nset\nh\x00\x85R" * 40_000 + b"."
_MANY_TEXTS = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"\x94"
_MANY_TEXTS += b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R" * 1000 + b"."
TOO_MUCH = {
    "lists shared thirty times": (pickle.dumps(_shared(30)), "more than the values that its bytes can hold"),
    "a key nested a thousand deep": (b"}" + b")" + b"\x85" * 1000 + b"Ns.", "refused a tuple as a key"),
    "a member nested a thousand deep": (b"\x8f(" + b")" + b"\x85" * 1000 + b"\x90.", "refused a tuple as a key"),
    "lists nested too deep": (b"]" * 50 + b"a" * 49 + b".", f"more than {MAX_DEPTH} containers in each other"),
    "a list that holds itself": (b"]\x94h\x00a.", f"more than {MAX_DEPTH} containers in each other"),
    "memo slot 200,000,000": (b"Nr" + struct.pack("<I", 200_000_000) + b".", "refused memo slot 200,000,000"),
    "a bytearray of 10^11 bytes": (_sized(b"\x96", 10**11) + b".", "expected 100000000000 bytes"),
    "bytes of 10^11 bytes": (_sized(b"\x8e", 10**11) + b".", "expected 100000000000 bytes"),
    "text of 10^11 bytes": (_sized(b"\x8d", 10**11) + b".", "expected 100000000000 bytes"),
    "keys of one hash": (pickle.dumps({i * sys.hash_info.modulus: 0 for i in range(20_000)}), "refused a int as a key"),
    "a dtype that is written out without end": (
        pickle.dumps(_Hostile(np.dtype, _shared(30))),
        r"refused a call of dtype\(list\)",
    ),
    "sets of one list": (_MANY_SETS, "more than 67,108,864 bytes"),
    "bytes of one text": (_MANY_TEXTS, "more than 67,108,864 bytes"),
    "a million operations": (b"]" * 1_000_000 + b".", "more than 250,000 operations"),
    "a million digits": (b"\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20) + b".", "thousands of digits"),
    "a pickle of 17 MB": (b"B" + struct.pack("<I", 17 << 20) + b"a" * (17 << 20) + b".", "refused a pickle of 17,825"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_what_would_take_time_or_memory_without_end_is_refused(name: str) -> None:
    content, message = TOO_MUCH[name]
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ValueError, match=message):
            load_plain(content)
        seconds, peak = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000_000
    assert seconds < 20  # a second, which tracing makes many; what is caught here has no end


@pytest.mark.parametrize("operation", [b"P1\n", b"NQ", b"(ios\nsystem\n", b"\x82\x01", b")\x81", b"\x97", b"N2", b"N0"])
def test_operations_beyond_plain_values_are_refused(operation: bytes) -> None:
    with pytest.raises(ValueError, match=r"refused the operation [A-Z0-9_]+|not a readable pickle"):
        load_plain(operation + b".")


def test_a_name_cannot_write_to_the_terminal() -> None:
    with pytest.raises(ValueError, match="refused to load") as caught:
        load_plain(b"c\x1b]0;owned\x07\n\x1b[31msystem\n.")
    assert str(caught.value).isprintable()
    assert r"\x1b]0;owned\x07.\x1b[31msystem" in str(caught.value)


def test_a_long_name_is_cut() -> None:
    with pytest.raises(ValueError, match="refused to load") as caught:
        load_plain(b"c" + b"a" * 100_000 + b"\nb\n.")
    assert len(str(caught.value)) < 200


@given(content=st.binary(max_size=60), seed=st.integers(0, 10_000))
def test_no_bytes_are_more_than_a_value_error(content: bytes, seed: int) -> None:
    honest = pickle.dumps({"primary": "ACD", "ss3": np.arange(3), "target": np.float32(1), "s": {1}}, seed % 6)
    place = seed % len(honest)
    for hostile in (content, honest[:place] + content + honest[place + len(content) :]):
        said = ""
        try:
            load_plain(hostile)
        except ValueError as error:
            said = str(error)
        assert not said or said.isprintable()

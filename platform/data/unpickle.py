"""Reading pickled records that came from somebody else, by a small machine of our own that runs nothing.

TAPE's LMDB values are pickles. A pickle is a program for a stack machine; the one here knows the operations that build
plain containers, strings, bytes and numbers, and rebuilds numpy's arrays and scalars from (dtype, shape, bytes). Every
other global and operation is refused by name. It takes linear time and bounded memory, by the limits below.
"""

import io
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

MAX_BYTES = 16 << 20
"""Of one pickled value. The largest records of TAPE's archives have a few hundred kilobytes."""
MAX_OPERATIONS = 250_000
"""Of one pickle; each makes one value or puts one into its place."""
MAX_VALUES = 250_000
"""In one record when it is written out: a list that occurs twice counts twice. At most 4 a byte, too."""
MAX_COPIED = 4 * MAX_BYTES
"""Bytes that arrays, sets and re-encoded texts may take, which a pickle can make from one text many times over."""
MAX_DEPTH = 32
"""Containers in containers; TAPE's records have three."""
_MAX_INTEGER_BITS = 2040  # what the operation for usual integers holds; more digits than Python prints are no label
_ENTRY_BYTES = 64  # of a set or a dict, about
_PLAIN_KINDS = "biufcSU"
"""numpy kinds that hold plain values: bool, integers, floats, complex, bytes, strings. Never objects, never records."""
_DTYPE = re.compile(r"[<>=|]?[biufcSUOVMm?][0-9]{0,9}")
_KEYS = (str, bytes, bool, float, type(None))
"""What may be a key or stand in a set, beside integers: no tuples, which hash without end, or alike on purpose."""


class RefusedPickle(ValueError):  # noqa: N818  (a refusal is what it is)
    """Bytes that are no pickle, or one that asked for more than plain containers and numpy arrays, or the limits."""


@dataclass(frozen=True, eq=False)
class _Global:
    """A name that a pickle may call, and what is done instead."""

    name: str
    call: "Callable[[_Machine, tuple[Any, ...]], Any]"


@dataclass(eq=False)
class _Dtype:
    """Stand-in for numpy.dtype: keeps a plain type code and a byte order."""

    code: str = ""
    order: str = "="

    def resolve(self) -> np.dtype[Any]:
        """The numpy dtype; objects and records are refused."""
        dtype = np.dtype(self.code) if _DTYPE.fullmatch(self.code) else None
        if dtype is None or dtype.kind not in _PLAIN_KINDS:
            raise RefusedPickle(f"refused a numpy array of dtype {self.code[:20]!r}; numbers and strings are read")
        return dtype.newbyteorder(self.order)  # type: ignore[arg-type]  # <, > or =


@dataclass(eq=False)
class _Array:
    """Stand-in for numpy.ndarray: filled by the pickle, turned into an array by `_finished`."""

    value: Any = None


class _Machine:
    """The stack, the marks in it and the memo."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def items(self) -> list[Any]:
        """What was put on the stack since the last mark; it is taken away."""
        return self.last(len(self.stack) - self.marks.pop())

    def last(self, count: int) -> list[Any]:
        """The last `count` values, which are taken away."""
        start = len(self.stack) - count
        if start < 0:
            raise ValueError("too few values on the stack")
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def remember(self, slot: int) -> None:
        """Keep the last value in the memo."""
        if slot > self.num_bytes:  # an honest pickle has a byte or more for each slot
            raise RefusedPickle(f"refused memo slot {slot:,} in a pickle of {self.num_bytes:,} bytes")
        self.memo[slot] = self.stack[-1]

    def charge(self, count: int) -> None:
        """Count bytes that are made beside the pickle's own."""
        self.copied += count
        if self.copied > MAX_COPIED:
            raise RefusedPickle(f"refused a pickle that makes more than {MAX_COPIED:,} bytes of arrays and sets")

    def array(self, raw: Any, dtype: Any, shape: Any, order: Any = "C") -> "np.ndarray[Any, Any]":
        """A numpy array of plain values from its bytes."""
        plain = dtype.resolve() if isinstance(dtype, _Dtype) else None
        if plain is None or not isinstance(raw, (bytes, bytearray, str)):
            raise RefusedPickle("refused a numpy array whose content is not plain bytes")
        self.charge(len(raw))
        content = raw.encode("latin1") if isinstance(raw, str) else raw  # protocol 0 to 2 written by Python 2
        return np.frombuffer(content, plain).reshape(shape, order=order).copy(order=order)


def _checked_key(key: Any) -> Any:
    """`key`, if it is one whose hash is taken in constant time and cannot be chosen."""
    if isinstance(key, _KEYS) or (isinstance(key, int) and key.bit_length() <= 53):
        return key
    raise RefusedPickle(f"refused a {type(key).__name__} as a key in a pickle; texts and numbers are read")


def _filled(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """`target` with `items`, which are keys and values in turn."""
    for place in range(0, len(items), 2):
        target[_checked_key(items[place])] = items[place + 1]
    return target


def _expected(called: str, arguments: tuple[Any, ...], *kinds: Any) -> tuple[Any, ...]:
    """`arguments`, if they are of these kinds: a number in place of a text would make as many bytes as it says."""
    if len(arguments) != len(kinds) or not all(map(isinstance, arguments, kinds)):
        found = ", ".join(type(one).__name__ for one in arguments[:5])
        raise RefusedPickle(f"refused a call of {called}({found}) in a pickle")
    return arguments


def _encoded(machine: _Machine, given: tuple[Any, ...]) -> bytes:
    """How protocols 0 to 2 write bytes: _codecs.encode(text, "latin1")."""
    text, encoding = _expected("_codecs.encode", given, str, str)
    if encoding not in ("latin1", "latin-1"):
        raise RefusedPickle(f"refused _codecs.encode to {encoding[:20]!r} in a pickle")
    machine.charge(len(text))
    return text.encode("latin1")  # type: ignore[no-any-return]  # a str, by `_expected`


def _set(kind: type, machine: _Machine, given: tuple[Any, ...]) -> Any:
    (items,) = _expected(kind.__name__, given, list | tuple)
    machine.charge(_ENTRY_BYTES * len(items))
    return kind(map(_checked_key, items))


_CORE = ("numpy.core.multiarray", "numpy._core.multiarray")  # renamed in numpy 2; files of both ages are about
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_BUILTINS = ("builtins", "__builtin__")  # Python 3, and protocols 0 to 2
_CALLS: tuple[tuple[tuple[str, ...], str, Callable[[_Machine, tuple[Any, ...]], Any]], ...] = (
    (("numpy",), "ndarray", lambda machine, given: _Array()),
    (("numpy",), "dtype", lambda machine, given: _Dtype(_expected("dtype", given[:1], str)[0])),
    (_CORE, "_reconstruct", lambda machine, given: _Array()),
    (_CORE, "scalar", lambda machine, given: machine.array(given[1], given[0], (1,))[0]),
    (_NUMERIC, "_frombuffer", lambda machine, given: machine.array(*given)),
    (("_codecs",), "encode", _encoded),
    (("collections",), "OrderedDict", lambda machine, given: dict(_expected("OrderedDict", given))),
    (_BUILTINS, "bytes", lambda machine, given: bytes(*_expected("bytes", given))),  # how protocols 0 to 2 write b""
    (_BUILTINS, "complex", lambda machine, given: complex(*_expected("complex", given, float, float))),
    (_BUILTINS, "set", partial(_set, set)),
    (_BUILTINS, "frozenset", partial(_set, frozenset)),
)
_ALLOWED = {(module, name): call for modules, name, call in _CALLS for module in modules}
"""What a pickle may call."""


def _global(module: Any, name: Any) -> _Global:
    call = _ALLOWED.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if call is None:
        found = repr(f"{module}.{name}"[:80])[1:-1]  # a name may hold what a terminal would obey
        raise RefusedPickle(f"refused to load {found} from a pickle; plain containers and numpy arrays are read")
    return _Global(f"{module}.{name}", call)


def _called(machine: _Machine, called: Any, arguments: Any) -> Any:
    if not isinstance(called, _Global) or not isinstance(arguments, tuple):
        raise RefusedPickle("refused a call of what is no function in a pickle")
    return called.call(machine, arguments)


def _build(machine: _Machine, state: Any) -> None:
    """Set the state of an array, (version, shape, dtype, is_fortran, bytes), or of a dtype, whose second is its order.

    Records and sub-arrays have the code V and are refused by it.
    """
    built = machine.stack[-1]
    if isinstance(built, _Dtype) and isinstance(state, tuple):
        built.order = state[1] if state[1] in ("<", ">") else "="
    elif isinstance(built, _Array) and isinstance(state, tuple):
        _, shape, dtype, is_fortran, raw = state
        built.value = machine.array(raw, dtype, shape, "F" if is_fortran else "C")
    else:
        raise RefusedPickle(f"refused to set the state of a {type(built).__name__} in a pickle")


_FILLING: Mapping[type, Callable[[Any, list[Any]], object]] = {
    list: list.extend,
    dict: _filled,
    set: lambda target, items: target.update(map(_checked_key, items)),
}


def _put_into(machine: _Machine, kind: type, items: list[Any]) -> None:
    target = machine.stack[-1]
    if type(target) is not kind:
        raise RefusedPickle(f"refused to use a {type(target).__name__} as a {kind.__name__} in a pickle")
    _FILLING[kind](target, items)


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_PUSHED: Mapping[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys((*_NUMBERS, *_TEXTS, *_BYTES), lambda machine, value: value),
    "NONE": lambda machine, _: None,
    "NEWTRUE": lambda machine, _: True,
    "NEWFALSE": lambda machine, _: False,
    "EMPTY_TUPLE": lambda machine, _: (),
    "EMPTY_LIST": lambda machine, _: [],
    "EMPTY_DICT": lambda machine, _: {},
    "EMPTY_SET": lambda machine, _: set(),
    "TUPLE1": lambda machine, _: tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: tuple(machine.last(3)),
    "TUPLE": lambda machine, _: tuple(machine.items()),
    "LIST": lambda machine, _: machine.items(),
    "DICT": lambda machine, _: _filled({}, machine.items()),
    "FROZENSET": lambda machine, _: frozenset(map(_checked_key, machine.items())),
    "GLOBAL": lambda machine, names: _global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: _global(*machine.last(2)),
    "REDUCE": lambda machine, _: _called(machine, *machine.last(2)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, slot: machine.memo[slot]),
}
"""Operations that put a value on the stack, from it, from the memo and from the value that stands behind them."""
_DONE: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "APPEND": lambda machine, _: _put_into(machine, list, machine.last(1)),
    "APPENDS": lambda machine, _: _put_into(machine, list, machine.items()),
    "SETITEM": lambda machine, _: _put_into(machine, dict, machine.last(2)),
    "SETITEMS": lambda machine, _: _put_into(machine, dict, machine.items()),
    "ADDITEMS": lambda machine, _: _put_into(machine, set, machine.items()),
    "BUILD": lambda machine, _: _build(machine, *machine.last(1)),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, slot: machine.remember(slot)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
}


def _run(content: bytes) -> Any:
    """The value that the pickle leaves on the stack, with stand-ins in it."""
    machine = _Machine(len(content))
    stack = machine.stack
    for number, (operation, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
        name = operation.name
        if number >= MAX_OPERATIONS:
            raise RefusedPickle(f"refused a pickle of more than {MAX_OPERATIONS:,} operations")
        if name in _PUSHED:
            stack.append(_PUSHED[name](machine, argument))
        elif name in _DONE:
            _DONE[name](machine, argument)
        else:
            raise RefusedPickle(f"refused the operation {name} in a pickle; plain containers and numpy arrays are read")
    return stack.pop()


def _finished(value: Any, budget: Iterator[int], depth: int = 0) -> Any:
    """`value` with numpy arrays for stand-ins, in plain containers; `budget` gives a number for each value allowed."""
    if depth > MAX_DEPTH or next(budget, None) is None:
        most = f"{MAX_DEPTH} containers in each other" if depth > MAX_DEPTH else "the values that its bytes can hold"
        raise RefusedPickle(f"refused a pickle of more than {most}")
    if isinstance(value, _Array):
        return value.value if value.value is not None else np.empty(0)
    if isinstance(value, _Dtype):
        return value.resolve()
    if isinstance(value, dict):
        return {key: _finished(item, budget, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_finished(item, budget, depth + 1) for item in value])
    if isinstance(value, _Global) or (isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS):
        found = f"the function {value.name}" if isinstance(value, _Global) else "an integer of thousands of digits"
        raise RefusedPickle(f"refused {found} as a value in a pickle")
    return value


def load_plain(content: bytes) -> Any:
    """The value pickled in `content`; RefusedPickle, a ValueError, says what was refused or that it is no pickle."""
    if len(content) > MAX_BYTES:
        raise RefusedPickle(f"refused a pickle of {len(content):,} bytes; accepted: up to {MAX_BYTES:,}")
    try:
        return _finished(_run(content), iter(range(min(MAX_VALUES, 1000 + 4 * len(content)))))
    except RefusedPickle:
        raise
    except Exception as error:  # a damaged stream may leave too little on the stack, or give numpy anything at all
        raise RefusedPickle(f"not a readable pickle: {type(error).__name__}: {str(error)[:200]!r}") from None

"""Reading pickled records that came from somebody else, with nothing executed.

TAPE's LMDB values are pickles. Unpickling is running a program, so no class of anybody's is ever looked up here: plain
containers, strings, bytes and numbers come from the pickle machine itself, and numpy's arrays and scalars are rebuilt
by the stand-ins below from (dtype, shape, bytes). Every other global is refused by name.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_PLAIN_KINDS = "biufcSU"
"""numpy kinds that hold plain values: bool, integers, floats, complex, bytes, strings. Never objects, never records."""


class RefusedGlobal(ValueError):  # noqa: N818  (a refusal is what it is)
    """A pickle asked for something other than plain containers and numpy arrays."""


@dataclass
class _Dtype:
    """Stand-in for numpy.dtype: keeps a plain type code and a byte order."""

    code: str = ""
    order: str = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order, the second of numpy's state; records and sub-arrays are refused by their code V."""
        self.order = str(state[1])

    def resolve(self) -> np.dtype[Any]:
        """The numpy dtype; objects and records are refused."""
        dtype = np.dtype(self.code)
        if dtype.kind not in _PLAIN_KINDS:
            raise RefusedGlobal(f"refused a numpy array of dtype {self.code!r}; plain numbers and strings are read")
        return dtype.newbyteorder(self.order if self.order in "<>" else "=")  # type: ignore[arg-type]


@dataclass
class _Array:
    """Stand-in for numpy.ndarray: filled by the pickle, turned into an array by `_finished`."""

    value: "np.ndarray[Any, Any]" = field(default_factory=lambda: np.empty(0))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Numpy's state is (version, shape, dtype, is_fortran, bytes)."""
        _, shape, dtype, is_fortran, raw = state
        self.value = _from_buffer(raw, dtype, shape, "F" if is_fortran else "C")


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any = "C") -> "np.ndarray[Any, Any]":
    plain = dtype.resolve() if isinstance(dtype, _Dtype) else None
    if plain is None or not isinstance(raw, (bytes, bytearray, str)):
        raise RefusedGlobal("refused a numpy array whose content is not plain bytes")
    content = raw.encode("latin1") if isinstance(raw, str) else raw  # protocol 0 to 2 written by Python 2
    return np.frombuffer(content, plain).reshape(shape, order=order).copy(order=order)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, raw: Any) -> Any:
    return _from_buffer(raw, dtype, (1,))[0]


def _dtype(code: Any, *_: Any) -> _Dtype:
    return _Dtype(str(code))


def _latin1(text: Any, encoding: Any) -> bytes:
    """How protocols 0 to 2 spell bytes: _codecs.encode(text, "latin1")."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusedGlobal(f"refused _codecs.encode with encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise RefusedGlobal("refused a call of bytes()")
    return b""


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _reconstruct,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
    ("collections", "OrderedDict"): OrderedDict,
}
for _builtins in ("builtins", "__builtin__"):  # Python 3, and protocols 0 to 2
    _ALLOWED[(_builtins, "bytes")] = _no_bytes
    _ALLOWED[(_builtins, "set")] = set
    _ALLOWED[(_builtins, "complex")] = complex
    _ALLOWED[(_builtins, "frozenset")] = frozenset
for _core in ("numpy.core", "numpy._core"):  # renamed in numpy 2; files of both ages are about
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = _reconstruct
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = _from_buffer


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that looks nothing up but the stand-ins above."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a global, or a refusal that names it."""
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise RefusedGlobal(
                f"refused to load {module}.{name} from a pickle; plain containers and numpy arrays are read"
            )
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        """Persistent ids point outside the file: refused."""
        raise RefusedGlobal(f"refused the persistent id {pid!r} in a pickle")


def _finished(value: Any) -> Any:
    """`value` with stand-in arrays replaced by numpy arrays, in plain containers."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Dtype):
        return value.resolve()
    if isinstance(value, dict):
        return {key: _finished(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_finished(item) for item in value)
    return value


def load_plain(content: bytes) -> Any:
    """The value pickled in `content`; ValueError names what was refused or that it is not a pickle."""
    try:
        return _finished(_PlainUnpickler(io.BytesIO(content)).load())
    except RefusedGlobal:
        raise
    except RecursionError:
        raise ValueError("not a readable pickle: nested without end") from None
    except Exception as error:
        # A damaged or hostile stream makes the pickle machine raise nearly anything.
        raise ValueError(f"not a readable pickle: {type(error).__name__}: {error}") from None

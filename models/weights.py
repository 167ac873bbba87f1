"""Weights as files, ours and other programs': tensors by name, read without running code, and checked before use.

A file is safetensors, or a .bin that torch.save wrote: a zip archive with one pickle, which lists the tensors, and a
record of raw bytes for each.
"""

import hashlib
import pickletools
import zipfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.models.messages import printable, shown

POINTER = b"version https://git-lfs.github.com/spec/"
"""How a git-lfs pointer begins."""
MOST_NESTED = 50
"""Levels of JSON or pickles; ours and ESM's have up to 5, and Python's own functions end at some hundreds."""
MOST_PICKLE_BYTES = 1 << 20
"""A tensor is 200 bytes there: 5,000 of them, where ESM-2 of 15 billion parameters has 800."""
LARGEST = torch.finfo(torch.float32).max

# fmt: off
PICKLE_OPCODES = frozenset({
    "PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_LIST", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINUNICODE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "GLOBAL", "BINPERSID",
    "REDUCE", "BUILD", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
})
"""What torch.save writes for tensors by name (pickle protocol 2)."""
# fmt: on
PICKLE_GLOBALS = frozenset(
    {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}
    | {f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char")}
    | {"torch ByteStorage", "torch BoolStorage"}
)
MARK = -1


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write the tensors of `state` as safetensors, in fp32."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
    save_file(tensors, file, metadata={"format": "pt"})


def read_weights(file: Path, *, with_values: bool = True) -> dict[str, Tensor]:
    """All tensors of a safetensors file, or of a .bin that torch.save wrote, by name, on the CPU. No code is run.

    Without `with_values` a .bin's bytes stay on the disk, where its tensors are mapped, and are not compared with their
    CRC-32: for names, shapes and types (safetensors are mapped in any case). Raises ValueError with the file's name
    where it is not a whole one, or a .bin asks for more than tensors.
    """
    refuse_pointer(file)
    return _read_pickle(file, with_values) if file.suffix == ".bin" else _read_safetensors(file)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {printable(str(error))}") from None


def _read_pickle(file: Path, with_values: bool) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a whole archive of torch.save; one of a torch before 1.6 must be saved again")
    try:
        _check_tensors_alone(file, with_values)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=not with_values)
    except Exception as error:  # over a file that is damaged, or made to do harm, torch raises nearly everything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__} while it was read"
        raise ValueError(f"{file} is not a file of tensors: {printable(reason)}") from None
    if not isinstance(state, dict):
        raise ValueError(f"{file} holds {type(state).__name__}; accepted: tensors by name")
    for name, tensor in state.items():
        if not isinstance(name, str) or type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
            raise ValueError(
                f"{file} holds {type(tensor).__name__} under {shown(name)}; accepted: dense tensors by name"
            )
    return {name: tensor.detach() for name, tensor in state.items()}


def check_archive(file: Path, *, sums: bool) -> None:
    """ValueError, with its name, unless `file` is one of torch.save that torch.load can read or refuse.

    A pickle that is nested a million times would end the process. With `sums` the CRC-32 of each record is compared.
    """
    try:
        with _archive(file) as (archive, program):
            _check_pickle(program)
            if sums:
                _check_sums(archive)
    except Exception as error:  # over a damaged file zipfile raises nearly everything
        if isinstance(error, OSError) and error.filename:
            raise
        reason = str(error) if type(error) is ValueError else "it is not a whole archive of torch.save"
        raise ValueError(f"{file} is damaged: {reason}") from None


def _check_sums(archive: zipfile.ZipFile) -> None:
    """ValueError where a record is not what its CRC-32 says, at which torch does not look."""
    if damaged := archive.testzip():
        raise ValueError(f"its record {shown(damaged)} is damaged (CRC-32)")


@contextmanager
def _archive(file: Path) -> Iterator[tuple[zipfile.ZipFile, bytes]]:
    """The archive that torch.save wrote, and its pickle; ValueError where it is none by its list of records."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = {record.filename for record in records}
        if len(names) < len(records) or sum(record.file_size for record in records) > file.stat().st_size:
            raise ValueError("its records overlap")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("its records are compressed, which torch.save never does")
        pickles = [record for record in records if record.filename.endswith(".pkl")]
        if len(pickles) != 1 or not pickles[0].filename.endswith("/data.pkl"):
            raise ValueError(f"it has {len(pickles)} pickles; accepted: one, data.pkl")
        yield archive, archive.read(pickles[0])


def _check_tensors_alone(file: Path, with_values: bool) -> None:
    """ValueError unless the pickle asks for tensors alone and, `with_values`, each record has its CRC-32."""
    with _archive(file) as (archive, program):
        if len(program) > MOST_PICKLE_BYTES:
            raise ValueError(f"its list of tensors is longer than {MOST_PICKLE_BYTES:,} bytes")
        if with_values:
            _check_sums(archive)
        _check_pickle(program, PICKLE_OPCODES, PICKLE_GLOBALS)


def _check_pickle(program: bytes, opcodes: Container[str] | None = None, named: Container[str] | None = None) -> None:
    """ValueError where a pickle names what is not in these lists, where given, or builds deeper than `MOST_NESTED`.

    It is walked through, not run. torch's own loader refuses code as well, but not a key of a million nested tuples,
    whose hash takes more stack than there is.
    """
    depths: list[int] = []  # of what lies on the unpickler's stack; MARK for a mark
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(program):
        if opcodes is not None and opcode.name not in opcodes:
            raise ValueError(f"its pickle has the instruction {opcode.name}")
        if opcode.name == "GLOBAL" and named is not None and argument not in named:
            raise ValueError(f"its pickle asks for {shown(argument)}; accepted: tensors, nothing that is run")
        if opcode.name == "MARK":
            depths.append(MARK)
        elif opcode.name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = depths[-1]
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            depths.append(memo[argument])
        else:
            inner = _popped(depths, [kind.name for kind in opcode.stack_before])
            if inner >= MOST_NESTED:
                raise ValueError(f"its pickle is nested deeper than {MOST_NESTED} levels")
            depths += [inner + 1] * len(opcode.stack_after)


def _popped(depths: list[int], kinds: list[str]) -> int:
    """Take what an instruction takes off the stack; returns the greatest depth among it."""
    deepest = 0
    if "mark" in kinds:
        while (depth := depths.pop()) != MARK:
            deepest = max(deepest, depth)
        kinds = kinds[: kinds.index("mark")]
    for _ in kinds:
        deepest = max(deepest, depths.pop())
    return deepest


def check_weights(
    file: Path,
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    accepted: Sequence[torch.dtype] = (torch.float32,),
    files: Mapping[str, Path] | None = None,
    with_values: bool = True,
) -> None:
    """ValueError that names the first tensor which is missing, surplus, of another shape or type, or not finite.

    `expected` may be on the device "meta"; of several files, `files` says which one a tensor is from. Without
    `with_values` no number is read.
    """
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or surplus:
        faults = [f"{len(names)} {kind} (such as {shown(min(names))})" for kind, names in
                  (("missing", missing), ("not known", surplus)) if names]  # fmt: skip
        raise ValueError(f"{file} does not hold the tensors that config.json describes: {', '.join(faults)}")
    for name, wanted in expected.items():
        tensor, place = found[name], (files or {}).get(name, file)
        if tensor.shape != wanted.shape or tensor.dtype not in accepted:
            raise ValueError(
                f"{place}: {name} is {tensor.dtype} {list(tensor.shape)}, but config.json asks for "
                f"{' or '.join(map(str, accepted))} {list(wanted.shape)}"
            )
        if not with_values:
            continue
        low, high = (float(bound) for bound in tensor.aminmax())
        if not -LARGEST <= low <= high <= LARGEST:  # NaN is neither
            raise ValueError(f"{place}: {name} has values from {low} to {high}; accepted: finite numbers of fp32")


def digest_of(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def refuse_pointer(file: Path) -> None:
    """ValueError where `file` is what git-lfs leaves in the place of a file that it has not fetched."""
    with file.open("rb") as content:
        start = content.read(len(POINTER))
    if start == POINTER:
        raise ValueError(f"{file} is a git-lfs pointer, not the file itself; fetch it with `git lfs pull`")

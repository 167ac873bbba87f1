"""Files and directories that are whole or not there: written under a name of their own (*staging*), then renamed.

The only place of the platform that renames. Readers, and a run that is killed, see the old content or the new one.
"""

import errno
import hashlib
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from pyarrow.fs import FileSystem

from proteinlm.platform.places.places import is_remote, remove_tree, written

STAGING = ".staging"
"""Ending of what is not yet in its place. What a killed process left under such a name may be deleted."""


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it is renamed to `path` at the end, and deleted where the body raises.

    The name is of this call alone: two processes that write the same file at once do not write into each other's.
    """
    if is_remote(path):
        with written(path) as local:
            yield local
        return
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{STAGING}")
    try:
        yield staging
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` to `path`, whose folder must exist. OSError as the file system gives it."""
    data = content.encode() if isinstance(content, str) else content
    if is_remote(path):
        path.write_bytes(data)  # an object is put in one step
        return
    with staged_file(path) as staging:
        staging.write_bytes(data)


def write_to_storage(filesystem: FileSystem, path: str, content: bytes) -> None:
    """Write `content` to `path` of a pyarrow file system, such as a bucket."""
    if filesystem.type_name != "local":  # an object is put in one step
        with filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)
        return
    staging = f"{path}.{uuid.uuid4().hex[:8]}{STAGING}"
    with filesystem.open_output_stream(staging) as stream:
        stream.write(content)
    filesystem.move(staging, path)


def move_directory(staging: Path, target: Path) -> None:
    """Rename a whole directory to `target`; OSError where that is a directory that holds something."""
    os.rename(staging, target)


def move_aside(path: Path) -> Path:
    """Rename a file or directory to a name of this call alone beside it, and return that; FileNotFoundError where it is
    gone.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{STAGING}")
    os.rename(path, aside)
    return aside


@contextmanager
def staged_directory(target: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yields a new directory beside `target`; it becomes `target` at the end, and is deleted where the body raises.

    Its name is of this call alone, or, with `is_shared`, the same each time, so that it replaces what a killed process
    left. OSError where `target` came to hold something meanwhile; a full disk is said as such.

    In a store it is a directory on this machine's disk, put at the end, or, with `is_shared`, `target` itself: then who
    calls this holds a lock. Until the end `is_unfinished` says so.
    """
    if is_remote(target):
        if is_shared and target.exists() and not is_unfinished(target):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(target))
        with _begun(target), nullcontext(target) if is_shared else written(target, replaces=False) as directory:
            if is_shared:
                remove_tree(target)  # what a killed process left
            directory.mkdir()
            yield directory
        return
    unique = "" if is_shared else f".{uuid.uuid4().hex[:8]}"
    staging = target.with_name(f"{'' if is_shared else '.'}{target.name}{unique}{STAGING}")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        move_directory(staging, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"the disk is full: no space left to build {target}; nothing was kept") from None
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _begun(target: Path) -> Iterator[None]:
    """Inside the body, and after one that was killed or raised, an object beside the remote `target` says that it is
    begun: what lies in it without a manifest is nobody's work but a build's.
    """
    mark = _mark_of(target)
    mark.write_bytes(b"")
    yield
    mark.unlink(missing_ok=True)


def is_unfinished(target: Path) -> bool:
    """Whether `target`, in a store, is a `staged_directory` that is not at its end, or never came to it."""
    return is_remote(target) and _mark_of(target).is_file()


def _mark_of(target: Path) -> Path:
    return target.with_name(f".{target.name}{STAGING}")


def sha256(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def checksums_of(directory: Path) -> dict[str, list[int]]:
    """Path below `directory` -> [bytes, CRC-32] of each file in it, as JSON can hold them."""
    files = [file for file in sorted(directory.rglob("*")) if file.is_file()]
    return {file.relative_to(directory).as_posix(): [file.stat().st_size, crc32(file)] for file in files}


def crc32(file: Path) -> int:
    """CRC-32 of a file: a single flipped bit always changes it. It guards against rot and not against intent."""
    checksum = 0
    with file.open("rb") as content:
        while block := content.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum

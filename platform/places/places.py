"""Places by URI (`s3://`, `gs://`): directories of an object store in paths' clothes, and the few ways in which they
differ from a disk. With remote_path.py the one place that knows that there are others than local paths.

    place("runs")            a plain Path: all functions here then do what they did without this file
    place("s3://lab/runs")   a `RemotePath`: `/`, read_bytes, is_file, glob, unlink ... speak to the store (pyarrow.fs)

A store has no rename, no append and no lock. An object is put whole or not at all, so small files need nothing else;
a directory is put file by file, the file that vouches for the others last (`VOUCHERS`): who reads it looks for that one
first. What must be a file on a disk (weights, TensorBoard's events) is `written` to a temporary one and put, or
`fetched` into one. Where endpoint and credentials come from is the store's usual way: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, a role of the machine ...; GOOGLE_APPLICATION_CREDENTIALS.
"""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidatorFunctionWrapHandler, WrapValidator

from proteinlm.platform.places.remote_path import RemotePath, explained

if TYPE_CHECKING:
    from pyarrow import NativeFile

SCHEMES = ("s3", "gs")
"""Of object stores; `file` is a local path."""
VOUCHERS = ("manifest.json", "config.json", "checksums.json", "cursor.json", "checksums-")
"""Beginnings of the names of files that say what else belongs to their directory: they are put last, taken away first,
and in this order where there are several."""


def place(where: Path | str) -> Path:
    """The path, or the place of a URI; ValueError for a URI of another scheme, or one with a query."""
    text = str(where)
    if isinstance(where, Path) and where.parts[:1] and where.parts[0] in {f"{scheme}:" for scheme in SCHEMES}:
        return RemotePath(*where.parts)  # pathlib made one slash of two
    if isinstance(where, Path) or "://" not in text:
        return Path(where) if isinstance(where, str) else where
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if parts.scheme not in SCHEMES:
        raise ValueError(f"found the scheme {parts.scheme!r}; accepted: a path, {', '.join(SCHEMES)} or file, as s3://")
    if parts.query or parts.fragment or "@" in parts.netloc or not parts.netloc:
        raise ValueError(
            f"found {text!r}; accepted: {parts.scheme}://BUCKET/FOLDER; endpoint and credentials come from the "
            "environment (such as AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, or the machine's role)"
        )
    return RemotePath(f"{parts.scheme}:/{parts.netloc}{parts.path}")


def is_remote(path: Path | str) -> bool:
    """Whether it is in an object store."""
    return isinstance(path, RemotePath) or isinstance(place(path), RemotePath)


def _as_place(value: Any, handler: ValidatorFunctionWrapHandler) -> Path:
    if isinstance(value, RemotePath):
        return value
    if isinstance(value, str) and "://" in value:
        return place(value)
    return place(handler(value))


PlacePath = Annotated[Path, WrapValidator(_as_place)]
"""A field that is a path or a URI."""


def reach(setting: str, path: Path | None) -> None:
    """OSError that names the `setting` where the store of a URI cannot be asked; nothing for a local path."""
    if isinstance(path, RemotePath):
        try:
            path.exists()
        except OSError as error:
            raise OSError(f"{setting}: {error}") from None


def probe(setting: str, directory: Path) -> None:
    """OSError that names the `setting` where nothing can be put and deleted in the `directory` of a store."""
    file = directory / f".probe-{uuid.uuid4().hex[:8]}"
    try:
        file.write_bytes(b"")
        file.unlink()
    except OSError as error:
        raise OSError(f"{setting}: {error}") from None


@contextmanager
def written(path: Path, *, replaces: bool = True) -> Iterator[Path]:
    """Yields where to write the file or directory `path`: itself, or a temporary one of its name, `put` at the end.

    Nothing is put where the body raises.
    """
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="proteinlm-put-") as scratch:
        local = Path(scratch, path.name)
        yield local
        put(local, path, replaces=replaces)


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """Yields the file or directory `path` on a disk: itself, or a copy that is there until the body ends."""
    if not isinstance(path, RemotePath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="proteinlm-get-") as scratch:
        local = Path(scratch, path.name)
        fetch_to(path, local)
        yield local


def arrow_file(path: Path) -> "NativeFile":
    """The file, opened for reading at any place by what takes a file of pyarrow's."""
    if isinstance(path, RemotePath):
        with explained(path):
            return path.filesystem.open_input_file(path.key)
    import pyarrow as pa

    return pa.OSFile(str(path))


def fetch_to(path: Path, local: Path) -> None:
    """Copy the remote file or directory `path` to `local`; an empty directory where nothing is there."""
    assert isinstance(path, RemotePath)
    files = {file: info for file, info in path.below(recursive=True) if info.is_file}
    if not files and path.is_file():
        _download(path, local)
        return
    local.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = local / file.key[len(path.key) + 1 :]
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(file, target)


def _download(path: RemotePath, local: Path) -> None:
    # compression: pyarrow would decompress what is called .gz
    with (
        explained(path),
        path.filesystem.open_input_stream(path.key, compression=None) as source,
        local.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy, 1 << 22)


def put(local: Path, path: Path, *, replaces: bool = True) -> None:
    """Put the file or directory `local` as the remote `path`, vouchers last.

    A directory that has any takes the place of the one that is there; without `replaces`, and else, its files are
    added: of several processes that put the same files at once, none takes away what another one's vouchers name.
    """
    assert isinstance(path, RemotePath)
    if local.is_file():
        _upload(local, path)
        return
    files = sorted((file for file in local.rglob("*") if file.is_file()), key=lambda file: (_rank(file.name), file))
    if replaces and any(_rank(file.name) for file in files):
        remove_tree(path)
    for file in files:
        _upload(file, path / file.relative_to(local).as_posix())


def remove_tree(path: Path) -> None:
    """Delete the directory with all in it, vouchers first; nothing where it is not there."""
    if not isinstance(path, RemotePath):
        shutil.rmtree(path, ignore_errors=True)
        return
    files = [file for file, info in path.below(recursive=True) if info.is_file]
    for file in sorted(files, key=lambda file: -_rank(file.name)):
        with explained(file):
            file.filesystem.delete_file(file.key)
    if path.is_dir():  # pyarrow leaves an empty object for a directory whose last file it deleted
        with explained(path):
            path.filesystem.delete_dir(path.key)


def add_text(path: Path, text: str) -> None:
    """Append `text` to the file; in a store by putting it anew: of two that do so at once one may win."""
    if isinstance(path, RemotePath):
        before = path.read_bytes() if path.is_file() else b""
        path.write_bytes(before + text.encode())
        return
    with path.open("a") as file:
        file.write(text)


def _upload(local: Path, path: RemotePath) -> None:
    try:
        with (
            explained(path),
            local.open("rb") as source,
            path.filesystem.open_output_stream(path.key, compression=None) as target,
        ):
            shutil.copyfileobj(source, target, 1 << 22)
    except BaseException:  # pyarrow has put what was written until then
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _rank(name: str) -> int:
    return next((rank for rank, start in enumerate(VOUCHERS, start=1) if name.startswith(start)), 0)

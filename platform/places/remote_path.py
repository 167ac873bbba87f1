"""A file or directory of an object store (S3, Google Cloud Storage) in a path's clothes, by pyarrow's file systems.

What the store refuses is an OSError that names the URI and says what to do.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import PosixPath, PurePath, PurePosixPath
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem


class RemotePath(PosixPath):
    """A file or directory of an object store. It is a Path of the parts "s3:", bucket, key ... for its arithmetic.

    Nothing is a link and nothing relative; a directory is there while something is in it. To write: `write_bytes`,
    `write_text` (each one put), or `written`. Whoever takes it for a path on a disk gets an OSError.
    """

    def __str__(self) -> str:
        scheme, colon, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}" if colon else scheme

    def __fspath__(self) -> str:
        raise OSError(f"{self} is not on a disk of this machine")

    def resolve(self, strict: bool = False) -> "RemotePath":
        """Return this path: it is absolute."""
        return self

    def absolute(self) -> "RemotePath":
        """Return this path."""
        return self

    def expanduser(self) -> "RemotePath":
        """Return this path."""
        return self

    def is_absolute(self) -> bool:
        """Return True."""
        return True

    @property
    def key(self) -> str:
        """Bucket and key, as pyarrow's file system has it."""
        return "/".join(self.parts[1:])

    @property
    def filesystem(self) -> "FileSystem":
        """The store. OSError where there is none of this scheme."""
        return _filesystem(f"{self.parts[0]}//{self.parts[1]}")

    def _info(self) -> "FileInfo":
        with explained(self):
            return self.filesystem.get_file_info(self.key)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return type, size and time of change alone; FileNotFoundError where nothing is there."""
        info = self._info()
        if not info.is_file and info.type.name != "Directory":
            raise FileNotFoundError(2, "No such file or directory", str(self))
        kind = stat.S_IFREG if info.is_file else stat.S_IFDIR
        nanoseconds = info.mtime_ns or 0
        times = [*[nanoseconds // 10**9] * 3, *[nanoseconds / 1e9] * 3, *[nanoseconds] * 3]  # whole, with parts, in ns
        return os.stat_result((kind | 0o600, 0, 0, 1, 0, 0, info.size or 0, *times))

    def exists(self, **_: Any) -> bool:
        """Whether a file or a directory is there."""
        return str(self._info().type.name) != "NotFound"

    def is_file(self, **_: Any) -> bool:
        """Whether a file is there."""
        return bool(self._info().is_file)

    def is_dir(self, **_: Any) -> bool:
        """Whether anything lies below."""
        return str(self._info().type.name) == "Directory"

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:  # type: ignore[override]
        """Open for reading alone; FileNotFoundError where no file is there."""
        if mode not in ("r", "rb", "rt"):
            raise OSError(f"{self} can be put whole, and not opened with mode {mode!r}")
        if not self.is_file():
            raise FileNotFoundError(2, "No such file or directory", str(self))
        with explained(self):
            content: Any = io.BufferedReader(self.filesystem.open_input_file(self.key))
        return content if mode == "rb" else io.TextIOWrapper(content, encoding="utf-8")

    def write_bytes(self, data: Any) -> int:
        """Put the object, in place of an older one: a reader sees either."""
        with explained(self), self.filesystem.open_output_stream(self.key, compression=None) as stream:
            stream.write(data)
        return len(data)

    def write_text(self, data: str, *args: Any, **kwargs: Any) -> int:
        """Put the object, in UTF-8."""
        return self.write_bytes(data.encode())

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Put what is there again, or an empty object: its time of change is now."""
        self.write_bytes(self.read_bytes() if self.is_file() else b"")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a directory of a store comes with its first file."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        if not self.is_file():
            if missing_ok:
                return
            raise FileNotFoundError(2, "No such file or directory", str(self))
        with explained(self):
            self.filesystem.delete_file(self.key)

    def below(self, *, recursive: bool) -> "list[tuple[RemotePath, FileInfo]]":
        """What lies in the directory, or at any depth, sorted, with size and time."""
        from pyarrow.fs import FileInfo, FileSelector, FileType

        # pyarrow lists a directory of Google's store only where somebody has put an empty object of its name
        implied = self.parts[0] == "gs:"
        with explained(self):
            selector = FileSelector(self.key, allow_not_found=True, recursive=recursive or implied)
            found = {info.path.rstrip("/"): info for info in self.filesystem.get_file_info(selector)}
        if implied:
            for parent in {str(parent) for path in found for parent in PurePosixPath(path).parents}:
                found.setdefault(parent, FileInfo(parent, FileType.Directory))
        here = f"{self.key}/"
        inside = sorted((path[len(here) :], info) for path, info in found.items() if path.startswith(here))
        return [(self / name, info) for name, info in inside if recursive or "/" not in name]

    def iterdir(self) -> "Iterator[RemotePath]":  # type: ignore[override]
        """Yields what lies directly in the directory, sorted."""
        return (path for path, _ in self.below(recursive=False))

    def glob(self, pattern: Any, **_: Any) -> "Iterator[RemotePath]":  # type: ignore[override]
        """Yields what matches below the directory, sorted; no `**`."""
        depth = len(PurePath(pattern).parts)
        near = self.below(recursive=depth > 1)
        return (path for path, _ in near if len(path.parts) == len(self.parts) + depth and path.match(str(pattern)))

    def rglob(self, pattern: Any, **_: Any) -> "Iterator[RemotePath]":  # type: ignore[override]
        """Yields what matches at any depth, sorted."""
        return (path for path, _ in self.below(recursive=True) if path.match(str(pattern)))


GCS_RETRIES = "retry_limit_seconds=20"
"""Of 15 minutes, pyarrow's own, nobody waits the end. That a store cannot be reached is said after up to twice this."""


def _options(uri: str) -> str:
    """The URI of a bucket as pyarrow takes it; STORAGE_EMULATOR_HOST is Google's own name for a server for trying."""
    if not uri.startswith("gs:"):
        return uri
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if not emulator:
        return f"{uri}?{GCS_RETRIES}"
    scheme, _, host = emulator.rpartition("://")
    anonymous = uri.replace("gs://", "gs://anonymous@")
    return f"{anonymous}?scheme={scheme or 'http'}&endpoint_override={quote(host)}&{GCS_RETRIES}"


@lru_cache(maxsize=16)
def _filesystem(uri: str) -> "FileSystem":
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(_options(uri))[0]
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow without this store, or no name of a bucket
        raise OSError(f"{uri} cannot be opened: {str(error).partition(chr(10))[0]}") from None


GCS_CREDENTIALS = "give GOOGLE_APPLICATION_CREDENTIALS, or the machine a service account"
REASONS = (
    ("NO_SUCH_BUCKET", "there is no such bucket; make it, or name another"),
    ("NOT_FOUND", "there is no such bucket; make it, or name another"),
    (
        "ACCESS_DENIED",
        "access is denied; give credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the "
        "machine) that may read, write, list and delete there",
    ),
    ("INVALID_ACCESS_KEY_ID", "the credentials are not known there; check AWS_ACCESS_KEY_ID"),
    ("INVALID_CLIENT_TOKEN_ID", "the credentials are not known there; check AWS_ACCESS_KEY_ID"),
    ("InvalidAccessKeyId", "the credentials are not known there; check AWS_ACCESS_KEY_ID"),
    ("SIGNATURE", "the credentials do not fit; check AWS_SECRET_ACCESS_KEY"),
    ("NETWORK_CONNECTION", "it cannot be reached; check AWS_ENDPOINT_URL, region and network"),
    ("OAuth2 access token", f"there are no credentials, or no network to ask for some; {GCS_CREDENTIALS}"),
    ("PERMISSION_DENIED", f"access is denied; {GCS_CREDENTIALS}, who may read, write, list and delete there"),
    ("UNAUTHENTICATED", f"the credentials are not taken there; {GCS_CREDENTIALS}"),
    ("Retry policy exhausted", "it cannot be reached; check the network"),
)
"""What pyarrow's message has in it -> what it means, and what to do."""


@contextmanager
def explained(path: RemotePath) -> Iterator[None]:
    """Run the body; what the store refuses is an OSError that names the URI and says what to do."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and "Upload" not in str(error):  # else it has no bucket to put it in
            raise
        said = str(error)
        why = next((words for sign, words in REASONS if sign in said), said.partition(chr(10))[0])
        raise OSError(f"{path}: {why}") from error

"""A directory that is written on this machine's disk and put into an object store at a cadence and at the end.

For files that grow, which an object cannot: they are put whole each time.
"""

import shutil
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path
from typing import Self

from proteinlm.platform.places.places import put
from proteinlm.platform.places.remote_path import RemotePath

PUT_SECONDS = 30.0
"""Between two puts of what has grown."""


class Mirror:
    """The directory to write to; of a local path that path itself, and nothing is put."""

    def __init__(self, local: Path, remote: RemotePath | None) -> None:
        self.local, self._remote = local, remote
        self._put_at = time.monotonic()
        self._states: dict[Path, tuple[int, int]] = {}

    @classmethod
    def of(cls, directory: Path, files: str = "metrics.jsonl", folder: str = "tensorboard") -> Self:
        """Of a run directory, its metrics and event files as far as they were put; what a killed process left is lost.

        Those alone are mirrored. OSError where the store cannot be read.
        """
        if not isinstance(directory, RemotePath):
            return cls(directory, None)
        digest = blake2b(str(directory).encode(), digest_size=8).hexdigest()
        local = Path(tempfile.gettempdir(), f"proteinlm-mirror-{digest}", directory.name)
        shutil.rmtree(local.parent, ignore_errors=True)
        local.mkdir(parents=True)
        made = cls(local, directory)
        for file in (directory / files, *(directory / folder).glob("*")):
            if file.is_file():
                target = local.joinpath(*file.parts[len(directory.parts) :])
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(file.read_bytes())
        made._states = made._all()
        return made

    def _all(self) -> dict[Path, tuple[int, int]]:
        """Size and time of change of each file."""
        states = {file: file.stat() for file in sorted(self.local.rglob("*")) if file.is_file()}
        return {file: (state.st_size, state.st_mtime_ns) for file, state in states.items()}

    def put(self) -> None:
        """Put the files that have grown or are new."""
        if self._remote is None:
            return
        for file, state in self._all().items():
            if self._states.get(file) != state:
                put(file, self._remote / file.relative_to(self.local).as_posix())
                self._states[file] = state
        self._put_at = time.monotonic()

    def put_if_due(self) -> None:
        """As `put` where it is due. A store that fails is said and tried again at the next cadence."""
        if self._remote is None or time.monotonic() - self._put_at < PUT_SECONDS:
            return
        try:
            self.put()
        except OSError as error:
            print(f"metrics could not be put: {error}; tried again in {PUT_SECONDS:.0f} s", file=sys.stderr)
            self._put_at = time.monotonic()

    def close(self, *, has_failed: bool) -> None:
        """Put what is left and delete the local directory; after a failure, one of the store is not said."""
        if self._remote is None:
            return
        try:
            self.put()
        except OSError:
            if not has_failed:
                raise
        finally:
            shutil.rmtree(self.local.parent, ignore_errors=True)

"""Checkpoints of a run whose storage is an object store: put and fetched whole, where a local run renames and reads.

A checkpoint counts once its checksums, which are put last, are there; the copy that is fetched is compared with them.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from proteinlm.platform.places.places import fetch_to, put, remove_tree
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.storage.run_directory import CHECKPOINTS_FOLDER
from proteinlm.platform.training.checkpoint import Checkpoints, LocalCheckpoints, newest_whole


def checkpoints_alone(run_directory: Path, keep: int) -> Checkpoints:
    """The checkpoints of a run in one process, of which the newest `keep` are kept."""
    if isinstance(run_directory, RemotePath):
        return StoreCheckpoints(run_directory, keep)
    return LocalCheckpoints(run_directory, keep)


def fetch_newest(candidates: Sequence[Path], scratch: Path) -> Path | None:
    """The first of the remote `candidates`, newest first, that is whole, copied into the folder `scratch`.

    None where there are none; ValueError where all are damaged.
    """

    def copies() -> Iterator[Path]:
        for folder in candidates:
            local = scratch / folder.name
            fetch_to(folder, local)
            yield local

    return newest_whole(copies())[0]


class StoreCheckpoints:
    """Checkpoints of a run without Ray Train in an object store."""

    def __init__(self, run_directory: RemotePath, keep: int) -> None:
        self._folder, self._keep = run_directory / CHECKPOINTS_FOLDER, keep
        self._scratch = tempfile.TemporaryDirectory(prefix="proteinlm-checkpoints-")

    def staging(self) -> Path:
        """Make an empty directory on this machine's disk."""
        return Path(tempfile.mkdtemp(dir=self._scratch.name))

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.name.startswith("step_"))

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """Yields a copy of the newest whole checkpoint, None where there is none yet."""
        with tempfile.TemporaryDirectory(dir=self._scratch.name) as scratch:
            yield fetch_newest(self._finished()[::-1], Path(scratch))

    def take(self, folder: Path, name: str, metrics: Mapping[str, float], *, wait: bool) -> None:
        """Put the finished checkpoint `folder` as `name`, and delete those that are too old."""
        put(folder, self._folder / name)
        remove_tree(folder)
        for old in self._finished()[: -self._keep]:
            remove_tree(old)

    def notice(self) -> str | None:
        """Return None: no preemption notice reaches a run without Ray Train."""
        return None

"""A training job in this very process: what small finetuning trials run in, without a worker group of Ray Train.

It does what one worker does (run_job.py) and resumes from checkpoints of its own, but nobody restarts it: run the same
command again. The stream still comes from Ray Data.
"""

import ctypes
import gc
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from proteinlm.platform.training.job import Place, TrainingJob
from proteinlm.platform.training.run_job import run_job

FOLDER = "checkpoints"


def run_in_process(job: TrainingJob, use_gpu: bool) -> None:
    """Run `job` on the only worker there is: this process."""
    device = torch.device("cuda" if use_gpu else "cpu")
    try:
        run_job(job, Place(0, 1, device), LocalCheckpoints(job.directory, job.training.keep_checkpoints), 1)
    finally:
        give_back_memory()


def give_back_memory() -> None:
    """Return what was freed to the system, where the allocator is glibc's.

    Micro batches differ in size, so freed blocks lie between others in use, and glibc keeps them: about a gigabyte for
    each trial that the same process runs.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class LocalCheckpoints:
    """Checkpoints as folders of the run directory, the newest `keep` of them."""

    def __init__(self, run_directory: Path, keep: int) -> None:
        self._folder, self._keep = run_directory / FOLDER, keep
        self._folder.mkdir(parents=True, exist_ok=True)
        self._aside = self._folder / "unfinished"

    def aside(self) -> Path:
        """A directory beside the finished ones; what a killed process left there is deleted."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir()
        return self._aside

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.name.startswith("step_"))

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """The newest checkpoint, None where there is none yet."""
        finished = self._finished()
        yield finished[-1] if finished else None

    def take(self, folder: Path, name: str, figures: Mapping[str, float], *, wait: bool) -> None:
        """Put a whole checkpoint in its place by renaming it, and delete those that are too old."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
        folder.rename(self._folder / name)
        for old in self._finished()[: -self._keep]:
            shutil.rmtree(old, ignore_errors=True)

    def notice(self) -> str | None:
        """None: a process hears of no node that is taken away."""
        return None

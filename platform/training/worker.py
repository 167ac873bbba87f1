"""A Ray Train worker, the only file that imports the worker side of `ray.train`. The training itself is run_job.py.

A report is a barrier that waits for the controller, so it is made with checkpoints only; step metrics go to files.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from torch import distributed as dist

from proteinlm.platform.places.places import fetch_to, remove_tree
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.storage.phases import note, process_start, write_phases
from proteinlm.platform.training.checkpoint import checkpoints_in, has_checksums, newest_whole
from proteinlm.platform.training.job import TrainingJob, Worker
from proteinlm.platform.training.remote_checkpoints import fetch_newest
from proteinlm.platform.training.run_job import run_job

Answer = TypeVar("Answer")


def train_worker(settings: dict[Any, Any]) -> None:
    """Run a training job (`TrainingJob` as a plain dict) on this worker, from the newest checkpoint if there is one."""
    note("process, imports, process group", process_start())
    import ray.train
    import ray.train.torch

    job = TrainingJob.model_validate(settings)
    context = ray.train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    checkpoints = RayCheckpoints(job.directory)
    if context.get_local_rank() == 0:
        checkpoints.forget_unsent()
    run_job(job, worker, checkpoints, context.get_local_world_size())
    if worker.is_first:
        write_phases(job.directory, "worker")


class RayCheckpoints:
    """Checkpoints kept by Ray Train in the run directory: it merges what the workers wrote and deletes old ones."""

    def __init__(self, run_directory: Path) -> None:
        digest = blake2b(str(run_directory).encode(), digest_size=8).hexdigest()
        self._run_directory = run_directory
        self._prefix = f"proteinlm-checkpoint-{digest}-"

    def staging(self) -> Path:
        """Make an empty directory on this node; Ray Train merges those of all workers."""
        return Path(tempfile.mkdtemp(prefix=self._prefix))

    @contextmanager
    def newest(self) -> Iterator[Path | None]:
        """Yields the newest whole checkpoint of this run as a directory, None where there is none yet."""
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        reported = Path(checkpoint.path).name if checkpoint else ""
        if not isinstance(self._run_directory, RemotePath):
            yield _newest_whole(reported, self._run_directory)
            return
        scratch = Path(tempfile.gettempdir(), f"{self._prefix}fetched-{ray.train.get_context().get_node_rank()}")
        yield _fetched_newest(reported, self._run_directory, scratch, ray.train.get_context().get_local_rank() == 0)
        if dist.is_initialized():
            dist.barrier()
        remove_tree(scratch)

    def take(self, folder: Path, name: str, metrics: Mapping[str, float], *, wait: bool) -> None:
        """Report this worker's part, which Ray Train uploads and deletes; all workers call it."""
        import ray.train

        mode = ray.train.CheckpointUploadMode
        ray.train.report(
            dict(metrics),
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=name,
            checkpoint_upload_mode=mode.SYNC if wait else mode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def notice(self) -> str | None:
        """Return deadline and nodes of a preemption notice as one name; Ray gives all workers the same answer."""
        import ray.train

        notice = ray.train.get_preemption_info()
        return f"{notice.deadline_ms} {notice.preempted_node_ids}" if notice else None

    def forget_unsent(self) -> None:
        """Delete what a killed worker of this run left on this node without having uploaded it."""
        for folder in Path(tempfile.gettempdir()).glob(self._prefix + "*"):
            shutil.rmtree(folder, ignore_errors=True)


def _fetched_newest(reported: str, run_directory: Path, scratch: Path, is_first_of_node: bool) -> Path | None:
    """As `_newest_whole` where the run directory is in a store; a copy in `scratch`, once on each node."""
    copied: Path | None = None

    def fetch() -> str | None:
        nonlocal copied
        copied = fetch_newest(_candidates(reported, run_directory), scratch)
        return copied.name if copied else None

    name = _asked_of_first(fetch)
    if name is None:
        return None
    if is_first_of_node and copied is None:
        fetch_to(run_directory / name, scratch / name)
    if dist.is_initialized():
        dist.barrier()
    return scratch / name


def _newest_whole(reported: str, run_directory: Path) -> Path | None:
    """The newest whole checkpoint in the run directory, None where there is none; the first worker looks for all.

    `reported` is the name of the newest one that Ray Train knows of, "" where it knows of none. A later one counts
    where its checksums say that all of it is there: Ray's own list, which is not written in one step, may be lost.
    """
    return _asked_of_first(lambda: newest_whole(_candidates(reported, run_directory))[0])


def _candidates(reported: str, run_directory: Path) -> list[Path]:
    return [path for path in checkpoints_in(run_directory) if path.name <= reported or has_checksums(path)]


def _asked_of_first(ask: Callable[[], Answer]) -> Answer:
    """What `ask` returns or raises (ValueError) on the first worker, on all of them."""
    found: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            found = [ask()]
        except ValueError as error:  # raised by all of them below, or the others would wait
            found = [error]
    dist.broadcast_object_list(found, src=0)
    if isinstance(found[0], ValueError):
        raise found[0]
    return found[0]  # type: ignore[no-any-return]

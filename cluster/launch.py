"""Launch a group of Ray Train workers and wait for it: the only place that builds a TorchTrainer.

A worker is a function of a plain dict. The group is restarted from its newest checkpoint when a worker dies
(`max_failures` times) or its node is taken away (any number of times); a launch with the same storage and name resumes
where the last one stopped. An elastic group restarts with as many workers as there is room for.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from proteinlm.cluster.connect import ClusterSize, dashboard_address

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

Result = TypeVar("Result")

DATA_CPUS = 1.0
"""CPUs of a cluster of fixed size that training leaves to what reads for it and to Ray's own processes."""

BACKEND_ON_GPU = "cpu:gloo,cuda:nccl"
"""NCCL reduces gradients on GPUs, gloo counts and decisions on CPUs."""

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's list of the checkpoints of a run, in its directory."""

ATTEMPT_SECONDS = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
"""Environment variable of Ray Train, and our value: how long one attempt to place a group of one size takes, after
which room is counted anew. Ray's 60 s are most of what an elastic group loses when a node goes. How often it is
tried is a matter of `Waits.room`, not of a number in the life of a run."""

BRIEF_SECONDS = 240.0
"""How long a group waits for room where no nodes are added: another run's end, a head that is started again."""


class LaunchError(RuntimeError):
    """A worker group that failed for good; the message is the first failing worker's own error."""


@dataclass(frozen=True)
class WorkerGroup:
    """The number of workers, and what each of them reserves."""

    fewest: int
    most: int
    """More than `fewest`: an elastic group."""
    cpus_per_worker: float
    use_gpu: bool

    @property
    def cpus(self) -> float:
        """CPUs of the smallest group, with those for its data tasks."""
        return self.fewest * self.cpus_per_worker + DATA_CPUS


@dataclass(frozen=True)
class Waits:
    """How long a launch waits, in seconds."""

    resize: float
    """Between two looks for room for more workers (an elastic group)."""
    room: float
    """For room for the fewest workers, at the start and after each loss, before the run is given up."""
    setting: str
    """Words for what decides about `room`, for the message."""
    queues: bool
    """Whether only the time counts in which the nodes would not do if nothing else ran on them: trials take turns."""


def waits_of(resize_minutes: float, node_minutes: float | None) -> Waits:
    """`node_minutes`: how long nodes may take to be added; None: none are."""
    if node_minutes is None:
        return Waits(
            60 * resize_minutes, BRIEF_SECONDS, "no nodes are added: cluster.autoscaling is false", queues=False
        )
    return Waits(60 * resize_minutes, 60 * node_minutes, f"cluster.node_minutes={node_minutes:g}", queues=True)


def worker_group(
    size: ClusterSize, fewest: int, most: int, cpus_per_worker: float | None, use_gpu: bool | None
) -> WorkerGroup:
    """Make a group of `fewest` to `most` workers; None: GPUs where there are any, CPUs that leave one for data."""
    gpu = size.gpus > 0 if use_gpu is None else use_gpu
    if cpus_per_worker is None:
        share = (size.cpus - DATA_CPUS) / most if size.cpus else 1.0  # nodes are yet to be added
        cpus_per_worker = max(0.1, min(1.0, int(share * 10) / 10))
    return WorkerGroup(fewest, most, cpus_per_worker, gpu)


def check_fits(group: WorkerGroup, size: ClusterSize) -> None:
    """ValueError, saying what is missing, for a group that this cluster can never place: Ray would wait for ever."""
    if group.use_gpu and group.fewest > size.gpus:
        raise ValueError(f"cluster.num_workers: {group.fewest} workers need a GPU each, the cluster has {size.gpus:g}")
    if group.cpus > size.cpus:
        raise ValueError(
            f"cluster.num_workers: {group.fewest} workers of {group.cpus_per_worker:g} CPUs "
            f"and {DATA_CPUS:g} CPU for data need {group.cpus:g} CPUs, the cluster has {size.cpus:g}; "
            "lower cluster.num_workers or cluster.cpus_per_worker; cluster.autoscaling=true where nodes are added"
        )


def launch(
    worker: Callable[[dict[Any, Any]], None],
    settings: Mapping[str, Any],
    group: WorkerGroup,
    *,
    name: str,
    storage: Path,
    keep_checkpoints: int,
    max_failures: int,
    waits: Waits,
) -> dict[str, Any]:
    """Run `worker(settings)` on every worker of `group` and return the last reported metrics; LaunchError if it fails.

    Checkpoints and Ray Train's own state lie in `<storage>/<name>`.
    """
    os.environ.setdefault(*ATTEMPT_SECONDS)
    forget_lost_checkpoints(storage / name)
    start_coordinator()
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    trainer = trainer_class(waits)(
        worker,
        train_loop_config=dict(settings),
        torch_config=TorchConfig(backend=BACKEND_ON_GPU if group.use_gpu else "gloo"),
        # Ray's annotations still show the configs of Train v1.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=group.fewest if group.fewest == group.most else (group.fewest, group.most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=waits.resize,
            use_gpu=group.use_gpu,
            resources_per_worker={"CPU": group.cpus_per_worker} | ({"GPU": 1} if group.use_gpu else {}),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=keep_checkpoints),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = away_from_signals(trainer.fit)
    except Exception as error:  # Ray wraps what a worker raised in several layers of its own
        raise LaunchError(worker_message(error)) from error
    return dict(result.metrics or {})


def start_coordinator() -> None:
    """Let the actor start that Ray Train asks for resources: its controller would start it, and wait for it.

    The one there is, where there is one.
    """
    with suppress(ImportError):  # a matter of seconds alone: another Ray may have it elsewhere
        from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
            get_or_create_autoscaling_coordinator,
        )

        get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]


def trainer_class(waits: Waits) -> "type[TorchTrainer]":
    """Ray Train's trainer that gives up where there is no room (scaling.py), without those of its helpers that can do
    nothing here: processes that take seconds to start.

    The manager of datasets, none of which come from Ray Train (platform/batches/stream.py), and, where there is no
    dashboard to ask, the cleaner of placement groups.
    """
    from ray.train.torch import TorchTrainer

    idle = {"DatasetsCallback"} if dashboard_address() else {"DatasetsCallback", "PlacementGroupCleanerCallback"}

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # annotations show Train v1
            return [one for one in callbacks if type(one).__name__ not in idle]

        def _initialize_and_run_controller(self, **parts: Any) -> Any:
            from proteinlm.cluster.scaling import scaling_policy

            parts["scaling_policy"] = scaling_policy(self.scaling_config, waits.room, waits.setting, waits.queues)
            return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]  # annotations show Train v1

    return Trainer


def away_from_signals(call: Callable[[], Result], meanwhile: Callable[[], object] = lambda: None) -> Result:
    """Return what `call` returns, called in a thread of its own where this is the main one; `meanwhile` is called in
    this thread about once a second until then.

    In the main thread Ray Train and Ray Tune take over Ctrl-C: they end the workers without a checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    while not done.done():
        wait([done], timeout=1.0)
        meanwhile()
    return done.result()


def forget_lost_checkpoints(run_directory: Path) -> None:
    """Delete Ray Train's list of a run's checkpoints where it is torn, or where one that it names is gone.

    With such a list Ray Train refuses to start. Without it a run goes on from the checkpoints that are there.
    """
    listed = run_directory / SNAPSHOT_FILE
    if not listed.is_file():
        return
    try:
        results = json.loads(listed.read_bytes())["checkpoint_results"]
        is_sound = all((run_directory / result["checkpoint_dir_name"]).is_dir() for result in results)
    except (ValueError, KeyError, TypeError):
        is_sound = False
    if not is_sound:
        listed.unlink()


def worker_message(error: BaseException) -> str:
    """Return the innermost message of a Ray Train failure: that of the first failing worker."""
    failures = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "cause", None) or failure
        return f"worker {rank}: {last_line(cause)}"
    return last_line(error)


def last_line(error: BaseException) -> str:
    """The last line of an error's message, where Ray puts what was raised; its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__

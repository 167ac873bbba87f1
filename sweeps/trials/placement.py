"""What a trial takes of a cluster: CPUs, threads and GPUs of its workers."""

import math
from dataclasses import replace

from proteinlm.cluster.connect import ClusterSize
from proteinlm.cluster.launch import DATA_CPUS, WorkerGroup, worker_group
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig
from proteinlm.sweeps.planning.trial import Trial


def cpu_share(size: ClusterSize) -> float:
    """CPUs for a worker such that as many workers as there are CPUs fit beside the one for reading data.

    One where there is no CPU: nodes are yet to be added.
    """
    if not size.cpus:
        return 1.0
    return max(0.1, math.floor(100 * (size.cpus - DATA_CPUS) / size.cpus) / 100)


def with_share(
    trial: Trial, size: ClusterSize, max_concurrent: int | None = None, *, autoscaling: bool = False
) -> Trial:
    """Return the trial with what its `cluster` section leaves open decided for this cluster.

    CPUs of a worker: such that as many workers as there are CPUs fit. Threads: the cores shared by the workers that run
    at once, at most `max_concurrent` trials. GPUs: where there are some and a network is trained. `autoscaling`, of the
    sweep, is its trials' too.
    """
    section = trial.config.cluster
    trains = isinstance(trial.config, PretrainConfig) or MODES[trial.config.mode].is_trained
    cpus = section.cpus_per_worker or cpu_share(size)
    workers_at_once = min((size.cpus - DATA_CPUS) / cpus, section.most_workers * (max_concurrent or math.inf))
    threads = max(1, round(size.cpus / max(1.0, workers_at_once)))
    settled = {
        "cpus_per_worker": cpus,
        "threads_per_worker": section.threads_per_worker or threads,
        "autoscaling": section.autoscaling or autoscaling,
        "use_gpu": (trains and size.gpus > 0) if section.use_gpu is None else section.use_gpu,
    }
    return replace(trial, config=trial.config.model_copy(update={"cluster": section.model_copy(update=settled)}))


def group_of(trial: Trial, size: ClusterSize) -> WorkerGroup:
    """The trial's workers on a cluster of `size`, what its settings leave open decided as `worker_group` does."""
    cluster = trial.config.cluster
    return worker_group(size, cluster.fewest_workers, cluster.most_workers, cluster.cpus_per_worker, cluster.use_gpu)


def taken_by(group: WorkerGroup) -> tuple[float, float]:
    """CPUs and GPUs of the trial's smallest worker group."""
    return group.fewest * group.cpus_per_worker, float(group.fewest) if group.use_gpu else 0.0


def devices_of(config: PretrainConfig | FinetuneConfig) -> tuple[float, str]:
    """Number and kind of the devices that the trial holds; `with_share` has decided both."""
    workers = config.cluster.most_workers
    return (workers, "gpu") if config.cluster.use_gpu else (workers * (config.cluster.threads_per_worker or 1), "core")

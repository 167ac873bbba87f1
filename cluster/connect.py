"""Connect to Ray: the cluster that an address names, the job's own cluster, or one embedded on this machine.

In this order: the Ray that this process is connected to, `address` (or RAY_ADDRESS, which `ray job submit` sets), an
embedded Ray. An embedded Ray never joins another cluster that runs on the machine, and is shut down at the end.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterSize:
    """Resources of the whole cluster, as Ray counts them."""

    cpus: float
    gpus: float
    nodes: int


def cluster_size() -> ClusterSize:
    """Return the size of the connected cluster; Ray must be connected."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return ClusterSize(resources.get("CPU", 0.0), resources.get("GPU", 0.0), len(alive))


@contextmanager
def connected(address: str | None = None, num_cpus: int | None = None) -> Iterator[ClusterSize]:
    """Run the body connected to Ray, yielding the cluster's size; ConnectionError names an address that did not answer.

    `num_cpus` is that of an embedded Ray (default: the machine's cores, at least 2, so that reading data has one).
    """
    import ray

    if ray.is_initialized():
        yield cluster_size()
        return
    address = address or os.environ.get("RAY_ADDRESS")
    # A report waits for the controller's next poll, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    wants_logs = bool(os.environ.get("PROTEINLM_WORKER_LOGS"))
    try:
        if address:
            ray.init(address=address, log_to_driver=wants_logs, logging_level=logging.WARNING)
        else:
            ray.init(
                address="local",
                num_cpus=num_cpus or max(2, os.cpu_count() or 2),
                # Ray Train's placement group cleaner asks the dashboard's State API; without it groups leak.
                include_dashboard=True,
                log_to_driver=wants_logs,
                logging_level=logging.WARNING,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"cluster.address: no Ray answered at {address or 'an embedded start'}: {error}"
        ) from error
    try:
        yield cluster_size()
    finally:
        ray.shutdown()

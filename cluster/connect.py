"""Connect to Ray: the cluster that an address names, the job's own cluster, or one embedded on this machine.

Order: a Ray that this process already has, `address` (or RAY_ADDRESS, which `ray job submit` sets), an embedded Ray.
An embedded Ray never joins some other cluster that happens to run on the machine, and is shut down at the end.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class ClusterSize:
    """What the cluster offers in all, as Ray counts it."""

    cpus: float
    gpus: float
    nodes: int


def cluster_size() -> ClusterSize:
    """The size of the connected cluster."""
    import ray

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return ClusterSize(resources.get("CPU", 0.0), resources.get("GPU", 0.0), len(alive))


@contextmanager
def connected(address: str | None = None, num_cpus: int | None = None) -> Iterator[ClusterSize]:
    """Run the body connected to Ray; ConnectionError says which address did not answer.

    `num_cpus` counts for an embedded Ray only (default: the machine's cores, at least 2: reading data must not starve).
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

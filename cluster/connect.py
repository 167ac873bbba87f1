"""Connect to Ray: the cluster that an address names, the job's own cluster, or one embedded on this machine.

In this order: the Ray that this process is connected to, `address` (or RAY_ADDRESS, which `ray job submit` sets), an
embedded Ray. An embedded Ray never joins another cluster that runs on the machine, and is shut down at the end.
"""

import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WAIT_WITHOUT_SPINNING = ("OMP_WAIT_POLICY", "PASSIVE")
"""Environment variable of OpenMP, which is read when torch is loaded."""


ON_OWN_MACHINE = {
    # Nobody announces that this machine will be taken away. Ray Train's processes inherit it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Processes that wait for work of any kind: Ray Train's and those of its data have an environment of their own.
    "RAY_prestart_worker_first_driver": "0",
}
"""Environment variables of an embedded Ray, which starts no process in vain."""
WITH_DASHBOARD = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
"""Environment variables of a driver whose cluster has a dashboard: it then tells of Ray Train's runs."""


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


def dashboard_address() -> str | None:
    """The address of the connected cluster's dashboard, for a browser; None where it has none."""
    from ray.experimental.internal_kv import _internal_kv_get

    address: bytes | None = _internal_kv_get("webui:url", namespace="dashboard")
    return f"http://{address.decode()}" if address else None


@contextmanager
def connected(
    address: str | None = None, num_cpus: int | None = None, *, has_dashboard: bool = True
) -> Iterator[ClusterSize]:
    """Run the body connected to Ray, yielding the cluster's size; ConnectionError names an address that did not answer.

    Of an embedded Ray: `num_cpus` (default: `usable_cores`, at least 2, so that reading data has one), and whether it
    `has_dashboard`. Ray Train's placement group cleaner asks the dashboard's State API; without it a worker group whose
    controller dies holds its resources until Ray ends, which matters where others want them.
    """
    import ray

    if ray.is_initialized():
        yield cluster_size()
        return
    address = address or os.environ.get("RAY_ADDRESS")
    # A report waits for the controller's next poll, 2 s apart by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    with (
        _joined(address) if address else _embedded(num_cpus or max(2, usable_cores()), has_dashboard),
        _variables(WITH_DASHBOARD if dashboard_address() else {}),
    ):
        yield cluster_size()


def usable_cores() -> int:
    """The number of this machine's cores that this process may use: batch systems give a job a part of them."""
    mine = getattr(os, "sched_getaffinity", None)
    return len(mine(0)) if mine else os.cpu_count() or 1


@contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, **_quietly())
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConnectionError(f"cluster.address: no Ray answered at {address}: {error}") from error
    try:
        keep_data_actors_here()
        yield
    finally:
        ray.shutdown()


def keep_data_actors_here() -> None:
    """Start, on this process's node, the actors that all pipelines of Ray Data share.

    Ray starts them on the node of whoever reads first, which is a worker, and they outlive the run. A node that has an
    actor is not idle, so the autoscaler would never give it back.
    """
    from ray.data._internal.cluster_autoscaler.default_autoscaling_coordinator import (
        get_or_create_autoscaling_coordinator,
    )
    from ray.data._internal.stats import get_or_create_stats_actor
    from ray.data._internal.usage.actor import get_or_create_usage_collection_actor
    from ray.data._internal.usage.collector import usage_collection_disabled

    get_or_create_autoscaling_coordinator()  # type: ignore[no-untyped-call]  # Ray has no types here
    get_or_create_stats_actor()
    if not usage_collection_disabled():
        get_or_create_usage_collection_actor()


@contextmanager
def _embedded(num_cpus: int, has_dashboard: bool) -> Iterator[None]:
    """A Ray of this process's own; its session folder, with its logs, is left where the body failed."""
    import ray

    check_socket_paths(ray_folder())
    # Threads of one worker wait for each other by spinning, which on cores shared by several workers takes the others'
    # time: thirty times slower. Workers inherit it.
    os.environ.setdefault(*WAIT_WITHOUT_SPINNING)
    with _variables(ON_OWN_MACHINE), _unheard_by_children(signal.SIGHUP, signal.SIGUSR1):
        try:
            context = ray.init(address="local", num_cpus=num_cpus, include_dashboard=has_dashboard, **_quietly())
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConnectionError(f"no embedded Ray started on this machine: {error}") from error
    session = Path(context.address_info["session_dir"])  # type: ignore[attr-defined]  # declared for other contexts too
    keeps_logs = False
    try:
        yield
    except ValueError:  # a wrong input, of which Ray's logs say nothing
        raise
    except Exception as error:
        keeps_logs = True
        error.add_note(f"Ray's logs: {session / 'logs'}")
        raise
    finally:
        ray.shutdown()
        if not keeps_logs:
            _remove(session)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the body inherit these environment variables, where the user did not set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _remove(session: Path) -> None:
    """Remove what an embedded Ray, which was shut down, left in the temporary directory."""
    shutil.rmtree(session, ignore_errors=True)
    newest = session.parent / "session_latest"
    with suppress(OSError):  # another Ray of the same user may be at it
        if newest.is_symlink() and newest.readlink().name == session.name:
            newest.unlink()


def _quietly() -> dict[str, Any]:
    return {"log_to_driver": bool(os.environ.get("PROTEINLM_WORKER_LOGS")), "logging_level": logging.WARNING}


def ray_folder() -> Path:
    """The folder in which an embedded Ray makes its session folder."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


LONGEST_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (sun_path, less its final zero)."""
SOCKET_IN_SESSION = "session_2026-11-27_06-49-55_123456_1234567/sockets/plasma_store"
"""The longest path of a socket in Ray's folder: date, time, microseconds, and a process number of up to 7 digits."""


def check_socket_paths(folder: Path) -> None:
    """ValueError where the paths of Ray's sockets in `folder` would be longer than the system takes."""
    is_own = bool(os.environ.get("RAY_TMPDIR"))
    length = len(os.fsencode(folder / SOCKET_IN_SESSION))
    if length > LONGEST_SOCKET_PATH:
        raise ValueError(
            f"{'RAY_TMPDIR' if is_own else 'TMPDIR'}: {folder.parent} is {length - LONGEST_SOCKET_PATH} letters too "
            f"long for Ray, whose sockets lie in it; export RAY_TMPDIR=/tmp, or another short folder of a local disk"
        )


@contextmanager
def _unheard_by_children(*signals: signal.Signals) -> Iterator[None]:
    """Processes that are started in the body never hear these signals, for they inherit that they are ignored.

    A terminal that closes sends SIGHUP to all of its processes, Slurm its notice to all of a job step: Ray would die
    before its workers could save a checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

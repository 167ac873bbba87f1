"""Ray nodes that are this process's own: started here, killed as machines die, ended by descent and never by a name.

`ray stop` ends every Ray of the user, and Ray's workers hide their environment. So this process adopts what its
children leave behind (PR_SET_CHILD_SUBREAPER): all that was ever started here are its descendants, and nothing else is.
This process is no driver of the cluster, which it may therefore kill.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.conftest import ROOT

PR_SET_CHILD_SUBREAPER = 36
MARK = "PROTEINLM_TEST_NODE"
"""Environment variable of a node's daemons, by which its processes are told from those of others."""
OF_A_RUN = ("TrainWorker", "TrainController", "SynchronizationActor", "PlacementGroupCleaner")
"""In the command lines of processes that belong to a run, not to a node."""
QUIET = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": str(ROOT),
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_prestart_worker_first_driver": "0",  # else one Python process a (pretended) CPU
}

GROUPS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(group["state"] != "REMOVED" for group in ray.util.placement_group_table().values()))
"""


@dataclass(frozen=True)
class Node:
    """A Ray node on this machine."""

    name: str
    prefix: tuple[str, ...] = ()
    """What its commands begin with: those that enter a network namespace."""
    ip: str = ""
    """Its address, where it is not this machine's."""


class RayNodes:
    """`with RayNodes() as nodes:` a folder for sessions and temporary files; everything is gone at the end."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Short: a Unix socket's path has at most 107 bytes, and Ray adds 60 of its own.
        self.folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
        for name in ("ray", "tmp", "gcs"):
            (self.folder / name).mkdir()
        self.env = os.environ | QUIET | {"RAY_TMPDIR": str(self.folder), "TMPDIR": str(self.folder / "tmp")}
        for name in ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"):  # fixed by default: another Ray has them
            self.env[name] = str(free_port())
        self.ip, self.port, self._dashboard_port = own_address(), free_port(), free_port()

    @property
    def address(self) -> str:
        return f"{self.ip}:{self.port}"

    def start(self, node: Node, *options: str, env: Mapping[str, str] | None = None) -> None:
        """`ray start ...` of `node`; RuntimeError with what it said where it fails."""
        command = [*node.prefix, sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats"]
        options = ("--object-store-memory=100000000", "--dashboard-agent-listen-port=0", *options)
        env = self.env | {MARK: node.name} | dict(env or {})
        output = self.folder / f"start-{node.name}"
        with output.open("w") as said:  # a file: daemons would hold a pipe open
            done = subprocess.run([*command, *options], env=env, stdout=said, stderr=said, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.args}: {output.read_text()[-3000:]}")

    def start_head(self, node: Node, *options: str, env: Mapping[str, str] | None = None) -> None:
        """Start the head, or start it again: its state lies in RocksDB in the folder."""
        # Of an earlier head. Raylets name its address in their command lines, so Ray takes it for one that runs.
        (self.folder / "ray_current_cluster").unlink(missing_ok=True)
        state = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / "gcs")}
        self.start(
            node,
            *("--head", f"--port={self.port}", f"--temp-dir={self.folder}", f"--node-ip-address={self.ip}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}"),
            *("--min-worker-port=0", "--max-worker-port=0", f"--ray-client-server-port={free_port()}", *options),
            env=state | (env or {}),
        )

    def start_worker(self, node: Node, cpus: float) -> None:
        """Start a node that joins. One at a time: Ray gives up where several start at once on a busy machine."""
        options = (f"--node-ip-address={node.ip}",) if node.ip else ()
        self.start(node, f"--address={self.address}", f"--num-cpus={cpus:g}", f"--node-name={node.name}", *options)

    def processes(self, node: Node) -> list[psutil.Process]:
        """The daemons of `node` and all that they started: its raylet, its workers."""
        daemons = [one for one in descendants() if environment(one).get(MARK) == node.name]
        found = {one.pid: one for daemon in daemons for one in (daemon, *children(daemon))}
        return list(found.values())

    def signal(self, node: Node, number: signal.Signals) -> int:
        """Send all processes of `node` a signal, as if it were a machine; how many there were."""
        hit = self.processes(node)
        for process in hit:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return len(hit)

    def trains(self, node: Node) -> list[psutil.Process]:
        """The training workers on `node`."""
        return [one for one in self.processes(node) if "TrainWorker" in title(one)]

    def placement_groups(self, prefix: tuple[str, ...] = ()) -> int:
        """How many there are, asked by a driver of its own whose command begins with `prefix`."""
        done = subprocess.run(
            [*prefix, sys.executable, "-c", GROUPS, self.address],
            env=self.env, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        return int(done.stdout.splitlines()[-1])

    def __enter__(self) -> Self:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends what was started here too
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all descendants, reap them, remove the folder; RuntimeError where one is left."""
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL):
            for process in descendants():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)
                    process.send_signal(number)
            with suppress(TimeoutError):
                wait_until(lambda: not descendants(), 5)
        shutil.rmtree(self.folder, ignore_errors=True)
        if left := descendants():
            raise RuntimeError(f"still there: {left}")


def descendants() -> list[psutil.Process]:
    """What was started here and lives; what has ended is reaped."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [one for one in children(psutil.Process()) if status(one) != psutil.STATUS_ZOMBIE]


def children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def status(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.status()
    return psutil.STATUS_ZOMBIE


def title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def environment(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error):
        return process.environ()
    return {}


def left_of_a_run() -> list[str]:
    """Processes of a run that still live."""
    return [title(one) for one in descendants() if any(name in title(one) for name in OF_A_RUN)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def own_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


def wait_until(condition: Callable[[], object], seconds: float, step: float = 0.1) -> float:
    """Seconds until `condition()` holds; TimeoutError after `seconds`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(step)
    return time.monotonic() - began

"""A Ray head, and nodes beside it, as `ray start` makes them: own token, ports and folder, ended with all they started.

    with started_head() as head:
        subprocess.run([*RAY, "job", "submit", ...], env=head.environment)

Nobody who runs in this process is the head's driver, and no other Ray of the machine is touched: processes are found by
descent and ended by id.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import environ, pathsep
from pathlib import Path

import psutil

from tests.conftest import ROOT

RAY = [sys.executable, "-m", "ray.scripts.scripts"]

UNSET = {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "PYTHONPATH"}
"""Variables of the test's own environment that a laptop and a cluster do not have."""

SLOW = ("timed out during startup", "Timed out waiting for node info")
"""What `ray start` and its processes say after 30 s, which on cores that others use too is no fault."""
START_SECONDS = 120
"""Within which a head must be up, on cores that others use too."""


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End `process` and all that descends from it at once, without a chance to say goodbye."""
    with suppress(psutil.NoSuchProcess):
        family = [psutil.Process(process.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family[1:], timeout=10)
    process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = START_SECONDS) -> float:
    """Seconds until `holds()`; TimeoutError."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class Head:
    """A head, and what a laptop needs to reach it."""

    folder: Path
    """Holds the token, the logs of `ray start` and Ray's sessions; a short path, for Ray's sockets lie in it."""
    port: int
    """Of the GCS."""
    address: str
    """Of the dashboard, where jobs are sent."""
    environment: dict[str, str]
    """Of a laptop with the token, which the head's processes have too."""
    process: subprocess.Popen[bytes] | None = None
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *options: str, variables: Mapping[str, str] | None = None, num_cpus: int = 2) -> None:
        """Start the head, or start it again at the same ports; waits until it takes jobs."""
        # On one machine a head that was killed leaves its address for others to find: they say "already running".
        (self.folder / "ray_current_cluster").unlink(missing_ok=True)
        dashboard = self.address.rpartition(":")[2]
        command = ["--head", f"--port={self.port}", f"--temp-dir={self.folder}", "--include-dashboard=true"]
        command += [f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        command += [f"--ray-client-server-port={free_port()}", "--object-store-memory=150000000"]
        for is_last in (False, False, True):
            self.process = self._ray_start("head", *command, f"--num-cpus={num_cpus}", *options, variables=variables)
            try:
                wait_until(self.takes_jobs)
                return
            except RuntimeError as error:
                end_family(self.process)
                if is_last or not any(words in str(error) for words in SLOW):
                    raise

    def add_node(
        self, *options: str, variables: Mapping[str, str] | None = None, num_cpus: int = 2
    ) -> subprocess.Popen[bytes]:
        """Start a node that joins the head; it may not have joined yet."""
        command = [f"--address=127.0.0.1:{self.port}", f"--num-cpus={num_cpus}", "--object-store-memory=150000000"]
        name = f"node{len(self.nodes)}"
        self.nodes.append(self._ray_start(name, *command, *options, variables=variables))
        return self.nodes[-1]

    def _ray_start(self, name: str, *options: str, variables: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
        # Fixed numbers by default, which another Ray of the machine has.
        ports = {"AUTOSCALER_METRIC_PORT": str(free_port()), "DASHBOARD_METRIC_PORT": str(free_port())}
        command = [*RAY, "start", "--block", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
        command += ["--min-worker-port=0", "--max-worker-port=0", *options]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command,
                env=self.environment | ports | dict(variables or {}),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def takes_jobs(self) -> bool:
        """Whether the dashboard answers and its agent, which on busy cores is later, has a place for a job."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise RuntimeError((self.folder / "head.log").read_text()[-6000:])
        try:
            return b"agent" in self.get("/nodes?view=summary")
        except OSError:
            return False

    def get(self, path: str, *, token: bool = True) -> bytes:
        """What the dashboard answers; HTTPError."""
        request = urllib.request.Request(self.address + path)
        if token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return bytes(answer.read())

    @property
    def token(self) -> str:
        return Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()

    @property
    def without_token(self) -> dict[str, str]:
        """The environment of a laptop that has none."""
        unset = {"RAY_AUTH_TOKEN_PATH"}
        return {name: value for name, value in self.environment.items() if name not in unset} | {
            "RAY_AUTH_MODE": "disabled"
        }

    @property
    def with_another_token(self) -> dict[str, str]:
        """The environment of a laptop that has the token of another cluster."""
        other = self.folder / "other_token"
        other.write_text("another-token-altogether" * 2)
        return self.environment | {"RAY_AUTH_TOKEN_PATH": str(other)}

    def end(self) -> None:
        """End all that was started here, the nodes first."""
        for process in [*self.nodes, *([self.process] if self.process else [])]:
            end_family(process)


@contextmanager
def started_head(*options: str, variables: Mapping[str, str] | None = None, num_cpus: int = 2) -> Iterator[Head]:
    """A head with token authentication that takes jobs; all of it is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="plm-"))
    (folder / "token").write_text("a-token-of-the-test" * 3)
    environment = {name: value for name, value in environ.items() if name not in UNSET}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DS_ACCELERATOR": "cpu",
        "RAY_TMPDIR": str(folder),
        "PATH": f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}",  # the cluster's own `python`
    }
    head = Head(folder, free_port(), f"http://127.0.0.1:{free_port()}", environment)
    try:
        head.start(*options, variables=variables, num_cpus=num_cpus)
        yield head
    finally:
        head.end()
        shutil.rmtree(folder, ignore_errors=True)


def fresh_clone(folder: Path) -> Path:
    """The tracked files alone, as a clone has them."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target, follow_symlinks=False)
    return folder

"""What a pretraining loses when something dies, measured on several Ray nodes of this machine, a line a fault.

    python -m tests.benchmarks.failure_table [FAULT ...] [--reference FILE] [--json]

Two workers on two nodes, a third node stands by, the head trains nothing; the run is a process of its own that joins
by RAY_ADDRESS. Faults: worker, node, drain, drain-elastic, gcs, head, cut-short, cut-long (these two need root: two
network namespaces and a router between them that stops forwarding). Without any: all of them.
--reference FILE: the undisturbed run's losses, kept there for the next call.
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from proteinlm.cluster.spot_notice import drain, wait_for_notice
from proteinlm.platform.training.tracking import MetricsTail, read_metrics
from tests.conftest import ROOT
from tests.made.metadata_service import metadata_service
from tests.made.ray_nodes import Node, RayNodes, left_of_a_run, wait_until
from tests.made.small_corpus import write_small_corpus

STEPS, CADENCE, AT = 200, 10, 33
"""Steps of the run, between checkpoints, and before the fault."""
DRAIN_SECONDS = 8
SHORT_CUT = 5.0
"""Seconds: shorter than Ray takes to notice (5 health checks, each 3 s after the last and given 10 s)."""
HEAD, WORKERS = Node("head"), (Node("a"), Node("b"), Node("c"))
NOT_OURS = ("torchinductor_", "pymp-")
"""Temporary files of others: torch's cache, and an empty folder of Python's that a killed process cannot remove."""
GROUPS = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
print(sum(group["state"] != "REMOVED" for group in ray.util.placement_group_table().values()))
"""


def settings(folder: Path, name: str, workers: int | list[int]) -> dict[str, Any]:
    return {
        "name": name,
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1500, "lanes": 2, "max_length": 100},
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 5},
        "training": {
            "steps": STEPS,
            "precision": "fp32",
            "validate_every": STEPS,
            "checkpoint_every": CADENCE,
            "log_every": 1,
        },
        "cluster": {"num_workers": workers, "cpus_per_worker": 2, "threads_per_worker": 1},
    }


@dataclass
class Steps:
    """All steps that a run computes, those too that it computes again; read from metrics.jsonl as it grows."""

    run: Path
    seen: list[tuple[float, int]] = field(default_factory=list)
    """Time and step."""
    _rows: dict[int, dict[str, Any]] = field(default_factory=dict)

    def follow(self, done: threading.Event) -> None:
        tail = MetricsTail(self.run)
        while not done.wait(0.05):
            for row in tail.read()[0]:
                if "loss" in row and row != self._rows.get(row["step"]):  # kept over a restart: the very same row
                    self._rows[row["step"]] = row
                    self.seen.append((time.time(), row["step"]))

    def last(self) -> int:
        return self.seen[-1][1] if self.seen else 0

    def again(self) -> int:
        return len(self.seen) - len({step for _, step in self.seen})

    def longest_gap(self, since: float) -> tuple[float, float]:
        """The longest time without a step that ends after `since`, and from `since` to a step never computed before."""
        times = [at for at, _ in self.seen]
        gap = max(b - a for a, b in pairwise(times) if b >= since)
        most = max((step for at, step in self.seen if at < since), default=0)
        return gap, min((at for at, step in self.seen if at >= since and step > most), default=since) - since


@dataclass
class Row:
    """A line of the table."""

    fault: str
    happened: str
    code: int
    steps_again: int
    without_step: float
    """Seconds, the longest time."""
    largest_difference: float
    """Relative, of any step's loss from the undisturbed run's."""
    steps: bool
    """Whether metrics.jsonl holds each step once."""
    left: list[str]
    """Processes, placement groups and temporary files that outlived the run."""


class Run:
    """The verb in a process of its own."""

    def __init__(self, nodes: RayNodes, name: str, workers: int | list[int], prefix: tuple[str, ...] = ()) -> None:
        self.nodes, self.prefix = nodes, prefix
        self.directory = nodes.folder / "runs" / name
        self._file = nodes.folder / f"{name}.yaml"
        self._file.write_text(yaml.safe_dump(settings(nodes.folder, name, workers)))
        self.steps = Steps(self.directory)
        self._done = threading.Event()
        self._follower = threading.Thread(target=self.steps.follow, args=(self._done,), daemon=True)
        self._follower.start()
        self.submit()

    def submit(self) -> None:
        command = [*self.prefix, sys.executable, "-m", "proteinlm", "pretrain", str(self._file)]
        env = self.nodes.env | {"RAY_ADDRESS": self.nodes.address}
        with (self.nodes.folder / "said").open("a") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)

    def wait_for(self, step: int, seconds: float = 300) -> None:
        try:
            wait_until(lambda: self.steps.last() >= step or self.process.poll() is not None, seconds)
        except TimeoutError:
            self._raise(f"no step {step}")
        if self.steps.last() < step:
            self._raise(f"ended before step {step}")

    def _raise(self, what: str) -> None:
        raise RuntimeError(f"{what}: {(self.nodes.folder / 'said').read_text()[-3000:]}")

    def end(self, seconds: float = 400) -> int:
        try:
            code = self.process.wait(seconds)
        finally:
            time.sleep(0.2)
            self._done.set()
            self._follower.join()
        if code:
            print((self.nodes.folder / "said").read_text()[-3000:], file=sys.stderr)
        return code


# Each fault: given nodes and run, does its harm and says what it did.


def kill_worker(nodes: RayNodes, run: Run) -> str:
    victim = [worker for node in WORKERS for worker in nodes.trains(node)][-1]
    victim.send_signal(signal.SIGKILL)
    return "one worker killed"


def in_use(nodes: RayNodes) -> list[Node]:
    return [node for node in WORKERS if nodes.trains(node)]


def kill_node(nodes: RayNodes, run: Run) -> str:
    return f"raylet and all, {nodes.signal(in_use(nodes)[-1], signal.SIGKILL)} processes killed"


def drain_node(nodes: RayNodes, run: Run) -> str:
    """The whole way: the cloud's metadata service announces it, the watcher drains, the machine goes."""
    node = in_use(nodes)[-1]
    with metadata_service() as service:
        service.announce(DRAIN_SECONDS)
        deadline = wait_for_notice("aws", service.base)
        assert drain(nodes.address, lambda one: one.node_name == node.name, deadline, "spot")
    time.sleep(max(0.0, deadline - time.time()))
    at = run.steps.last()
    nodes.signal(node, signal.SIGKILL)
    return f"announced {DRAIN_SECONDS} s before; went on to step {at} meanwhile"


def restart_gcs(nodes: RayNodes, run: Run) -> str:
    (server,) = [one for one in nodes.processes(HEAD) if "gcs_server" in one.name()]
    command, environ = server.cmdline(), server.environ()
    server.send_signal(signal.SIGKILL)
    time.sleep(3)
    with (nodes.folder / "gcs-again").open("w") as said:
        subprocess.Popen(command, env=environ, stdout=said, stderr=said)
    return "the head's GCS process killed, started again 3 s later"


def restart_head(nodes: RayNodes, run: Run) -> str:
    run.process.send_signal(signal.SIGKILL)
    hit = nodes.signal(HEAD, signal.SIGKILL)
    run.process.wait()
    time.sleep(3)
    nodes.start_head(HEAD, "--num-cpus=1")
    run.submit()
    return f"all {hit} processes and the driver killed, head and run started again"


FAULTS: dict[str, tuple[Callable[[RayNodes, Run], str], int | list[int]]] = {
    "worker": (kill_worker, 2),
    "node": (kill_node, 2),
    "drain": (drain_node, 2),
    "drain-elastic": (drain_node, [1, 2]),
    "gcs": (restart_gcs, 2),
    "head": (restart_head, 2),
}
CUTS = {"cut-short": SHORT_CUT, "cut-long": None}


def reference(file: Path) -> list[float]:
    """The undisturbed run's losses, of an embedded Ray on this machine."""
    if not file.is_file():
        with RayNodes() as nodes:
            write_corpus(nodes)
            values = settings(nodes.folder, "alone", 2)
            values["cluster"] |= {"cpus_per_worker": 0.5}
            path = nodes.folder / "alone.yaml"
            path.write_text(yaml.safe_dump(values))
            command = [sys.executable, "-m", "proteinlm", "pretrain", str(path)]
            subprocess.run(command, cwd=ROOT, env=nodes.env, check=True, stdout=subprocess.DEVNULL)
            file.write_text(json.dumps(losses(nodes.folder / "runs" / "alone")))
    return list(json.loads(file.read_text()))


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if "loss" in row]


def write_corpus(nodes: RayNodes) -> None:
    (nodes.folder / "corpus").mkdir()
    write_small_corpus(nodes.folder / "corpus", proteins=4000)


def measure(fault: str, expected: list[float]) -> Row:
    with ExitStack() as stack:
        nodes = stack.enter_context(RayNodes())
        write_corpus(nodes)
        network = stack.enter_context(two_networks(nodes)) if fault in CUTS else None
        head, workers = (network.head, network.workers) if network else (HEAD, WORKERS)
        nodes.start_head(head, "--num-cpus=1")
        used = workers[:2] if fault == "drain-elastic" else workers
        for node in used:
            nodes.start_worker(node, 2, *(network.options(node) if network else ()))
        harm, group = (network.cut(CUTS[fault]), 2) if network else FAULTS[fault]
        run = Run(nodes, fault, group, head.prefix)
        run.wait_for(AT)
        since = time.time()
        happened = harm(nodes, run)
        code = run.end()
        gap, _ = run.steps.longest_gap(since)
        found = losses(run.directory)
        return Row(
            fault,
            happened,
            code,
            run.steps.again(),
            gap,
            max((abs(a / b - 1) for a, b in zip(found, expected, strict=False)), default=1.0),
            [row["step"] for row in read_metrics(run.directory) if "loss" in row] == list(range(1, STEPS + 1)),
            left_behind(nodes, head),
        )


def left_behind(nodes: RayNodes, head: Node) -> list[str]:
    """Processes, placement groups and temporary files of the run, ten seconds after its end."""
    with suppress(TimeoutError):
        wait_until(lambda: not left_of_a_run(), 10)
    groups = nodes.python(GROUPS, nodes.address, prefix=head.prefix)
    return [
        *left_of_a_run(),
        *([f"{groups} placement groups"] if groups != "0" else []),
        *(path.name for path in (nodes.folder / "tmp").iterdir() if not path.name.startswith(NOT_OURS)),
    ]


ADDRESSES = {"x": "10.231.77.2", "y": "10.231.78.2"}
"""Of the two sides."""


@dataclass(frozen=True)
class Networks:
    """Two network namespaces and a third between them, a router; node b is alone on its side."""

    name: str
    nodes: RayNodes

    def side(self, node: Node) -> str:
        return "y" if node.name == "b" else "x"

    def inside(self, side: str) -> tuple[str, ...]:
        return ("ip", "netns", "exec", f"{self.name}{side}")

    @property
    def head(self) -> Node:
        return Node("head", self.inside("x"))

    @property
    def workers(self) -> tuple[Node, ...]:
        return tuple(Node(node.name, self.inside(self.side(node))) for node in WORKERS)

    def options(self, node: Node) -> tuple[str, ...]:
        return (f"--node-ip-address={ADDRESSES[self.side(node)]}",)

    def forward(self, on: bool) -> None:
        sh(*self.inside("r"), "sh", "-c", f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward")

    def cut(self, seconds: float | None) -> Callable[[RayNodes, Run], str]:
        def harm(nodes: RayNodes, run: Run) -> str:
            self.forward(False)
            began = time.monotonic()
            if seconds:
                time.sleep(seconds)
            else:
                at = run.steps.last()
                wait_until(lambda: run.steps.last() != at, 200)  # it goes on elsewhere
            cut = time.monotonic() - began
            self.forward(True)
            return f"nothing between two nodes for {cut:.0f} s"

        return harm


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def two_networks(nodes: RayNodes) -> Iterator[Networks]:
    made = Networks(nodes.folder.name, nodes)
    nodes.ip = ADDRESSES["x"]
    nodes.env["GLOO_SOCKET_IFNAME"] = "eth0"  # else what the host name resolves to, often 127.0.0.1
    names = [f"{made.name}{side}" for side in "xry"]
    try:
        for name in names:
            sh("ip", "netns", "add", name)
            sh("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        for side, address in ADDRESSES.items():
            gateway, router = address[:-1] + "1", f"to-{side}"
            sh("ip", "link", "add", "eth0", "netns", f"{made.name}{side}", "type", "veth", "peer", "name", router,
               "netns", names[1])  # fmt: skip
            for name, card, own in ((f"{made.name}{side}", "eth0", address), (names[1], router, gateway)):
                sh("ip", "-n", name, "address", "add", f"{own}/24", "dev", card)
                sh("ip", "-n", name, "link", "set", card, "up")
            sh("ip", "-n", f"{made.name}{side}", "route", "add", "default", "via", gateway)
        made.forward(True)
        yield made
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, *CUTS, []], default=[])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of the table")
    given = parser.parse_args()
    with ExitStack() as stack:
        if given.reference is None:
            import tempfile

            given.reference = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "losses.json"
        expected = reference(given.reference)
        for fault in given.faults or [*FAULTS, *CUTS]:
            row = measure(fault, expected)
            if given.json:
                print(json.dumps(asdict(row)), flush=True)
                continue
            print(
                f"{row.fault:14} {row.steps_again:3} steps again  {row.without_step:6.1f} s without a step  "
                f"loss off by {row.largest_difference:.1g}  code {row.code}, each step once: {row.steps}, "
                f"left: {row.left or 'nothing'}; {row.happened}",
                flush=True,
            )


if __name__ == "__main__":
    main()

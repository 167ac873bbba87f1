"""What can happen to a run on several Ray nodes. Each fault does its harm and says what it did.

The nodes: a head that trains nothing and three workers, of which a run of two workers uses two. For the cuts, which
need root, there are two network namespaces and a router between them that stops forwarding; node b is alone on its
side. (No packet filter and no traffic control: not every machine's kernel has them.)
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from proteinlm.cluster.spot_notice import drain, wait_for_notice
from tests.made.metadata_service import metadata_service
from tests.made.ray_nodes import Node, RayNodes, wait_until
from tests.made.watched_run import WatchedRun

DRAIN_SECONDS = 8
SHORT_CUT = 5.0
"""Seconds: shorter than Ray takes to notice (5 health checks, each 3 s after the last and given 10 s)."""
HEAD, WORKERS = Node("head"), (Node("a"), Node("b"), Node("c"))
ADDRESSES = {"x": "10.231.77.2", "y": "10.231.78.2"}
"""Of the two sides of the router, for the cuts."""


def kill_worker(nodes: RayNodes, run: WatchedRun) -> str:
    victim = [worker for node in WORKERS for worker in nodes.trains(node)][-1]
    victim.send_signal(signal.SIGKILL)
    return "one worker killed"


def in_use(nodes: RayNodes) -> list[Node]:
    return [node for node in WORKERS if nodes.trains(node)]


def kill_node(nodes: RayNodes, run: WatchedRun) -> str:
    return f"raylet and all, {nodes.signal(in_use(nodes)[-1], signal.SIGKILL)} processes killed"


def drain_node(nodes: RayNodes, run: WatchedRun) -> str:
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


def restart_gcs(nodes: RayNodes, run: WatchedRun) -> str:
    (server,) = [one for one in nodes.processes(HEAD) if "gcs_server" in one.name()]
    command, environ = server.cmdline(), server.environ()
    server.send_signal(signal.SIGKILL)
    time.sleep(3)
    with (nodes.folder / "gcs-again").open("w") as said:
        subprocess.Popen(command, env=environ, stdout=said, stderr=said)
    return "the head's GCS process killed, started again 3 s later"


def restart_head(nodes: RayNodes, run: WatchedRun) -> str:
    run.process.send_signal(signal.SIGKILL)
    hit = nodes.signal(HEAD, signal.SIGKILL)
    run.process.wait()
    time.sleep(3)
    nodes.start_head(HEAD, "--num-cpus=1")
    run.submit()
    return f"all {hit} processes and the driver killed, head and run started again"


def cut(nodes: RayNodes, run: WatchedRun, seconds: float | None) -> str:
    """Nothing is forwarded for `seconds`; None: until the run goes on without node b."""
    forward(nodes, False)
    began = time.monotonic()
    time.sleep(seconds or SHORT_CUT)
    if seconds is None:
        at = len(run.steps.seen)
        wait_until(lambda: len(run.steps.seen) > at, 200)
    lasted = time.monotonic() - began
    forward(nodes, True)
    return f"nothing between two nodes for {lasted:.0f} s"


@dataclass(frozen=True)
class Fault:
    """What is done, to a run of how many workers, on how many nodes."""

    harm: Callable[[RayNodes, WatchedRun], str]
    num_workers: int | list[int] = 2
    nodes: int = len(WORKERS)
    is_cut: bool = False


FAULTS = {
    "worker": Fault(kill_worker),
    "node": Fault(kill_node),
    "drain": Fault(drain_node),
    "drain-elastic": Fault(drain_node, [1, 2], nodes=2),
    "gcs": Fault(restart_gcs),
    "head": Fault(restart_head),
    "cut-short": Fault(partial(cut, seconds=SHORT_CUT), is_cut=True),
    "cut-long": Fault(partial(cut, seconds=None), is_cut=True),
}


def sh(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def namespace(nodes: RayNodes, side: str) -> str:
    return f"{nodes.folder.name}{side}"


def forward(nodes: RayNodes, on: bool) -> None:
    router = namespace(nodes, "r")
    sh("ip", "netns", "exec", router, "sh", "-c", f"echo {int(on)} > /proc/sys/net/ipv4/ip_forward")


@contextmanager
def two_networks(nodes: RayNodes) -> Iterator[tuple[Node, ...]]:
    """Inside the body there are two namespaces and a router; yields head and workers, each with its side."""
    nodes.ip = ADDRESSES["x"]
    nodes.env["GLOO_SOCKET_IFNAME"] = "eth0"  # else what the host name resolves to, often 127.0.0.1
    router = namespace(nodes, "r")
    try:
        for side in ("r", *ADDRESSES):
            sh("ip", "netns", "add", namespace(nodes, side))
            sh("ip", "-n", namespace(nodes, side), "link", "set", "lo", "up")
        for side, address in ADDRESSES.items():
            end, gateway, card = namespace(nodes, side), address[:-1] + "1", f"to-{side}"
            sh("ip", "link", "add", "eth0", "netns", end, "type", "veth", "peer", "name", card, "netns", router)
            for name, device, own in ((end, "eth0", address), (router, card, gateway)):
                sh("ip", "-n", name, "address", "add", f"{own}/24", "dev", device)
                sh("ip", "-n", name, "link", "set", device, "up")
            sh("ip", "-n", end, "route", "add", "default", "via", gateway)
        forward(nodes, True)
        sides = {node.name: "y" if node.name == "b" else "x" for node in (HEAD, *WORKERS)}
        yield tuple(
            Node(name, ("ip", "netns", "exec", namespace(nodes, side)), ADDRESSES[side]) for name, side in sides.items()
        )
    finally:
        for side in ("r", *ADDRESSES):
            subprocess.run(["ip", "netns", "del", namespace(nodes, side)], check=False, capture_output=True)

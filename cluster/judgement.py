"""What is said of measured values of a cluster: ok, warn or fail, what was found, and what mends it.

Nothing is measured here (node_probe.py, doctor.py): each judgement is a function of values alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proteinlm.cluster.connect import ClusterSize
from proteinlm.cluster.launch import DATA_CPUS
from proteinlm.cluster.node_probe import REDUCED_ELEMENTS, NodeFacts

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 1024**3

SKEW_WARN, SKEW_FAIL = 1.0, 300.0
"""Seconds. Times in logs no longer tell an order; S3 and TLS refuse requests whose time is minutes off."""
FULL_DISK = 0.95
"""Used part above which Ray makes no more objects (local_fs_capacity_threshold)."""
LITTLE_DISK = 10 * GIB
LEAST_SHARED = 256 * 1024**2
"""Docker gives 64 MiB; one process of DeepSpeed or NCCL takes tens of MiB."""
LEAST_OBJECTS = 512 * 1024**2
"""Four of Ray Data's blocks of at most 128 MiB."""


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    state: str
    found: str
    mend: str = ""

    def line(self) -> str:
        """As a line of the doctor's report."""
        return f"{self.state:<5} {self.name}: {self.found}" + (f"; {self.mend}" if self.mend else "")


@dataclass(frozen=True)
class Reduced:
    """An all-reduce between processes."""

    backend: str
    world: int
    is_within_node: bool
    seconds: float
    total: float
    """Sum of a one from each process."""


def judge_versions(name: str, driver: str, nodes: dict[str, str], is_exact: bool = True) -> Check:
    """The version of `name` on the driver and on each node; not exact: up to the second dot."""

    def significant(version: str) -> str:
        return version if is_exact else ".".join(version.split(".")[:2])

    missing = [node for node, version in nodes.items() if not version]
    if missing:
        return Check(name, FAIL, f"not there on {', '.join(missing)}", "install it, or use the image of cluster/images")
    other = {node: version for node, version in nodes.items() if significant(version) != significant(driver)}
    if other:
        listed = ", ".join(f"{version} on {node}" for node, version in other.items())
        return Check(name, FAIL, f"{driver or 'none'} here, {listed}", "use one image, or constraints.txt, everywhere")
    return Check(name, OK, f"{driver} on {count(len(nodes), 'node')}")


def judge_gpus(node: NodeFacts) -> Check:
    """Whether torch's build has code for the GPUs of a node."""
    kinds = sorted({(card.major, card.minor, card.name) for card in node.cards})
    for major, minor, name in kinds:
        if not runs_on((major, minor), node.built_for):
            mend = (
                "V100 (sm_70) needs a build for CUDA 12.6"
                if (major, minor) == (7, 0)
                else "install a build that has it"
            )
            found = (
                f"{node.node}: {name} is sm_{major}{minor}, torch {node.torch} is built for {' '.join(node.built_for)}"
            )
            return Check("GPU and torch", FAIL, found, f"{mend} (cluster/images, BACKEND=cu126)")
    listed = ", ".join(f"{name} (sm_{major}{minor})" for major, minor, name in kinds)
    return Check("GPU and torch", OK, f"{node.node}: {len(node.cards)} x {listed}, torch {node.torch}")


def runs_on(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a build for `built_for` (sm_70, sm_90a, compute_90) runs on a GPU of `capability`."""
    for kind, major, minor in (match.groups() for name in built_for if (match := BUILT.fullmatch(name))):
        built = int(major), int(minor)
        if built <= capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


BUILT = re.compile(r"(sm|compute)_(\d+)(\d)[af]?")


def judge_cpus(size: ClusterSize, free: float) -> Check:
    """Whether training leaves CPUs for Ray Data."""
    least = max(size.gpus, 0.1) + DATA_CPUS
    found = f"{size.cpus:g}, {free:g} of them free, {size.gpus:g} GPUs"
    if size.cpus < 0.1 + DATA_CPUS:
        return Check("CPUs", FAIL, found, f"a run needs {DATA_CPUS:g} for data and some for its workers; add nodes")
    if size.cpus < least:
        return Check("CPUs", WARN, found, f"a CPU for each GPU and {DATA_CPUS:g} for data are {least:g}")
    if free < 0.1 + DATA_CPUS:
        return Check("CPUs", WARN, found, "something else has them; a run waits for it")
    return Check("CPUs", OK, found)


def judge_clock(node: str, offset: float, uncertainty: float) -> Check:
    """How far a node's clock is from the driver's, in seconds."""
    found = f"{node}: {offset:+.3f} s, to {uncertainty:.3f} s"
    beyond = max(0.0, abs(offset) - uncertainty)
    state = FAIL if beyond > SKEW_FAIL else WARN if beyond > SKEW_WARN else OK
    return Check("clock", state, found, "" if state == OK else "let chrony or systemd-timesyncd set it")


def judge_disk(node: NodeFacts) -> Check:
    """Room where Ray keeps logs, code and spilled objects."""
    found = f"{node.node}: {node.disk_free / GIB:.1f} of {node.disk_total / GIB:.1f} GiB free"
    if node.disk_free < (1 - FULL_DISK) * node.disk_total:
        return Check("disk", FAIL, found, f"above {FULL_DISK:.0%} Ray stores no objects; free some, or a larger disk")
    if node.disk_free < LITTLE_DISK:
        return Check("disk", WARN, found, "checkpoints are written there before they are put up; a larger disk")
    return Check("disk", OK, found)


def judge_memory(node: NodeFacts) -> Check:
    """/dev/shm and Ray's object store, which lies in it."""
    store = f"{node.node}: object store {node.object_store / GIB:.2f} GiB"
    if node.shared_total is None or node.shared_free is None:
        return Check("shared memory", OK, f"{store}, no /dev/shm on this system")
    found = f"{store}, /dev/shm {node.shared_free / GIB:.2f} of {node.shared_total / GIB:.2f} GiB free"
    if node.shared_free < LEAST_SHARED:
        return Check("shared memory", FAIL, found, "docker run --shm-size, or an emptyDir with medium: Memory")
    if node.shared_total < node.object_store:
        return Check("shared memory", WARN, found, "Ray keeps objects on the disk instead; a larger --shm-size")
    if node.object_store < LEAST_OBJECTS:
        return Check("shared memory", WARN, found, "few blocks of data fit; ray start --object-store-memory")
    return Check("shared memory", OK, found)


def judge_dashboard(address: str | None, status: int, is_reached: bool, is_own_machine: bool) -> list[Check]:
    """Authentication, from what the dashboard answers to a question without a token, and who can ask."""
    if address is None:
        return [Check("dashboard", WARN, "none", "jobs cannot be sent, and Ray Train frees no dead run's resources")]
    asks = status in (401, 403)
    if asks:
        token = Check("token", OK, "on: without it the dashboard refuses")
    else:
        state = WARN if is_own_machine else FAIL
        token = Check(
            "token", state, f"off: the dashboard answers {status} without one", "RAY_AUTH_MODE=token at all starts"
        )
    if not is_reached:
        return [token, Check("dashboard", OK, f"{address}, reached from its own machine alone")]
    state = WARN if asks else FAIL
    mend = "--dashboard-host=127.0.0.1 and a tunnel, or close the port to all but the cluster"
    return [token, Check("dashboard", state, f"{address} listens for every network of the head", mend)]


def judge_ports(nodes: Sequence[NodeFacts], has_token: bool) -> Check:
    """TCP ports that others reach; who does is a firewall's matter, of which a node knows nothing."""
    listed = "; ".join(f"{node.node}: {port_list(node.listening)}" for node in nodes)
    found = f"open to the network: {listed}" if any(node.listening for node in nodes) else "none is open to the network"
    if has_token or not any(node.listening for node in nodes):
        return Check("ports", OK, found)
    return Check("ports", WARN, found, "without a token whoever reaches them runs code; close them to others")


def port_list(ports: Sequence[int], most: int = 12) -> str:
    """Ports as text, the lowest first."""
    more = f" and {len(ports) - most} more" if len(ports) > most else ""
    return (" ".join(map(str, ports[:most])) or "none") + more


def judge_reduce(reduced: Reduced) -> Check:
    """Whether gradients add up, and how fast: bytes that each process sends and receives a second."""
    where = f"{reduced.world} processes {'of one node' if reduced.is_within_node else 'on as many nodes'}"
    if reduced.total != reduced.world:
        found = f"{reduced.backend}, {where}: the sum of ones is {reduced.total:g}"
        return Check("all-reduce", FAIL, found, "a faulty GPU or link: nvidia-smi -q, NCCL_DEBUG=INFO")
    sent = 2 * (reduced.world - 1) / reduced.world * 4 * REDUCED_ELEMENTS
    found = f"{reduced.backend}, {where}: {sent / reduced.seconds / 1e9:.2f} GB/s"
    return Check("all-reduce", OK, found)


def judge_storage(storage: str, faults: dict[str, str]) -> Check:
    """What each node said of writing and reading."""
    bad = {node: fault for node, fault in faults.items() if fault}
    if not bad:
        return Check("storage", OK, f"{storage}: {count(len(faults), 'node')} wrote and read what the others wrote")
    found = "; ".join(f"{node} {fault}" for node, fault in bad.items())
    mend = "a directory that all nodes share, writable for the container's user, or a URI with the nodes' right to it"
    return Check("storage", FAIL, f"{storage}: {found}", mend)


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""Is this cluster fit for a run? Each check is a line: ok, warn or fail, what was found, and what mends it.

    for check in examine(["s3://bucket/runs"], is_own_machine=False):       Ray must be connected
        print(check.line())

A judgement is a function of measured values; node_probe.py measures them on each node.
"""

import os
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import time
from typing import Any

from proteinlm.cluster.connect import ClusterSize, cluster_size, dashboard_address
from proteinlm.cluster.launch import DATA_CPUS
from proteinlm.cluster.node_probe import REDUCED_ELEMENTS, NodeFacts, of_torch, start_probe

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 1024**3

ANSWER_SECONDS = 180.0
"""For a node to start a process and measure itself."""
REDUCE_SECONDS = 60.0
"""For nodes to find each other."""
CLOCK_TRIES = 5

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


def examine(storages: Sequence[str], *, is_own_machine: bool) -> Iterator[Check]:
    """Measure and judge the connected cluster, a check at a time; `is_own_machine`: with a Ray made for it."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    session: str = ray._private.worker.global_worker.node.get_session_dir_path()  # type: ignore[union-attr]
    probes = {node["NodeID"]: start_probe(node["NodeID"]) for node in nodes}
    stores = {node["NodeID"]: int(node["Resources"].get("object_store_memory", 0)) for node in nodes}
    asked = {key: probe.facts.remote(stores[key], session) for key, probe in probes.items()}
    facts: dict[str, NodeFacts] = {}
    for node in nodes:
        try:
            facts[node["NodeID"]] = ray.get(asked[node["NodeID"]], timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            said = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            mend = "is the package on the node? Send the doctor as a job: --address http://HOST:8265"
            yield Check("node", FAIL, f"{node['NodeManagerAddress']} did not answer: {said[0]}", mend)
    known = {key: probe for key, probe in probes.items() if key in facts}
    yield from _versions(list(facts.values()))
    yield from (judge_gpus(node) for node in facts.values() if node.cards)
    free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    yield judge_cpus(cluster_size(), free)
    for judge in (judge_disk, judge_memory):
        yield from (judge(node) for node in facts.values())
    for key, probe in known.items():
        yield judge_clock(facts[key].node, *_offset(probe))
    yield from _exposure(nodes, known, list(facts.values()), is_own_machine)
    if known:
        yield _reduce(facts)
    for storage in storages:
        yield _storage(storage, {f"{facts[key].node} ({key[:6]})": probe for key, probe in known.items()})


def _versions(nodes: Sequence[NodeFacts]) -> Iterator[Check]:
    import ray

    names = [f"{node.node} ({number})" for number, node in enumerate(nodes, start=1)]
    yield judge_versions("Ray", ray.__version__, dict(zip(names, (node.ray for node in nodes), strict=True)))
    of_nodes = dict(zip(names, (node.python for node in nodes), strict=True))
    yield judge_versions("Python", sys.version.split()[0], of_nodes, is_exact=False)
    yield judge_versions("torch", of_torch()["version"], dict(zip(names, (node.torch for node in nodes), strict=True)))


def _offset(probe: Any) -> tuple[float, float]:
    """A node's clock less the driver's, and how far off that may be: half the time of the fastest question."""
    import ray

    best = (0.0, float("inf"))
    for _ in range(CLOCK_TRIES):
        before = time()
        there = ray.get(probe.clock.remote())
        after = time()
        if (after - before) / 2 < best[1]:
            best = there - (before + after) / 2, (after - before) / 2
    return best


def _exposure(
    nodes: Sequence[dict[str, Any]], probes: dict[str, Any], facts: Sequence[NodeFacts], is_own_machine: bool
) -> Iterator[Check]:
    import ray

    head = [node["NodeID"] for node in nodes if "node:__internal_head__" in node["Resources"]]
    address, status, is_reached = dashboard_address(), 0, False
    if address and head and head[0] in probes:
        status, is_reached = ray.get(probes[head[0]].asks_for_token.remote(address))
    checks = judge_dashboard(address, status, is_reached, is_own_machine)
    yield from checks
    yield judge_ports(facts, has_token=status in (401, 403))


def _reduce(facts: dict[str, NodeFacts]) -> Check:
    """An all-reduce between all nodes with a GPU, else between all; within the node where there is one alone."""
    import ray

    with_gpu = [key for key, node in facts.items() if node.cards]
    keys, num_gpus = (with_gpu, 1) if with_gpu else (list(facts), 0)
    is_within = len(keys) == 1
    if is_within and num_gpus and len(facts[keys[0]].cards) == 1:
        num_gpus = 0  # one GPU has nobody to talk to
    free = ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    members = keys * 2 if is_within else keys
    if num_gpus * len(members) > free:
        return Check("all-reduce", WARN, "not tried: the GPUs are in use", "again when they are free")
    actors = [start_probe(key, num_gpus) for key in members]
    backend = "nccl" if num_gpus else "gloo"
    try:
        host, port = ray.get(actors[0].open_port.remote(), timeout=ANSWER_SECONDS)
        rounds = [
            actor.reduce.remote(backend, rank, len(members), f"{host}:{port}", REDUCE_SECONDS)
            for rank, actor in enumerate(actors)
        ]
        results = ray.get(rounds, timeout=ANSWER_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        mend = "let nodes reach each other on all ports; GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME name the interface"
        return Check("all-reduce", FAIL, f"{backend}, {count(len(members), 'process')}: {said}", mend)
    finally:
        for actor in actors:
            ray.kill(actor)
    slowest = max(seconds for _, seconds in results)
    return judge_reduce(Reduced(backend, len(members), is_within, slowest, results[0][0]))


def _storage(storage: str, probes: dict[str, Any]) -> Check:
    """Each node writes a file, then each reads all, in a folder that is removed again."""
    import ray

    place = storage if "://" in storage else os.path.abspath(os.path.expanduser(storage))
    folder = f"{place.rstrip('/')}/.doctor-{uuid.uuid4().hex[:12]}"
    texts = {f"{number}.txt": node for number, node in enumerate(probes)}
    writing = [
        probe.write.remote(folder, name, texts[name]) for name, probe in zip(texts, probes.values(), strict=True)
    ]
    faults = dict(zip(probes, ray.get(writing), strict=True))
    written = {name: node for name, node in texts.items() if not faults[node]}
    reading = [probe.read.remote(folder, written) for probe in probes.values()]
    for node, fault in zip(probes, ray.get(reading), strict=True):
        faults[node] = faults[node] or fault
    for probe in probes.values():  # in turn: where they share it, the first one removes it
        ray.get(probe.remove.remote(folder))
    return judge_storage(storage, faults)

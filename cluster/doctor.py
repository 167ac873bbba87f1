"""Is this cluster fit for a run? Measured on every node, a line for each check.

    for check in examine(["s3://bucket/runs"], is_own_machine=False):       Ray must be connected
        print(check.line())

node_probe.py measures on each node, judgement.py says what to think of it.
"""

import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from time import time
from typing import Any

from proteinlm.cluster.connect import cluster_size, dashboard_address
from proteinlm.cluster.judgement import (
    FAIL,
    WARN,
    Check,
    Reduced,
    count,
    judge_clock,
    judge_cpus,
    judge_dashboard,
    judge_disk,
    judge_gpus,
    judge_memory,
    judge_ports,
    judge_reduce,
    judge_storage,
    judge_versions,
)
from proteinlm.cluster.launch import last_line
from proteinlm.cluster.node_probe import NodeFacts, start_probe

ANSWER_SECONDS = 180.0
"""For a node to start a process and measure itself."""
REDUCE_SECONDS = 60.0
"""For nodes to find each other."""
CLOCK_TRIES = 5


def examine(storages: Sequence[str], *, is_own_machine: bool) -> Iterator[Check]:
    """Measure and judge the connected cluster, a check at a time; `is_own_machine`: with a Ray made for it."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]  # Ray has no types here
    session: str = ray._private.worker.global_worker.node.get_session_dir_path()  # type: ignore[union-attr]  # connected
    probes = {node["NodeID"]: start_probe(node["NodeID"]) for node in nodes}
    stores = {node["NodeID"]: int(node["Resources"].get("object_store_memory", 0)) for node in nodes}
    asked = {key: probe.facts.remote(stores[key], session) for key, probe in probes.items()}
    facts: dict[str, NodeFacts] = {}
    for node in nodes:
        try:
            facts[node["NodeID"]] = ray.get(asked[node["NodeID"]], timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            mend = "is the package on the node? Send the doctor as a job: --address http://HOST:8265"
            yield Check("node", FAIL, f"{node['NodeManagerAddress']} did not answer: {last_line(error)}", mend)
    known = {key: probe for key, probe in probes.items() if key in facts}
    yield from _versions(list(facts.values()))
    yield from (judge_gpus(node) for node in facts.values() if node.cards)
    free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]  # Ray has no types here
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
    try:
        here = version("torch")
    except PackageNotFoundError:
        here = ""
    explained = [
        f"{name}: {node.torch_fault}" if node.torch_fault else name for name, node in zip(names, nodes, strict=True)
    ]
    yield judge_versions("torch", here, dict(zip(explained, (node.torch for node in nodes), strict=True)))


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
    free = ray.available_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]  # Ray has no types here
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
        mend = "let nodes reach each other on all ports; GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME name the interface"
        return Check("all-reduce", FAIL, f"{backend}, {count(len(members), 'process')}: {last_line(error)}", mend)
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

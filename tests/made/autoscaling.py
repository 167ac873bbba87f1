"""Ray's real autoscaler over nodes that are processes: node types, limits and priorities of a cluster file.

    python -m tests.made.autoscaling {demand,pretrain,sweep,infeasible} [FILE]

demand: with the file's GPUs, from none to two worker nodes and back. The others run a verb on `local.yaml`, asking for
more than max_workers: an elastic pretraining, the tiny sweep, and one that no node type can take. Prints one JSON line.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.made.ray_nodes import Node, RayNodes, wait_until
from tests.made.small_sweep import small_sweep

CONFIGS = ROOT / "cluster" / "configs"
HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
HEAD_TYPE = "ray.head.default"
"""The fake provider knows its head by these two names only."""
IDLE_SECONDS = 6.0
HEAD = Node("head")
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
ASK = """
import sys, time, ray
from ray.util.placement_group import placement_group, remove_placement_group
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
group = placement_group([{"CPU": 1, "GPU": 1}] * int(sys.argv[2]))
ray.get(group.ready(), timeout=60)
open(sys.argv[3], "w").close()
time.sleep(1)
remove_placement_group(group)
"""


def over_fake_nodes(config: Mapping[str, Any], gcs_address: str) -> dict[str, Any]:
    """`config`'s own node types, limits, priorities and labels over the fake provider."""
    types = {}
    for name, kind in config["available_node_types"].items():
        kept = {
            key: value for key, value in kind.items() if key in {"min_workers", "max_workers", "priority", "labels"}
        }
        resources = {**kind["resources"], "object_store_memory": 100_000_000}
        types[HEAD_TYPE if name == config["head_node_type"] else name] = {
            **kept,
            "resources": resources,
            "node_config": {},
        }
    local = yaml.safe_load((CONFIGS / "local.yaml").read_text())
    return local | {
        "cluster_name": config["cluster_name"],
        "max_workers": config["max_workers"],
        "upscaling_speed": config["upscaling_speed"],
        "idle_timeout_minutes": IDLE_SECONDS / 60,
        "available_node_types": types,
        "head_node_type": HEAD_TYPE,
        "provider": local["provider"] | {"gcs_address": gcs_address},
    }


class Watch:
    """The worker nodes as they come and go."""

    def __init__(self, nodes: RayNodes) -> None:
        from ray._raylet import GcsClient

        self._client = GcsClient(address=nodes.address)
        self._began = time.monotonic()
        self.seen: list[tuple[float, list[str]]] = []
        """Seconds, and the markets of the worker nodes alive since then."""

    def look(self) -> list[str]:
        from ray.core.generated.gcs_pb2 import GcsNodeInfo

        alive = [
            node.labels.get("market", "")
            for node_id, node in self._client.get_all_node_info().items()
            if node.state == GcsNodeInfo.ALIVE and node_id.hex() != HEAD_ID
        ]
        now = sorted(alive)
        if not self.seen or self.seen[-1][1] != now:
            self.seen.append((round(time.monotonic() - self._began, 1), now))
        return now

    def until(self, condition: Callable[[], object], seconds: float) -> float:
        """Seconds since the start when `condition()` came to hold."""
        wait_until(lambda: (self.look(), condition())[1], seconds, 0.2)
        return round(time.monotonic() - self._began, 1)


def start(nodes: RayNodes, file: Path) -> Watch:
    path = nodes.folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(over_fake_nodes(yaml.safe_load(file.read_text()), nodes.address)))
    nodes.env |= ENVIRONMENT
    nodes.start_head(HEAD, "--num-cpus=0", f"--autoscaling-config={path}")
    return Watch(nodes)


def demand(nodes: RayNodes, watch: Watch) -> dict[str, Any]:
    """12 GPUs: two nodes of 8."""
    placed = nodes.folder / "placed"
    with (nodes.folder / "said").open("w") as said:
        command = [sys.executable, "-c", ASK, nodes.address, "12", str(placed)]
        asking = subprocess.Popen(command, env=nodes.env, stdout=said, stderr=said)
    at = watch.until(placed.exists, 90)
    asking.wait(60)
    released = watch.until(lambda: True, 5)
    return {"placed": at, "released": released, "code": asking.returncode}


PRETRAIN = {
    "model": {"preset": "cpu-tiny"},
    "batches": {"micro_batch_residues": 1000, "lanes": 4, "max_length": 100},
    "optimizer": {"learning_rate": 5e-4, "warmup_steps": 5},
    "training": {"steps": 60, "precision": "fp32", "validate_every": 60, "checkpoint_every": 30, "log_every": 1},
}


def verb(nodes: RayNodes, watch: Watch, values: dict[str, Any], verb: str, seconds: float = 180) -> dict[str, Any]:
    """Run `proteinlm VERB` on the cluster."""
    path, output = nodes.folder / f"{verb}.yaml", nodes.folder / "said"
    path.write_text(yaml.safe_dump(values))
    with output.open("w") as said:
        command = [sys.executable, "-m", "proteinlm", verb, str(path)]
        env = nodes.env | {"RAY_ADDRESS": nodes.address}
        running = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said)
    ended = watch.until(lambda: running.poll() is not None, seconds)
    return {"ended": ended, "code": running.returncode, "said": output.read_text()[-2000:]}


def pretrain(nodes: RayNodes, watch: Watch) -> dict[str, Any]:
    """One to four workers of a whole node each: there are three nodes at most, and no CPU is left to read with."""
    cluster = {"num_workers": [1, 4], "cpus_per_worker": 3, "threads_per_worker": 1, "autoscaling": True}
    values = PRETRAIN | {"name": "elastic", "storage": str(nodes.folder / "runs"), "cluster": cluster}
    done = verb(nodes, watch, values | {"corpus": str(nodes.folder / "corpus")}, "pretrain")
    worlds = {path.parent.name for path in nodes.folder.glob("runs/elastic/step_*/cursor.json")}
    return done | {"checkpoints": sorted(worlds), "workers": watch.seen}


def sweep(nodes: RayNodes, watch: Watch) -> dict[str, Any]:
    """Five pretrainings of a node each, as many at once as there are nodes for; then their finetunings."""
    shapes = [{"model.hidden_size": 16 * number} for number in range(2, 7)]
    values = small_sweep(
        nodes.folder, "tiny", configurations=shapes, cpus_per_worker=3, max_concurrent=8, autoscaling=True
    )
    done = verb(nodes, watch, values, "sweep", 240)
    finished = {path.parent.name for path in nodes.folder.glob("runs/**/finished.json")}
    return done | {"trials": len(finished), "planned": 2 * len(shapes) + 1}


def infeasible(nodes: RayNodes, watch: Watch) -> dict[str, Any]:
    """Two workers of four CPUs, where every node type has three."""
    cluster = {"num_workers": 2, "cpus_per_worker": 4, "autoscaling": True, "node_minutes": 3}
    values = PRETRAIN | {"name": "large", "storage": str(nodes.folder / "runs"), "cluster": cluster}
    return verb(nodes, watch, values | {"corpus": str(nodes.folder / "corpus")}, "pretrain")


DEMANDS = {"demand": demand, "pretrain": pretrain, "sweep": sweep, "infeasible": infeasible}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(DEMANDS))
    parser.add_argument("file", nargs="?", type=Path)
    given = parser.parse_args()
    file = given.file or CONFIGS / ("aws-v100.yaml" if given.what == "demand" else "local.yaml")
    with RayNodes() as nodes:
        small_sweep(nodes.folder, "inputs")
        watch = start(nodes, file)
        try:
            found = DEMANDS[given.what](nodes, watch)
            found["none_left"] = watch.until(lambda: not watch.look(), 60)
        except Exception:
            print("nodes seen:", watch.seen, file=sys.stderr)
            logs = nodes.folder / "session_latest" / "logs"
            for log in (nodes.folder / "said", *logs.glob("monitor*"), *logs.glob("train/*controller*")):
                if log.is_file():
                    print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
            raise
        print(json.dumps(found | {"seen": watch.seen}))


if __name__ == "__main__":
    main()

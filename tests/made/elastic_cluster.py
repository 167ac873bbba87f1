"""A cluster of two nodes on this machine, of which one is taken away during an elastic run, after Ray's notice.

python -m tests.made.elastic_cluster FOLDER     prints one JSON line of what happened
"""

import json
import os
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.training.tracking import read_metrics
from tests.made.small_corpus import write_small_corpus

STEPS = 400
CADENCE = 200
NOTICE_SECONDS = 6


def config(folder: Path) -> PretrainConfig:
    """One or two workers, each of which takes a node's CPUs."""
    values = {
        "name": "elastic",
        "storage": str(folder / "runs"),
        "corpus": str(folder / "corpus"),
        "model": {"preset": "cpu-tiny"},
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 100},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 5},
        "training": {
            "steps": STEPS,
            "precision": "fp32",
            "validate_every": STEPS,
            "checkpoint_every": CADENCE,
            "keep_checkpoints": 100,
            "log_every": 1,
        },
        "cluster": {"num_workers": [1, 2], "cpus_per_worker": 2, "threads_per_worker": 1},
    }
    return validate(PretrainConfig, values, "test")


def main() -> None:
    """Run, take the second node away, and say which checkpoints there were when it went."""
    import ray
    from ray.cluster_utils import Cluster

    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    run = config(folder)
    with tempfile.TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as temp_dir:
        options = {"object_store_memory": 100_000_000}
        cluster = Cluster(
            initialize_head=True,
            head_node_args=options | {"num_cpus": 3, "temp_dir": temp_dir, "include_dashboard": True},
        )
        second = cluster.add_node(num_cpus=2, **options)
        ray.init(address=cluster.address, log_to_driver=False)
        found: dict[str, Any] = {}
        taker = threading.Thread(target=take_away, args=(cluster, second, run, found), daemon=True)
        taker.start()
        pretrain(run)
        taker.join(timeout=60)
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(found))


def take_away(cluster: Any, node: Any, run: PretrainConfig, found: dict[str, Any]) -> None:
    """Announce that `node` goes, as a cloud does with a spot machine, wait, and kill it."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    while not any(row["step"] >= 40 for row in read_metrics(run.directory)):
        time.sleep(0.05)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline = time.time() + NOTICE_SECONDS
    client = GcsClient(address=cluster.address)
    found["accepted"], _ = client.drain_node(node.node_id, reason, "spot", int(1000 * deadline))
    found["announced_at"] = read_metrics(run.directory)[-1]["step"]
    while time.time() < deadline:
        time.sleep(0.05)
    found["checkpoints"] = sorted(path.parent.name for path in run.directory.glob("step_*/cursor.json"))
    found["taken_at"] = read_metrics(run.directory)[-1]["step"]
    cluster.remove_node(node)


if __name__ == "__main__":
    os.environ |= {"DS_ACCELERATOR": "cpu", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    os.environ.setdefault("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "1")
    main()

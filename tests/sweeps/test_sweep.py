"""A small sweep under Ray Tune: trials in parallel into one table, and nothing that is finished runs again."""

import json
from pathlib import Path

import pytest

from proteinlm.cluster.connect import ClusterSize
from proteinlm.platform.data.simulate import simulate
from proteinlm.platform.results.store import gather_rows
from proteinlm.platform.settings import validate
from proteinlm.sweeps.plan import SweepConfig
from proteinlm.sweeps.sweep import TrialResources, num_concurrent, sweep
from tests.platform.small_corpus import write_small_corpus


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    simulate(folder / "records", num_families=20, proteins_per_family=4, seed=0)
    training = {"steps": 4, "engine": "plain", "precision": "fp32", "validate_every": 4, "checkpoint_every": 4}
    batches = {"micro_batch_residues": 1000, "lanes": 1, "max_length": 200}
    values = {
        "name": "small",
        "storage": str(folder / "runs"),
        "pretrain": {
            "corpus": str(folder / "corpus"),
            "model": {"preset": "cpu-tiny", "num_hidden_layers": 1},
            "batches": batches,
            "training": training,
        },
        "configurations": [{"model.hidden_size": 32}, {"model.num_attention_heads": 4}],
        "finetune": {"data": str(folder / "records"), "batches": batches, "training": training},
        "tasks": [{"task": "secondary_structure_q3", "mode": "frozen"}],
    }
    return validate(SweepConfig, values, "test")


@pytest.mark.usefixtures("ray_cluster")
def test_trials_run_into_one_table_and_once(config: SweepConfig) -> None:
    assert sweep(config) == []
    rows = gather_rows([config.directory])
    models = {"hidden-32-layer-1-head-2", "hidden-64-layer-1-head-4"}
    assert {row.model for row in rows if row.kind == "pretrain"} == models
    assert {(row.model, row.mode) for row in rows if row.kind == "finetune"} == {(model, "frozen") for model in models}
    finetuned = [row for row in rows if row.kind == "finetune" and row.metric == "accuracy"]
    assert {row.split for row in finetuned} == {"valid", "simulated_test"}
    before = {path: json.loads(path.read_text()) for path in config.directory.rglob("run.json")}
    assert len(before) == 4
    stamps = {path: path.stat().st_mtime_ns for path in before}
    assert sweep(config) == []
    assert {path: path.stat().st_mtime_ns for path in before} == stamps


def test_trials_leave_a_cpu_for_reading_data() -> None:
    """Two CPUs and two trials of one worker: with a CPU each, Ray Data would have none and nothing would ever move."""
    small = TrialResources(workers=1, cpus_per_worker=0.5)
    assert num_concurrent(small, ClusterSize(cpus=2, gpus=0, nodes=1)) == 2
    assert num_concurrent(TrialResources(cpus_per_worker=1.0), ClusterSize(cpus=2, gpus=0, nodes=1)) == 1
    assert num_concurrent(small, ClusterSize(cpus=64, gpus=8, nodes=1)) == 8


def test_a_trial_larger_than_the_cluster_is_refused(config: SweepConfig, ray_cluster: None, tmp_path: Path) -> None:
    large = config.model_copy(update={"workers_per_trial": 40, "storage": tmp_path, "seed": 3})
    pretrain = dict(large.pretrain) | {"batches": {"lanes": 40, "micro_batch_residues": 1000, "max_length": 100}}
    finetune = dict(large.finetune) | {"batches": pretrain["batches"]}
    training = {"steps": 1}
    pretrain["training"] = finetune["training"] = training
    with pytest.raises(ValueError, match=r"need 21 CPUs, the cluster has 4"):
        sweep(large.model_copy(update={"pretrain": pretrain, "finetune": finetune}))

"""A job in this process: checkpoints are whole or not there, and a killed run goes on as if it had never stopped."""

import ctypes
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.finetune import finetune
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.results.tables import measure_of
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.settings.yaml_text import to_yaml
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.training.checkpoint import LocalCheckpoints
from proteinlm.platform.training.device import give_back_memory
from proteinlm.platform.training.tracking import read_metrics

ROOT = Path(__file__).resolve().parents[3]
STEPS = 150


def put(checkpoints: LocalCheckpoints, step: int) -> None:
    folder = checkpoints.staging()
    (folder / "state").write_text(str(step))
    (folder / "cursor.json").write_text(json.dumps({"step": step, "residues": 0, "world_size": 1, "figures": {}}))
    checkpoints.take(folder, f"step_{step:08d}_by_1", {}, wait=True)


def test_the_newest_checkpoints_are_kept_and_unfinished_ones_are_not_seen(tmp_path: Path) -> None:
    checkpoints = LocalCheckpoints(tmp_path, keep=2)
    with checkpoints.newest() as none:
        assert none is None
    for step in (10, 20, 30):
        put(checkpoints, step)
    (checkpoints.staging() / "half").write_text("written when the process was killed")
    again = LocalCheckpoints(tmp_path, keep=2)
    with again.newest() as newest:
        assert newest is not None
        assert (newest / "state").read_text() == "30"
    assert sorted(path.name for path in newest.parent.glob("step_*")) == ["step_00000020_by_1", "step_00000030_by_1"]
    assert not any(again.staging().iterdir())


def config(folder: Path, name: str) -> FinetuneConfig:
    training = {"steps": STEPS, "engine": "plain", "precision": "fp32", "log_every": 1}
    values: dict[str, Any] = {
        "name": name,
        "storage": str(folder / "runs"),
        "task": "secondary_structure_q3",
        "data": str(folder / "records"),
        "mode": "scratch",
        "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.1},
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 60},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
        "training": training | {"checkpoint_every": 25, "validate_every": 30, "validation_residues": 2000},
        "with_baselines": False,
    }
    return validate(FinetuneConfig, values, "test")


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_process_costs_nothing_but_time(tmp_path: Path) -> None:
    """Kill -9 in the middle: the same command goes on to the same losses, choice, rows and predictions, bit for bit."""
    simulate(tmp_path / "records", num_families=20, proteins_per_family=6, seed=0)
    whole, killed = config(tmp_path, "whole"), config(tmp_path, "killed")
    finetune(whole)
    (tmp_path / "run.yaml").write_text(to_yaml(killed))
    command = [sys.executable, "-m", "proteinlm", "finetune", str(tmp_path / "run.yaml")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(killed, 60)
    process.kill()
    process.wait()
    assert not (killed.directory / "finished.json").exists()
    assert (killed.directory / "checkpoints").is_dir()
    finetune(killed)
    assert losses(killed) == losses(whole)
    assert [step for step, _ in losses(killed)] == list(range(1, STEPS + 1))
    rows = [[(r.split, r.metric, r.value, r.steps) for r in gather_rows([run.directory])] for run in (killed, whole)]
    assert rows[0] == rows[1]
    predictions = [pq.read_table(run.directory / "predictions" / "valid.parquet") for run in (killed, whole)]
    assert predictions[0].equals(predictions[1])


def losses(run: FinetuneConfig) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run.directory) if "loss" in row]


def wait_for_step(run: FinetuneConfig, step: int) -> None:
    for _ in range(6000):
        if any(row["step"] >= step for row in read_metrics(run.directory)):
            return
        time.sleep(0.02)
    raise TimeoutError(f"{run.directory} did not reach step {step}")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the allocator is not glibc's")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Blocks of five kilobytes that lie between others in use: glibc keeps them until it is told."""
    process = psutil.Process()
    blocks = [bytearray(5_000) for _ in range(100_000)]
    del blocks[:-1]
    kept = process.memory_info().rss
    give_back_memory()
    assert kept - process.memory_info().rss > 200e6


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_whose_records_or_model_changed_says_so_and_stops(tmp_path: Path) -> None:
    """The same command on other labels or other weights: neither the earlier rows nor a mixture."""
    few = {"training": config(tmp_path, "x").training.model_copy(update={"steps": 6}), "with_baselines": True}
    run = config(tmp_path, "run").model_copy(update=few)
    simulate(tmp_path / "records", num_families=20, proteins_per_family=6, seed=0)
    first = finetune(run)
    assert finetune(run) == first, "finished, and nothing changed"
    shutil.rmtree(tmp_path / "records")
    simulate(tmp_path / "records", num_families=20, proteins_per_family=6, seed=1)
    with pytest.raises(ValueError, match=r"data: its content is another than when the run in .*run was started"):
        finetune(run)
    second = finetune(run.model_copy(update={"name": "other"}))
    assert first[1] != second[1], "baselines are known by what they were fitted on"
    measures = [{measure_of(row) for row in gather_rows(runs)} for runs in (first, second)]
    assert measures[0].isdisjoint(measures[1]), "never ranked together"

    def saved(seed: int) -> None:
        torch.manual_seed(seed)
        assert run.model is not None
        encoder = ProteinEncoder(run.model)
        save_pretrained(tmp_path / "pretrained", encoder, LanguageModelHead(run.model, encoder.token_embedding), {})

    saved(0)
    full = {"name": "full", "mode": "full", "pretrained": tmp_path / "pretrained", "model": None}
    finetune(run.model_copy(update=full))
    saved(1)
    with pytest.raises(ValueError, match=r"pretrained: its content is another than when the run in .*full was started"):
        finetune(run.model_copy(update=full))

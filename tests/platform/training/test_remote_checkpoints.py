"""A job in this process with its records and run directory in an S3 server: as on a disk, killed and resumed too."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.finetune import check_finetune, task_data
from proteinlm.platform.places.places import place, put
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.training.driver import run_in_process
from proteinlm.platform.training.job import TrainingJob
from proteinlm.platform.training.remote_checkpoints import StoreCheckpoints
from proteinlm.platform.training.tracking import read_metrics
from tests.conftest import ROOT
from tests.made.object_store import BUCKET, object_store

STEPS = 120


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with object_store() as address:
        yield address


def config(folder: str, name: str) -> FinetuneConfig:
    training = {"steps": STEPS, "engine": "plain", "precision": "fp32", "log_every": 1}
    values: dict[str, Any] = {
        "name": name,
        "storage": f"{folder}/runs",
        "task": "secondary_structure_q3",
        "data": f"{folder}/records",
        "mode": "scratch",
        "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.1},
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 60},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
        "training": training | {"checkpoint_every": 20, "validate_every": 15, "validation_residues": 2000},
        "with_baselines": False,
    }
    return validate(FinetuneConfig, values, "test")


def train_alone(folder: str, name: str) -> FinetuneConfig:
    """Train without Ray: records this small are read by the process itself."""
    run = config(folder, name)
    model, data = check_finetune(run), task_data(run)
    assert model is not None
    run_in_process(TrainingJob.of_finetuning(run, read_manifest(data), data, model), use_gpu=False)
    return run


def losses(run: FinetuneConfig) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run.directory) if "loss" in row]


def kill_after(run: FinetuneConfig, folder: str, step: int) -> None:
    """Start the run in a process of its own, and kill it once a checkpoint of `step` or later is whole."""
    module = "tests.platform.training.test_remote_checkpoints"
    code = f"from {module} import train_alone; train_alone({folder!r}, {run.name!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": _path()})
    try:
        for _ in range(1200):
            whole = [file.parent.name for file in (run.directory / "checkpoints").glob("*/checksums-00000.json")]
            if any(int(name.split("_")[1]) >= step for name in whole):
                return
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        raise TimeoutError("no checkpoint")
    finally:
        process.kill()
        process.wait()


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_a_run_in_a_store_is_the_run_on_a_disk_even_where_it_was_killed(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the process that is killed
    simulate(tmp_path / "records", num_families=20, proteins_per_family=6, seed=0)
    remote = f"s3://{BUCKET}/lab"
    put(tmp_path / "records", place(f"{remote}/records"))
    whole = train_alone(str(tmp_path), "whole")
    killed = config(remote, "killed")
    kill_after(killed, remote, 40)
    assert not (killed.directory / "finished.json").exists()
    before = [row for row in read_metrics(killed.directory) if row["step"] <= 40]
    assert [row["step"] for row in before if "loss" in row] == list(range(1, 41))  # put before the checkpoint was
    train_alone(remote, "killed")
    assert [row for row in read_metrics(killed.directory) if row["step"] <= 40] == before  # speeds too: it went on
    assert losses(killed) == losses(whole)
    rows = [[(r.split, r.metric, r.value, r.steps) for r in gather_rows([run.directory])] for run in (killed, whole)]
    assert rows[0] == rows[1]
    tables = []
    for run in (killed, whole):
        with (run.directory / "predictions" / "valid.parquet").open("rb") as file:
            tables.append(pq.read_table(file))
    assert tables[0].equals(tables[1])
    assert (killed.directory / "finished.json").is_file()
    assert (killed.directory / "model" / "config.json").is_file()
    assert list((killed.directory / "tensorboard").glob("events*"))


def test_a_half_put_checkpoint_is_passed_over_and_old_ones_are_deleted(address: str, tmp_path: Path) -> None:
    directory = place(f"s3://{BUCKET}/checkpoints-alone")
    checkpoints = StoreCheckpoints(directory, keep=2)
    with checkpoints.newest() as folder:
        assert folder is None
    for step in (1, 2, 3):
        _put(checkpoints, step)
    names = [path.name for path in (directory / "checkpoints").iterdir()]
    assert names == ["step_00000002_by_1", "step_00000003_by_1"]
    (directory / "checkpoints" / names[1] / "checksums-00000.json").unlink()  # as where a put was cut off
    with checkpoints.newest() as folder:
        assert folder is not None
        assert folder.name == names[0]
        assert (folder / "state.pt").read_bytes() == b"2"


def _put(checkpoints: StoreCheckpoints, step: int) -> None:
    from proteinlm.platform.training.checkpoint import Cursor, save_checkpoint

    class Engine:
        def save(self, directory: Path) -> None:
            (directory / "state.pt").write_bytes(str(step).encode())

    folder, cursor = checkpoints.staging(), Cursor(step, step, 1, {})
    save_checkpoint(folder, Engine(), cursor, 0)  # type: ignore[arg-type]
    checkpoints.take(folder, cursor.checkpoint_name(), {}, wait=True)

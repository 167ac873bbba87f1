"""Pretraining through Ray Train and DeepSpeed: it learns, explains itself, and survives its workers."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.yaml_text import to_yaml
from proteinlm.platform.storage.phases import read_phases
from proteinlm.platform.training.tracking import read_metrics
from tests.conftest import ROOT
from tests.made.small_corpus import MOTIF, write_small_corpus
from tests.made.small_pretraining import KILLS, STEPS, config, losses, wait_for_step
from tests.made.terminal import signals_of_a_terminal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, ray_cluster: None) -> PretrainConfig:
    """The uninterrupted run that the others are held to: two workers, ZeRO 1."""
    run = config(folder, "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTEINLM_TIMINGS", "1")
        pretrain(run)
    return run


def test_it_learns_what_a_model_without_context_cannot(whole: PretrainConfig) -> None:
    rows = {(row.split, row.metric): row for row in gather_rows([whole.directory])}
    for split in ("valid", "holdout"):
        loss = rows[split, "loss"]
        assert loss.floor is not None
        # The motif tells every residue from any two neighbours; a model that sees no context stays at the floor.
        assert loss.value < 0.5 * loss.floor
        assert loss.low is not None
        assert loss.low < loss.value
        assert loss.is_simulated
        assert loss.mask_seed is not None
        assert loss.num_proteins == 40
    assert set("".join(MOTIF)) == set(MOTIF)


def test_a_run_explains_itself(whole: PretrainConfig) -> None:
    explained = json.loads((whole.directory / "run.json").read_text())
    assert explained["settings"]["optimizer"]["learning_rate"] == 5e-3
    assert len(explained["data_hash"]) == 16
    assert explained["packages"]["ray"] == "2.60.0"
    assert [step for step, _ in losses(whole)] == list(range(1, STEPS + 1))
    metrics = read_metrics(whole.directory)
    assert {"loss", "learning_rate", "gradient_norm", "residues_per_s", "residues"} <= metrics[0].keys()
    validated = next(row for row in metrics if "valid/loss" in row)
    assert {"valid/masked_loss", "valid/perplexity", "holdout/loss"} <= validated.keys()
    assert list((whole.directory / "tensorboard").glob("events*"))
    checkpoints = sorted(path.name for path in whole.directory.glob("step_*"))
    assert checkpoints == ["step_00000200_by_2", "step_00000300_by_2"], "the newest keep_checkpoints stay"
    pretrained = load_pretrained(whole.directory / "model")
    assert pretrained.extra["data_hash"] == explained["data_hash"]


def test_a_worker_tells_what_took_how_long_where_it_was_asked_for(whole: PretrainConfig) -> None:
    phases = {one.name: one for one in read_phases(whole.directory) if one.where == "worker"}
    in_order = ["process, imports, process group", "model, engine and checkpoint", "training", "first step", "results"]
    assert [name for name in phases if name in in_order] == in_order
    assert {"import of DeepSpeed", "matmul peak", "first batch", "validation", "checkpoint"} <= phases.keys()
    training, step = phases["training"], phases["first step"]
    assert training.start <= step.start < step.start + step.seconds < training.start + training.seconds
    assert phases["results"].start >= training.start + training.seconds


def test_a_finished_run_does_nothing_and_other_settings_are_refused(whole: PretrainConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*") if path.is_file()}
    pretrain(whole)
    assert {path: path.stat().st_mtime_ns for path in whole.directory.rglob("*") if path.is_file()} == before
    changed = whole.model_copy(update={"seed": 5})
    with pytest.raises(ValueError, match=r"name: .*whole holds a run of other settings.*\n.*seed: was 0, is 5"):
        pretrain(changed)


def test_killed_workers_cost_nothing_but_time(folder: Path, whole: PretrainConfig) -> None:
    """After kill -9 of a worker at random steps the run ends with the losses of the uninterrupted one, bit for bit."""
    run = config(folder, "workers-killed", checkpoint_every=20)
    chosen = random.Random(7)
    steps = sorted(chosen.sample(range(5, STEPS - 20), KILLS))
    killed: list[int] = []

    def kill() -> None:
        for step in steps:
            wait_for_step(run, step)
            worker = chosen.choice([p for p in train_workers(os.getpid()) if p.pid not in killed])
            worker.kill()
            killed.append(worker.pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    pretrain(run)
    assert len(killed) == KILLS
    assert losses(run) == losses(whole)


def test_a_killed_driver_costs_nothing_but_time(folder: Path, whole: PretrainConfig) -> None:
    """After kill -9 of the driver, its embedded Ray with it, the same command goes on to the same losses."""
    run = config(folder, "driver-killed")
    (folder / "run.yaml").write_text(to_yaml(run))
    command = [sys.executable, "-m", "proteinlm", "pretrain", str(folder / "run.yaml")]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(run, 150)
    orphans = train_workers(driver.pid)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(orphans, timeout=60)
    assert not alive, "workers of a dead driver must not go on writing into its run"
    assert not (run.directory / "finished.json").exists()
    pretrain(run)
    assert losses(run) == losses(whole)


def test_a_terminated_driver_leaves_a_checkpoint_of_its_last_step(folder: Path, whole: PretrainConfig) -> None:
    """SIGTERM, as `ray job stop` sends it: a checkpoint out of turn, and the same command goes on, bit for bit."""
    run = config(folder, "terminated")
    (folder / "terminated.yaml").write_text(to_yaml(run))
    command = [sys.executable, "-m", "proteinlm", "pretrain", str(folder / "terminated.yaml")]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_step(run, 120)
    driver.send_signal(signal.SIGTERM)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 1
    (stopped,) = [int(word) for word in said.replace(",", " ").split() if word.isdigit()]
    assert f"stopped after step {stopped}, as asked" in said
    assert (run.directory / f"step_{stopped:08d}_by_2" / "cursor.json").is_file()
    pretrain(run)
    assert losses(run) == losses(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 1)])
def test_a_signal_to_the_whole_terminal_leaves_a_checkpoint_too(
    folder: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C and a closing terminal reach Ray's processes as well; nothing of the embedded Ray is left behind."""
    run = config(folder, f"terminal-{number.name}")
    (folder / f"{run.name}.yaml").write_text(to_yaml(run))
    command = [sys.executable, "-m", "proteinlm", "pretrain", str(folder / f"{run.name}.yaml")]
    with tempfile.TemporaryDirectory(prefix="plm-") as place:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with signals_of_a_terminal():
            driver = subprocess.Popen(
                command, cwd=ROOT, **streams, env=os.environ | {"TMPDIR": place}, start_new_session=True
            )
        wait_for_step(run, 5)
        os.killpg(driver.pid, number)
        said = " ".join(driver.communicate(timeout=120)[0].split())
        assert list(Path(place, "ray").glob("session_*")) == []
    assert driver.returncode == code, said
    assert "the run saves a checkpoint and ends" in said
    assert "as asked; the same command resumes from there" in said
    assert len(list(run.directory.glob("step_*_by_2/cursor.json"))) == 1


def train_workers(driver: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(driver).children(recursive=True) if "RayTrainWorker" in p.name()]

"""A trial whose run directory is in an S3 server: what it leaves for its sweep, killed or whole."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from proteinlm.cluster.connect import ClusterSize
from proteinlm.platform.places.places import place, put
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.storage import lock
from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.platform.training import driver
from proteinlm.sweeps.planning.plan import plan_finetuning
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials import trials as of_trials
from proteinlm.sweeps.trials.trial_state import attempt, attempts, device_seconds, read_state
from proteinlm.sweeps.trials.trials import run_trial
from tests.made.object_store import BUCKET, object_store


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    with object_store() as address:
        yield address


@pytest.fixture
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lock, "SETTLED_AFTER", 0.01)
    return place(f"s3://{BUCKET}/{request.node.name}")


def planned(folder: Path, tmp_path: Path) -> list[Trial]:
    """A task from scratch, as two seeds, and its baseline; the records are small enough to be read without Ray."""
    simulate(tmp_path / "records", num_families=20, proteins_per_family=4, seed=0)
    put(tmp_path / "records", folder / "records")
    values: dict[str, Any] = {
        "name": "many",
        "storage": str(folder / "runs"),
        "task": "secondary_structure_q3",
        "data": str(folder / "records"),
        "modes": ["scratch"],
        "seeds": [0, 1],
        "model": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "batches": {"micro_batch_residues": 1000, "lanes": 1, "max_length": 60},
        "training": {"steps": 4, "engine": "plain", "precision": "fp32", "validate_every": 2, "checkpoint_every": 2},
    }
    return plan_finetuning(validate(FinetuneConfig, values, "test"))


def told(trial: Trial) -> dict[str, Any]:
    values = trial.config.model_dump(mode="json")
    return {"trial": trial.name, "verb": trial.verb, "values": values, "scheduled": 0.0}


def test_trials_run_to_rows_and_marks_of_one_table(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "connected", lambda *_, **__: nullcontext(ClusterSize(2.0, 0.0, 1)))
    trials = planned(folder, tmp_path)
    assert [run_trial(told(trial)) for trial in trials] == [{"trial": trial.name, "done": True} for trial in trials]
    directory = folder / "runs" / "many"
    assert {row.run for row in gather_rows([directory])} == {trial.name for trial in trials}
    for trial in trials:
        assert read_state(directory / trial.name).kind == "finished"
        (span,) = attempts(directory / trial.name)
        assert span.end > span.start
        assert not (directory / trial.name / "lock").exists()
    shards = list((directory / "task-data").iterdir())
    assert [path.name for path in shards if not path.name.startswith(".")] == [path.name for path in shards]
    assert not list(tmp_path.rglob("proteinlm-*"))


def test_a_trial_that_raises_says_so_in_the_store(folder: Path, tmp_path: Path) -> None:
    first, *_ = planned(folder, tmp_path)
    next((folder / "records").rglob("secondary_structure_train*")).unlink()
    outcome = run_trial(told(first))
    assert "secondary_structure_train" in outcome["failed"]
    assert read_state(first.config.directory).words.startswith(f"failed: {outcome['failed'][:200]}")
    assert not is_finished(first.config.directory)


def test_a_trial_waits_for_the_lock_of_a_lost_node(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last sign of life may be seconds old; that it is over is seen after `LEFT_OVER_AFTER`."""
    assert of_trials.PATIENCE > lock.LEFT_OVER_AFTER
    *_, baseline = planned(folder, tmp_path)
    run = baseline.config.directory
    (run / "lock").write_text(json.dumps({"host": "lost", "process": 1, "started": "", "since": "2026-01-01"}))
    monkeypatch.setattr(of_trials, "PATIENCE", 0.1)
    assert "in use by process 1 on lost" in run_trial(told(baseline))["failed"]
    monkeypatch.setattr(lock, "LEFT_OVER_AFTER", 2.0)
    monkeypatch.setattr(of_trials, "PATIENCE", 30.0)
    assert run_trial(told(baseline)) == {"trial": baseline.name, "done": True}
    assert read_state(run).kind == "finished"  # that it failed is forgotten


def test_an_attempt_that_was_killed_ends_at_the_last_put_of_its_metrics(folder: Path) -> None:
    (folder / "attempts.jsonl").write_text(
        '{"event": "start", "time": 5.0, "devices": 2.0, "device": "core", "scheduled": 4.0}\n'
    )
    assert device_seconds(folder) == {"core": 0.0}
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    sign = (folder / "metrics.jsonl").stat().st_mtime
    with attempt(folder, 1.0, "core", 0.0):
        assert (folder / "attempts.jsonl").read_text().count("\n") == 3
    killed, whole = attempts(folder)
    assert (killed.start, killed.end) == (5.0, sign)
    assert whole.end >= whole.start >= int(sign)

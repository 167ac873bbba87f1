"""What a worker makes of its job: the same random model everywhere, pretrained weights where there are some."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.training.checkpoint import CheckpointWriter, LocalCheckpoints, read_cursor
from proteinlm.platform.training.job import Run, TrainingJob, Worker
from proteinlm.platform.training.run_job import make_model, make_or_restore, run_job
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import TaskModel
from tests.made.jobs import SHAPE, job, job_on_files


def made(**changes: Any) -> TaskModel:
    return make_model(job(**changes), build_task("secondary_structure_q3"))


def test_random_weights_come_from_the_seed() -> None:
    first, again, other = made().state_dict(), made().state_dict(), made(seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_pretrained_weights_are_taken_and_frozen_ones_are_not_trained(tmp_path: Path) -> None:
    encoder = ProteinEncoder(SHAPE)
    save_pretrained(tmp_path / "model", encoder, LanguageModelHead(SHAPE, encoder.token_embedding), {})
    model = made(pretrained=tmp_path / "model", mode="frozen")
    assert torch.equal(model.encoder.token_embedding.weight, encoder.token_embedding.weight)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert all(name.startswith("head.") for name in trained)
    assert all(parameter.requires_grad for parameter in made(pretrained=tmp_path / "model").parameters())


ALONE = Worker(0, 1, torch.device("cpu"))


def compiled(told: TrainingJob, mode: str) -> TrainingJob:
    return told.model_copy(update={"training": told.training.model_copy(update={"compile": mode})})


def test_layers_are_compiled_as_asked_before_the_engine_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(ProteinEncoder, "compile_layers", lambda _, mode, device: asked.append((mode, device.type)))
    told = job_on_files(tmp_path, steps=1)
    manifest = read_manifest(told.data)
    for mode in ("auto", "dynamic"):
        run = Run(compiled(told, mode), manifest, told.build_task(manifest), ALONE)
        make_or_restore(run, LocalCheckpoints(tmp_path / "run", keep=1))
    assert asked == [("dynamic", "cpu")]


def test_a_run_with_filled_streams_has_the_losses_and_predictions_of_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that attends by cumulative lengths; the compiler itself is tested in tests/models."""
    monkeypatch.setattr(ProteinEncoder, "compile_layers", lambda *_: None)
    losses, predicted = [], []
    for name in ("groups", "filled"):
        (tmp_path / name).mkdir()
        told = job_on_files(tmp_path / name, steps=3)
        checkpoints = LocalCheckpoints(told.directory, keep=1)
        if name == "filled":
            with emulated_attention():
                run_job(compiled(told, "static"), ALONE, checkpoints, workers_on_node=1)
        else:
            run_job(told, ALONE, checkpoints, workers_on_node=1)
        rows = [row for row in read_metrics(told.directory) if "loss" in row]
        assert [row.get("filling_share", 0.0) > 0 for row in rows] == [name == "filled"] * 3
        losses.append([row["loss"] for row in rows])
        predicted += [pq.read_table(told.directory / "predictions" / "valid.parquet")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert predicted[0].equals(predicted[1])


def test_a_resumed_run_counts_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Steps, residues and skipped steps: it goes on from the first and reports the others as one that never stopped."""
    told = job_on_files(tmp_path, steps=6)
    checkpoints = LocalCheckpoints(tmp_path / "run", keep=1)
    manifest = read_manifest(told.data)
    run = Run(told, manifest, told.build_task(manifest), ALONE)
    engine, cursor = make_or_restore(run, checkpoints)
    assert (cursor.step, cursor.residues, cursor.skipped_steps) == (0, 0, 0)
    writer = CheckpointWriter(engine, ALONE, checkpoints)
    writer.save(4, residues=1000, skipped_steps=3, metrics={}, wait=True)
    run_job(told, ALONE, checkpoints, workers_on_node=1)
    rows = [row for row in read_metrics(told.directory) if "loss" in row]
    assert [(row["step"], row["skipped_steps"]) for row in rows] == [(5, 3.0), (6, 3.0)]
    with checkpoints.newest() as newest:
        assert newest is not None
        last = read_cursor(newest)
    assert (last.step, last.skipped_steps) == (6, 3)
    assert last.residues > 1000

"""A frozen encoder's embeddings: computed once, kept under what they depend on, and the same as when computed anew."""

from pathlib import Path
from typing import Any

import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.finetune import finetune
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.training import run_job
from proteinlm.platform.training.tracking import read_metrics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embeddings")
    simulate(folder / "records", num_families=20, proteins_per_family=6, seed=0)
    for name, seed in (("model", 0), ("other", 1)):
        torch.manual_seed(seed)
        encoder = ProteinEncoder(ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
        save_pretrained(folder / name, encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {})
    return folder


def config(folder: Path, name: str, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "name": name,
        "storage": str(folder / "runs"),
        "task": "secondary_structure_q3",
        "data": str(folder / "records"),
        "mode": "frozen",
        "pretrained": str(folder / "model"),
        "batches": {"micro_batch_residues": 1000, "lanes": 2, "max_length": 60},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 5},
        "training": {"steps": 30, "engine": "plain", "precision": "fp32", "log_every": 1, "validate_every": 10},
        "with_baselines": False,
    }
    return validate(FinetuneConfig, values | changes, "test")


def losses(run: FinetuneConfig) -> list[float]:
    return [row["loss"] for row in read_metrics(run.directory) if "loss" in row]


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_run_on_the_same_checkpoint_runs_no_encoder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = config(folder, "first")
    finetune(first)
    kept = sorted((folder / "runs" / "embeddings").rglob("values.npy"))
    assert {path.parent.name for path in kept} == {"train", "valid", "simulated_test"}

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder was run")

    with monkeypatch.context() as patched:
        patched.setattr(ProteinEncoder, "forward", refuse)
        second = config(folder, "second")
        finetune(second)
    assert losses(second) == losses(first)
    values = [{row.value for row in gather_rows([run.directory])} for run in (first, second)]
    assert values[0] == values[1]
    # Another encoder or another cropping has embeddings of its own.
    finetune(config(folder, "other", pretrained=str(folder / "other")))
    finetune(config(folder, "longer", batches={"micro_batch_residues": 1000, "lanes": 2, "max_length": 80}))
    assert len({path.parent.parent for path in (folder / "runs" / "embeddings").rglob("values.npy")}) >= 4


@pytest.mark.usefixtures("ray_cluster")
def test_damaged_embeddings_are_computed_anew_and_said(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    storage = {"storage": str(folder / "damaged")}
    first = config(folder, "first", **storage)
    finetune(first)
    for number, name in enumerate(("values.npy", "starts.npy", "checksums.json")):
        for file in (folder / "damaged" / "embeddings").rglob(name):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        again = config(folder, f"again-{number}", **storage)
        finetune(again)
        assert capfd.readouterr().err.count("these embeddings are computed anew") == 3, f"{name}, of three splits"
        assert losses(again) == losses(first), name


@pytest.mark.usefixtures("ray_cluster")
def test_kept_embeddings_train_as_those_computed_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 in the store: the loss curve is that of a run that computes them in every step, to half precision."""
    batches = {"micro_batch_residues": 1000, "lanes": 2, "crop": "start", "max_length": 60}
    settings = {"storage": str(folder / "anew"), "batches": batches}
    stored, anew = config(folder, "stored", **settings), config(folder, "computed", **settings)
    finetune(stored)
    with monkeypatch.context() as patched:
        patched.setattr(run_job, "embeddings_of", lambda *_: None)
        finetune(anew)
    assert losses(stored) == pytest.approx(losses(anew), rel=2e-3)
    assert losses(stored)[-1] < losses(stored)[0]

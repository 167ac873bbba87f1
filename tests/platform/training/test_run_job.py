"""What a worker makes of its job: the same random model everywhere, pretrained weights where there are some."""

from pathlib import Path
from typing import Any

import torch

from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.training.run_job import make_model
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import TaskModel
from tests.made.jobs import SHAPE, job


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

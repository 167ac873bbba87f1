"""Matrix products in float8: as bf16 but for rounding, in the layers alone, and refused where it cannot be."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import CnnEncoder, ProteinEncoder
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.training.checkpoint import LocalCheckpoints
from proteinlm.platform.training.float8 import use_float8
from proteinlm.platform.training.job import Run, Worker
from proteinlm.platform.training.run_job import make_or_restore
from tests.made.jobs import job_on_files
from tests.made.repeats import losses
from tests.made.small_models import random_packed

CPU = torch.device("cpu")
SHAPE = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
BF16 = TrainingSection(steps=1, precision="bf16", float8=True)


def in_float8(encoder: ProteinEncoder) -> None:
    pytest.importorskip("torchao")
    use_float8(encoder, BF16, CPU)


def states_and_gradients(is_float8: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Of 37 tokens: no multiple of what the kernels want."""
    torch.manual_seed(0)
    encoder = ProteinEncoder(SHAPE)
    if is_float8:
        in_float8(encoder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = encoder(random_packed((20, 17)))
    states.float().pow(2).mul(torch.linspace(-1, 1, states.shape[1])).sum().backward()
    return states, {name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None}


def share(found: Tensor, expected: Tensor) -> float:
    """Size of the difference, as a share of what is expected."""
    return float((found.detach().float() - expected.detach().float()).norm() / expected.detach().float().norm())


def test_states_and_gradients_are_those_of_bf16_but_for_rounding() -> None:
    (states, gradients), (exact, exact_gradients) = states_and_gradients(True), states_and_gradients(False)
    assert states.dtype == exact.dtype
    assert 1e-4 < share(states, exact) < 0.1
    assert list(gradients) == list(exact_gradients)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert share(gradient, exact_gradients[name]) < 0.25, name


def test_it_learns_what_bf16_does() -> None:
    rounded, exact = losses(torch.bfloat16, 200, prepare=in_float8), losses(torch.bfloat16, 200)
    assert exact[-50:].mean() < 0.2
    assert 0 < np.abs(rounded - exact)[-50:].mean() < 0.02


def test_a_job_says_whether_its_model_computes_in_it(tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    for is_asked in (False, True):
        told = job_on_files(tmp_path / str(is_asked), steps=1, precision="bf16", float8=is_asked)
        manifest = read_manifest(told.data)
        run = Run(told, manifest, told.build_task(manifest), Worker(0, 1, CPU))
        engine, _ = make_or_restore(run, LocalCheckpoints(told.directory, keep=1))
        with engine.module() as model:
            kinds = {name: type(part) for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
            names = set(model.state_dict())
        for name, kind in kinds.items():
            assert (kind.__name__ == "Float8Linear") == (is_asked and name.startswith("encoder.layers.")), name
        assert any(name.startswith("encoder.layers.") for name in kinds)
        assert {name for name in names if "float8" in name or "scale" in name} == set()


def refused(**changes: Any) -> str:
    values = {
        "name": "n",
        "corpus": "c",
        "model": {"preset": "cpu-tiny"},
        "training": {"steps": 1, "float8": True} | changes,
    }
    with pytest.raises(ValueError, match="float8") as caught:
        validate(PretrainConfig, values, "a.yaml")
    return str(caught.value)


def test_settings_that_do_not_go_with_it_are_refused_before_anything_starts() -> None:
    assert "needs precision auto or bf16; found fp16" in refused(precision="fp16")
    assert "does not work with zero_stage 3" in refused(zero_stage=3)
    values = {"task": "stability", "data": "d", "pretrained": "p", "mode": "lora", "name": "n"}
    with pytest.raises(ValueError, match=r"training\.float8: works in the modes full and scratch; found lora"):
        validate(FinetuneConfig, values | {"training": {"steps": 1, "float8": True}}, "a.yaml")


def test_devices_and_models_that_cannot_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match=r"sm_89 or newer; this one is sm_80"):
        use_float8(ProteinEncoder(SHAPE), BF16, torch.device("cuda", 0))
    with pytest.raises(ValueError, match=r"needs training\.precision bf16, which is fp32 on cpu"):
        use_float8(ProteinEncoder(SHAPE), TrainingSection(steps=1, precision="fp32"), CPU)
    with pytest.raises(ValueError, match="transformers alone"):
        use_float8(CnnEncoder(SHAPE), BF16, CPU)
    odd = ModelConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"model\.hidden_size is 24; accepted: multiples of 16"):
        use_float8(ProteinEncoder(odd), BF16, CPU)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(ValueError, match=r"needs torchao.*pip install 'proteinlm\[float8\]'"):
        use_float8(ProteinEncoder(SHAPE), BF16, CPU)

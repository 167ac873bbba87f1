"""The learning rate as a function of the step, and which parameters are decayed."""

import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.platform.config import OptimizerSection
from proteinlm.platform.training.optim import learning_rate, make_optimizer, parameter_groups


def test_warm_up_then_linear_decay() -> None:
    section = OptimizerSection(learning_rate=1.0, warmup_steps=10, decay="linear", final_fraction=0.1)
    rates = [learning_rate(section, step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)


@pytest.mark.parametrize(("decay", "middle", "end"), [("cosine", 0.5, 0.0), ("none", 1.0, 1.0)])
def test_other_decays(decay: str, middle: float, end: float) -> None:
    section = OptimizerSection.model_validate({"learning_rate": 1.0, "warmup_steps": 0, "decay": decay})
    assert learning_rate(section, 50, 100) == pytest.approx(middle)
    assert learning_rate(section, 100, 100) == pytest.approx(end)


def test_biases_and_layer_norms_are_not_decayed() -> None:
    model = ProteinEncoder(ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    groups = parameter_groups(model, 0.1)
    by_name = dict(model.named_parameters())
    kept = {id(parameter) for group in groups if group["weight_decay"] == 0 for parameter in group["params"]}
    for name, parameter in by_name.items():
        assert (id(parameter) in kept) == (name.endswith("bias") or "norm" in name), name
    assert sum(len(group["params"]) for group in groups) == len(by_name)


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerSection())
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) == 3

"""The learning rate as a function of the step, which parameters are decayed, and Muon beside AdamW."""

from pathlib import Path

import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.platform.settings.sections import OptimizerSection
from proteinlm.platform.training.optim import learning_rate, make_optimizer, parameter_groups, set_learning_rate
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import TaskModel


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
    groups = parameter_groups(model, OptimizerSection(weight_decay=0.1))
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


def test_the_head_may_learn_at_a_rate_of_its_own() -> None:
    model = small_model()
    section = OptimizerSection(learning_rate=1e-4, head_learning_rate=1e-3, weight_decay=0.1)
    groups = make_optimizer(model, section).param_groups
    set_learning_rate(groups, 0.5e-4)  # the step's rate: half of the peak
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay_of = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate_of[id(parameter)] == pytest.approx(0.5e-3 if name.startswith("head.") else 0.5e-4), name
        assert (decay_of[id(parameter)] > 0) == (parameter.ndim > 1), name
    assert len(rate_of) == len(list(model.parameters()))


def small_model() -> TaskModel:
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, position="learned")
    return TaskModel(build_task("masked_language_modeling"), ProteinEncoder(config))


def give_gradients(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


MUON = OptimizerSection(name="muon", learning_rate=1e-2, weight_decay=0.1)


def test_muon_trains_the_matrices_of_the_layers_and_adamw_all_else() -> None:
    model = small_model()
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon, *by_adamw = make_optimizer(model, MUON).param_groups
    kinds = ("attention.qkv", "attention.output", "feed_forward.expand", "feed_forward.output")
    expected = {f"encoder.layers.{layer}.{kind}.weight" for layer in range(2) for kind in kinds}
    assert {name_of[id(parameter)] for parameter in by_muon["params"]} == expected
    assert {name_of[id(p)] for group in by_adamw for p in group["params"]} == set(name_of.values()) - expected
    decayed = {name_of[id(p)] for group in by_adamw if group["weight_decay"] for p in group["params"]}
    assert decayed == {"encoder.token_embedding.weight", "encoder.position_embedding.weight", "head.dense.weight"}


def test_muon_steps_as_the_two_optimizers_of_torch_do_by_hand() -> None:
    model, reference = small_model(), small_model()
    optimizer = make_optimizer(model, MUON)
    named = dict(reference.named_parameters())
    hidden = [p for name, p in named.items() if name.startswith("encoder.layers.") and p.ndim == 2]
    others = [p for name, p in named.items() if not (name.startswith("encoder.layers.") and p.ndim == 2)]
    muon = torch.optim.Muon(hidden, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    groups = [
        {"params": [p for p in others if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=MUON.betas, eps=MUON.epsilon)
    for step, rate in enumerate([5e-3, 1e-2, 2.5e-3]):
        for one in (optimizer, muon, adamw):
            set_learning_rate(one.param_groups, rate)
        give_gradients(model, step)
        give_gradients(reference, step)
        optimizer.step()
        muon.step()
        adamw.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter, named[name], rtol=1e-6, atol=1e-7, msg=name)
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_loaded_state_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    section = MUON.model_copy(update={"name": name})
    model, resumed = small_model(), small_model()
    before = make_optimizer(model, section)
    give_gradients(model, 0)
    before.step()
    torch.save({"model": model.state_dict(), "optimizer": before.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(state["model"])
    after = make_optimizer(resumed, section)
    after.load_state_dict(state["optimizer"])
    for step in (1, 2):
        for one, optimizer in ((model, before), (resumed, after)):
            give_gradients(one, step)
            set_learning_rate(optimizer.param_groups, 1e-3 * step)
            optimizer.step()
    for parameter, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_muon_needs_a_matrix_in_the_layers() -> None:
    model = small_model()
    model.encoder.requires_grad_(False)
    with pytest.raises(ValueError, match="found no trainable matrix"):
        make_optimizer(model, MUON)

"""Optimizers (AdamW; Muon for the matrices of the encoder's layers), the learning rate of each step, and steps that are
skipped without asking the device.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from proteinlm.platform.settings.sections import OptimizerSection

LAYERS = "encoder.layers."
"""Prefix of the parameters whose matrices Muon trains; embeddings and the head have other prefixes."""


HEAD = "head."
"""Prefix of a task head's parameters, which may have a learning rate of their own."""
RATE_FACTOR = "rate_factor"
"""Key of a parameter group: its learning rate divided by that of the step."""


def parameter_groups(model: nn.Module, section: OptimizerSection) -> list[dict[str, Any]]:
    """Group the trainable parameters by weight decay (none on biases and LayerNorm) and by learning rate."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if section.head_learning_rate is None:
        return _decayed_or_not([p for _, p in named], section.weight_decay)
    heads = _decayed_or_not([p for name, p in named if name.startswith(HEAD)], section.weight_decay)
    others = _decayed_or_not([p for name, p in named if not name.startswith(HEAD)], section.weight_decay)
    factor = section.head_learning_rate / section.learning_rate
    return [*others, *(group | {RATE_FACTOR: factor} for group in heads)]


def _decayed_or_not(trainable: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    # ZeRO-3 leaves parameters flat and empty; their true shape is kept aside in ds_shape.
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, section: OptimizerSection) -> "torch.optim.AdamW | MuonWithAdamW":
    """Make the optimizer `section.name` for the trainable parameters of `model`."""
    if section.name == "muon":
        return MuonWithAdamW(model, section)
    return _adamw(parameter_groups(model, section), section)


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> torch.optim.AdamW:
    # One kernel for the whole update: on a CPU a third of the time of the loop over tensors, on a GPU few launches.
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas, eps=section.epsilon, fused=True)


class MuonWithAdamW:
    """torch.optim.Muon on the matrices of the encoder's layers, AdamW on all else (Jordan et al. 2024), as one.

    Both take one learning rate and one weight decay: Muon's update is scaled to the size that AdamW's has (Liu et al.
    2025, "Muon is Scalable for LLM Training"). Muon needs whole matrices, so it does not work on ZeRO's partitions.
    It has what the engines use of an optimizer, without being one of torch's.
    """

    found_inf: Tensor | None = None
    """[] fp32, 1 where `step` is to change nothing (`skipping`)."""

    def __init__(self, model: nn.Module, section: OptimizerSection) -> None:
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [p for name, p in named if name.startswith(LAYERS) and p.ndim == 2]
        if not hidden:
            raise ValueError(f"optimizer.name: muon found no trainable matrix below {LAYERS[:-1]}; use adamw")
        others = [p for name, p in named if not (name.startswith(LAYERS) and p.ndim == 2)]
        self._muon = torch.optim.Muon(
            hidden, lr=section.learning_rate, weight_decay=section.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        self._adamw = _adamw(_decayed_or_not(others, section.weight_decay), section)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups of both optimizers themselves, no copies."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        if self.found_inf is None:
            self._muon.step()  # type: ignore[no-untyped-call]
            self._adamw.step()
            return
        with skipping(self._adamw, self.found_inf.bool()):
            self._adamw.step()
        self._muon_step_unless(self.found_inf.bool())

    @torch.no_grad()
    def _muon_step_unless(self, is_skipped: Tensor) -> None:
        """Let Muon, which knows no `found_inf`, step and put back what it was.

        A momentum that is averaged with itself stays as it is, to the bit; weights are kept aside.
        """
        trained = [p for group in self._muon.param_groups for p in group["params"] if p.grad is not None]
        before = [p.clone() for p in trained]
        for p in trained:
            momentum = self._muon.state[p].get("momentum_buffer")
            if momentum is None:  # it will begin at zero
                p.grad.masked_fill_(is_skipped, 0.0)
            else:
                torch.where(is_skipped, momentum, p.grad, out=p.grad)
        self._muon.step()  # type: ignore[no-untyped-call]
        for p, old in zip(trained, before, strict=True):
            torch.where(is_skipped, old, p, out=p)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, or fill them with zeros."""
        self._muon.zero_grad(set_to_none)
        self._adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])


@contextmanager
def skipping(optimizer: "torch.optim.Optimizer | MuonWithAdamW", is_skipped: Tensor) -> Iterator[None]:
    """Inside the body, `step` of the fused AdamW or of `MuonWithAdamW` changes neither weights nor state where
    `is_skipped` [] bool, on their device, is true. The host does not wait for what it says.

    torch's own protocol of loss scaling (torch.amp.GradScaler.step): the attribute `found_inf`.
    """
    told = cast(Any, optimizer)
    told.found_inf = is_skipped.float()
    try:
        yield
    finally:
        del told.found_inf


def learning_rate(section: OptimizerSection, step: int, total_steps: int) -> float:
    """Return the learning rate of step `step` (0-based): linear warm-up, then decay to `final_fraction` of the peak."""
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    progress = min(1.0, (step - section.warmup_steps) / max(1, total_steps - section.warmup_steps))
    left = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "none": 1.0}[section.decay]
    return section.learning_rate * (section.final_fraction + (1 - section.final_fraction) * left)


def set_learning_rate(groups: Iterable[dict[str, Any]], value: float) -> None:
    """Set the learning rate of every parameter group: `value`, times the group's factor where it has one."""
    for group in groups:
        group["lr"] = value * group.get(RATE_FACTOR, 1.0)

"""AdamW with the usual exemptions, and the learning rate as a pure function of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from proteinlm.platform.config import OptimizerSection


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: weight decay on matrices, none on biases and LayerNorm."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # ZeRO-3 leaves parameters flat and empty; their true shape is kept aside in ds_shape.
    matrices = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) > 1]
    vectors = [p for p in trainable if len(getattr(p, "ds_shape", p.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.AdamW:
    """AdamW (decoupled weight decay) over `parameter_groups`."""
    return torch.optim.AdamW(
        parameter_groups(model, section.weight_decay),
        lr=section.learning_rate,
        betas=section.betas,
        eps=section.epsilon,
    )


def learning_rate(section: OptimizerSection, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (0-based): linear warm-up, then decay to `final_fraction` of the peak."""
    if step < section.warmup_steps:
        return section.learning_rate * (step + 1) / section.warmup_steps
    progress = min(1.0, (step - section.warmup_steps) / max(1, total_steps - section.warmup_steps))
    left = {"linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2, "none": 1.0}[section.decay]
    return section.learning_rate * (section.final_fraction + (1 - section.final_fraction) * left)


def set_learning_rate(groups: Iterable[dict[str, Any]], value: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in groups:
        group["lr"] = value

"""How long computing takes: what is to be computed, over how fast a device computes it.

    work     model FLOPs of matrix products, and attention weights: heads x L^2 in each layer for a protein of L tokens
    speed    FLOP/s, and attention weights a second; on a GPU their kernels hide them, so there is no end of those

A pass forward counts once, one forward and backward three times: the gradient of each product is two more of its size.
Where layers are recomputed (activation checkpointing) one forward pass comes on top.

Of training steps of the ten shapes of sweeps/table7-mini.yaml (fp32, micro batches of 4,096 tokens, one core) a speed
fitted to FLOPs alone gives 0.29 to 1.45 of what was measured, to FLOPs and a constant for each layer 0.45 to 1.42, to
FLOPs and attention weights 0.91 to 1.08: the exponentials of softmax are what many heads cost a CPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from proteinlm.models.config import ModelConfig, forward_flops

TRAINING = 3
"""Passes of a training step without recomputation, counted in passes forward."""


@dataclass(frozen=True)
class Work:
    """What is to be computed."""

    flops: float = 0.0
    """Of matrix products, as models/config.py counts them."""
    weights: float = 0.0
    """Attention weights."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.weights + other.weights)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.weights * times)


@dataclass(frozen=True)
class Speed:
    """How fast a device computes."""

    flops: float
    """FLOP/s."""
    weights: float = math.inf
    """Attention weights a second."""

    def seconds(self, work: Work) -> float:
        """How long the device computes."""
        return work.flops / self.flops + work.weights / self.weights


def training_passes(config: ModelConfig) -> int:
    """What a training step computes, counted in passes forward."""
    return TRAINING + config.activation_checkpointing


def forward_work(config: ModelConfig, lengths: Sequence[int], num_scored: int = 0) -> Work:
    """The pass forward over proteins of `lengths` [B] tokens, special tokens included; as `forward_flops`."""
    weights = config.num_hidden_layers * config.num_attention_heads * sum(length * length for length in lengths)
    return Work(float(forward_flops(config, lengths, num_scored)), float(weights))

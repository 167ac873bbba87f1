"""What training a model keeps in memory on one device, counted without making it.

    state         weights 4, moments 8 (AdamW) or 4 (matrices of layers under Muon), gradients 4 bytes a parameter
                  (ZeRO, Rajbhandari et al. 2020: stage 1 shares moments, 2 also gradients, 3 also weights)
    copies        the weights in 16 bits, which autocast keeps from the forward to the backward pass
    activations   for each token and layer, with D hidden, M MLP, s bytes of a product, t of the residual stream:
                  2 D t (inputs of both LayerNorms) + s (6 D + 2 M): both LayerNorms' outputs, queries, keys, values,
                  attended values, GELU's input and output. This is Korthikanti et al. 2022 ("Reducing Activation
                  Recomputation") without dropout masks and attention matrices, for these layers.
    recomputed    with activation checkpointing D t a layer, and the activations of one layer
    backward      gradients of GELU's input and output and of the stream, of one layer

Groups on a CPU keep one more copy of attended values (fp32), or attention weights (bf16, models/cpu_attention.py). At
the peak the backward pass begins; plain gradients are made as activations go, so the larger of both counts.
DeepSpeed's fp16 has weights, gradients and stream of 2 bytes, and fp32 masters shared as moments are (not measured).

Left out: the language model head, a device's context, its allocator's waste, NCCL's and DeepSpeed's buckets. Error
against the peak of real steps on a CPU (tests/models/test_cost.py): 3 to 10 % too much for seven configurations.
"""

from dataclasses import dataclass, replace
from typing import Literal

from proteinlm.models.config import ModelConfig, num_parameters


@dataclass(frozen=True)
class TrainingSetup:
    """How a model is trained, as far as memory depends on it."""

    tokens: int
    """Of a micro batch, special tokens included."""
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    optimizer: Literal["adamw", "muon"] = "adamw"
    zero_stage: int = 0
    workers: int = 1
    keeps_gradients: bool = False
    """Whether gradients are there from the start: DeepSpeed's buffers, or several micro batches a step."""
    is_half: bool = False
    """Whether the weights themselves have 16 bits, beside masters in fp32 (DeepSpeed's fp16)."""
    is_cpu: bool = False
    longest: int = 0
    """Tokens of a group's proteins: a CPU keeps attention weights in bf16."""
    is_fp32_stream: bool = False
    """Plain autocast: the residual stream in fp32 also under bf16 (fp16's always is)."""


def state_bytes(config: ModelConfig, setup: TrainingSetup) -> tuple[float, float]:
    """Bytes of weights and moments, and of gradients, on one of the workers."""
    parameters = num_parameters(config)
    matrices = config.num_hidden_layers * (4 * config.hidden_size**2 + 2 * config.hidden_size * config.mlp_size)
    moments = 8.0 * parameters - (4.0 * matrices if setup.optimizer == "muon" else 0.0)
    weights = 4.0 * parameters
    if setup.is_half:
        weights, moments = weights / 2, moments + weights
    divided = [setup.workers if setup.zero_stage >= stage else 1 for stage in (1, 2, 3)]
    return moments / divided[0] + weights / divided[2], weights / divided[1]


def layer_bytes(config: ModelConfig, setup: TrainingSetup) -> float:
    """Bytes of activations that one layer keeps for the backward pass."""
    hidden, mlp = config.hidden_size, config.mlp_size
    product, stream = _bytes(setup)
    of_token = 2 * hidden * stream + product * (6 * hidden + 2 * mlp)
    if setup.is_cpu:
        of_weights = config.num_attention_heads * setup.longest
        of_token += product * (of_weights if setup.precision == "bf16" else hidden)
    return float(setup.tokens * of_token)


def memory_bytes(config: ModelConfig, setup: TrainingSetup) -> float:
    """Peak bytes of one worker in training; without the device's context, the allocator's waste and NCCL's buffers."""
    hidden, mlp, layers = config.hidden_size, config.mlp_size, config.num_hidden_layers
    product, stream = _bytes(setup)
    kept, gradients = state_bytes(config, setup)
    of_layer = layer_bytes(config, setup)
    if config.activation_checkpointing:
        activations = layers * setup.tokens * hidden * stream + of_layer
    else:
        activations = layers * of_layer
    copies = 0.0 if product == 4 or setup.is_half else 2.0 * num_parameters(config)
    backward = setup.tokens * (2 * mlp * product + hidden * stream)
    begin = activations + backward + copies + (gradients if setup.keeps_gradients else 0.0)
    return kept + max(begin, gradients + of_layer + backward)


def largest_micro_batch(config: ModelConfig, setup: TrainingSetup, room: float) -> int:
    """Tokens of the largest micro batch whose peak is at most `room` bytes; 0 where none fits."""
    low, high = 0, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        fits = memory_bytes(config, replace(setup, tokens=middle)) <= room
        low, high = (middle, high) if fits else (low, middle)
    return low


def _bytes(setup: TrainingSetup) -> tuple[int, int]:
    """Bytes of an element of matrix products, and of the residual stream."""
    if setup.precision == "fp32":
        return 4, 4
    is_wide = setup.is_fp32_stream or (setup.precision == "fp16" and not setup.is_half)
    return 2, 4 if is_wide else 2

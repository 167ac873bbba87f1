"""Matrix products of the encoder's layers in float8, twice the speed of bf16 on GPUs that have it (`training.float8`).

Operands are rounded to float8 with one scale for each tensor, found anew in each product: inputs and weights to e4m3
(3 bits of mantissa), gradients to e5m2 (2). Sums are fp32, results bf16; weights, gradients and optimizer state stay
fp32, and so do their names: a checkpoint can be resumed either way. It is torchao's (convert_to_float8_training;
Micikevicius et al. 2022, arXiv 2209.05433). Embedding, heads, LayerNorm and attention stay as they are. Rounding
costs time too: it pays from about 650 million parameters on.
"""

import logging

import torch
from torch import nn

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.platform.settings.sections import TrainingSection

FIRST_WITH_FLOAT8 = (8, 9)
"""CUDA compute capability (sm_89, Ada; sm_90, Hopper)."""
MULTIPLE = 16
"""Of which the kernels want both sides of a weight to be."""


def use_float8(encoder: nn.Module, training: TrainingSection, device: torch.device) -> None:
    """Have the products of `encoder`'s layers computed in float8 from now on; `training` has its precision settled.

    ValueError where device, precision or shape does not allow it. A CPU computes in it too, slowly.
    """
    if training.precision != "bf16":
        raise ValueError(f"training.float8: needs training.precision bf16, which is {training.precision} on {device}")
    if device.type == "cuda" and (here := torch.cuda.get_device_capability(device)) < FIRST_WITH_FLOAT8:
        raise ValueError(f"training.float8: needs a GPU of sm_89 or newer; this one is sm_{here[0]}{here[1]}")
    if not isinstance(encoder, ProteinEncoder):
        raise ValueError("training.float8: is for transformers alone")
    config = encoder.config
    for name, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.mlp_size)):
        if size % MULTIPLE:
            raise ValueError(f"training.float8: model.{name} is {size}; accepted: multiples of {MULTIPLE}")
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it warns of kernels that it has for other devices
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError:
        raise ValueError(
            "training.float8: needs torchao, which is not there: pip install 'proteinlm[float8]'"
        ) from None
    # The number of tokens, which the gradient of a weight sums over, is no multiple either.
    convert_to_float8_training(encoder.layers, config=Float8LinearConfig(pad_inner_dim=True))

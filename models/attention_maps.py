"""The attention probabilities of an encoder, written out: what every head of every layer looks at in each protein.

The encoder runs as it always does; what each layer projects to queries and keys is read on the way and multiplied out
protein by protein. Memory is for all maps of the micro batch at once: pack few long proteins together.

Shapes: N tokens of the micro batch, L tokens of one protein, D hidden, H heads, d size of a head, A layers x heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from proteinlm.models.attention import Rotation, rotation
from proteinlm.models.encoder import EncoderLayer, ProteinEncoder
from proteinlm.models.packed import Packed


@torch.no_grad()
def attention_maps(encoder: ProteinEncoder, packed: Packed) -> list[Tensor]:
    """Attention probabilities [A, L, L] in fp32 of each protein of `packed`: rows query, columns key, no dropout.

    Map number layer * H + head, layers from the first to the last. Special tokens are among the L tokens. The encoder's
    mode is as it was afterwards. Raises ValueError as the encoder does for proteins longer than its learned positions.
    """
    with _evaluating(encoder), _projections(encoder) as projections:
        encoder(packed)
    heads = encoder.config.num_attention_heads
    angles = _angles(encoder, packed)
    each_layer = [qkv.split_with_sizes(packed.lengths) for qkv in projections]
    return [
        torch.cat([_probabilities(layer[protein], angles, heads) for layer in each_layer])
        for protein in range(packed.num_proteins)
    ]


def _angles(encoder: ProteinEncoder, packed: Packed) -> Rotation | None:
    if encoder.config.position != "rotary":
        return None
    return rotation(packed.longest, encoder.config.head_size, packed.tokens.device)


def _probabilities(qkv: Tensor, angles: Rotation | None, num_heads: int) -> Tensor:
    """Queries, keys and values [L, 3 D] of one protein -> [H, L, L]."""
    length = qkv.shape[0]
    query, key, _ = qkv.float().view(length, 3, num_heads, -1).permute(1, 2, 0, 3)
    if angles is not None:
        query, key = _rotated(query, angles), _rotated(key, angles)
    with torch.autocast(qkv.device.type, enabled=False):  # the products stay in fp32 under bf16 training too
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(1, 2)
    probabilities: Tensor = scores.softmax(dim=-1)
    return probabilities


def _rotated(states: Tensor, angles: Rotation) -> Tensor:
    """Queries or keys [H, L, d] rotated by the angles of their positions; dimension i is paired with i + d / 2.

    Not `attention._rotate`, which writes into a given tensor and rounds differently (by up to 2.4e-7).
    """
    cos, sin = (table[: states.shape[1]] for table in angles)
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


@contextmanager
def _projections(encoder: ProteinEncoder) -> Iterator[list[Tensor]]:
    """A list that the encoder's next run fills with queries, keys and values [N, 3 D], layer after layer."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output)

    handles = []
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        handles.append(layer.attention.qkv.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    was_training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(was_training)

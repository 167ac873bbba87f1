"""Attention by cumulative lengths: where it is taken, and that it computes what attention in groups does."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from proteinlm.models.attention import GroupsAttention, rotation
from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.packed import Packed
from proteinlm.models.varlen_attention import (
    VarlenAttention,
    _heads,
    _heads_to_be_compiled,
    has_flash,
    varlen_attention,
)
from tests.made.small_models import random_packed

HEADS, HEAD_SIZE = 2, 4
CPU = torch.device("cpu")


def gradient(attention: GroupsAttention | VarlenAttention, qkv: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What was attended, and the gradient of qkv."""
    attended = attention.attend(qkv, HEADS)
    return attended.detach(), torch.autograd.grad((attended * weight).sum(), qkv)[0]


@pytest.mark.parametrize("is_rotary", [True, False])
@pytest.mark.parametrize("lengths", [[4, 1, 20, 19, 3], [5, 5, 30], [140]])
def test_it_attends_as_groups_do(lengths: list[int], is_rotary: bool) -> None:
    packed = random_packed(lengths)
    torch.manual_seed(0)
    qkv = torch.randn(packed.num_tokens, 3 * HEADS * HEAD_SIZE, requires_grad=True)
    weight = torch.randn(packed.num_tokens, HEADS * HEAD_SIZE)
    angles = rotation(packed.longest, HEAD_SIZE, CPU) if is_rotary else None
    expected = gradient(GroupsAttention(packed, angles, 0.0), qkv, weight)
    by_lengths = varlen_attention(packed.without_groups(), HEAD_SIZE if is_rotary else None, torch.float32)
    with emulated_attention():
        found = gradient(by_lengths, qkv, weight)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("longest", "bound"), [(2, 128), (128, 128), (129, 256), (1024, 1024), (1025, 2048)])
def test_the_bound_takes_few_values(longest: int, bound: int) -> None:
    assert varlen_attention(random_packed([longest, 2]), HEAD_SIZE, torch.float32).bound == bound


@pytest.mark.parametrize("is_rotary", [True, False])
def test_what_is_compiled_rotates_as_what_is_not(is_rotary: bool) -> None:
    packed = random_packed([4, 1, 20])
    angles = varlen_attention(packed, HEAD_SIZE, torch.float64).angles if is_rotary else None
    torch.manual_seed(0)
    qkv = torch.randn(packed.num_tokens, 3 * HEADS * HEAD_SIZE, dtype=torch.float64, requires_grad=True)
    found, expected = _heads(qkv, angles, HEADS), _heads_to_be_compiled(qkv, angles, HEADS)
    torch.testing.assert_close(found, expected)
    assert all(part.is_contiguous() for part in found), "the layout that the kernel is used to"
    gradients = [torch.autograd.grad(sum((part**2).sum() * n for n, part in enumerate(parts, 1)), qkv)[0]
                 for parts in (found, expected)]  # fmt: skip
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_size", "dropout", "expected"),
    [
        ((9, 0), torch.bfloat16, 64, 0.0, True),
        ((8, 0), torch.float16, 64, 0.0, True),
        ((7, 5), torch.float16, 64, 0.0, False),  # no flash attention before Ampere
        ((7, 0), torch.bfloat16, 64, 0.0, False),  # V100: bf16 is emulated
        (None, torch.bfloat16, 64, 0.0, False),
        ((9, 0), torch.float32, 64, 0.0, False),
        ((9, 0), torch.bfloat16, 20, 0.0, False),
        ((9, 0), torch.bfloat16, 512, 0.0, False),
        ((9, 0), torch.bfloat16, 64, 0.1, False),
    ],
)
def test_flash_is_taken_where_the_hardware_has_it(
    capability: tuple[int, int] | None, dtype: torch.dtype, head_size: int, dropout: float, expected: bool
) -> None:
    assert has_flash(capability, dtype, head_size, dropout) is expected


def encoded(encoder: ProteinEncoder, packed: Packed, weight: Tensor) -> list[Tensor]:
    """Hidden states, and the gradients of the first layer's qkv and of the token table, on the CPU in fp32."""
    encoder.zero_grad()
    hidden = encoder(packed).float()
    (hidden * weight.to(hidden.device)).sum().backward()
    layer = encoder.layers[0]
    grads = (layer.attention.qkv.weight.grad, encoder.token_embedding.weight.grad)
    return [part.detach().float().cpu() for part in (hidden, *grads)]


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("position", ["rotary", "learned"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_encoder_computes_by_lengths_what_it_computes_in_groups(
    device: str, position: str, is_checkpointed: bool
) -> None:
    """In bf16 by lengths, on a GPU or emulated on a CPU, against fp32 in groups on the CPU."""
    if device == "cuda" and (not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0)):
        pytest.skip("needs a GPU of capability 8.0 or newer")
    config = ModelConfig.model_validate(
        {
            "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "position": position,
            "max_positions": 400, "activation_checkpointing": is_checkpointed,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    packed = random_packed([3, 70, 129, 400, 64])
    weight = torch.randn(packed.num_tokens, 128)
    expected = encoded(encoder, packed, weight)
    encoder.to(device)
    with emulated_attention() if device == "cpu" else nullcontext(), torch.autocast(device, dtype=torch.bfloat16):
        found = encoded(encoder, packed.without_groups().to(device), weight)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() / other.norm() < 0.02  # bf16 against fp32


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_in_one_precision_they_agree_to_its_rounding(position: str) -> None:
    config = ModelConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, position=position, max_positions=99
    )
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    packed = random_packed([3, 70, 9, 64])
    weight = torch.randn(packed.num_tokens, 32)
    expected = encoded(encoder, packed, weight)
    with emulated_attention():
        found = encoded(encoder, packed.without_groups(), weight)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_a_micro_batch_without_groups_is_refused_where_they_are_needed() -> None:
    encoder = ProteinEncoder(ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    with pytest.raises(ValueError, match=r"without groups .* needs variable-length attention"):
        encoder(random_packed([3, 4]).without_groups())

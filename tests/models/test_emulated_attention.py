"""The emulated kernel of variable-length attention against torch's attention, protein by protein, and its gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.varlen_attention import takes_lengths

BORDERS = torch.tensor([0, 3, 10, 10, 11, 11], dtype=torch.int32)
"""Sequences of 3, 7, 0, 1 and 0 tokens."""


def inputs(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(11, 2, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


def one_by_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    sizes = BORDERS.diff().tolist()
    parts = zip(*(part.transpose(0, 1).split(sizes, dim=1) for part in (query, key, value)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part) for part in parts if part[0].shape[1]], dim=1).transpose(
        0, 1
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_emulated_attention_and_its_gradients_are_torchs(dtype: torch.dtype, tolerance: float) -> None:
    parts = inputs(dtype)
    with emulated_attention():
        found = varlen_attn(*parts, BORDERS, BORDERS, 7, 7)
    expected = one_by_one(*(part.double() for part in parts))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)
    weight = torch.randn_like(expected)
    gradients = [torch.autograd.grad((out.double() * weight).sum(), parts) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=tolerance, rtol=tolerance)


def test_the_operator_keeps_what_it_says_of_itself() -> None:
    """Shapes, strides, gradient and what a compiler is told, held together by torch's own check."""
    with emulated_attention():
        operator = torch.ops.torch_attn._varlen_attn.default
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(operator, (*inputs(torch.float32), BORDERS, BORDERS, 7, 7), test_utils=checks)


def test_a_sequence_beyond_the_bound_is_refused() -> None:
    with emulated_attention(), pytest.raises(ValueError, match="7 tokens, but the longest was said to have 6"):
        varlen_attn(*inputs(torch.float32), BORDERS, BORDERS, 6, 6)


def test_cpus_attend_in_groups_outside_of_it() -> None:
    cpu = torch.device("cpu")
    with emulated_attention():
        assert takes_lengths(cpu, torch.float32, 8, 0.0)
        assert not takes_lengths(cpu, torch.float32, 8, 0.1)
    assert not takes_lengths(cpu, torch.bfloat16, 8, 0.0)

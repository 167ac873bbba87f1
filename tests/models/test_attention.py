"""Attention in groups: its hand-written parts against the plain formulas, with gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.attention import GroupsAttention, ToHeads, _FromHeads, rotation
from proteinlm.models.packed import Packed, pack

HEADS, HEAD_SIZE = 2, 4
CPU = torch.device("cpu")
LENGTHS = {"regrouped": [4, 1, 20, 19, 3], "as it lies": [5, 5, 30]}


def packed_of(lengths: list[int]) -> Packed:
    return pack(np.zeros(sum(lengths), dtype=np.uint8), np.array(lengths), get_alphabet("esm"))


def plain_attention(qkv: Tensor, packed: Packed, is_rotary: bool) -> Tensor:
    """Protein by protein, in the plain formulas."""
    attended = []
    for part in qkv.split(list(packed.lengths)):
        query, key, value = part.view(-1, 3, HEADS, HEAD_SIZE).permute(1, 2, 0, 3)
        if is_rotary:
            steps = torch.arange(0, HEAD_SIZE, 2, dtype=torch.float32)
            angle = torch.arange(len(part)).float()[:, None] * (1.0 / 10000.0 ** (steps / HEAD_SIZE))
            turn = torch.polar(torch.ones_like(angle), angle)
            query, key = (_turned(rows, turn) for rows in (query, key))
        weights = (query @ key.transpose(1, 2) / HEAD_SIZE**0.5).softmax(-1)
        attended.append((weights @ value).transpose(0, 1).flatten(1))
    return torch.cat(attended)


def _turned(rows: Tensor, turn: Tensor) -> Tensor:
    """Coordinates i and i + d / 2 as one complex number, times e^(i angle)."""
    first, second = rows.chunk(2, dim=-1)
    product = torch.complex(first, second) * turn
    return torch.cat([product.real, product.imag], dim=-1)


def assert_plain(packed: Packed, is_rotary: bool) -> None:
    """What is attended, and its gradient, are those of `plain_attention`."""
    torch.manual_seed(0)
    qkv = torch.randn(packed.num_tokens, 3 * HEADS * HEAD_SIZE, requires_grad=True)
    angles = rotation(packed.longest, HEAD_SIZE, CPU) if is_rotary else None
    weight = torch.randn(packed.num_tokens, HEADS * HEAD_SIZE)
    found = GroupsAttention(packed, angles, 0.0).attend(qkv, HEADS)
    expected = plain_attention(qkv, packed, is_rotary)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((attended * weight).sum(), qkv)[0] for attended in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("is_rotary", [True, False])
@pytest.mark.parametrize("name", LENGTHS)
def test_attention_and_its_gradient_are_the_plain_formulas(name: str, is_rotary: bool) -> None:
    assert_plain(packed_of(LENGTHS[name]), is_rotary)


@pytest.mark.parametrize("name", LENGTHS)
def test_heads_and_back_have_exact_gradients(name: str) -> None:
    torch.manual_seed(0)
    packed = packed_of(LENGTHS[name][:3])
    angles = tuple(table.double() for table in rotation(packed.longest, HEAD_SIZE, CPU))
    qkv = torch.randn(packed.num_tokens, 3 * HEADS * HEAD_SIZE, dtype=torch.float64, requires_grad=True)

    def there_and_back(stream: Tensor) -> tuple[Tensor, ...]:
        heads = ToHeads.apply(stream, packed.groups, packed.source, packed.slot, angles, HEADS)
        return tuple(_FromHeads.apply(packed.groups, packed.slot, *heads[part::3]) for part in range(3))

    assert torch.equal(there_and_back(qkv)[2], qkv[:, 2 * HEADS * HEAD_SIZE :])
    assert torch.autograd.gradcheck(there_and_back, qkv)


def test_rotated_products_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    packed = packed_of([46])
    row = torch.randn(1, 24)
    query, key, _ = ToHeads.apply(row.expand(46, 24), packed.groups, None, None, rotation(46, 8, CPU), 1)
    products = query[0, 0] @ key[0, 0].T
    torch.testing.assert_close(products[0, 5], products[40, 45])
    assert not torch.allclose(products[0, 5], products[0, 40])

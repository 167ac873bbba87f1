"""The layer's hand-written parts against torch's own: explicit attention, rotation and regrouping with gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proteinlm.models.layers import _attend_explicitly, _FromSlots, _Rotate, _ToSlots, rotation
from proteinlm.models.packed import pack


@pytest.mark.parametrize("masked", [False, True])
def test_explicit_attention_is_torchs(masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    key_mask = (torch.arange(5) < torch.tensor([[3], [5]]))[:, None, None, :] if masked else None
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)
    torch.testing.assert_close(_attend_explicitly(query, key, value, key_mask, 0.0), expected)


def test_rotation_and_regrouping_have_exact_gradients() -> None:
    torch.manual_seed(0)
    packed = pack(np.zeros(9, dtype=np.uint8), np.array([4, 2, 3]))
    cos, sin = (table.double() for table in rotation(packed.positions, 4))
    qkv = torch.randn(9, 24, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda stream: _Rotate.apply(stream, cos, sin, 2), qkv)
    there_and_back = _FromSlots.apply(_ToSlots.apply(qkv, packed.source, packed.slot), packed.slot)
    assert torch.equal(there_and_back, qkv)
    assert torch.autograd.gradcheck(
        lambda stream: _FromSlots.apply(_ToSlots.apply(stream, packed.source, packed.slot), packed.slot), qkv
    )


def test_rotated_products_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    row = torch.randn(1, 24)
    cos, sin = rotation(torch.tensor([0, 5, 40, 45]), 8)
    rotated = _Rotate.apply(row.expand(4, 24), cos, sin, 1)
    query, key, value = rotated.split(8, dim=1)
    torch.testing.assert_close(query[0] @ key[1], query[2] @ key[3])
    assert not torch.allclose(query[0] @ key[1], query[0] @ key[2])
    assert torch.equal(value, row.expand(4, 24)[:, 16:])

"""Attention's hand-written parts against torch's own, with gradients; which path is taken; flash against the CPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from proteinlm.models import attention
from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.attention import _FromHeads, _ToHeads, attend, has_flash, rotation
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
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
    """`attend` and its gradient are those of `plain_attention`."""
    torch.manual_seed(0)
    qkv = torch.randn(packed.num_tokens, 3 * HEADS * HEAD_SIZE, requires_grad=True)
    angles = rotation(packed.longest, HEAD_SIZE, CPU) if is_rotary else None
    weight = torch.randn(packed.num_tokens, HEADS * HEAD_SIZE)
    found, expected = attend(qkv, packed, angles, HEADS, 0.0), plain_attention(qkv, packed, is_rotary)
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
        heads = _ToHeads.apply(stream, packed.groups, packed.source, packed.slot, angles, HEADS)
        return tuple(_FromHeads.apply(packed.groups, packed.slot, *heads[part::3]) for part in range(3))

    assert torch.equal(there_and_back(qkv)[2], qkv[:, 2 * HEADS * HEAD_SIZE :])
    assert torch.autograd.gradcheck(there_and_back, qkv)


def test_rotated_products_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    packed = packed_of([46])
    row = torch.randn(1, 24)
    query, key, _ = _ToHeads.apply(row.expand(46, 24), packed.groups, None, None, rotation(46, 8, CPU), 1)
    products = query[0, 0] @ key[0, 0].T
    torch.testing.assert_close(products[0, 5], products[40, 45])
    assert not torch.allclose(products[0, 5], products[0, 40])


@pytest.mark.parametrize("is_rotary", [True, False])
def test_the_road_to_flash_and_back_is_the_plain_formulas(is_rotary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the flash path but its kernel, which only a GPU has."""
    packed = packed_of(LENGTHS["regrouped"])

    def kernel(query: Tensor, key: Tensor, value: Tensor, borders: Tensor, same: Tensor, *longest: int) -> Tensor:
        assert borders is same
        assert longest == (packed.longest, packed.longest)
        assert query.is_contiguous(), "the layout that the kernel is used to"
        proteins = zip(*(part.split(borders.diff().tolist()) for part in (query, key, value)), strict=True)
        heads_first = ([part.transpose(0, 1) for part in protein] for protein in proteins)
        return torch.cat([F.scaled_dot_product_attention(*protein).transpose(0, 1) for protein in heads_first])

    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    monkeypatch.setattr(attention, "has_flash", lambda *_: True)
    assert_plain(packed, is_rotary)


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


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_the_flash_path_computes_what_the_cpu_does(position: str, is_checkpointed: bool) -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a GPU of capability 8.0 or newer")
    config = ModelConfig.model_validate(
        {
            "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "position": position,
            "max_positions": 400, "activation_checkpointing": is_checkpointed,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    lengths = np.array([3, 70, 129, 400, 64])
    packed = pack(
        np.random.default_rng(0).integers(4, 24, size=lengths.sum()).astype(np.uint8), lengths, get_alphabet("esm")
    )
    weight = torch.randn(packed.num_tokens, 128)
    hidden, gradient = {}, {}
    for device in ("cpu", "cuda"):
        encoder.to(device).zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=device == "cuda"):
            hidden[device] = encoder(packed.to(device)).float()
        (hidden[device] * weight.to(device)).sum().backward()
        gradient[device] = encoder.layers[0].attention.qkv.weight.grad.cpu()
    for found in (hidden, gradient):
        difference = (found["cuda"].cpu() - found["cpu"]).norm() / found["cpu"].norm()
        assert difference < 0.02  # bf16 against fp32

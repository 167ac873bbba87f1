"""The convolutional encoder: no protein sees another, whatever lies beside it; every residue sees its neighbours."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import KERNEL_SIZES, CnnEncoder
from proteinlm.models.packed import pack

CONFIG = ModelConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2)


def make_encoder() -> CnnEncoder:
    torch.manual_seed(0)
    encoder = CnnEncoder(CONFIG)
    with torch.no_grad():
        encoder.token_embedding.weight.normal_()
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # biases too: they fill the gaps between blocks
    return encoder.eval()


def hidden_of(encoder: CnnEncoder, sequences: list[str]) -> list[torch.Tensor]:
    tokens, lengths = get_alphabet(CONFIG.alphabet).encode(sequences)
    with torch.no_grad():
        return list(encoder(pack(tokens, lengths, get_alphabet("esm"))).split(lengths.tolist()))


@settings(max_examples=30)
@given(st.lists(st.text(STANDARD_AMINO_ACIDS, min_size=1, max_size=25), min_size=1, max_size=6))
def test_batching_never_changes_a_protein(sequences: list[str]) -> None:
    encoder = make_encoder()
    for sequence, together in zip(sequences, hidden_of(encoder, sequences), strict=True):
        torch.testing.assert_close(together, hidden_of(encoder, [sequence])[0], atol=1e-5, rtol=1e-5)


def test_a_residue_sees_as_far_as_both_kernels_reach() -> None:
    encoder = make_encoder()
    one, two = hidden_of(encoder, ["A" * 41])[0], hidden_of(encoder, ["A" * 20 + "W" + "A" * 20])[0]
    changed = torch.nonzero((one - two).abs().amax(dim=1) > 1e-7).squeeze(1) - 1  # <cls> is token 0
    reach = sum(size // 2 for size in KERNEL_SIZES)
    assert (changed.min().item(), changed.max().item()) == (20 - reach, 20 + reach)


def test_it_has_the_interface_of_the_encoder_and_learns() -> None:
    encoder = CnnEncoder(CONFIG)
    tokens, lengths = get_alphabet(CONFIG.alphabet).encode(["MKT", "GAVLI"])
    hidden = encoder(pack(tokens, lengths, get_alphabet("esm")))
    assert encoder.config is CONFIG
    assert hidden.shape == (12, 12)
    (hidden * torch.randn_like(hidden)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_dropout_is_for_training_only() -> None:
    encoder = CnnEncoder(CONFIG.model_copy(update={"dropout": 0.5}))
    packed = pack(*get_alphabet(CONFIG.alphabet).encode(["MKT"]), get_alphabet(CONFIG.alphabet))
    assert not torch.equal(encoder(packed), encoder(packed))
    encoder.eval()
    assert torch.equal(encoder(packed), encoder(packed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_under_autocast(dtype: torch.dtype) -> None:
    encoder = make_encoder()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert hidden_of(encoder, ["MKT"])[0].isfinite().all()

"""Low-rank adapters: nothing changes at first, adapters alone are trained, and they travel in the state."""

import pytest
import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.packed import pack
from proteinlm.tasks.finetuned import add_lora

pytest.importorskip("peft")
CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
LAYERS = ("qkv", "output", "expand")


def encoder(seed: int = 0) -> ProteinEncoder:
    torch.manual_seed(seed)
    return ProteinEncoder(CONFIG)


def packed():
    return pack(*get_alphabet("esm").encode(["MKTAYIAKQR", "GSHMLE"]), get_alphabet("esm"))


def test_an_adapter_starts_as_nothing_and_learns() -> None:
    plain, adapted = encoder(), encoder()
    add_lora(adapted, rank=4, alpha=8, dropout=0.0, layers=LAYERS)
    torch.testing.assert_close(adapted(packed()), plain(packed()))
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == 2 * 4 * CONFIG.num_hidden_layers  # A and B on qkv, expand and both outputs of each layer
    loss = adapted(packed()).pow(2).sum()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    with torch.no_grad():
        for p in trained.values():
            p.add_(0.1)
    assert (adapted(packed()) - plain(packed())).abs().max() > 1e-3


def test_an_adapted_encoder_is_restored_from_its_state() -> None:
    first, second = encoder(), encoder(1)
    for model in (first, second):
        add_lora(model, rank=2, alpha=4, dropout=0.0, layers=("qkv",))
    with torch.no_grad():
        for name, p in first.named_parameters():
            if "lora_B" in name:
                p.normal_()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(packed()), first(packed()))


def test_the_update_is_that_of_the_paper() -> None:
    """W + (alpha / rank) B A."""
    adapted = encoder()
    weight = adapted.layers[0].attention.qkv.weight.detach().clone()
    add_lora(adapted, rank=2, alpha=6, dropout=0.0, layers=("qkv",))
    layer = adapted.layers[0].attention.qkv
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        b.normal_()
        x = torch.randn(3, CONFIG.hidden_size)
        expected = torch.nn.functional.linear(x, weight + 3 * b @ a, layer.base_layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="querys"):
        add_lora(encoder(), rank=2, alpha=4, dropout=0.0, layers=("querys",))

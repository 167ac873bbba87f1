"""The layer: what it adds up, which GELU it takes, and what dropout is for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.attention import GroupsAttention, rotation
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import EncoderLayer, FeedForward
from proteinlm.models.packed import pack


def config(**changes: object) -> ModelConfig:
    values = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **changes}
    return ModelConfig.model_validate(values)


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
def test_feed_forward_takes_the_configured_gelu(gelu: str) -> None:
    torch.manual_seed(0)
    feed_forward, hidden = FeedForward(config(gelu=gelu)), 3 * torch.randn(5, 16)
    wide = feed_forward.expand(hidden)
    exact, tanh = (feed_forward.output(F.gelu(wide, approximate=kind)) for kind in ("none", "tanh"))
    assert torch.equal(feed_forward(hidden), tanh if gelu == "tanh" else exact)
    assert not torch.equal(exact, tanh)


def test_a_layer_adds_attention_and_mlp_of_the_normed_stream() -> None:
    torch.manual_seed(0)
    layer, packed = EncoderLayer(config()), pack(np.zeros(9, dtype=np.uint8), np.array([4, 5]), get_alphabet("esm"))
    hidden, attention = torch.randn(9, 16), GroupsAttention(packed, rotation(5, 8, torch.device("cpu")), 0.0)
    middle = hidden + layer.attention(layer.attention_norm(hidden), attention)
    expected = middle + layer.feed_forward(layer.feed_forward_norm(middle))
    assert torch.equal(layer(hidden, attention), expected)


def test_dropout_draws_in_training_only() -> None:
    torch.manual_seed(0)
    layer, packed = (
        EncoderLayer(config(dropout=0.5)),
        pack(np.zeros(9, dtype=np.uint8), np.array([9]), get_alphabet("esm")),
    )
    hidden, attention = torch.randn(9, 16), GroupsAttention(packed, None, 0.0)
    before = torch.get_rng_state()
    layer.eval()(hidden, attention)
    assert torch.equal(torch.get_rng_state(), before)
    layer.train()(hidden, attention)
    assert not torch.equal(torch.get_rng_state(), before)

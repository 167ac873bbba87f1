"""The residual stream under bf16 autocast: no copies in fp32, gradients summed in fp32, losses as in fp32."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from proteinlm.models import residual_stream
from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.residual_stream import StreamEmbedding, StreamNorm, _CastRows
from tests.made.repeats import autocast, language_model, losses
from tests.made.small_models import random_packed


class Fp32Seen(TorchDispatchMode):
    """Keeps the names of operators that make fp32 tensors of `rows` rows or more, each of several numbers."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            is_large = isinstance(made, Tensor) and made.dtype == torch.float32 and made.numel() >= 8 * self.rows
            if is_large and self.rows <= made.shape[0]:
                self.found.append(f"{function} {tuple(made.shape)}")
        return result


MODELS = {
    "ESM-2": {"position": "rotary", "token_dropout": True},
    "ESM-1b": {"position": "learned", "token_dropout": True, "embedding_norm": True},
    "paper": {"position": "learned"},
}


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("by_lengths", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_the_streams_size_is_made_in_fp32(
    name: str, by_lengths: bool, is_checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residual_stream, "ROWS_AT_A_TIME", 32)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_positions": 90}
    config = ModelConfig.model_validate({**shape, **MODELS[name], "activation_checkpointing": is_checkpointed})
    encoder, head = language_model(config)
    packed = random_packed([80, 60, 90, 70])
    scored = torch.arange(0, packed.num_tokens, 7)
    with emulated_attention() if by_lengths else nullcontext(), Fp32Seen(packed.num_tokens) as seen:
        with autocast(torch.bfloat16):
            hidden = encoder(packed)
            loss = F.cross_entropy(head(hidden[scored]).float(), packed.tokens[scored])
        loss.backward()
    assert hidden.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    assert seen.found == []
    assert all(parameter.grad.dtype == torch.float32 for parameter in encoder.parameters())


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_fp32_and_fp16_keep_the_stream_in_fp32(dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    embedding, norm = StreamEmbedding(33, 16), StreamNorm(16)
    plain_embedding, plain_norm = nn.Embedding(33, 16), nn.LayerNorm(16)
    plain_embedding.load_state_dict(embedding.state_dict())
    ids = torch.arange(33)
    with autocast(dtype):
        found, expected = norm(embedding(ids)), plain_norm(plain_embedding(ids))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_the_tables_gradient_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual_stream, "ROWS_AT_A_TIME", 1000)
    table, ids = StreamEmbedding(3, 4), torch.arange(9001) % 2
    with autocast(torch.bfloat16):
        rows = table(ids)
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows, table.weight.bfloat16()[ids])
    rows.sum().backward()
    assert table.weight.grad.tolist() == [[4501.0] * 4, [4500.0] * 4, [0.0] * 4]  # bf16 would end at 256


def test_layer_norm_of_a_bf16_stream_has_exact_statistics() -> None:
    """Far from zero, where a mean in bf16 would be wrong by more than the deviation."""
    torch.manual_seed(0)
    norm = StreamNorm(64)
    hidden = (100 + torch.randn(50, 64)).bfloat16().requires_grad_()
    weight = torch.randn(50, 64)
    with autocast(torch.bfloat16):
        found = norm(hidden)
    exact = hidden.detach().double().requires_grad_()
    expected = F.layer_norm(exact, (64,))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.01)
    (gradient,) = torch.autograd.grad((found.float() * weight).sum(), hidden)
    (exact_gradient,) = torch.autograd.grad((expected * weight).sum(), exact)
    assert (gradient - exact_gradient).norm() / exact_gradient.norm() < 0.01


def test_layer_norm_is_out_of_autocasts_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's autocast would copy the stream to fp32 for it, which a CPU's does not."""
    enabled: list[bool] = []
    layer_norm = F.layer_norm

    def watched(*given: Any) -> Tensor:
        enabled.append(torch.is_autocast_enabled("cpu"))
        return layer_norm(*given)

    monkeypatch.setattr(F, "layer_norm", watched)
    with autocast(torch.bfloat16):
        StreamNorm(8)(torch.randn(3, 8).bfloat16())
    assert enabled == [False]


def test_what_runs_on_gpus_alone_has_the_right_types_and_shapes() -> None:
    """On torch's device without data, which takes the same road."""
    hidden = torch.empty(5, 8, dtype=torch.bfloat16, device="meta")
    assert [part.dtype for part in StreamNorm(8, device="meta").weights_for(hidden)] == [torch.bfloat16] * 2
    table, ids = torch.empty(3, 8, device="meta", requires_grad=True), torch.zeros(5, dtype=torch.int64, device="meta")
    rows = _CastRows.apply(table, ids, torch.bfloat16)
    rows.sum().backward()
    assert (rows.dtype, rows.shape) == (torch.bfloat16, (5, 8))
    assert (table.grad.dtype, table.grad.shape) == (torch.float32, (3, 8))


def test_a_training_in_bf16_learns_what_one_in_fp32_does() -> None:
    exact, rounded, other = losses(None, 300), losses(torch.bfloat16, 300), losses(None, 300, seed=1)
    assert exact[-50:].mean() < 0.1 < 2.0 < exact[:50].mean(), "something is learned"
    noise = np.abs(other - exact)[-100:].mean()  # of other batches
    assert np.abs(rounded - exact)[-100:].mean() < noise / 4
    assert np.abs(rounded - exact).max() < 0.1

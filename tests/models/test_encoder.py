"""The encoder: proteins never see their neighbours, gradients flow, options change what they say and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.packed import Packed, pack


def small_config(**changes: object) -> ModelConfig:
    values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **changes}
    return ModelConfig.model_validate(values)


def model(config: ModelConfig) -> tuple[ProteinEncoder, LanguageModelHead]:
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    head = LanguageModelHead(config, encoder.token_embedding)
    with torch.no_grad():  # larger weights than a fresh model's, so that attention and biases matter
        for parameter in dict.fromkeys([*encoder.parameters(), *head.parameters()]):
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder, head


def proteins(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 33, size=length).astype(np.uint8) for length in lengths]


def packed_of(parts: list[np.ndarray]) -> Packed:
    return pack(np.concatenate(parts), np.array([len(part) for part in parts]), get_alphabet("esm"))


MODELS = {
    "rotary": model(small_config()),
    "learned": model(small_config(position="learned", max_positions=80)),
    "ESM-1b": model(small_config(position="learned", max_positions=80, token_dropout=True, embedding_norm=True)),
}


@pytest.mark.parametrize("name", MODELS)
@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 11)),
    seed=st.integers(0, 2**16),
    order=st.randoms(use_true_random=False),
)
def test_batching_never_changes_logits(name: str, lengths: list[int], cuts: set[int], seed: int, order) -> None:
    encoder, head = MODELS[name]
    parts = proteins(lengths, seed)
    with torch.no_grad():
        alone = [head(encoder(packed_of([part]))) for part in parts]
        shuffled = list(range(len(parts)))
        order.shuffle(shuffled)
        borders = [0, *sorted(cut for cut in cuts if cut < len(parts)), len(parts)]
        for begin, end in pairwise(borders):
            members = shuffled[begin:end]
            together = head(encoder(packed_of([parts[i] for i in members]))).split([lengths[i] for i in members])
            for index, logits in zip(members, together, strict=True):
                torch.testing.assert_close(logits, alone[index], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[9, 9, 9], [9, 10, 8, 30]])
def test_a_protein_attends_to_itself_alone(lengths: list[int]) -> None:
    encoder, _ = MODELS["rotary"]
    packed = packed_of(proteins(lengths))
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    with encoder.token_embedding.register_forward_hook(keep):
        hidden = encoder(packed)
    hidden[packed.protein_index == 1].square().sum().backward()
    touched = embedded[0].grad.abs().sum(dim=1) > 0
    assert torch.equal(touched, packed.protein_index == 1)


def test_hidden_states_have_the_streams_shape() -> None:
    encoder, head = MODELS["rotary"]
    hidden = encoder(packed_of(proteins([5, 7])))
    assert hidden.shape == (12, 32)
    assert head(hidden[:3]).shape == (3, 33)


def test_learned_positions_end_somewhere() -> None:
    encoder, _ = MODELS["learned"]
    with pytest.raises(ValueError, match=r"a protein has 81 tokens .* max_positions = 80"):
        encoder(packed_of(proteins([5, 81])))


def gradients(config: ModelConfig, packed: Packed) -> dict[str, Tensor]:
    encoder, head = model(config)
    torch.manual_seed(1)  # dropout's draws
    head(encoder(packed)).logsumexp(-1).sum().backward()
    named = {**dict(encoder.named_parameters()), **dict(head.named_parameters(prefix="head"))}
    assert all(parameter.grad is not None for parameter in named.values())
    return {name: parameter.grad for name, parameter in named.items()}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_activation_checkpointing_changes_no_gradient(dropout: float, position: str) -> None:
    packed = packed_of(proteins([6, 20, 20, 22, 3]))
    plain = gradients(small_config(dropout=dropout, position=position), packed)
    again = gradients(small_config(dropout=dropout, position=position, activation_checkpointing=True), packed)
    for name, gradient in plain.items():
        assert gradient.abs().sum() > 0 or name.endswith("qkv.bias"), name
        torch.testing.assert_close(gradient, again[name], rtol=1e-6, atol=1e-7)


def test_gradients_are_those_of_proteins_alone() -> None:
    lengths = [4, 20, 21, 19, 50]
    together = gradients(small_config(), packed_of(proteins(lengths)))
    parts = [gradients(small_config(), packed_of([part])) for part in proteins(lengths)]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in parts), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", [[20, 20], [4, 20, 21, 19, 50]])
def test_gradients_agree_with_finite_differences(lengths: list[int]) -> None:
    encoder, head = model(small_config())
    encoder.double(), head.double()
    packed = packed_of(proteins(lengths))
    weight = encoder.layers[0].attention.qkv.weight
    direction = torch.randn_like(weight)
    head(encoder(packed)).logsumexp(-1).sum().backward()
    with torch.no_grad():
        values = []
        for step in (1e-5, -2e-5):
            weight.add_(step * direction)
            values.append(head(encoder(packed)).logsumexp(-1).sum())
    expected = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close((weight.grad * direction).sum(), expected, rtol=1e-5, atol=1e-6)


def test_dropout_is_for_training_only() -> None:
    encoder, _ = model(small_config(dropout=0.5))
    packed = packed_of(proteins([9, 11]))
    assert not torch.equal(encoder(packed), encoder(packed))
    encoder.eval()
    assert torch.equal(encoder(packed), encoder(packed))


@pytest.mark.parametrize("lengths", [[20, 20], [4, 20, 21, 19, 50]])
def test_bf16_autocast_stays_near_fp32(lengths: list[int]) -> None:
    encoder, head = MODELS["rotary"]
    packed = packed_of(proteins(lengths))
    with torch.no_grad():
        exact = head(encoder(packed))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = encoder(packed)
            rounded = head(hidden)
    assert hidden.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_run(dtype: torch.dtype) -> None:
    encoder, head = model(small_config())
    encoder.to(dtype), head.to(dtype)
    logits = head(encoder(packed_of(proteins([9, 10, 30]))))
    assert logits.dtype == dtype
    logits.float().logsumexp(-1).sum().backward()
    assert bool(encoder.token_embedding.weight.grad.isfinite().all())


@pytest.mark.parametrize(("options", "deviation"), [({}, 0.02), ({"initializer_range": 0.05}, 0.05)])
def test_fresh_weights_follow_the_paper_or_the_deviation_asked_for(options: dict[str, float], deviation: float) -> None:
    torch.manual_seed(0)
    config = small_config(hidden_size=128, num_hidden_layers=8, **options)
    encoder = ProteinEncoder(config)
    layer = encoder.layers[0]
    for weight, expected in (
        (encoder.token_embedding.weight, deviation),
        (layer.attention.qkv.weight, deviation),
        (layer.feed_forward.expand.weight, deviation),
        (LanguageModelHead(config, encoder.token_embedding).dense.weight, deviation),
        (layer.attention.output.weight, deviation / 4),
        (layer.feed_forward.output.weight, deviation / 4),
    ):
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not layer.attention.qkv.bias.any()

"""Attention maps: ESM's own, and those that the layers' outputs are made of."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import EsmModel

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.packed import Packed, pack
from proteinlm.tasks.contact_probe import attention_maps

SEQUENCES = ["MKTAYIAKQR", "GAVLIX", "MSTNPKPQRKTKRNTNRRPQDVKFPGG", "W", "GAVLIM"]


def make_encoder(position: str, **changes: object) -> ProteinEncoder:
    values = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "max_positions": 40}
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig.model_validate({**values, "position": position, **changes}))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def make_packed() -> Packed:
    return pack(*get_alphabet("esm").encode(SEQUENCES), get_alphabet("esm"))


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_maps_are_those_of_esm(position: str) -> None:
    encoder = make_encoder(position)
    head = LanguageModelHead(encoder.config, encoder.token_embedding)
    esm = EsmModel(esm_config(encoder.config), add_pooling_layer=False).eval()
    esm.set_attn_implementation("eager")
    state = to_esm_state(encoder, head).items()
    esm.load_state_dict({name.removeprefix("esm."): tensor for name, tensor in state}, strict=False)
    tokens, lengths = get_alphabet("esm").encode(SEQUENCES)
    proteins = np.split(tokens, np.cumsum(lengths)[:-1])
    for protein, maps in zip(proteins, attention_maps(encoder, make_packed()), strict=True):
        with torch.no_grad():
            theirs = esm(torch.from_numpy(protein.astype(np.int64))[None], output_attentions=True).attentions
        torch.testing.assert_close(maps, torch.cat(theirs).flatten(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_attended_values_follow_from_the_maps(position: str) -> None:
    encoder, packed = make_encoder(position), make_packed()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in encoder.layers:
        layer.attention.qkv.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
        layer.attention.output.register_forward_hook(lambda module, given, out: seen.append(given[0].detach()))
    maps = attention_maps(encoder, packed)
    heads = encoder.config.num_attention_heads
    for index in range(len(encoder.layers)):
        values = seen[2 * index].chunk(3, dim=1)[2].split(packed.lengths)
        attended = seen[2 * index + 1].split(packed.lengths)
        for protein, probabilities in enumerate(maps):
            own = probabilities[index * heads : (index + 1) * heads]
            value = values[protein].unflatten(1, (heads, -1)).transpose(0, 1)
            expected = (own @ value).transpose(0, 1).flatten(1)
            torch.testing.assert_close(expected, attended[protein], atol=1e-5, rtol=1e-5)


def test_shapes_sums_and_what_is_left_behind() -> None:
    encoder = make_encoder("rotary", dropout=0.5)
    maps = attention_maps(encoder, make_packed())
    assert [tuple(part.shape) for part in maps] == [(6, n + 2, n + 2) for n in map(len, SEQUENCES)]
    assert all(torch.allclose(part.sum(dim=-1), torch.ones(())) for part in maps)
    assert encoder.training
    assert all(torch.equal(one, two) for one, two in zip(maps, attention_maps(encoder, make_packed()), strict=True))
    assert not any(layer.attention.qkv._forward_hooks for layer in encoder.layers)
    assert not maps[0].requires_grad


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_maps_stay_in_fp32_under_bf16(position: str) -> None:
    encoder = make_encoder(position)
    with torch.autocast("cpu", torch.bfloat16):
        maps = attention_maps(encoder, make_packed())
    assert maps[0].dtype == torch.float32
    torch.testing.assert_close(maps[2].sum(dim=-1), torch.ones_like(maps[2][..., 0]), atol=1e-6, rtol=0)


def test_proteins_beyond_the_positions_are_refused_and_no_hook_stays() -> None:
    encoder = make_encoder("learned", max_positions=20)
    with pytest.raises(ValueError, match="max_positions = 20"):
        attention_maps(encoder, make_packed())
    assert not any(layer.attention.qkv._forward_hooks for layer in encoder.layers)


# torch's compiler imports what torch has deprecated
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_maps_of_a_compiled_encoder_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled before the hooks were there does not call them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    encoder = make_encoder("rotary")
    expected = attention_maps(encoder, make_packed())
    encoder.compile_layers("dynamic", torch.device("cpu"))
    with torch.no_grad():
        encoder.eval()(make_packed())
    found = attention_maps(encoder, make_packed())
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))

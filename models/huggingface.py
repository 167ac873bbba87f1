"""Weights to and from the ecosystem's own class, transformers' EsmForMaskedLM.

Both sides compute the same function; what differs is how it is written down:

- names: `esm.encoder.layer.3.LayerNorm` there is `layers.3.feed_forward_norm` here (`LAYER_NAMES`, `HEAD_NAMES`);
- queries, keys and values are three matrices [D, D] there, and here one, `qkv` [3 D, D], one below the other;
- learned positions are counted from pad_id + 1 there and from 0 here, so their table has two rows more (ESM's pad_id
  is 1), which nothing reads;
- the decoder of the language model head is the token table on both sides (tied); their files may have it twice.

Rotary positions make an ESM-2, learned ones an ESM-1v, with a LayerNorm on the embedding an ESM-1b; token dropout is a
field on both sides. Out: `esm_config` and `to_esm_state`. In: `from_esm_config` and `from_esm_state`, which need no
transformers (pretrained.py finds and reads the files); `esm_layout` says what a file must hold.

Shapes: V rows of the token table, D hidden.
"""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import EncoderLayer, LanguageModelHead, ProteinEncoder
from proteinlm.models.messages import shown

if TYPE_CHECKING:
    from transformers import EsmConfig

MODEL_TYPE = "esm"
"""What config.json of transformers' ESM classes calls itself."""

ACCEPTED: Mapping[str, tuple[object, ...]] = {
    "position_embedding_type": ("rotary", "absolute"),
    "hidden_act": ("gelu",),
    "emb_layer_norm_before": (True, False, None),
    "token_dropout": (True, False, None),
    "is_folding_model": (False, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "rope_theta": (10000, None),
}
"""Values of an EsmConfig's fields that our encoder computes; with None among them the field may be missing."""

NOT_READ = (
    *("contact_head.", "pooler.", "classifier."),  # heads
    *("rotary_embeddings.inv_freq", "embeddings.position_ids", "lm_head.decoder.bias"),  # computed, or there twice
)
"""Parts of the names of tensors that an encoder of ours has no place for."""
POSITIONS = "embeddings.position_embeddings.weight"
DECODER = "lm_head.decoder.weight"
HEAD_PREFIX = "lm_head."

LAYER_NAMES: Mapping[str, str] = {
    "attention.output.dense": "attention.output",
    "attention.LayerNorm": "attention_norm",
    "intermediate.dense": "feed_forward.expand",
    "output.dense": "feed_forward.output",
    "LayerNorm": "feed_forward_norm",
}
"""Modules of a layer, ESM's name -> ours; queries, keys and values aside, which are one matrix here."""
HEAD_NAMES: Mapping[str, str] = {"lm_head.dense": "dense", "lm_head.layer_norm": "norm"}
PROJECTIONS = ("query", "key", "value")
"""In the order in which `qkv` has them."""


def esm_config(config: ModelConfig) -> "EsmConfig":
    """The configuration of the EsmForMaskedLM that computes what our model computes.

    Raises ValueError for a tanh GELU: ESM knows the exact one only.
    """
    from transformers import EsmConfig

    if config.gelu != "exact":
        raise ValueError(f"EsmForMaskedLM computes the exact GELU, this model has gelu: {config.gelu}")
    alphabet = get_alphabet(config.alphabet)
    return EsmConfig(
        vocab_size=alphabet.size,
        bos_token_id=alphabet.cls_id,
        pad_token_id=alphabet.pad_id,
        eos_token_id=alphabet.eos_id,
        mask_token_id=alphabet.mask_id,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.mlp_size,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        max_position_embeddings=config.max_positions + alphabet.pad_id + 1,
        layer_norm_eps=config.layer_norm_eps,
        position_embedding_type="rotary" if config.position == "rotary" else "absolute",
        emb_layer_norm_before=config.embedding_norm,
        token_dropout=config.token_dropout,
        tie_word_embeddings=True,
    )


def to_esm_state(encoder: ProteinEncoder, head: LanguageModelHead) -> dict[str, Tensor]:
    """State of EsmForMaskedLM(esm_config(encoder.config)); what we have no weights for (contact head) is left out.

    Load it with `strict=False`, and see that only `contact_head` and rotary frequencies are reported missing. Raises
    ValueError where the head's decoder is not the encoder's token table, which `esm_config` ties.
    """
    if head.decoder_weight is not encoder.token_embedding.weight:
        raise ValueError("the head's decoder is not the encoder's token table, but `esm_config` ties the two")
    size = get_alphabet(encoder.config.alphabet).size
    state = {
        **{f"esm.{name}": tensor for name, tensor in _encoder_state(encoder).items()},
        **_head_state(head),
        DECODER: head.decoder_weight[:size],
    }
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _encoder_state(encoder: ProteinEncoder) -> dict[str, Tensor]:
    """Under the names of EsmModel."""
    alphabet = get_alphabet(encoder.config.alphabet)
    state = {
        "embeddings.word_embeddings.weight": encoder.token_embedding.weight[: alphabet.size],
        **_named("encoder.emb_layer_norm_after", encoder.final_norm),
    }
    if encoder.embedding_norm is not None:
        state.update(_named("embeddings.layer_norm", encoder.embedding_norm))
    if encoder.position_embedding is not None:
        positions = encoder.position_embedding.weight
        # ESM counts positions from pad_id + 1; the rows before are never read
        unused = positions.new_zeros(alphabet.pad_id + 1, positions.shape[1])
        state[POSITIONS] = torch.cat([unused, positions])
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, EncoderLayer)
        state.update(_layer_state(f"encoder.layer.{index}", layer))
    return state


def _head_state(head: LanguageModelHead) -> dict[str, Tensor]:
    """All but the decoder's matrix."""
    named = {name: tensor for theirs, ours in HEAD_NAMES.items() for name, tensor in
             _named(theirs, _norm_or_linear(head, ours)).items()}  # fmt: skip
    return {"lm_head.bias": head.decoder_bias[: head.num_tokens], **named}


def _layer_state(prefix: str, layer: EncoderLayer) -> dict[str, Tensor]:
    weights = layer.attention.qkv.weight.chunk(3)
    biases = layer.attention.qkv.bias.chunk(3)
    state: dict[str, Tensor] = {}
    for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
        state[f"{prefix}.attention.self.{name}.weight"] = weight
        state[f"{prefix}.attention.self.{name}.bias"] = bias
    for theirs, ours in LAYER_NAMES.items():
        state.update(_named(f"{prefix}.{theirs}", _norm_or_linear(layer, ours)))
    return state


def _norm_or_linear(module: torch.nn.Module, name: str) -> torch.nn.Linear | torch.nn.LayerNorm:
    inner = module.get_submodule(name)
    assert isinstance(inner, torch.nn.Linear | torch.nn.LayerNorm)
    return inner


def _named(name: str, module: torch.nn.Linear | torch.nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def from_esm_config(values: Mapping[str, object]) -> dict[str, object]:
    """Values of the `ModelConfig` that computes what the ESM model of config.json `values` computes.

    Raises ValueError that names the field where there is none: another kind of model, another alphabet than ESM's,
    another activation.
    """
    alphabet = get_alphabet("esm")
    fixed = {"vocab_size": alphabet.size, "pad_token_id": alphabet.pad_id, "mask_token_id": alphabet.mask_id}
    defaults = {"position_embedding_type": "absolute", "hidden_act": "gelu"}
    for field, accepted in {**ACCEPTED, **{name: (value,) for name, value in fixed.items()}}.items():
        found = values.get(field, defaults.get(field))
        if found not in accepted:
            words = " or ".join(repr(value) for value in accepted if value is not None)
            raise ValueError(f"{field} is {shown(found)}; accepted: {words}")
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    if missing := [field for field in needed if type(values.get(field)) is not int]:
        raise ValueError(f"{missing[0]} is {shown(values.get(missing[0]))}; accepted: a whole number")
    positions = values["max_position_embeddings"]
    assert isinstance(positions, int)
    return {
        "alphabet": alphabet.name,
        **{field: values[field] for field in needed[:4]},
        "position": "rotary" if values.get("position_embedding_type") == "rotary" else "learned",
        "max_positions": positions - alphabet.pad_id - 1,  # ESM counts positions from pad_id + 1
        "token_dropout": bool(values.get("token_dropout")),
        "embedding_norm": bool(values.get("emb_layer_norm_before")),
        "dropout": values.get("hidden_dropout_prob") or 0.0,
        "layer_norm_eps": values.get("layer_norm_eps", 1e-12),
        "initializer_range": values.get("initializer_range", 0.02),
    }


def esm_name(name: str, config: ModelConfig) -> str | None:
    """The name of a tensor in EsmModel or the language model head, from that in a file; None: nothing of ours reads it.

    Classes with a head put "esm." before the encoder's names, and transformers 5 writes TensorFlow's gamma and beta for
    a layer's two LayerNorms.
    """
    if any(part in name for part in NOT_READ):
        return None
    plain = name.removeprefix("esm.")
    for theirs, ours in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        plain = plain.replace(theirs, ours)
    return None if plain == POSITIONS and config.position == "rotary" else plain  # ESM-2's files have an unread one


def esm_layout(config: ModelConfig, names: Collection[str]) -> dict[str, Tensor]:
    """The tensors, without memory, that a file of the model `config` must hold under names as `esm_name` gives them.

    With `names` found of a head, all of a head's; the decoder's matrix where it is among them (where it is tied, files
    may leave it out).
    """
    with torch.device("meta"):
        encoder = ProteinEncoder(config)
        layout = _encoder_state(encoder)
        if any(name.startswith(HEAD_PREFIX) for name in names):
            layout |= _head_state(LanguageModelHead(config, encoder.token_embedding))
        if DECODER in names:
            layout[DECODER] = encoder.token_embedding.weight
    return layout


def from_esm_state(config: ModelConfig, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State of `ProteinEncoder(config)`, and of its `LanguageModelHead`, empty where `state` has none; in fp32.

    `state` has what `esm_layout` says. The head has a "decoder_weight" only where that is not the token table.
    """
    found = {name: tensor.to(torch.float32, copy=True).contiguous() for name, tensor in state.items()}
    table = found["embeddings.word_embeddings.weight"]
    encoder = {
        "token_embedding.weight": table,
        **_taken(found, {"encoder.emb_layer_norm_after": "final_norm"}),
        **(_taken(found, {"embeddings.layer_norm": "embedding_norm"}) if config.embedding_norm else {}),
    }
    if config.position == "learned":
        encoder["position_embedding.weight"] = found[POSITIONS][get_alphabet(config.alphabet).pad_id + 1 :].clone()
    for index in range(config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{index}", f"layers.{index}"
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{theirs}.attention.self.{name}.{kind}") for name in PROJECTIONS]
            encoder[f"{ours}.attention.qkv.{kind}"] = torch.cat(parts)
        encoder |= _taken(found, {f"{theirs}.{name}": f"{ours}.{own}" for name, own in LAYER_NAMES.items()})
    if "lm_head.bias" not in found:
        return encoder, {}
    head = {**_taken(found, HEAD_NAMES), "decoder_bias": found["lm_head.bias"]}
    if not torch.equal(decoder := found.get(DECODER, table), table):
        head["decoder_weight"] = decoder
    return encoder, head


def _taken(found: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of modules, taken out of `found`, under our names."""
    return {
        f"{ours}.{kind}": found.pop(f"{theirs}.{kind}") for theirs, ours in names.items() for kind in ("weight", "bias")
    }

"""Weights to and from the ecosystem's own class, transformers' EsmForMaskedLM.

Out: rotary models become ESM-2, learned positions ESM-1b, both without ESM's token dropout (whose rescaling of
embeddings at inference these models were not trained with) and without a LayerNorm on the embedding. In: what lies in a
directory that EsmForMaskedLM or EsmModel saved, read without transformers.

Shapes: V rows of the token table, D hidden.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import EncoderLayer, LanguageModelHead, ProteinEncoder

if TYPE_CHECKING:
    from transformers import EsmConfig

MODEL_TYPE = "esm"
"""What config.json of transformers' ESM classes calls itself."""

TOKEN_DROPOUT_SCALE = 1.0 - 0.15 * 0.8
"""ESM's token dropout multiplies the embeddings of a protein without mask tokens by this (modeling_esm.py, from
fair-esm: 15 % of the residues were scored in training, 80 % of them masked)."""

ACCEPTED: Mapping[str, tuple[object, ...]] = {
    "position_embedding_type": ("rotary", "absolute"),
    "hidden_act": ("gelu",),
    "emb_layer_norm_before": (False, None),
    "is_folding_model": (False, None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "rope_theta": (10000, None),
}
"""Values of an EsmConfig's fields that our encoder computes; a missing field has the second, or ESM's own default."""

NOT_READ = ("contact_head.", "pooler.", "rotary_embeddings.inv_freq", "embeddings.position_ids")
"""Parts of the names of tensors that an encoder of ours has no place for: heads, and tables computed anew."""

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
        emb_layer_norm_before=False,
        token_dropout=False,
        tie_word_embeddings=True,
    )


def to_esm_state(encoder: ProteinEncoder, head: LanguageModelHead) -> dict[str, Tensor]:
    """State of EsmForMaskedLM(esm_config(encoder.config)); what we have no weights for (contact head) is left out.

    Load it with `strict=False`, and see that only `contact_head` and rotary frequencies are reported missing. Raises
    ValueError where the head's decoder is not the encoder's token table (read from an ESM with token dropout).
    """
    if head.decoder_weight is not encoder.token_embedding.weight:
        raise ValueError("the head's decoder is not the encoder's token table, but `esm_config` ties the two")
    alphabet = get_alphabet(encoder.config.alphabet)
    state = {
        "esm.embeddings.word_embeddings.weight": encoder.token_embedding.weight[: alphabet.size],
        "lm_head.decoder.weight": head.decoder_weight[: alphabet.size],
        "lm_head.bias": head.decoder_bias[: alphabet.size],
        **_named("lm_head.dense", head.dense),
        **_named("lm_head.layer_norm", head.norm),
        **_named("esm.encoder.emb_layer_norm_after", encoder.final_norm),
    }
    if encoder.position_embedding is not None:
        positions = encoder.position_embedding.weight
        # ESM counts positions from pad_id + 1; the rows before are never read
        unused = positions.new_zeros(alphabet.pad_id + 1, positions.shape[1])
        state["esm.embeddings.position_embeddings.weight"] = torch.cat([unused, positions])
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, EncoderLayer)
        state.update(_layer_state(f"esm.encoder.layer.{index}", layer))
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _layer_state(prefix: str, layer: EncoderLayer) -> dict[str, Tensor]:
    weights = layer.attention.qkv.weight.chunk(3)
    biases = layer.attention.qkv.bias.chunk(3)
    state: dict[str, Tensor] = {}
    for name, weight, bias in zip(PROJECTIONS, weights, biases, strict=True):
        state[f"{prefix}.attention.self.{name}.weight"] = weight
        state[f"{prefix}.attention.self.{name}.bias"] = bias
    for theirs, ours in LAYER_NAMES.items():
        module = layer.get_submodule(ours)
        assert isinstance(module, torch.nn.Linear | torch.nn.LayerNorm)
        state.update(_named(f"{prefix}.{theirs}", module))
    return state


def _named(name: str, module: torch.nn.Linear | torch.nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}


def from_esm_config(values: Mapping[str, object]) -> dict[str, object]:
    """Values of the `ModelConfig` that computes what the ESM model of config.json `values` computes.

    Raises ValueError that names the field where there is none: another kind of model, another alphabet than ESM's, a
    LayerNorm on the embedding (ESM-1b's own weights), another activation.
    """
    alphabet = get_alphabet("esm")
    fixed = {"vocab_size": alphabet.size, "pad_token_id": alphabet.pad_id, "mask_token_id": alphabet.mask_id}
    defaults = {"position_embedding_type": "absolute", "hidden_act": "gelu"}
    for field, accepted in {**ACCEPTED, **{name: (value,) for name, value in fixed.items()}}.items():
        found = values.get(field, defaults.get(field))
        if found not in accepted:
            words = " or ".join(repr(value) for value in accepted if value is not None)
            raise ValueError(f"{field} is {found!r}; accepted: {words}")
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    if missing := [field for field in needed if not isinstance(values.get(field), int)]:
        raise ValueError(f"{missing[0]} is {values.get(missing[0])!r}; accepted: a whole number")
    positions = values["max_position_embeddings"]
    assert isinstance(positions, int)
    return {
        "alphabet": alphabet.name,
        **{field: values[field] for field in needed[:4]},
        "position": "rotary" if values.get("position_embedding_type") == "rotary" else "learned",
        "max_positions": positions - alphabet.pad_id - 1,  # ESM counts positions from pad_id + 1
        "dropout": values.get("hidden_dropout_prob") or 0.0,
        "layer_norm_eps": values.get("layer_norm_eps", 1e-12),
        "initializer_range": values.get("initializer_range", 0.02),
    }


def from_esm_state(
    config: ModelConfig, state: Mapping[str, Tensor], *, token_dropout: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """State of `ProteinEncoder(config)`, and of its `LanguageModelHead`, None where `state` (of an EsmModel) has none.

    With `token_dropout` the token table is ESM's times `TOKEN_DROPOUT_SCALE` and zero for the mask token, as ESM embeds
    a protein without mask tokens (with some, ESM scales by their share too: there our hidden states differ). The head
    has a "decoder_weight" only where that is not the token table: with `token_dropout`, ESM's unscaled one. Raises
    ValueError that names what is missing or unknown.
    """
    found = {_plain_name(name): tensor.float() for name, tensor in state.items()}
    found = {name: tensor for name, tensor in found.items() if not any(part in name for part in NOT_READ)}
    if config.position == "rotary":  # ESM-2's files carry a table of positions that nothing reads
        found.pop("embeddings.position_embeddings.weight", None)
    has_head = "lm_head.dense.weight" in found
    try:
        encoder = _taken_encoder(config, found)
        head = _taken_head(found, encoder["token_embedding.weight"]) if has_head else None
    except KeyError as error:
        raise ValueError(f"lacks the tensor {error.args[0]!r}") from None
    if found:
        raise ValueError(f"holds {len(found)} tensors that an ESM encoder does not have (such as {min(found)!r})")
    table = encoder["token_embedding.weight"]
    if token_dropout:
        encoder["token_embedding.weight"] = table * TOKEN_DROPOUT_SCALE
        encoder["token_embedding.weight"][get_alphabet(config.alphabet).mask_id] = 0.0
    elif head is not None and torch.equal(head["decoder_weight"], table):
        del head["decoder_weight"]
    return encoder, head


def _plain_name(name: str) -> str:
    """As EsmModel names it; transformers 5 writes TensorFlow's gamma and beta for a layer's two LayerNorms."""
    plain = name.removeprefix("esm.")
    for theirs, ours in (("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")):
        plain = plain.replace(theirs, ours)
    return plain


def _taken_encoder(config: ModelConfig, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's state, taken out of `found`; KeyError with ESM's name for what is not there."""
    state = {"token_embedding.weight": found.pop("embeddings.word_embeddings.weight")}
    if config.position == "learned":
        unread = get_alphabet(config.alphabet).pad_id + 1
        state["position_embedding.weight"] = found.pop("embeddings.position_embeddings.weight")[unread:].clone()
    for index in range(config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{index}", f"layers.{index}"
        for kind in ("weight", "bias"):
            parts = [found.pop(f"{theirs}.attention.self.{name}.{kind}") for name in PROJECTIONS]
            state[f"{ours}.attention.qkv.{kind}"] = torch.cat(parts)
        state.update(_taken(found, {f"{theirs}.{name}": f"{ours}.{own}" for name, own in LAYER_NAMES.items()}))
    return {**state, **_taken(found, {"encoder.emb_layer_norm_after": "final_norm"})}


def _taken_head(found: dict[str, Tensor], token_table: Tensor) -> dict[str, Tensor]:
    bias = found.pop("lm_head.bias")
    found.pop("lm_head.decoder.bias", None)  # the same tensor under a second name
    decoder = found.pop("lm_head.decoder.weight", token_table)  # left out of files where it is tied
    return {**_taken(found, HEAD_NAMES), "decoder_weight": decoder, "decoder_bias": bias}


def _taken(found: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights and biases of modules, taken out of `found`, under our names."""
    return {
        f"{ours}.{kind}": found.pop(f"{theirs}.{kind}") for theirs, ours in names.items() for kind in ("weight", "bias")
    }

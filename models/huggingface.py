"""Our weights in the ecosystem's own class: configuration and state for transformers' EsmForMaskedLM.

Rotary models become ESM-2, learned positions ESM-1b, both without ESM's token dropout (whose rescaling of embeddings at
inference these models were not trained with) and without a LayerNorm on the embedding.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.layers import EncoderLayer
from proteinlm.models.objectives import LanguageModelHead

if TYPE_CHECKING:
    from transformers import EsmConfig


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

    Load it with `strict=False`, and see that only `contact_head` and rotary frequencies are reported missing.
    """
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
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        state[f"{prefix}.attention.self.{name}.weight"] = weight
        state[f"{prefix}.attention.self.{name}.bias"] = bias
    return {
        **state,
        **_named(f"{prefix}.attention.output.dense", layer.attention.output),
        **_named(f"{prefix}.attention.LayerNorm", layer.attention_norm),
        **_named(f"{prefix}.intermediate.dense", layer.feed_forward.expand),
        **_named(f"{prefix}.output.dense", layer.feed_forward.output),
        **_named(f"{prefix}.LayerNorm", layer.feed_forward_norm),
    }


def _named(name: str, module: torch.nn.Linear | torch.nn.LayerNorm) -> dict[str, Tensor]:
    return {f"{name}.weight": module.weight, f"{name}.bias": module.bias}

"""The presets of ESM-2: facebook's own choices, and as many parameters as the published models have."""

from typing import Any

import pytest
import torch
from transformers import EsmConfig, EsmForMaskedLM

from proteinlm.models.config import ESM_2_SHAPES, ModelConfig, expand_preset, num_parameters
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import esm_config, from_esm_config

PUBLISHED = {
    "esm2-8m": 7_512_474,
    "esm2-35m": 33_501_394,
    "esm2-150m": 148_140_154,
    "esm2-650m": 651_043_254,
}
"""Parameters of facebook/esm2_t6_8M_UR50D, t12_35M, t30_150M and t33_650M as they are counted once they are loaded:
with the contact head, a weight for each attention head and a bias; without the table of positions, which ESM-2 has no
use for."""


def facebooks(name: str) -> dict[str, Any]:
    """What config.json of facebook's model of this shape says."""
    hidden_size, num_hidden_layers, num_attention_heads = ESM_2_SHAPES[name]
    return {
        "attention_probs_dropout_prob": 0.0,
        "emb_layer_norm_before": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": 4 * hidden_size,
        "is_folding_model": False,
        "layer_norm_eps": 1e-05,
        "mask_token_id": 32,
        "max_position_embeddings": 1026,
        "num_attention_heads": num_attention_heads,
        "num_hidden_layers": num_hidden_layers,
        "pad_token_id": 1,
        "position_embedding_type": "rotary",
        "token_dropout": True,
        "vocab_size": 33,
    }


def preset(name: str) -> ModelConfig:
    return ModelConfig.model_validate(expand_preset({"preset": name}))


@pytest.mark.parametrize("name", ESM_2_SHAPES)
def test_a_preset_is_facebooks_model(name: str) -> None:
    ours = preset(name)
    theirs = ModelConfig.model_validate(from_esm_config(facebooks(name)))
    kept = {"preset", "intermediate_size"}  # the name, and a width that follows from another
    assert ours.model_dump(exclude=kept) == theirs.model_dump(exclude=kept)
    assert ours.mlp_size == theirs.mlp_size
    back = esm_config(ours).to_dict() | {"hidden_act": "gelu"}  # the only one there is: EsmConfig does not keep it
    assert {field: back[field] for field in facebooks(name)} == facebooks(name)


@pytest.mark.parametrize("name", ESM_2_SHAPES)
def test_a_preset_has_the_parameters_of_the_published_model(name: str) -> None:
    with torch.device("meta"):
        encoder = ProteinEncoder(preset(name))
        ours = {*encoder.parameters(), *LanguageModelHead(preset(name), encoder.token_embedding).parameters()}
        theirs = EsmForMaskedLM(EsmConfig(**facebooks(name)))
    theirs.tie_weights()
    contact_head = sum(parameter.numel() for parameter in theirs.esm.contact_head.parameters())
    total = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in ours) == num_parameters(preset(name)) == total - contact_head
    _, layers, heads = ESM_2_SHAPES[name]
    assert contact_head == layers * heads + 1
    assert total == PUBLISHED.get(name, total)

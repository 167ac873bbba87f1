"""The same logits as transformers' EsmForMaskedLM with our weights: ESM-2 (rotary) and ESM-1b (learned positions)."""

import numpy as np
import pytest
import torch
from transformers import EsmForMaskedLM

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.objectives import LanguageModelHead
from proteinlm.models.packed import pack

SEQUENCES = ["MKTAYIAKQR", "GAVLIX", "MSTNPKPQRKTKRNTNRRPQDVKFPGG", "W"]


@pytest.mark.parametrize("alphabet", ["esm", "tape"])
@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_logits_are_those_of_esm(position: str, alphabet: str) -> None:
    config = ModelConfig.model_validate(
        {
            "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "position": position,
            "max_positions": 40, "vocab_multiple": 64, "alphabet": alphabet,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    head = LanguageModelHead(config, encoder.token_embedding)
    with torch.no_grad():
        for parameter in dict.fromkeys([*encoder.parameters(), *head.parameters()]):
            parameter.add_(0.1 * torch.randn_like(parameter))
    esm = EsmForMaskedLM(esm_config(config)).eval()
    report = esm.load_state_dict(to_esm_state(encoder, head), strict=False)
    assert report.unexpected_keys == []
    assert all("contact_head" in key or "inv_freq" in key for key in report.missing_keys)

    letters = get_alphabet(alphabet)
    tokens, lengths = letters.encode(SEQUENCES)
    tokens[3] = letters.mask_id
    with torch.no_grad():
        ours = head(encoder(pack(tokens, lengths))).split(lengths.tolist())
        theirs = esm(*_padded(tokens, lengths, letters.pad_id)).logits
    for row, logits in enumerate(ours):
        torch.testing.assert_close(theirs[row, : lengths[row]], logits, atol=1e-5, rtol=1e-5)


def _padded(tokens: np.ndarray, lengths: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.full((len(lengths), int(lengths.max())), pad_id)
    for row, part in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
        rows[row, : len(part)] = torch.from_numpy(part.astype(np.int64))
    return rows, (rows != pad_id).long()


def test_tanh_gelu_has_no_esm() -> None:
    config = ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, gelu="tanh")
    with pytest.raises(ValueError, match="gelu: tanh"):
        esm_config(config)

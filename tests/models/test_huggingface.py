"""The same logits as transformers' EsmForMaskedLM with our weights: ESM-2 (rotary) and ESM-1b (learned positions).

And the way back: directories that transformers saved, read by us.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import EsmForMaskedLM

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.packed import pack
from proteinlm.models.pretrained import is_tied, load_pretrained, read_config, save_pretrained
from tests.made.small_models import padded, saved_esm

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
        ours = head(encoder(pack(tokens, lengths, get_alphabet("esm")))).split(lengths.tolist())
        theirs = esm(*padded(tokens, lengths, letters.pad_id)).logits
    for row, logits in enumerate(ours):
        torch.testing.assert_close(theirs[row, : lengths[row]], logits, atol=1e-5, rtol=1e-5)


def test_tanh_gelu_has_no_esm() -> None:
    config = ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, gelu="tanh")
    with pytest.raises(ValueError, match="gelu: tanh"):
        esm_config(config)


def test_esm_goes_in_and_out_and_is_equal(tmp_path: Path) -> None:
    """With the decoder tied: the model that is exported is the one that was read, masks and all."""
    for name, changes in (
        ("esm2", {}),
        ("esm1b", {"position_embedding_type": "absolute", "emb_layer_norm_before": True}),
    ):
        esm = saved_esm(tmp_path / name, **changes)
        read = load_pretrained(tmp_path / name)
        assert read.config.token_dropout
        assert read.config.embedding_norm == (name == "esm1b")
        assert is_tied(read.encoder, read.head)
        save_pretrained(tmp_path / "ours", read.encoder, read.head, {})
        ours = load_pretrained(tmp_path / "ours")
        assert ours.config == read.config
        again = EsmForMaskedLM(esm_config(ours.config)).eval()
        report = again.load_state_dict(to_esm_state(ours.encoder, ours.head), strict=False)
        assert report.unexpected_keys == []
        assert all("contact_head" in key or "inv_freq" in key for key in report.missing_keys)
        tokens, lengths = get_alphabet("esm").encode(SEQUENCES)
        tokens[[2, 3, 7, 15]] = get_alphabet("esm").mask_id
        batch = padded(tokens, lengths, get_alphabet("esm").pad_id)
        with torch.no_grad():
            assert torch.equal(again(*batch).logits, esm(*batch).logits)


def test_a_decoder_that_is_not_the_token_table_is_kept(tmp_path: Path) -> None:
    """As in directories of earlier versions, which scaled the table of an ESM with token dropout, not the decoder."""
    esm = saved_esm(tmp_path / "esm", tie_word_embeddings=False, token_dropout=False)
    assert not torch.equal(esm.lm_head.decoder.weight, esm.esm.embeddings.word_embeddings.weight)
    one = load_pretrained(tmp_path / "esm")
    assert not is_tied(one.encoder, one.head)
    save_pretrained(tmp_path / "ours", one.encoder, one.head, {})
    two = load_pretrained(tmp_path / "ours")
    packed = pack(*get_alphabet("esm").encode(SEQUENCES), get_alphabet("esm"))
    assert torch.equal(one.head(one.encoder.eval()(packed)), two.head(two.encoder.eval()(packed)))
    with pytest.raises(ValueError, match="decoder is not the encoder's token table"):
        to_esm_state(two.encoder, two.head)


def test_token_dropout_makes_another_model_of_equal_weights(tmp_path: Path) -> None:
    saved_esm(tmp_path / "one")
    saved_esm(tmp_path / "two", token_dropout=False)
    one, two = (load_pretrained(tmp_path / name) for name in ("one", "two"))
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
    assert one.content_hash != two.content_hash
    assert torch.equal(one.encoder.token_embedding.weight, two.encoder.token_embedding.weight)


def test_what_our_encoder_does_not_compute_is_refused_by_name(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    file = tmp_path / "esm/config.json"
    described = json.loads(file.read_text())
    for field, value, message in [
        ("model_type", "bert", "found 'model_type': 'bert'.* or 'model_type': 'esm' of transformers"),
        ("emb_layer_norm_before", "no", "emb_layer_norm_before is 'no'; accepted: True or False"),
        ("token_dropout", "false", "token_dropout is 'false'; accepted: True or False"),
        ("position_embedding_type", "relative_key", "'relative_key'; accepted: 'rotary' or 'absolute'"),
        ("hidden_act", "relu", "hidden_act is 'relu'"),
        ("vocab_size", 30, "vocab_size is 30; accepted: 33"),
        ("pad_token_id", 0, "pad_token_id is 0; accepted: 1"),
        ("is_folding_model", True, "is_folding_model is True"),
        ("hidden_size", "48", "hidden_size is '48'; accepted: a whole number"),
        ("hidden_size", True, "hidden_size is True; accepted: a whole number"),
        ("num_attention_heads", 5, "must divide hidden_size"),
        ("num_hidden_layers", 2, r"does not hold the tensors .*: 16 not known \(such as 'encoder.layer.2"),
        ("num_hidden_layers", 4, r"16 missing \(such as 'encoder.layer.3"),
        (
            "intermediate_size",
            99,
            r"safetensors: encoder.*intermediate.* \[100, 48\], but config.json asks .* \[99, 48\]",
        ),
    ]:
        file.write_text(json.dumps({**described, field: value}))
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path / "esm")


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    (tmp_path / "esm/vocab.txt").write_text("\n".join(get_alphabet("esm").tokens))
    load_pretrained(tmp_path / "esm")
    (tmp_path / "esm/vocab.txt").write_text("\n".join(sorted(get_alphabet("esm").tokens)))
    with pytest.raises(ValueError, match=r"vocab.txt has the tokens - \. <cls>"):
        read_config(tmp_path / "esm")
    with pytest.raises(ValueError, match="esm exists and is not a directory of the format proteinlm-pretrained"):
        save_pretrained(tmp_path / "esm", *_tiny(), {})


def _tiny() -> tuple[ProteinEncoder, LanguageModelHead]:
    encoder = ProteinEncoder(ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    return encoder, LanguageModelHead(encoder.config, encoder.token_embedding)

"""The same logits as transformers' EsmForMaskedLM with our weights: ESM-2 (rotary) and ESM-1b (learned positions).

And the way back: directories that transformers saved, read by us.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM, EsmModel

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.packed import pack
from proteinlm.models.pretrained import load_pretrained, read_config, save_pretrained

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


def saved_esm(directory: Path, kind: type = EsmForMaskedLM, **changes: object) -> torch.nn.Module:
    """A small random ESM model, written as transformers writes it."""
    values = {
        "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "hidden_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 100, "max_position_embeddings": 42, "layer_norm_eps": 1e-5,
        "position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False,
    }  # fmt: skip
    torch.manual_seed(0)
    model = kind(EsmConfig(**{**values, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("token_dropout", [True, False])
@pytest.mark.parametrize("position", ["rotary", "absolute"])
@pytest.mark.parametrize("kind", [EsmForMaskedLM, EsmModel])
def test_a_directory_of_esm_computes_the_same(tmp_path: Path, kind: type, position: str, token_dropout: bool) -> None:
    esm = saved_esm(tmp_path / "esm", kind, position_embedding_type=position, token_dropout=token_dropout)
    loaded = load_pretrained(tmp_path / "esm")
    tokens, lengths = get_alphabet("esm").encode(SEQUENCES)
    padded = _padded(tokens, lengths, get_alphabet("esm").pad_id)
    with torch.no_grad():
        ours = loaded.encoder.eval()(pack(tokens, lengths, get_alphabet("esm")))
        theirs = esm(*padded, output_hidden_states=True)
    hidden = theirs.hidden_states[-1]
    for row, states in enumerate(ours.split(lengths.tolist())):
        torch.testing.assert_close(hidden[row, : lengths[row]], states, atol=1e-5, rtol=1e-5)
    assert read_config(tmp_path / "esm") == loaded.config
    assert (loaded.head is None) == (kind is EsmModel)
    if loaded.head is not None:
        assert (loaded.head.decoder_weight is loaded.encoder.token_embedding.weight) == (not token_dropout)
        for row, logits in enumerate(loaded.head(ours).split(lengths.tolist())):
            torch.testing.assert_close(theirs.logits[row, : lengths[row]], logits, atol=2e-5, rtol=1e-5)


def test_an_untied_decoder_is_kept_when_it_is_saved_again(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    one = load_pretrained(tmp_path / "esm")
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
    assert not one.encoder.token_embedding.weight[get_alphabet("esm").mask_id].any()


def test_half_precision_is_read_as_fp32(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    weights = load_file(tmp_path / "esm/model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in weights.items()}, tmp_path / "esm/model.safetensors")
    assert load_pretrained(tmp_path / "esm").encoder.token_embedding.weight.dtype == torch.float32


def test_what_our_encoder_does_not_compute_is_refused_by_name(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    file = tmp_path / "esm/config.json"
    described = json.loads(file.read_text())
    for field, value, message in [
        ("model_type", "bert", "found 'model_type': 'bert'.* or 'model_type': 'esm' of transformers"),
        ("emb_layer_norm_before", True, "emb_layer_norm_before is True; accepted: False"),
        ("position_embedding_type", "relative_key", "'relative_key'; accepted: 'rotary' or 'absolute'"),
        ("hidden_act", "relu", "hidden_act is 'relu'"),
        ("vocab_size", 30, "vocab_size is 30; accepted: 33"),
        ("pad_token_id", 0, "pad_token_id is 0; accepted: 1"),
        ("is_folding_model", True, "is_folding_model is True"),
        ("hidden_size", "48", "hidden_size is '48'; accepted: a whole number"),
        ("num_attention_heads", 5, "must divide hidden_size"),
        ("num_hidden_layers", 2, r"holds 16 tensors that an ESM encoder does not have \(such as 'encoder.layer.2"),
        ("num_hidden_layers", 4, "lacks the tensor 'encoder.layer.3"),
        ("intermediate_size", 99, r"expand.* \[100, 48\], but config.json asks for torch.float32 \[99, 48\]"),
    ]:
        file.write_text(json.dumps({**described, field: value}))
        with pytest.raises(ValueError, match=message):
            load_pretrained(tmp_path / "esm")


def test_other_tokens_and_other_weight_files_are_refused(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm")
    (tmp_path / "esm/vocab.txt").write_text("\n".join(get_alphabet("esm").tokens))
    load_pretrained(tmp_path / "esm")
    (tmp_path / "esm/vocab.txt").write_text("\n".join(sorted(get_alphabet("esm").tokens)))
    with pytest.raises(ValueError, match=r"vocab.txt has the tokens - \. <cls>"):
        read_config(tmp_path / "esm")
    (tmp_path / "esm/model.safetensors").rename(tmp_path / "esm/pytorch_model.bin")
    with pytest.raises(ValueError, match=r"weights in pytorch_model\.bin, a pickle, which is not opened here"):
        read_config(tmp_path / "esm")
    with pytest.raises(ValueError, match="esm exists and is not a directory of the format proteinlm-pretrained"):
        save_pretrained(tmp_path / "esm", *_tiny(), {})


def _tiny() -> tuple[ProteinEncoder, LanguageModelHead]:
    encoder = ProteinEncoder(ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    return encoder, LanguageModelHead(encoder.config, encoder.token_embedding)

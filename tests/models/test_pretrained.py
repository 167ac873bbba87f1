"""Pretrained directories: the same bits back, the tie kept, and a readable word about every broken one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.packed import pack
from proteinlm.models.pretrained import _content_hash, is_tied, load_pretrained, save_pretrained


def saved(directory: Path, **changes: object) -> tuple[ProteinEncoder, LanguageModelHead]:
    values = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, **changes}
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig.model_validate(values))
    head = LanguageModelHead(encoder.config, encoder.token_embedding)
    save_pretrained(directory, encoder, head, {"corpus_hash": "abc", "step": 7})
    return encoder, head


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_round_trip_keeps_every_bit(tmp_path: Path, position: str) -> None:
    encoder, head = saved(tmp_path / "model", position=position, vocab_multiple=128, alphabet="proteinlm")
    loaded = load_pretrained(tmp_path / "model")
    assert loaded.config == encoder.config
    assert loaded.extra == {"corpus_hash": "abc", "step": 7}
    for mine, other in ((encoder, loaded.encoder), (head, loaded.head)):
        state = other.state_dict()
        assert state.keys() == mine.state_dict().keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in mine.state_dict().items())
    packed = pack(np.array([2, 6, 7, 2, 9], dtype=np.uint8), np.array([3, 2]), get_alphabet("esm"))
    assert torch.equal(loaded.head(loaded.encoder(packed)), head(encoder(packed)))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_tied_weight_stays_tied(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    loaded = load_pretrained(tmp_path / "model")
    assert loaded.head.decoder_weight is loaded.encoder.token_embedding.weight
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in loaded.head.parameters())
    names = load_file(tmp_path / "model" / "model.safetensors").keys()
    assert "encoder.token_embedding.weight" in names
    assert not any("decoder_weight" in name for name in names)


def test_content_hash_is_of_the_model(tmp_path: Path) -> None:
    encoder, head = saved(tmp_path / "one")
    save_pretrained(tmp_path / "two", encoder, head, {"run": "other"})
    one, two = load_pretrained(tmp_path / "one"), load_pretrained(tmp_path / "two")
    assert one.content_hash == two.content_hash
    with torch.no_grad():
        head.decoder_bias[0] = 1.0
    save_pretrained(tmp_path / "two", encoder, head, {})
    assert load_pretrained(tmp_path / "two").content_hash != one.content_hash


def test_saved_in_fp32_whatever_the_weights_are(tmp_path: Path) -> None:
    encoder, head = saved(tmp_path / "model")
    save_pretrained(tmp_path / "half", encoder.bfloat16(), head.bfloat16(), {})
    assert load_pretrained(tmp_path / "half").encoder.token_embedding.weight.dtype == torch.float32


def test_an_older_model_is_replaced_and_anything_else_is_not(tmp_path: Path) -> None:
    encoder, head = saved(tmp_path / "model")
    save_pretrained(tmp_path / "model", encoder, head, {"step": 8})
    assert load_pretrained(tmp_path / "model").extra == {"step": 8}
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match="home exists and is not a directory of the format proteinlm-pretrained"):
        save_pretrained(tmp_path / "home", encoder, head, {})
    assert (tmp_path / "home" / "letters.txt").read_text() == "dear"


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    encoder, head = saved(tmp_path / "model")
    with pytest.raises(TypeError):
        save_pretrained(tmp_path / "model", encoder, head, {"not": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert load_pretrained(tmp_path / "model").extra == {"corpus_hash": "abc", "step": 7}


def edit_config(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        description = json.loads((directory / "config.json").read_text())
        change(description)
        (directory / "config.json").write_text(json.dumps(description))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        import hashlib

        weights = load_file(directory / "model.safetensors")
        change(weights)
        save_file(weights, directory / "model.safetensors")
        digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
        edit_config(lambda description: description.update(weights_sha256=digest))(directory)

    return edit


def flip_last_byte(directory: Path) -> None:
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)


def truncate(directory: Path) -> None:
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[: len(content) // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "not JSON": (lambda d: (d / "config.json").write_text("{"), "config.json is not JSON"),
    "foreign JSON": (lambda d: (d / "config.json").write_text("{}"), "does not describe a model of this program"),
    "newer": (edit_config(lambda c: c.update(format_version=9)), "format version 9; this program reads 1"),
    "no model": (edit_config(lambda c: c.pop("model")), "lacks the section 'model'"),
    "unknown key": (edit_config(lambda c: c["model"].update(colour=1)), "colour: Extra inputs are not permitted"),
    "bad heads": (edit_config(lambda c: c["model"].update(num_attention_heads=3)), "must divide hidden_size"),
    "truncated": (truncate, "model.safetensors is not a whole safetensors file"),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "is not a whole safetensors file"),
    "altered": (flip_last_byte, "is not the file that config.json was written with"),
    "missing": (edit_weights(lambda w: w.pop("encoder.final_norm.bias")), r"1 missing \(such as 'encoder.final_norm"),
    "surplus": (edit_weights(lambda w: w.update(stray=torch.zeros(1))), r"1 not known \(such as 'stray'\)"),
    "other layers": (edit_config(lambda c: c["model"].update(num_hidden_layers=3)), "12 missing"),
    "shape": (
        edit_weights(lambda w: w.update({"head.dense.bias": torch.zeros(3)})),
        r"head.dense.bias is torch.float32 \[3\], but config.json asks for torch.float32 \[16\]",
    ),
    "dtype": (edit_weights(lambda w: w.update({"head.dense.bias": torch.zeros(16).half()})), "is torch.float16"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_checkpoints_are_refused(tmp_path: Path, fault: str) -> None:
    saved(tmp_path / "model")
    damage, message = BROKEN[fault]
    damage(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "model")


@pytest.mark.parametrize("gone", [".", "config.json", "model.safetensors"])
def test_absent_checkpoints_are_named(tmp_path: Path, gone: str) -> None:
    saved(tmp_path / "model")
    (tmp_path / "model" / gone).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*model"):
        load_pretrained(tmp_path / "model")


def test_a_directory_of_version_1_is_read(tmp_path: Path) -> None:
    config = ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.3)
    encoder = ProteinEncoder(config)
    save_pretrained(tmp_path / "model", encoder, LanguageModelHead(config, encoder.token_embedding), {})
    expected = load_pretrained(tmp_path / "model")

    def as_it_was(description: dict) -> None:
        description["format_version"] = 1
        description["model"]["initial_deviation"] = description["model"].pop("initializer_range")

    edit_config(as_it_was)(tmp_path / "model")
    found = load_pretrained(tmp_path / "model")
    assert (found.config, found.content_hash) == (expected.config, expected.content_hash)


def test_hashes_of_models_from_before_token_dropout_stay() -> None:
    """Written down with the version before; embeddings that were kept are found by it."""
    config = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    assert _content_hash(config, "digest") == "6c634ac0a62cb7e0f6a78072b3994d0fbc1b5545f063224463c4f0a429249127"
    others = [config.model_copy(update={name: True}) for name in ("token_dropout", "embedding_norm")]
    assert len({_content_hash(one, "digest") for one in (config, *others)}) == 3


def test_a_directory_of_an_earlier_version_read_from_an_esm_computes_what_it_did(tmp_path: Path) -> None:
    """It scaled the token table by 0.88 and kept ESM's as the decoder: right for proteins without a mask token."""
    alphabet = get_alphabet("esm")
    saved(tmp_path / "exact", token_dropout=True)
    shutil.copytree(tmp_path / "exact", tmp_path / "earlier")
    edit_config(lambda description: description["model"].pop("token_dropout"))(tmp_path / "earlier")

    def fold(weights: dict[str, torch.Tensor]) -> None:
        table = weights["encoder.token_embedding.weight"]
        weights["head.decoder_weight"] = table.clone()
        table *= 0.88
        table[alphabet.mask_id] = 0.0

    edit_weights(fold)(tmp_path / "earlier")
    exact, earlier = load_pretrained(tmp_path / "exact"), load_pretrained(tmp_path / "earlier")
    assert not earlier.config.token_dropout
    assert earlier.head is not None
    assert exact.head is not None
    assert not is_tied(earlier.encoder, earlier.head)
    packed = pack(*alphabet.encode(["MKTAYIAKQR", "GAV"]), alphabet)
    logits = [one.head(one.encoder.eval()(packed)) for one in (exact, earlier) if one.head is not None]
    torch.testing.assert_close(*logits, atol=1e-6, rtol=1e-6)

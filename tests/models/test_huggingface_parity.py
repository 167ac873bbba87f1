"""Hidden states and logits as transformers' ESM classes: each wrapping of weights, form of model, share of masks."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.encoder import token_dropout_scale
from proteinlm.models.packed import pack
from proteinlm.models.pretrained import load_pretrained, read_config
from tests.made.small_models import esm_model, padded

pytest.importorskip("transformers")

ESM = get_alphabet("esm")
LENGTHS = (100, 37, 250, 100, 5, 251)
"""Residues; with 1 % masks one or two of them in the long ones."""
SHARES = {"0": (0.0,), "1": (0.01,), "15": (0.15,), "60": (0.6,), "mixed": (0.0, 0.6, 0.01, 0.15, 1.0, 0.3)}
BOUND = 1e-5


def proteins(shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [N] and lengths [B] of random proteins, of each of which that share of the residues is masked."""
    generator = np.random.default_rng(7)
    sequences = ["".join(generator.choice(list("ACDEFGHIKLMNPQRSTVWY"), size)) for size in LENGTHS]
    tokens, lengths = ESM.encode(sequences)
    starts = np.cumsum(lengths) - lengths
    for number, size in enumerate(LENGTHS):
        share = shares[number % len(shares)]
        hidden = generator.permutation(size)[: round(share * size)]
        tokens[starts[number] + 1 + hidden] = ESM.mask_id
    return tokens, lengths


def halved(model: Any, directory: Path, dtype: torch.dtype) -> None:
    copy.deepcopy(model).to(dtype).save_pretrained(directory)
    for parameter in model.parameters():  # what the rounded weights compute in fp32
        parameter.data = parameter.to(dtype).float()


def as_bin(model: Any, directory: Path, shards: int = 1) -> None:
    """As transformers 4 wrote it: the tied matrix under both of its names."""
    model.config.save_pretrained(directory)
    state = model.state_dict()
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return
    places = {name: f"pytorch_model-{number % shards + 1:05}-of-{shards:05}.bin" for number, name in enumerate(state)}
    for file in set(places.values()):
        torch.save({name: tensor for name, tensor in state.items() if places[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


WRAPPINGS: dict[str, Callable[[Any, Path], object]] = {
    "plain": lambda model, directory: model.save_pretrained(directory),
    "fp16": lambda model, directory: halved(model, directory, torch.float16),
    "bf16": lambda model, directory: halved(model, directory, torch.bfloat16),
    "sharded": lambda model, directory: model.save_pretrained(directory, max_shard_size="20KB"),
    "bin": as_bin,
    "sharded bin": lambda model, directory: as_bin(model, directory, shards=3),
}
ESM_2: dict[str, object] = {"position_embedding_type": "rotary", "max_position_embeddings": 1026}
FORMS: dict[str, dict[str, object]] = {
    "ESM-2": ESM_2,
    "ESM-1b": {**ESM_2, "position_embedding_type": "absolute", "emb_layer_norm_before": True},
    "ESM-1v": {**ESM_2, "position_embedding_type": "absolute"},
}
CASES = (
    *((wrapping, "EsmForMaskedLM", "ESM-2") for wrapping in WRAPPINGS),
    *(("plain", "EsmForMaskedLM", form) for form in ("ESM-1b", "ESM-1v")),
    ("bin", "EsmForMaskedLM", "ESM-1b"),
    ("plain", "EsmModel", "ESM-2"),
    ("bin", "EsmModel", "ESM-1b"),
    ("plain", "EsmForSequenceClassification", "ESM-2"),
    ("plain", "EsmForTokenClassification", "ESM-2"),
)


@pytest.mark.parametrize("token_dropout", [True, False])
@pytest.mark.parametrize(("wrapping", "kind", "form"), CASES)
def test_esm_computes_the_same(tmp_path: Path, wrapping: str, kind: str, form: str, token_dropout: bool) -> None:
    esm = esm_model(kind, **FORMS[form], token_dropout=token_dropout, num_labels=4)
    tmp_path = tmp_path / "model"
    tmp_path.mkdir()
    WRAPPINGS[wrapping](esm, tmp_path)
    loaded = load_pretrained(tmp_path)
    assert read_config(tmp_path) == loaded.config
    assert all(parameter.dtype == torch.float32 for parameter in loaded.encoder.parameters())
    assert (loaded.head is None) == (kind != "EsmForMaskedLM")
    encoder = getattr(esm, "esm", esm)
    for masks, shares in SHARES.items():
        tokens, lengths = proteins(shares)
        batch = padded(tokens, lengths, ESM.pad_id)
        with torch.no_grad():
            ours = loaded.encoder.eval()(pack(tokens, lengths, ESM))
            hidden = encoder(*batch).last_hidden_state[batch[1].bool()]
            difference = float((ours - hidden).abs().max())
            assert difference < BOUND
            if loaded.head is not None:
                logits = float((loaded.head(ours) - esm(*batch).logits[batch[1].bool()]).abs().max())
                assert logits < BOUND
                difference = max(difference, logits)
        print(f"{wrapping}, {kind}, {form}, token dropout {token_dropout}, {masks} % masks: {difference:.1e}")


def test_gradients_go_through_token_dropout_as_in_esm(tmp_path: Path) -> None:
    esm = esm_model(**ESM_2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    esm.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    assert loaded.head is not None
    tokens, lengths = proteins(SHARES["mixed"])
    labels, _ = proteins((0.0,))
    selected = torch.from_numpy(tokens == ESM.mask_id)
    rows, mask = padded(tokens, lengths, ESM.pad_id)
    wanted = torch.from_numpy(labels.astype(np.int64))[selected]
    loaded.encoder.train()
    cross_entropy = torch.nn.functional.cross_entropy
    ours = cross_entropy(loaded.head(loaded.encoder(pack(tokens, lengths, ESM)))[selected], wanted)
    theirs = cross_entropy(esm(rows, mask).logits[mask.bool()][selected], wanted)
    ours.backward()
    theirs.backward()
    found, expected = loaded.encoder.token_embedding.weight.grad, esm.esm.embeddings.word_embeddings.weight.grad
    assert found is not None
    assert float(expected.abs().max()) > 0.01
    print(
        f"gradient of the token table: {float((found - expected).abs().max()):.1e} of {float(expected.abs().max()):.1e}"
    )
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_scale_of_token_dropout_by_hand() -> None:
    """Two proteins: one of 5 tokens without masks, one of 4 tokens of which one is a mask; special tokens count."""
    tokens = np.array([ESM.cls_id, 5, 6, 7, ESM.eos_id, ESM.cls_id, ESM.mask_id, 5, ESM.eos_id], np.uint8)
    scale = token_dropout_scale(pack(tokens, np.array([5, 4]), ESM))
    full = 0.88 / (1 - 1 / 4)
    torch.testing.assert_close(scale[:, 0], torch.tensor([0.88] * 5 + [full, 0.0, full, full]))
    alone = token_dropout_scale(pack(np.array([ESM.mask_id], np.uint8), np.array([1]), ESM))
    assert alone.tolist() == [[0.0]]

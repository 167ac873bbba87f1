"""The contact probe: features as in ESM; contacts found where the attention maps hold them, else the floor."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers.models.esm.modeling_esm import average_product_correct, symmetrize

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS, get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.tasks.contact_prediction import contact_prediction
from proteinlm.tasks.contact_probe import ContactProbe, corrected, fit_contact_probe, residue_maps
from proteinlm.tasks.metrics import PooledRatio

ESM = get_alphabet("esm")
LENGTH = 60
LONG_RANGE = PooledRatio("hits_l5_sep24", "picked_l5_sep24", pooled="proteins")


def hairpins(count: int, length: int = LENGTH) -> pa.Table:
    """Proteins of random sequence whose residue i lies 5 Angstrom from residue L - 1 - i; nothing else is near."""
    generator = np.random.default_rng(0)
    half = length // 2
    along = np.array([*range(half), *reversed(range(length - half))]) * 9.0
    side = np.repeat([0.0, 5.0], [half, length - half])
    rows = [
        {
            "id": f"hairpin-{number}",
            "sequence": "".join(generator.choice(list(STANDARD_AMINO_ACIDS), length)),
            "length": length,
            "tertiary": np.stack([along, side, 0 * side], axis=1).reshape(-1).astype(np.float32),
            "valid_mask": [True] * length,
        }
        for number in range(count)
    ]
    return make_table(rows)


def make_table(rows: list[dict[str, object]]) -> pa.Table:
    types = {"id": pa.string(), "sequence": pa.string(), "length": pa.int32(),
             "tertiary": pa.list_(pa.float32()), "valid_mask": pa.list_(pa.bool_())}  # fmt: skip
    return pa.Table.from_pylist(rows, pa.schema(types.items()))


def make_encoder(layers: int = 2, heads: int = 2, **changes: object) -> ProteinEncoder:
    torch.manual_seed(0)
    values = {"hidden_size": 2 * (LENGTH + 4), "num_hidden_layers": layers, "num_attention_heads": heads}
    return ProteinEncoder(ModelConfig.model_validate({**values, "position": "learned", "max_positions": 64, **changes}))


def mirror_encoder() -> ProteinEncoder:
    """An encoder whose head 0 of layer 0 looks from each residue to the one at the same distance from the other end."""
    encoder = make_encoder()
    size = encoder.config.head_size
    with torch.no_grad():
        encoder.token_embedding.weight.zero_()
        encoder.position_embedding.weight.copy_(torch.eye(64, 2 * size))  # a position is its own coordinate
        qkv = encoder.layers[0].attention.qkv.weight.view(3, 2, size, 2 * size)
        qkv[:2, 0].zero_()
        place = torch.arange(LENGTH)
        qkv[0, 0, place, place + 1] = 1.0  # <cls> is position 0
        qkv[1, 0, LENGTH - 1 - place, place + 1] = 0.2
    return encoder


def test_features_are_those_of_esm() -> None:
    maps = torch.rand(6, 9, 9)
    torch.testing.assert_close(corrected(maps), average_product_correct(symmetrize(maps)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("alphabet", ["esm", "proteinlm"])
def test_special_tokens_are_left_out(alphabet: str) -> None:
    encoder = make_encoder(alphabet=alphabet)
    assert residue_maps(encoder, "MKTAYI", get_alphabet(alphabet)).shape == (4, 6, 6)


def test_contacts_that_the_maps_hold_are_found() -> None:
    encoder, table = mirror_encoder(), hairpins(8)
    probe = fit_contact_probe(encoder, table, ESM, num_proteins=3)
    assert (probe.weights.argmax(), len(probe.proteins)) == (0, 3)
    columns = probe.score(encoder, table.slice(4))
    assert all(values.shape == (4,) for values in columns.values())
    metrics = {metric.name: metric for metric in contact_prediction().metrics}
    assert metrics["precision_l5_sep24"].compute(columns) == 1.0
    assert metrics["loss"].compute(columns) < 0.05
    assert LONG_RANGE(columns) == 1.0
    probability = next(probe.probabilities(encoder, table))
    assert probability.shape == (LENGTH, LENGTH)
    assert np.allclose(probability, probability.T)
    assert probability[0, LENGTH - 1] > 0.5 > probability[0, LENGTH - 2]
    assert "4 symmetrised" in probe.description
    assert "(81 contacts) of 3 training proteins" in probe.description


def test_a_random_encoder_has_nothing_to_find() -> None:
    encoder, table = make_encoder(), hairpins(8)
    probe = fit_contact_probe(encoder, table, ESM, num_proteins=3)
    assert not probe.weights.any()
    assert "0 of them used" in probe.description
    columns = probe.score(encoder, table)
    assert LONG_RANGE(columns) < 0.2
    pairs = np.triu_indices(LENGTH, 6)
    share = 27 / len(pairs[0])
    assert next(probe.probabilities(encoder, table)).mean() == pytest.approx(share, rel=0.2)
    assert columns["loss"].sum() / columns["scored"].sum() == pytest.approx(
        -share * np.log(share) - (1 - share) * np.log(1 - share), rel=0.02
    )


def test_a_probe_that_uses_no_map_does_not_rank_by_the_order_of_pairs() -> None:
    coordinates = np.arange(3 * LENGTH, dtype=np.float32).reshape(LENGTH, 3) * 20
    coordinates[24:36] = coordinates[0]  # the first long-range pairs, row by row, are contacts
    row = {**hairpins(1).to_pylist()[0], "tertiary": coordinates.reshape(-1)}
    probe = ContactProbe(np.zeros(4), -4.0, ESM, 0, ("x",), 1, 1)
    columns = probe.score(make_encoder(), make_table([row] * 4))
    assert LONG_RANGE(columns) < 0.3
    again = probe.score(make_encoder(), make_table([row] * 4))
    assert all(np.array_equal(values, again[name]) for name, values in columns.items())


def test_it_is_a_function_of_the_seed() -> None:
    encoder, table = mirror_encoder(), hairpins(30)
    one, two, other = (fit_contact_probe(encoder, table, ESM, seed=seed) for seed in (3, 3, 4))
    assert (one.proteins, one.bias) == (two.proteins, two.bias)
    assert np.array_equal(one.weights, two.weights)
    assert len(set(one.proteins)) == 20
    assert set(one.proteins) != set(other.proteins)


def test_fewer_pairs_are_drawn_above_the_memory_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, table = mirror_encoder(), hairpins(4)
    whole = fit_contact_probe(encoder, table, ESM)
    monkeypatch.setattr("proteinlm.tasks.contact_probe.MOST_VALUES", whole.num_pairs * 4 // 2)
    half = fit_contact_probe(encoder, table, ESM)
    assert half.num_pairs == pytest.approx(whole.num_pairs / 2, rel=0.1)
    assert half.weights[0] == pytest.approx(whole.weights[0], rel=0.2)


def test_odd_proteins_are_scored_and_not_fitted() -> None:
    usual = hairpins(2).to_pylist()
    short = {**hairpins(1, 5).to_pylist()[0], "id": "short"}
    unknown = {**usual[0], "id": "unknown", "valid_mask": [False] * LENGTH}
    table = make_table([short, unknown, *usual])
    encoder = mirror_encoder()
    probe = fit_contact_probe(encoder, table, ESM)
    assert sorted(probe.proteins) == ["hairpin-0", "hairpin-1"]
    columns = probe.score(encoder, table)
    assert columns["scored"].tolist() == [0, 0, 1485, 1485]
    assert columns["picked_l5_sep24"].tolist() == [0, 0, 12, 12]
    assert LONG_RANGE(columns) == 1.0
    assert all(values.size == 0 for values in probe.score(encoder, table.slice(0, 0)).values())


def test_what_cannot_be_fitted_is_refused() -> None:
    encoder, table = mirror_encoder(), hairpins(2)
    with pytest.raises(
        ValueError, match=r"a protein of at most 20 residues with a known contact.*none of the 2 has one"
    ):
        fit_contact_probe(encoder, table, ESM, max_length=20)
    with pytest.raises(ValueError, match="num_proteins is 0"):
        fit_contact_probe(encoder, table, ESM, num_proteins=0)
    probe = fit_contact_probe(encoder, table, ESM)
    with pytest.raises(ValueError, match="the encoder has 6 attention maps, but the probe was fitted on 4"):
        probe.score(make_encoder(layers=3), table)


def test_real_proteins_give_the_floor(real_data: Path) -> None:
    file = real_data / "proteinnet" / "proteinnet_test.jsonl.gz"
    rows = []
    for line in gzip.decompress(file.read_bytes()).splitlines():
        record = json.loads(line)
        if record["protein_length"] <= 62 and len(rows) < 6:
            rows.append({"id": record["id"], "sequence": record["primary"], "length": record["protein_length"],
                         "tertiary": np.asarray(record["tertiary"], np.float32).reshape(-1),
                         "valid_mask": [bool(value) for value in record["valid_mask"]]})  # fmt: skip
    probe = fit_contact_probe(make_encoder(), make_table(rows), ESM)
    assert isinstance(probe, ContactProbe)
    assert probe.num_contacts > 30
    assert 0 <= LONG_RANGE(probe.score(make_encoder(), make_table(rows))) < 0.3

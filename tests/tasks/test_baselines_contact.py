"""Contact baselines: counts by hand, columns as the metrics want them, and what each of them can see."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss

from proteinlm.tasks import baselines_contact
from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.baselines_contact import NUM_LETTERS, fit_contact_baselines, pairs_of_each
from proteinlm.tasks.contact_prediction import contact_prediction
from proteinlm.tasks.metrics import evaluate

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
METRICS = {metric.name: metric for metric in contact_prediction().metrics}


def make_table(seed: int, num_proteins: int = 40) -> pa.Table:
    """Chains whose residues lie in one of two balls: C and W in the inner one, where all residues touch, and the rest
    far out along a line; two residues of a ball touch the likelier the nearer they are in sequence.
    """
    generator = np.random.default_rng(seed)
    sequences, places, masks = [], [], []
    for length in generator.integers(30, 80, num_proteins):
        sequence = "".join(generator.choice(list(LETTERS), length))
        along = np.arange(length)[:, None] * [1.0, 0, 0]
        is_inner = np.isin(list(sequence), ["C", "W"])[:, None]
        places.append(np.where(is_inner, 0.1 * along, along + np.array([0, 20, 0])) + generator.normal(0, 0.5, (1, 3)))
        masks.append((generator.random(length) < 0.9).tolist())
        sequences.append(sequence)
    coordinates = pa.array([place.ravel().tolist() for place in places], pa.list_(pa.float32()))
    return pa.table({"sequence": sequences, "tertiary": coordinates, "valid_mask": masks})


def test_pairs_are_those_of_each_protein():
    table = make_table(0, 3)
    for pairs, flat, mask, sequence in zip(
        pairs_of_each(table),
        *(table.column(name).to_pylist() for name in ("tertiary", "valid_mask", "sequence")),
        strict=True,
    ):
        known, places = np.array(mask), np.array(flat, np.float32).reshape(-1, 3)
        expected = np.argwhere(np.triu(known[:, None] & known, 6))
        assert np.array_equal(np.stack([pairs.first, pairs.second], axis=1), expected)
        distances = np.linalg.norm(places[pairs.first] - places[pairs.second], axis=1)
        assert np.array_equal(pairs.is_contact, distances < 8)
        assert [LETTERS[letter] for letter in pairs.letters] == list(sequence)
        swapped = pairs.letter_pair[0] % NUM_LETTERS, pairs.letter_pair[0] // NUM_LETTERS
        assert sorted(swapped) == sorted((pairs.letters[expected[0][0]], pairs.letters[expected[0][1]]))


def test_letters_add_to_separation_and_both_beat_chance():
    train, test = make_table(0, 200), make_table(1, 100)
    separation, letters = fit_contact_baselines(contact_prediction(), train, train.slice(0, 0))
    found = {b.name: {m: evaluate(METRICS[m], b.score(test)).value for m in METRICS} for b in (separation, letters)}
    pairs = list(pairs_of_each(test))
    chance = np.mean(np.concatenate([protein.is_contact for protein in pairs]))
    assert found["separation prior"]["precision_l5_sep6"] > 3 * chance
    assert found["amino-acid pairs"]["precision_l5_sep24"] > found["separation prior"]["precision_l5_sep24"] + 0.3
    assert found["amino-acid pairs"]["loss"] < found["separation prior"]["loss"]
    assert "200 of 200 training proteins" in separation.description
    assert "naive Bayes" in letters.description


def test_the_separation_prior_is_the_share_of_contacts_and_its_loss_scikit_learns(monkeypatch):
    monkeypatch.setattr(baselines_contact, "PSEUDO_PAIRS", 1e-9)
    monkeypatch.setattr(baselines_contact, "SMOOTHED", 0.0)
    train = make_table(0, 100)
    separation, _ = fit_contact_baselines(contact_prediction(), train, train)
    apart, truth = (
        np.concatenate(values)
        for values in zip(*((p.separation, p.is_contact) for p in pairs_of_each(train)), strict=True)
    )
    share = np.bincount(apart, truth) / np.maximum(np.bincount(apart), 1)
    columns = separation.score(train)
    assert columns["scored"].sum() == len(truth)
    # A share of 0 or 1 is known to about nine digits.
    assert columns["loss"].sum() / len(truth) == pytest.approx(log_loss(truth, share[apart]), abs=1e-6)


def test_few_proteins_are_drawn_by_seed_and_said(monkeypatch):
    monkeypatch.setattr(baselines_contact, "MOST_TRAIN_PROTEINS", 15)
    train, test = make_table(0), make_table(1)
    fits = [fit_contact_baselines(contact_prediction(), train, train, seed)[1] for seed in (0, 0, 1)]
    losses = [fitted.score(test)["loss"].sum() for fitted in fits]
    assert losses[0] == losses[1] != losses[2]
    assert "15 of 40 training proteins" in fits[0].description


def test_letters_that_train_lacks_say_nothing_and_empty_tables_have_columns():
    train = make_table(0)
    separation, letters = fit_contact_baselines(contact_prediction(), train, train)
    unseen = pa.table({"sequence": ["X" * 40], **{c: train.column(c).slice(0, 1) for c in ("tertiary", "valid_mask")}})
    length = len(train.column("valid_mask")[0])
    unseen = unseen.set_column(0, "sequence", [["X" * length]])
    assert letters.score(unseen)["loss"] == pytest.approx(separation.score(unseen)["loss"])
    empty = letters.score(train.slice(0, 0))
    assert all(len(values) == 0 for values in empty.values())
    assert "hits_l5_sep6" in empty


def test_other_tasks_have_none_and_no_contact_is_refused():
    train = make_table(0)
    assert fit_baselines(replace(contact_prediction(), name="another"), train, train) == ()
    with pytest.raises(ValueError, match="found 0 contacts among 0 pairs"):
        fit_contact_baselines(contact_prediction(), train.slice(0, 0), train)


def test_real_proteins_are_above_chance(real_data):
    import gzip
    import json

    from proteinlm.tasks.records import check_record

    schema = contact_prediction().records
    tables = []
    for split, count in (("train", 120), ("test", 40)):
        with gzip.open(real_data / "proteinnet" / f"proteinnet_{split}.jsonl.gz", "rt") as lines:
            rows = [check_record(schema, json.loads(line), split) for line, _ in zip(lines, range(count), strict=False)]
        tables.append(pa.Table.from_pylist(rows, schema.arrow_schema()))
    separation, letters = fit_contact_baselines(contact_prediction(), tables[0], tables[0])
    precision = [
        evaluate(METRICS["precision_l5_sep6"], b.score(tables[1]), num_resamples=10).value
        for b in (separation, letters)
    ]
    assert 0.05 < precision[0] < 0.35
    assert precision[1] > 0.05

"""The contact task: which pairs count, special tokens and crops, columns and outputs, and that contacts are learned."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.tasks.contact_prediction import contact_prediction, count_pairs, known_coordinates
from proteinlm.tasks.records import check_record
from tests.made.small_models import make_batch, make_window, tiny_model

SEQUENCES = ("MKTAYIAKQRLGDE", "GAVLIX", "WWDEEKRSTNQ")
UNRESOLVED = ((0, 3), (), (5,))
COORDINATES = pa.list_(pa.float32())


def make_table(seed: int = 0) -> pa.Table:
    """Residues in a box of 12 Angstrom; the unresolved ones lie at the origin, as in TAPE's records."""
    generator = np.random.default_rng(seed)
    places = [generator.uniform(1, 12, (len(sequence), 3)).astype(np.float32) for sequence in SEQUENCES]
    masks = [[i not in missing for i in range(len(s))] for s, missing in zip(SEQUENCES, UNRESOLVED, strict=True)]
    for place, mask in zip(places, masks, strict=True):
        place[~np.array(mask)] = 0
    columns = {"tertiary": pa.array([place.ravel().tolist() for place in places], COORDINATES), "valid_mask": masks}
    return pa.table({"sequence": list(SEQUENCES), **columns})


def true_pairs(table: pa.Table) -> list[dict[tuple[int, int], bool]]:
    """For each protein its scored pairs, from 0, and whether they are contacts."""
    found = []
    for flat, mask in zip(table.column("tertiary").to_pylist(), table.column("valid_mask").to_pylist(), strict=True):
        places = np.array(flat).reshape(-1, 3)
        found.append(
            {
                (i, j): math.dist(places[i], places[j]) < 8
                for i in range(len(mask))
                for j in range(i + 6, len(mask))
                if mask[i] and mask[j]
            }
        )
    return found


@pytest.mark.parametrize("alphabet", ["esm", "proteinlm"])
def test_labels_are_coordinates_of_resolved_residues(alphabet):
    window = make_window(make_table(), alphabet=alphabet)
    tokens, labels = contact_prediction().prepare(window)
    assert tokens is window.tokens
    assert (labels.dtype, labels.shape) == (np.float32, (len(tokens), 3))
    residues, _ = known_coordinates(make_table())
    assert np.array_equal(labels[window.alphabet.is_residue[tokens]], residues, equal_nan=True)
    assert np.isnan(labels[~window.alphabet.is_residue[tokens]]).all()
    assert np.flatnonzero(np.isnan(residues[:, 0])).tolist() == [0, 3, 25]


def test_a_crop_has_its_own_residues_coordinates():
    whole, _ = known_coordinates(make_table())
    _, labels = contact_prediction().prepare(make_window(make_table(), starts=[4, 0, 2], longest=7))
    kept = np.concatenate([whole[4:11], whole[14:20], whole[22:29]])
    lengths = np.array([9, 8, 9])
    is_special = np.isin(np.arange(26), np.concatenate([np.cumsum(lengths) - lengths, np.cumsum(lengths) - 1]))
    assert np.array_equal(labels[~is_special], kept, equal_nan=True)


@given(st.lists(st.integers(0, 40), max_size=5), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 1000))
def test_pairs_are_counted_as_one_by_one(lengths, known_share, seed):
    is_known = np.random.default_rng(seed).random(sum(lengths)) < known_share
    coordinates = np.where(is_known, 1.0, np.nan)[:, None].repeat(3, axis=1)
    proteins = np.split(is_known, np.cumsum(lengths)[:-1]) if lengths else []
    expected = sum(int(np.triu(known[:, None] & known, 6).sum()) for known in proteins)
    assert count_pairs(coordinates, np.array(lengths, np.int64)) == expected


@pytest.mark.parametrize("alphabet", ["esm", "proteinlm"])
@pytest.mark.parametrize("head", ["paper", "tape"])
def test_columns_and_probabilities_are_those_of_the_pairs(head, alphabet):
    task, table = contact_prediction(head), make_table()
    model = tiny_model(task, alphabet=alphabet).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch = make_batch(task, make_window(table, alphabet=alphabet))
    columns = model(batch)
    losses, scored, hits, at = [], [], [], 0
    for sequence, pairs in zip(SEQUENCES, true_pairs(table), strict=True):
        first, second = np.triu_indices(len(sequence), 1)
        probability = columns["contact_probability"][at : at + len(first)].tolist()
        at += len(first)
        by_pair = dict(zip(zip(first.tolist(), second.tolist(), strict=True), probability, strict=True))
        losses.append(-sum(math.log(by_pair[p] if contact else 1 - by_pair[p]) for p, contact in pairs.items()))
        scored.append(len(pairs))
        most = sorted(pairs, key=lambda pair: -by_pair[pair])[: len(sequence) // 2]
        hits.append(sum(pairs[pair] for pair in most))
    assert at == len(columns["contact_probability"])
    assert columns["loss"].tolist() == pytest.approx(losses, rel=1e-4)
    assert columns["scored"].tolist() == scored == [23, 0, 15]
    assert batch.num_scored == 38
    assert columns["hits_l2_sep6"].tolist() == hits
    assert columns["picked_l2_sep6"].tolist() == [7, 0, 5]
    assert columns["paper_picked_l5"].tolist() == [2, 1, 2]


@pytest.mark.parametrize("head", ["paper", "tape"])
def test_a_batch_gives_the_loss_and_gradient_of_its_proteins(head):
    task, table = contact_prediction(head), make_table()
    model = tiny_model(task)
    model.head.dropout = 0.0
    batch = make_batch(task, make_window(table))
    training = model(batch)
    assert set(training) == {"loss", "scored"}
    assert training["scored"].tolist() == [23, 0, 15]
    torch.testing.assert_close(training["loss"], model.eval()(batch)["loss"])
    alone = [model.train()(make_batch(task, make_window(table.slice(i, 1))))["loss"] for i in range(3)]
    torch.testing.assert_close(training["loss"], torch.cat(alone), rtol=1e-4, atol=1e-5)
    training["loss"].sum().backward()
    assert model.encoder.token_embedding.weight.grad.any()


@pytest.mark.parametrize("head", ["paper", "tape"])
def test_a_batch_without_a_pair_has_a_loss_of_zero_that_carries_a_graph(head):
    task = contact_prediction(head)
    model = tiny_model(task)
    table = make_table().slice(1, 1)
    model(make_batch(task, make_window(table, longest=0)))["loss"].sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.head.parameters())
    columns = model.eval()(make_batch(task, make_window(table)))
    assert columns["loss"].tolist() == columns["scored"].tolist() == columns["picked_l_sep6"].tolist() == [0]
    assert columns["contact_probability"].shape == (15,)


@pytest.mark.parametrize("head", ["paper", "tape"])
def test_a_few_steps_learn_the_contacts_of_one_protein(head):
    """Helix-like: leucine and its like lie together along one axis, all other residues on a wide helix around it."""
    sequence = "LKDLLKELLKALLKDLAKLLEELVKRLAEL"
    is_core, turn = np.isin(list(sequence), ["L", "A", "V"]), np.arange(len(sequence))
    radius, rise = np.where(is_core, 0, 20), np.where(is_core, 0.2, 1.5)
    places = np.stack([radius * np.cos(1.745 * turn), radius * np.sin(1.745 * turn), rise * turn], axis=1)
    coordinates = pa.array([places.astype(np.float32).ravel().tolist()], COORDINATES)
    table = pa.table({"sequence": [sequence], "tertiary": coordinates, "valid_mask": [[True] * len(sequence)]})
    task = contact_prediction(head)
    model, batch = tiny_model(task), make_batch(task, make_window(table))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        (model(batch)["loss"].sum() / batch.num_scored).backward()
        optimizer.step()
    columns = {name: values.detach().double().numpy() for name, values in model.eval()(batch).items()}
    figures = {metric.name: metric.compute(columns) for metric in task.metrics}
    assert 0.2 < sum(true_pairs(table)[0].values()) / batch.num_scored < 0.4
    assert figures["loss"] < 0.1
    assert figures["precision_l_sep6"] == 1


def test_a_record_of_tape_becomes_a_row_and_says_how_many_pairs_it_has():
    schema = contact_prediction().records
    places, mask = np.zeros((8, 3)), np.array([1, 1, 0, 1, 1, 1, 1, 1])
    record = {"id": b"1ABC_A", "primary": "MKTAYIAK", "protein_length": 8, "tertiary": places, "valid_mask": mask}
    row = check_record(schema, record, "a file, record 1")
    assert schema.count_labels(row) == 3  # (0, 6), (0, 7) and (1, 7)
    mask[0] = 0
    assert schema.count_labels(check_record(schema, record, "a file, record 1")) == 1
    with pytest.raises(ValueError, match="key 'tertiary' has an array of shape"):
        check_record(schema, record | {"tertiary": places[1:]}, "a file, record 1")


def test_other_heads_are_refused():
    with pytest.raises(ValueError, match="head is 'resnet'; accepted: paper, tape"):
        contact_prediction("resnet")

"""Labels of residues: masks, special tokens and crops; the model's columns; real records where they are at hand."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.secondary_structure import residue_labels, secondary_structure
from tests.made.small_models import make_batch, make_window, secondary_structure_table, tiny_model

NONE = NOT_SCORED


def labels_of(**window: object) -> list[list[int]]:
    made = make_window(secondary_structure_table(), **window)
    tokens, labels = secondary_structure(3).prepare(made)
    assert tokens is made.tokens
    assert labels.dtype == np.int16
    return [part.tolist() for part in np.split(labels, np.cumsum(made.lengths)[:-1])]


def test_specials_masked_and_unknown_residues_are_not_scored():
    assert labels_of()[0] == [NONE, 0, 1, NONE, 0, NONE, 2, 0, 1, 2, 0, NONE]
    assert labels_of()[1] == [NONE, 0, 1, 2, 0, 1, 2, NONE]  # X is a residue and is scored


def test_an_alphabet_without_an_end_token_keeps_the_last_residue():
    assert labels_of(alphabet="proteinlm")[1] == [NONE, 0, 1, 2, 0, 1, 2]


def test_a_crop_has_its_own_residues_labels():
    cropped = labels_of(starts=[5, 0, 1], longest=4)
    assert cropped == [[NONE, 2, 0, 1, 2, NONE], [NONE, 0, 1, 2, 0, NONE], [NONE, 1, 2, 0, 1, NONE]]


def test_tables_of_several_chunks_and_slices_read_alike():
    table = secondary_structure_table()
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert np.array_equal(residue_labels(chunked, "ss3")[0], residue_labels(table, "ss3")[0])
    labels, lengths = residue_labels(table.slice(1, 1), "ss3")
    assert (labels.tolist(), lengths.tolist()) == ([0, 1, 2, 0, 1, 2], [6])
    assert residue_labels(table.slice(0, 0), "ss3")[0].size == 0


@pytest.mark.parametrize("num_labels", [3, 8])
def test_the_model_gives_columns_for_each_protein(num_labels):
    task = secondary_structure(num_labels)
    table = secondary_structure_table().rename_columns({"ss3": task.columns[0]})
    model = tiny_model(task)
    assert model.head.classifier.out_features == num_labels
    columns = model(make_batch(task, make_window(table)))
    assert columns["scored"].tolist() == [8, 6, 7]
    assert columns["loss"].sum().item() / 21 == pytest.approx(np.log(num_labels), abs=0.1)
    columns["loss"].sum().backward()
    assert model.encoder.token_embedding.weight.grad.any()


def test_a_frozen_encoder_gets_no_gradient():
    task = secondary_structure(3)
    model = tiny_model(task)
    frozen = type(model)(task, model.encoder, frozen=True)
    frozen(make_batch(task, make_window(secondary_structure_table())))["loss"].sum().backward()
    assert all(p.grad is None for p in frozen.encoder.parameters())
    assert frozen.head.dense.weight.grad.any()


def test_a_few_steps_learn_the_labels():
    task = secondary_structure(3)
    model = tiny_model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = make_batch(task, make_window(secondary_structure_table()))
    for _ in range(25):
        columns = model(batch)
        optimizer.zero_grad()
        columns["loss"].sum().backward()
        optimizer.step()
    assert columns["correct"].sum() >= 19


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="num_labels is 4; secondary structure has 3 or 8 classes"):
        secondary_structure(4)

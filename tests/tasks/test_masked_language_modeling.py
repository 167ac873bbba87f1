"""The objective as a task: labels, the columns it gives, and that it learns."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.encoder import LanguageModelHead
from proteinlm.models.huggingface import esm_config, to_esm_state
from proteinlm.models.masking import Masking
from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.masked_language_modeling import masked_language_modeling, scored_masking
from proteinlm.tasks.task import Batch
from tests.made.small_models import SEQUENCES, make_batch, make_window, padded, tiny_model

TABLE = pa.table({"sequence": list(SEQUENCES) * 20})


def test_labels_are_the_hidden_residues_of_the_right_dtype():
    task = masked_language_modeling()
    window = make_window(TABLE)
    tokens, labels = task.prepare(window)
    scored = labels != NOT_SCORED
    assert labels.dtype == np.dtype(task.label_dtype)
    assert tokens.shape == labels.shape == window.tokens.shape
    assert np.array_equal(labels[scored], window.tokens[scored])
    assert np.array_equal(tokens[~scored], window.tokens[~scored])
    assert 0.05 < scored.mean() < 0.25
    again = task.prepare(make_window(TABLE))
    assert np.array_equal(tokens, again[0])
    assert not np.array_equal(tokens, task.prepare(make_window(TABLE, epoch=1))[0])


@pytest.mark.parametrize("alphabet", ["esm", "tape", "proteinlm"])
def test_columns_equal_a_plain_computation(alphabet):
    task = masked_language_modeling(mask_fraction=0.5)
    model = tiny_model(task, alphabet=alphabet).eval()
    batch = make_batch(task, make_window(TABLE, alphabet))
    columns = model(batch)
    assert isinstance(model.head, LanguageModelHead)
    logits = model.head(model.encoder(batch.packed))
    losses = functional.cross_entropy(logits, batch.labels.long(), reduction="none", ignore_index=NOT_SCORED)
    scored = batch.labels != NOT_SCORED
    masked = scored & (batch.packed.tokens == get_alphabet(alphabet).mask_id)
    for protein in (0, 1, 59):
        mine = batch.packed.protein_index == protein
        torch.testing.assert_close(columns["loss"][protein], losses[mine].sum())
        torch.testing.assert_close(columns["masked_loss"][protein], losses[mine & masked].sum())
        assert columns["scored"][protein] == (mine & scored).sum()
        assert columns["masked"][protein] == (mine & masked).sum()
        assert columns["correct"][protein] == ((logits.argmax(1) == batch.labels) & mine & scored).sum()
    assert 0 < masked.sum() < scored.sum()


def test_the_loss_of_a_model_with_token_dropout_is_that_of_esm():
    """In training and in scoring: the masks that the task puts in are the ones that count, protein by protein."""
    transformers = pytest.importorskip("transformers")
    task, esm_alphabet = masked_language_modeling(mask_fraction=0.3), get_alphabet("esm")
    model = tiny_model(task, token_dropout=True)
    esm = transformers.EsmForMaskedLM(esm_config(model.encoder.config))
    esm.load_state_dict(to_esm_state(model.encoder, model.head), strict=False)
    batch = make_batch(task, make_window(TABLE))
    shares = np.array([float(part.float().mean()) for part in batch.packed.is_mask.split(batch.packed.lengths)])
    assert len(set(shares.round(3))) > 3
    rows, mask = padded(batch.packed.tokens.numpy(), np.array(batch.packed.lengths), esm_alphabet.pad_id)
    for mode in (True, False):
        logits = esm.train(mode)(rows, mask).logits[mask.bool()]
        expected = functional.cross_entropy(logits, batch.labels.long(), reduction="sum", ignore_index=NOT_SCORED)
        torch.testing.assert_close(model.train(mode)(batch)["loss"].sum(), expected, atol=1e-4, rtol=1e-6)
    plain = tiny_model(task)
    assert (plain(batch)["loss"].sum() - expected).detach().abs() > 1e-2


def test_a_batch_without_a_scored_residue_has_zero_loss_and_zero_gradient():
    task = masked_language_modeling()
    model = tiny_model(task)
    batch = make_batch(task, make_window(TABLE.slice(0, 2)))
    empty = Batch(batch.packed, torch.full_like(batch.labels, NOT_SCORED), batch.rows)
    columns = model(empty)
    assert all(not values.any() for values in columns.values())
    columns["loss"].sum().backward()
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
    assert model.head.dense.weight.grad is not None


def test_the_id_of_the_mask_is_not_saved_with_the_head():
    assert not [key for key in tiny_model(masked_language_modeling()).state_dict() if "mask" in key]


def test_a_few_steps_lower_the_loss():
    task = masked_language_modeling()
    model = tiny_model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = make_batch(task, make_window(TABLE))
    losses = []
    for _ in range(8):
        columns = model(batch)
        loss = columns["loss"].sum() / columns["scored"].sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.2


def test_metrics_are_of_the_right_columns():
    metrics = {metric.name: metric for metric in masked_language_modeling().metrics}
    columns = {
        "loss": np.array([6.0, 2.0]),
        "scored": np.array([3.0, 1.0]),
        "masked_loss": np.array([5.0, 0.0]),
        "masked": np.array([2.0, 0.0]),
        "correct": np.array([1.0, 0.0]),
    }
    values = {name: metric.compute(columns) for name, metric in metrics.items()}
    assert values == pytest.approx({"loss": 2.0, "perplexity": np.exp(2), "masked_loss": 2.5, "accuracy": 0.25})
    assert {name for name, metric in metrics.items() if metric.larger_is_better} == {"accuracy"}
    assert metrics["masked_loss"].counted == "masked"


def test_fractions_out_of_range_are_refused_when_the_task_is_made():
    with pytest.raises(ValueError, match=r"mask_fraction is 0\.0; accepted"):
        masked_language_modeling(mask_fraction=0.0)


def test_another_mask_in_training_leaves_scoring_as_it_is() -> None:
    window = make_window(pa.table({"sequence": ["MKTAYIAKQR" * 40]}))
    trained = replace(window, is_training=True)
    task = masked_language_modeling(training_mask_fraction=0.3)
    for asked, plain in (
        (task.prepare(window), masked_language_modeling().prepare(window)),
        (task.prepare(trained), masked_language_modeling(mask_fraction=0.3).prepare(trained)),
    ):
        assert all(np.array_equal(found, expected) for found, expected in zip(asked, plain, strict=True))
    shares = [float((labels != NOT_SCORED).mean()) for _, labels in (task.prepare(window), task.prepare(trained))]
    assert shares == pytest.approx([0.15, 0.3], abs=0.06)
    assert scored_masking({"mask_fraction": 0.2, "training_mask_fraction": 0.4}) == Masking(0.2)

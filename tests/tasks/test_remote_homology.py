"""Folds: columns against plain torch and scikit-learn, blank rows, learning."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch import nn

from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.metrics import evaluate
from proteinlm.tasks.records import check_record
from proteinlm.tasks.remote_homology import NUM_FOLDS, remote_homology
from proteinlm.tasks.task import Batch
from tests.made.small_models import SEQUENCES, make_batch, make_window, tiny_model

TABLE = pa.table({"sequence": list(SEQUENCES), "fold_label": pa.array([1194, 3, 77], pa.int32())})


def test_metrics_equal_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, NUM_FOLDS, generator=generator)
    labels = torch.randint(0, NUM_FOLDS, (300,), generator=generator)
    logits[torch.arange(300), labels] += 3
    batch = make_batch(remote_homology(), make_window(TABLE))
    columns = remote_homology().score(nn.Identity(), logits, Batch(batch.packed, labels, ()))
    values = {name: column.numpy() for name, column in columns.items()}
    found = {metric.name: evaluate(metric, values, num_resamples=5).value for metric in remote_homology().metrics}
    truth, every = labels.numpy(), range(NUM_FOLDS)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, logits.argmax(1).numpy()))
    assert found["top5_accuracy"] == pytest.approx(top_k_accuracy_score(truth, logits.numpy(), k=5, labels=every))
    probabilities = logits.double().softmax(1).numpy()
    assert found["loss"] == pytest.approx(log_loss(truth, probabilities, labels=every), rel=1e-5)
    assert 0.1 < found["accuracy"] < found["top5_accuracy"] < 0.9
    assert np.array_equal(values["predicted"], logits.argmax(1).numpy())


@pytest.mark.parametrize("head", ["paper", "tape"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_learns_below_what_a_constant_reaches(head, pool):
    task = remote_homology(head, pool)
    model, batch = tiny_model(task), make_batch(task, make_window(TABLE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    assert model(batch)["loss"].mean().item() == pytest.approx(np.log(NUM_FOLDS), abs=0.3)
    for _ in range(120):
        columns = model(batch)
        optimizer.zero_grad()
        columns["loss"].sum().backward()
        optimizer.step()
    assert columns["loss"].mean() < 0.5 * np.log(3)
    assert columns["predicted"].tolist() == [1194, 3, 77]


def test_a_row_without_a_fold_is_not_scored():
    task = remote_homology()
    batch = make_batch(task, make_window(TABLE))
    batch.labels[1] = NOT_SCORED
    columns = tiny_model(task)(batch)
    assert columns["scored"].tolist() == [1, 0, 1]
    assert (columns["loss"][1], columns["correct_top5"][1]) == (0, 0)


def test_folds_outside_the_numbering_are_refused():
    assert check_record(remote_homology().records, {"primary": "MKT", "fold_label": 1194}, "x")["fold_label"] == 1194
    with pytest.raises(ValueError, match="key 'fold_label' has 1195; accepted: one integer, 0 to 1194"):
        check_record(remote_homology().records, {"primary": "MKT", "fold_label": 1195}, "x")

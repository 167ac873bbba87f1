"""The two tasks of one number: columns against plain numpy and scikit-learn, modes apart, unscored rows, learning."""

import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import mean_squared_error

from proteinlm.tasks.fluorescence_stability import (
    FLUORESCENCE,
    STABILITY,
    Target,
    fluorescence,
    regression_columns,
    stability,
)
from proteinlm.tasks.metrics import evaluate
from proteinlm.tasks.records import check_record
from tests.made.small_models import make_batch, make_window, tiny_model

BUILDERS = [(fluorescence, FLUORESCENCE), (stability, STABILITY)]
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def make_table(target: Target, num_proteins: int = 24) -> pa.Table:
    """The number rises with the share of tryptophan, and is spread like the task's."""
    generator = np.random.default_rng(0)
    amounts = generator.integers(0, 9, num_proteins)
    others = ["".join(generator.choice(list(LETTERS[:5]), 9 - amount)) for amount in amounts]
    sequences = ["W" * amount + other for amount, other in zip(amounts, others, strict=True)]
    numbers = target.typical_mean + target.typical_deviation * (amounts - 4) / 2.6
    return pa.table({"sequence": sequences, target.column: numbers})


@pytest.mark.parametrize(("build", "target"), BUILDERS)
@pytest.mark.parametrize("head", ["paper", "tape"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_learns_below_what_a_constant_reaches(build, target, head, pool):
    task = build(head=head, pool=pool)
    table = make_table(target)
    batch = make_batch(task, make_window(table))
    constant = table.column(target.column).to_numpy().var() / target.typical_deviation**2
    model = tiny_model(pickle.loads(pickle.dumps(task)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss = model(batch)["loss"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    columns = {name: values.detach().numpy() for name, values in model.eval()(batch).items()}
    assert columns["loss"].mean() < 0.3 * constant
    assert task.metrics[0].compute(columns) > 0.8
    assert task.metrics[0].name == "spearman"


@pytest.mark.parametrize(("build", "target"), BUILDERS)
def test_a_new_head_answers_near_the_typical_mean_in_the_records_unit(build, target):
    task = build()
    columns = tiny_model(task).eval()(make_batch(task, make_window(make_table(target))))
    assert columns["prediction"].mean().item() == pytest.approx(target.typical_mean, abs=target.typical_deviation / 2)
    assert columns["target"].numpy() == pytest.approx(make_table(target)[target.column].to_numpy(), rel=1e-6)


def test_metrics_equal_scipy_and_scikit_learn_over_all_and_in_each_mode():
    generator = np.random.default_rng(2)
    truth = np.concatenate([generator.normal(1.4, 0.3, 200), generator.normal(3.6, 0.3, 150), [2.5]])
    guess = truth + generator.normal(size=len(truth))
    columns = regression_columns(guess, truth, FLUORESCENCE)
    figures = {metric.name: evaluate(metric, columns, num_resamples=5) for metric in fluorescence().metrics}
    for ending, inside in {"": truth > -9, "_bright": truth > 2.5, "_dark": truth <= 2.5}.items():
        expected = spearmanr(guess[inside], truth[inside]).statistic, mean_squared_error(truth[inside], guess[inside])
        for name, value in zip((f"spearman{ending}", f"mse{ending}"), expected, strict=True):
            assert figures[name].value == pytest.approx(value)
            assert figures[name].num_scored == inside.sum()
            whole = next(metric for metric in fluorescence().metrics if metric.name == name)
            assert whole.compute(columns) == pytest.approx(value)  # validation computes without `evaluate`
    assert figures["loss"].value == pytest.approx(mean_squared_error(truth, guess) / FLUORESCENCE.typical_deviation**2)
    assert [metric.name for metric in fluorescence().metrics if metric.is_main] == ["spearman", "mse"]


def test_what_is_not_scored_has_neither_loss_nor_gradient():
    task = stability()
    model = tiny_model(task)
    table = make_table(STABILITY, 3).set_column(1, "stability_score", [[1.0, math.nan, 2.0]])
    batch = make_batch(task, make_window(table))
    assert batch.num_scored == 2
    columns = model(batch)
    assert columns["scored"].tolist() == [1, 0, 1]
    assert columns["loss"][1] == 0
    assert all(torch.isfinite(values).all() for values in columns.values())
    columns["loss"][1].backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_records_hold_the_number_and_for_fluorescence_its_mutations():
    tape = {"primary": "MKT", "log_fluorescence": np.array([1.3], np.float32), "num_mutations": 5}
    row = check_record(fluorescence().records, tape, "here")
    assert (row["log_fluorescence"], row["num_mutations"]) == (pytest.approx(1.3), 5)
    with pytest.raises(ValueError, match="key 'stability_score' has nan"):
        check_record(stability().records, {"primary": "MKT", "stability_score": [math.nan]}, "here")

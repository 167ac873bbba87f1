"""Fluorescence and stability, the tasks that predict one number for each protein: labels, head, loss and metrics.

Fluorescence is the log10 brightness of mutants of green fluorescent protein (Sarkisyan et al. 2016). Train and valid
have up to three mutations, test has four to fifteen. Brightness has two modes, bright and dark, and telling them apart
alone already gives a high rank correlation: it is measured inside each of them too.

Stability is how well designed mini-proteins resist proteases (Rocklin et al. 2017): the log10 of the concentration at
which half is cut, over that predicted for the unfolded state. Train and valid are whole designs of several rounds, test
the single mutants around 17 proteins.

The head predicts (value - typical_mean) / typical_deviation, so that a new head starts near the mean in any unit.

Shapes: B proteins, D hidden.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.tasks.heads import HeadName, PoolName, check_head, get_pool, make_sequence_head
from proteinlm.tasks.metrics import PooledRatio, Spearman
from proteinlm.tasks.records import LabelField, TaskSchema, one_label, protein_count, protein_number
from proteinlm.tasks.task import Batch, Metric, Task, Window

UNIT = "proteins"


@dataclass(frozen=True)
class Mode:
    """A range of targets (above, up_to]; its proteins also get metrics of their own, such as "spearman_<name>"."""

    name: str
    above: float
    """Lower limit, itself outside the range."""
    up_to: float
    """Upper limit, itself inside the range."""
    description: str
    """Which proteins these are, in words that end the definition of a metric."""


@dataclass(frozen=True)
class Target:
    """The number that is predicted."""

    column: str
    description: str
    """What it is, with its unit: part of every metric's definition."""
    typical_mean: float
    typical_deviation: float
    """Mean and standard deviation of the published training set, constants whatever data is trained on."""
    modes: tuple[Mode, ...] = ()


def _regression(
    name: str, target: Target, *, head: HeadName, pool: PoolName, further_fields: tuple[LabelField, ...] = ()
) -> Task:
    """The task `name`: squared error of one number, in units of its typical deviation."""
    check_head(head)
    return Task(
        name=name,
        columns=(target.column,),
        label_level="protein",
        label_dtype="float32",
        prepare=partial(_prepare, column=target.column),
        make_head=partial(_make_head, head=head),
        score=partial(_score, target=target),
        metrics=_metrics(target),
        pool=get_pool(pool),
        test_splits=("test",),
        records=TaskSchema(name, name, (protein_number(target.column), *further_fields), one_label),
    )


def regression_columns(
    prediction: NDArray[np.float64], targets: NDArray[np.float64], target: Target
) -> dict[str, NDArray[np.float64]]:
    """Per-protein columns [B] of predictions [B] and targets [B], as the task's `score` gives them."""
    columns = _columns(torch.from_numpy(prediction), torch.from_numpy(targets), target)
    return {name: values.numpy().astype(np.float64) for name, values in columns.items()}


def _prepare(window: Window, *, column: str) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    return window.tokens, window.columns.column(column).to_numpy().astype(np.float32)


def _make_head(encoder: ProteinEncoder, *, head: HeadName) -> nn.Module:
    return make_sequence_head(head, encoder.config.hidden_size, 1)


def _score(head: nn.Module, pooled: Tensor, batch: Batch, *, target: Target) -> dict[str, Tensor]:
    """Per-protein columns [B]; "prediction", "target" and "squared_error" are in the records' unit."""
    prediction = target.typical_mean + target.typical_deviation * head(pooled).float().squeeze(1)
    return _columns(prediction, batch.labels.float(), target)


def _columns(prediction: Tensor, targets: Tensor, target: Target) -> dict[str, Tensor]:
    is_scored = ~torch.isnan(targets)
    known = torch.where(is_scored, targets, prediction.detach())  # what is not scored has no error and no gradient
    squared_error = (prediction - known) ** 2
    columns = {
        "loss": squared_error / target.typical_deviation**2,
        "scored": is_scored.float(),
        "prediction": prediction.detach(),
        "target": known,
        "squared_error": squared_error.detach(),
    }
    for mode in target.modes:
        inside = is_scored & (known > mode.above) & (known <= mode.up_to)
        columns[mode.name] = inside.float()
        columns[f"squared_error_{mode.name}"] = squared_error.detach() * inside
    return columns


def _metrics(target: Target) -> tuple[Metric, ...]:
    over = "over the proteins of all workers"
    metrics = [*_pair(target, over, "", "scored")]
    for mode in target.modes:
        metrics += _pair(target, f"{over} {mode.description}", f"_{mode.name}", mode.name)
    loss = Metric(
        "loss",
        f"squared error of {target.description} divided by {target.typical_deviation:g} squared; mean {over}",
        PooledRatio("loss", "scored"),
        "scored",
        UNIT,
        larger_is_better=False,
        is_main=False,
    )
    return (*metrics, loss)


def _pair(target: Target, over: str, ending: str, among: str) -> tuple[Metric, Metric]:
    """Rank correlation and mean squared error of the proteins that count in the column `among`."""
    what = f"predicted and measured {target.description}"
    return (
        Metric(
            f"spearman{ending}",
            f"Spearman's rank correlation of {what}, equal values sharing their mean rank; gathered {over}",
            Spearman("prediction", "target", among),
            among,
            UNIT,
            is_main=not ending,
        ),
        Metric(
            f"mse{ending}",
            f"mean squared difference of {what}; gathered {over}",
            PooledRatio(f"squared_error{ending}", among),
            among,
            UNIT,
            larger_is_better=False,
            is_main=not ending,
        ),
    )


MUTATIONS_COLUMN = "num_mutations"
BRIGHT_ABOVE = 2.5
"""log10 fluorescence between the two modes."""
FLUORESCENCE = Target(
    column="log_fluorescence",
    description="log10 fluorescence",
    typical_mean=3.18,
    typical_deviation=0.84,  # both of the 21,446 training proteins
    modes=(
        Mode("bright", BRIGHT_ABOVE, math.inf, f"whose log10 fluorescence is above {BRIGHT_ABOVE}"),
        Mode("dark", -math.inf, BRIGHT_ABOVE, f"whose log10 fluorescence is {BRIGHT_ABOVE} or below"),
    ),
)


def fluorescence(head: HeadName = "paper", pool: PoolName = "cls") -> Task:
    """The task "fluorescence"; its records may also hold `num_mutations`, which a baseline reads."""
    further_fields = (protein_count(MUTATIONS_COLUMN, is_required=False),)
    return _regression("fluorescence", FLUORESCENCE, head=head, pool=pool, further_fields=further_fields)


STABILITY = Target(
    column="stability_score",
    description="stability score",
    typical_mean=0.18,
    typical_deviation=0.57,  # both of 53,654 training proteins
)


def stability(head: HeadName = "paper", pool: PoolName = "cls") -> Task:
    """The task "stability"."""
    return _regression("stability", STABILITY, head=head, pool=pool)

"""Remote homology: which of 1,195 SCOP folds a protein has, tested on folds, superfamilies and families held out.

Shapes: B proteins, D hidden, C folds.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.heads import HeadName, PoolName, check_head, get_pool, make_sequence_head
from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.records import TaskSchema, one_label, protein_class
from proteinlm.tasks.task import Batch, Metric, Task, Window

NAME = "remote_homology"
NUM_FOLDS = 1195
LABEL_COLUMN = "fold_label"
TEST_SPLITS = ("test_fold_holdout", "test_superfamily_holdout", "test_family_holdout")
BEST = 5
"""Folds among which the right one must be for `top5_accuracy`."""


def remote_homology(head: HeadName = "paper", pool: PoolName = "cls") -> Task:
    """The task "remote_homology": cross-entropy over the folds of TAPE's numbering."""
    check_head(head)
    return Task(
        name=NAME,
        columns=(LABEL_COLUMN,),
        label_level="protein",
        label_dtype="int16",
        prepare=_prepare,
        make_head=partial(_make_head, head=head),
        score=_score,
        metrics=_metrics(),
        pool=get_pool(pool),
        test_splits=TEST_SPLITS,
        records=TaskSchema(NAME, NAME, (protein_class(LABEL_COLUMN, NUM_FOLDS),), one_label),
    )


def _prepare(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    return window.tokens, window.columns.column(LABEL_COLUMN).to_numpy().astype(np.int16)


def _make_head(encoder: ProteinEncoder, *, head: HeadName) -> nn.Module:
    return make_sequence_head(head, encoder.config.hidden_size, NUM_FOLDS)


def _score(head: nn.Module, pooled: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Per-protein columns [B]; "predicted" is the most likely fold."""
    logits = head(pooled).float()
    is_scored = batch.labels != NOT_SCORED
    targets = batch.labels.long()
    loss = functional.cross_entropy(logits, targets, reduction="none", ignore_index=NOT_SCORED)
    with torch.no_grad():
        best = logits.topk(BEST, dim=1).indices
        is_right = (best == targets[:, None]) & is_scored[:, None]
        return {
            "loss": loss,
            "scored": is_scored.float(),
            "correct": is_right[:, 0].float(),
            "correct_top5": is_right.any(dim=1).float(),
            "predicted": best[:, 0].float(),
        }


def _metrics() -> tuple[Metric, ...]:
    unit = "proteins"
    return (
        Metric(
            "accuracy",
            f"share of proteins whose fold of {NUM_FOLDS:,} is predicted right; over the proteins of all workers",
            PooledRatio("correct", "scored"),
            "scored",
            unit,
        ),
        Metric(
            "top5_accuracy",
            f"share of proteins whose fold of {NUM_FOLDS:,} is among the {BEST} predicted as most likely; "
            "over the proteins of all workers",
            PooledRatio("correct_top5", "scored"),
            "scored",
            unit,
        ),
        Metric(
            "loss",
            "cross-entropy in nats of the protein's fold; mean over the proteins of all workers",
            PooledRatio("loss", "scored"),
            "scored",
            unit,
            larger_is_better=False,
            is_main=False,
        ),
    )

"""Secondary structure: which of 3 (helix, strand, coil) or 8 classes each residue is in.

ss3 is 0 = helix (DSSP G, H, I), 1 = strand (B, E), 2 = coil (S, T, C); ss8 is the index in "GHIBESTC". Residues that
the record's `valid_mask` leaves out (unresolved, or outside the set's evaluation mask) and residues of class -1 are not
scored.

Shapes: N tokens of the micro batch, B proteins, R residues of all B proteins, D hidden.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.packed import NOT_SCORED
from proteinlm.tasks.heads import ConvolutionHead, HeadName, TokenHead, check_head, classify_tokens
from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.records import TaskSchema, residue_classes, residue_mask
from proteinlm.tasks.task import Batch, Metric, Task, Window, kept_residues

LABEL_COLUMNS: Mapping[int, str] = {3: "ss3", 8: "ss8"}
MASK_COLUMN = "valid_mask"
TEST_SPLITS = ("cb513", "ts115", "casp12")


def secondary_structure(num_labels: int, head: HeadName = "paper") -> Task:
    """The task "secondary_structure_q3" or "secondary_structure_q8", for `num_labels` of 3 or 8."""
    check_head(head)
    if num_labels not in LABEL_COLUMNS:
        raise ValueError(f"num_labels is {num_labels}; secondary structure has 3 or 8 classes")
    column = LABEL_COLUMNS[num_labels]
    name = f"secondary_structure_q{num_labels}"
    fields = (residue_classes(column, num_labels), residue_mask(MASK_COLUMN))
    return Task(
        name=name,
        columns=(column, MASK_COLUMN),
        label_level="residue",
        label_dtype="int16",
        prepare=partial(_prepare, column=column),
        make_head=partial(_make_head, num_labels=num_labels, head=head),
        score=_score,
        metrics=_metrics(num_labels),
        test_splits=TEST_SPLITS,
        records=TaskSchema(name, "secondary_structure", fields, partial(_count_labels, column=column)),
    )


def residue_labels(table: pa.Table, column: str) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Labels [R] of all proteins of `table`, NOT_SCORED where masked or unknown, and residues of each protein [B]."""
    classes = pa.compute.list_flatten(table.column(column)).to_numpy().astype(np.int16)
    counts = pa.compute.list_flatten(table.column(MASK_COLUMN)).to_numpy().astype(np.bool_)
    lengths = pa.compute.list_value_length(table.column(column)).to_numpy().astype(np.int64)
    return np.where(counts & (classes >= 0), classes, np.int16(NOT_SCORED)), lengths


def _prepare(window: Window, *, column: str) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """Labels [N] of the window's tokens: special tokens are not scored, and a crop takes its own residues' labels."""
    labels, residues = residue_labels(window.columns, column)
    is_residue, source = kept_residues(window, residues)
    tokens_labels = np.full(len(is_residue), NOT_SCORED, np.int16)
    tokens_labels[is_residue] = labels[source]
    return window.tokens, tokens_labels


def _make_head(encoder: ProteinEncoder, *, num_labels: int, head: HeadName) -> nn.Module:
    hidden_size = encoder.config.hidden_size
    return TokenHead(hidden_size, num_labels) if head == "paper" else ConvolutionHead(hidden_size, num_labels)


def _score(head: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
    if isinstance(head, ConvolutionHead):  # it needs all tokens, where the paper's answers for the scored ones alone
        head, hidden = nn.Identity(), head(hidden, batch.packed)
    columns, _ = classify_tokens(head, hidden, batch.packed, batch.labels, batch.scored)
    return columns


def _count_labels(row: Mapping[str, object], *, column: str) -> int:
    return int(((np.asarray(row[column]) >= 0) & np.asarray(row[MASK_COLUMN])).sum())


def _metrics(num_labels: int) -> tuple[Metric, ...]:
    what = f"share of residues of known class inside valid_mask whose class of {num_labels} is predicted right"
    unit = "residues"
    return (
        Metric(
            "accuracy",
            f"{what}; pooled over the residues of all proteins",
            PooledRatio("correct", "scored"),
            "scored",
            unit,
        ),
        Metric(
            "accuracy_per_protein",
            f"{what}; for each protein, then the mean over proteins",
            PooledRatio("correct", "scored", pooled="proteins"),
            "scored",
            unit,
            is_main=False,
        ),
        Metric(
            "loss",
            "cross-entropy in nats of residues of known class inside valid_mask; pooled over residues of all proteins",
            PooledRatio("loss", "scored"),
            "scored",
            unit,
            larger_is_better=False,
            is_main=False,
        ),
    )

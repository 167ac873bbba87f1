"""A task is a value: the columns it reads, how labels are made from them, its head, its loss and its metrics.

Pretraining is the task `masked_language_modeling`; the TAPE tasks are its siblings. A new task is one file that returns
a `Task`, and one line in tasks/catalog.py. Nothing here knows Ray, DeepSpeed or a training loop.

Shapes: N tokens of the micro batch or window (residues and special tokens), B proteins, D hidden, V alphabet,
R residues of all stored proteins, K residues that were kept when proteins were cropped.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.alphabet import Alphabet
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.packed import NOT_SCORED, Packed
from proteinlm.tasks.records import TaskSchema


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a split, tokenised and unpadded: what labels are made for, before micro batches are cut."""

    tokens: NDArray[np.uint8]
    """[N] alphabet ids, special tokens included, protein after protein."""
    lengths: NDArray[np.int32]
    """[B] tokens of each protein, special tokens included; sum is N."""
    rows: NDArray[np.int64]
    """[B] row number of each protein in its split: with seed and epoch, all that a random draw may depend on."""
    starts: NDArray[np.int32]
    """[B] first residue kept of each protein: 0, or where a long protein was cropped."""
    columns: pa.Table
    """[B] the stored rows (never cropped): id, length and the task's label columns."""
    alphabet: Alphabet
    seed: int
    epoch: int
    is_training: bool = False
    """Whether the rows are trained on; else they are scored."""


@dataclass(frozen=True)
class Batch:
    """One micro batch on the worker's device."""

    packed: Packed
    """It may be filled (`Packed.filled`); tasks see the proteins alone."""
    labels: Tensor
    """[N, ...] for residue-level tasks, [B, ...] for protein-level ones; none for what fills the stream."""
    rows: tuple[int, ...]
    """[B] row numbers in the split."""
    num_residues: int = 0
    """Real residues: neither special tokens nor padding."""
    num_scored: int = 0
    """Labels that the loss is over, as `Task.count` counts them: known before the forward pass."""
    pooled: Tensor | None = None
    """What `Task.pool` gave of these proteins under a frozen encoder, computed before; the encoder is then not run."""
    scored: Tensor | None = None
    """[M] int64, which tokens have a label that counts, where that was looked up before (`heads.scored_tokens`): a GPU
    would make the host wait for it."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        pooled = None if self.pooled is None else self.pooled.to(device, non_blocking=True)
        scored = None if self.scored is None else self.scored.to(device, non_blocking=True)
        labels = self.labels.to(device, non_blocking=True)
        return replace(self, packed=self.packed.to(device), labels=labels, pooled=pooled, scored=scored)


Columns = Mapping[str, NDArray[np.float64]]
"""Per-protein columns [B] that `Task.score` gave, gathered over a whole split."""


@dataclass(frozen=True)
class Metric:
    """A measure with its definition, computed from per-protein columns so that it can be resampled over proteins."""

    name: str
    definition: str
    """What is counted, over what, how pooled: printed with every value."""
    compute: Callable[[Columns], float]
    counted: str
    """The column whose sum is the number of things scored (residues, masked residues, proteins)."""
    unit: str
    """What `counted` counts, in words."""
    larger_is_better: bool = True
    is_main: bool = True
    """Whether tables show it by default."""


@dataclass(frozen=True)
class Output:
    """A prediction that is kept for each protein beside its columns; `Task.score` gives it, under this name, whenever
    the head is not in training.
    """

    name: str
    level: Literal["token", "pair"]
    """token: [N], of which the residues' are kept. pair: the upper triangles i < j of all B proteins, each row by row
    over its residues, protein after protein: [sum of L(L-1)/2]."""
    dtype: str
    """numpy dtype in which it is kept, such as "int8" or "float16"."""


def every_token(hidden: Tensor, packed: Packed) -> Tensor:
    """Hidden [N, D] as it is: what a head for labels on residues or pairs of them reads."""
    return hidden


def known_labels(labels: NDArray[np.generic], lengths: NDArray[np.int64]) -> int:
    """How many of the labels [N] or [B] are scored: classes other than NOT_SCORED, numbers other than NaN."""
    if np.issubdtype(labels.dtype, np.integer):
        return int((labels != NOT_SCORED).sum())
    return int((~np.isnan(labels.astype(np.float64))).sum())


@dataclass(frozen=True)
class Task:
    """A task: the functions and names that turn stored rows into labels, a loss and metrics."""

    name: str
    columns: tuple[str, ...]
    """Label columns read from the shards."""
    label_level: Literal["residue", "protein"]
    label_dtype: str
    """numpy dtype of the labels as they travel, such as "int16" or "float32". What is not scored is NOT_SCORED among
    integers and NaN among floats."""
    prepare: Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.generic]]]
    """Window -> (tokens [N], labels [N] or [B]): a pure function of the window."""
    make_head: Callable[[ProteinEncoder], nn.Module]
    """Encoder -> a new head for its hidden size, with random weights."""
    score: Callable[[nn.Module, Tensor, Batch], dict[str, Tensor]]
    """(head, what `pool` gave, batch) -> per-protein columns [B]; "loss" (summed, nats or squared error, carries the
    gradient) and "scored" (how many labels that sum is over) are always among them, the rest is for the metrics. Where
    the head is not in training, the task's `outputs` are there too."""
    metrics: tuple[Metric, ...]
    """The best epoch is chosen by the first one, on the first of `valid_splits`."""
    pool: Callable[[Tensor, Packed], Tensor] = every_token
    """Hidden [N, D] -> what the head reads, [N, D] or [B, D]. It has no weights: under a frozen encoder its value is
    computed once and kept."""
    count: Callable[[NDArray[np.generic], NDArray[np.int64]], int] = known_labels
    """(labels, tokens of each protein [B]) -> how many labels the loss is over."""
    outputs: tuple[Output, ...] = ()
    train_split: str = "train"
    valid_splits: tuple[str, ...] = ("valid",)
    """Splits scored during training; hyperparameters and epochs are chosen on the first one."""
    test_splits: tuple[str, ...] = ()
    """Splits scored once, at the end."""
    label_shape: tuple[int, ...] = ()
    """Trailing shape of one label, () for a number."""
    records: TaskSchema | None = None
    """What its records hold; None for a task that reads a corpus and needs no labels."""

    def on_splits(self, available: Iterable[str]) -> "Task":
        """The task on a data set that has the splits `available`: those watched and scored are cut down to it.

        A further split (one of the user's own, or a simulated one) is a test split too, after the declared ones.
        ValueError where the train split is missing.
        """
        names = sorted(available)
        if self.train_split not in names:
            raise ValueError(f"task {self.name!r} needs a split {self.train_split!r}; found {', '.join(names)}")
        valid = tuple(name for name in self.valid_splits if name in names)
        declared = tuple(name for name in self.test_splits if name in names)
        others = tuple(name for name in names if name not in (self.train_split, *valid, *declared))
        return replace(self, valid_splits=valid, test_splits=declared + others)


class TaskModel(nn.Module):
    """Encoder and head under one task: micro batch in, per-protein columns out. The unit that an engine trains."""

    def __init__(self, task: Task, encoder: ProteinEncoder, frozen: bool = False) -> None:
        super().__init__()
        self.task = task
        self.encoder = encoder
        self.head = task.make_head(encoder)
        self.frozen = frozen
        if frozen:
            encoder.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Per-protein columns [B] of `Task.score`."""
        if batch.pooled is not None:
            return self.task.score(self.head, batch.pooled, batch)
        if self.frozen:
            self.encoder.eval()  # frozen means frozen: no dropout below the head either
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            hidden = self.encoder(batch.packed)
            packed = batch.packed.without_filling()
            pooled = self.task.pool(hidden, packed)
        return self.task.score(self.head, pooled, replace(batch, packed=packed))


def kept_residues(window: Window, residues: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether a token is a residue [N], and for those that are, where its label is among the stored ones [K].

    `residues` [B] is how many each stored protein has, before it was cropped: labels [R] lie protein after protein.
    """
    lengths = window.lengths.astype(np.int64)
    num_trailing = 0 if window.alphabet.eos_id is None else 1
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)  # in the protein, <cls> at 0
    is_residue = (place > 0) & (place < np.repeat(lengths - num_trailing, lengths))
    first = np.cumsum(residues) - residues + window.starts  # of each protein's kept residues, among the stored ones
    source = np.repeat(first - 1, lengths) + place
    return is_residue, source[is_residue]


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline."""

    name: str
    description: str
    """What it is and what it was fitted on: printed with its values."""
    score: Callable[[pa.Table], Columns]
    """Rows [B] of a split -> per-protein columns [B] as `Task.score` gives them."""

"""Micro batches for tests and benchmarks: what one worker reads, without Ray; the same masked proteins as our packed
micro batches and as the padded rectangles that transformers' models take.

Shapes: N tokens of a batch, B proteins, L tokens of its longest protein.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.masking import DEFAULT_MASKING, mask_tokens
from proteinlm.models.packed import NOT_SCORED, pack
from proteinlm.platform.batches.order import BANDS, BatchPlan, Share, cut_evenly
from proteinlm.platform.batches.windows import ReadOptions, read_window, to_batch
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.training.job import batch_plan
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.masked_language_modeling import NAME as MLM
from proteinlm.tasks.task import Batch, known_labels

SPECIALS = get_alphabet("esm").specials_per_protein
"""Special tokens of every protein."""

Padded = dict[str, Tensor]
"""What EsmForMaskedLM is given: input_ids, attention_mask and labels, [B, L] each."""

PackedRow = dict[str, Tensor | int]
"""The same proteins one after the other: input_ids, position_ids and labels [1, N], cumulative lengths [B + 1], and the
longest length; of queries and of keys, which are the same."""


def masked(sequences: Sequence[str], rows: Sequence[int]) -> tuple[Tensor, Tensor, NDArray[np.integer[Any]]]:
    """Tokens [N] and labels [N] of the proteins `rows`, masked alike whatever batch they are in, and lengths [B]."""
    alphabet = get_alphabet("esm")
    tokens, lengths = alphabet.encode([sequences[row] for row in rows])
    shown, labels = mask_tokens(tokens, lengths, np.array(rows), DEFAULT_MASKING, alphabet=alphabet, seed=0, epoch=0)
    return torch.from_numpy(shown.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)), lengths


def packed_batches(sequences: Sequence[str], budget: int) -> list[Batch]:
    """The window cut as in training, in random order."""
    lengths = np.array([len(sequence) + SPECIALS for sequence in sequences])
    made = []
    for rows in cut_evenly(lengths, max(1, round(lengths.sum() / budget)), BANDS):
        tokens, labels, sizes = masked(sequences, rows.tolist())
        residues = sum(len(sequences[row]) for row in rows)
        scored = known_labels(labels.numpy(), sizes)
        made.append(
            Batch(pack(tokens.numpy(), sizes, get_alphabet("esm")), labels, tuple(rows.tolist()), residues, scored)
        )
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def padded_batches(sequences: Sequence[str], size: int) -> list[Padded]:
    """Shuffled batches of `size` proteins, padded to their longest, as transformers' collator does."""
    order = np.random.default_rng(0).permutation(len(sequences))
    starts = range(0, len(order) - size + 1, size)
    return [_rectangles(sequences, order[start : start + size].tolist()) for start in starts]


def batches_by_length(sequences: Sequence[str], slots: int) -> list[Padded]:
    """Batches of proteins of similar length, padded to at most `slots` tokens B L each, in random order.

    A protein of more than `slots` tokens is a batch of its own.
    """
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    cut: list[list[int]] = [[]]
    for row in order:  # its length is the batch's longest
        if cut[-1] and (len(cut[-1]) + 1) * (len(sequences[row]) + SPECIALS) > slots:
            cut.append([])
        cut[-1].append(row)
    made = [_rectangles(sequences, rows) for rows in cut]
    return [made[i] for i in np.random.default_rng(0).permutation(len(made))]


def _rectangles(sequences: Sequence[str], rows: Sequence[int]) -> Padded:
    tokens, labels, sizes = masked(sequences, rows)
    return {
        "input_ids": padded(tokens, sizes, get_alphabet("esm").pad_id),
        "attention_mask": padded(torch.ones_like(tokens), sizes, 0),
        "labels": padded(labels, sizes, NOT_SCORED),
    }


def packed_row(batch: Batch) -> PackedRow:
    """A micro batch of ours as one row that transformers' models take, with the names that they have for its parts."""
    packed = batch.packed
    return {
        "input_ids": packed.tokens[None],
        "position_ids": packed.positions[None],
        "labels": batch.labels[None],
        "cu_seq_lens_q": packed.cumulative_lengths,
        "cu_seq_lens_k": packed.cumulative_lengths,
        "max_length_q": packed.longest,
        "max_length_k": packed.longest,
    }


def padded(values: Tensor, lengths: NDArray[np.integer[Any]], filler: int) -> Tensor:
    """The tokens' `values` [N] of proteins of `lengths` [B] as a rectangle [B, L], `filler` where no token is."""
    is_token = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
    rectangle = torch.full(is_token.shape, filler)
    rectangle[is_token] = values
    return rectangle


def micro_batches(config: PretrainConfig) -> Iterator[list[Batch]]:
    """The micro batches of every step of a pretraining, the same ones that its only worker streams."""
    split, section = read_manifest(config.corpus).split("train"), config.batches
    reading = ReadOptions(
        directory=str(config.corpus),
        split=split,
        alphabet=config.model.alphabet,
        task=MLM,
        task_options=config.objective.task_options,
        seed=config.seed,
        max_length=section.max_length,
        crop=section.crop,
    )
    plan = batch_plan(config, split)
    return steps_of_one_worker(reading, plan, config.training.steps or 0)


def steps_of_one_worker(reading: ReadOptions, plan: BatchPlan, num_steps: int = sys.maxsize) -> Iterator[list[Batch]]:
    """The micro batches of every step as a run with one worker reads them; Ray Data is left out."""
    task, share = build_task(reading.task, **reading.task_options), Share(plan, range(plan.lanes), 0, num_steps)
    windows = (read_window(reading, share.window(number)) for number in range(share.num_windows))
    places = ((window, number) for window in windows for number in range(window.num_rows))
    return (
        [to_batch(*place, task, get_alphabet(reading.alphabet)) for place in lanes] for lanes in share.steps(places)
    )

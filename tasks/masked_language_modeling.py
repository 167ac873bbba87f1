"""Masked language modelling: the objective of pretraining, as a task.

Shapes: N tokens of the micro batch, M scored tokens among them, B proteins, D hidden.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.masking import Masking, mask_tokens
from proteinlm.tasks.heads import classify_tokens, scored_tokens, sum_per_protein
from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.task import Batch, Metric, Task, Window

NAME = "masked_language_modeling"


def masked_language_modeling(
    mask_fraction: float = 0.15,
    keep_fraction: float = 0.1,
    random_fraction: float = 0.1,
    training_mask_fraction: float | None = None,
) -> Task:
    """The task of the paper: of `mask_fraction` of the residues, 80 % show <mask>, 10 % themselves, 10 % another.

    In training `training_mask_fraction` takes the place of `mask_fraction`, where given; scoring keeps it, so that
    losses of different runs can be compared. Raises ValueError as `Masking` does.

    Two splits of a corpus are scored during training, separately: "valid" (random proteins) and "holdout" (whole clans
    and families).
    """
    scored = Masking(mask_fraction, keep_fraction, random_fraction)
    trained = scored if training_mask_fraction is None else replace(scored, mask_fraction=training_mask_fraction)
    return Task(
        name=NAME,
        columns=(),
        label_level="residue",
        label_dtype="int8",
        prepare=partial(_prepare, scored=scored, trained=trained),
        make_head=_make_head,
        score=_score,
        metrics=_metrics(scored),
        valid_splits=("valid", "holdout"),
    )


def scored_masking(options: Mapping[str, float]) -> Masking:
    """The masking with which splits are scored, from the task's `options` (arguments of `masked_language_modeling`)."""
    return Masking(**{name: value for name, value in options.items() if name != "training_mask_fraction"})


def _prepare(window: Window, *, scored: Masking, trained: Masking) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    return mask_tokens(
        window.tokens,
        window.lengths,
        window.rows,
        trained if window.is_training else scored,
        alphabet=window.alphabet,
        seed=window.seed,
        epoch=window.epoch,
    )


def _make_head(encoder: ProteinEncoder) -> nn.Module:
    return LanguageModelHead(encoder.config, encoder.token_embedding)


def _score(head: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Per-protein columns [B]; "masked_loss" and "masked" count the scored tokens that show <mask> alone."""
    packed = batch.packed
    columns, cross_entropy = classify_tokens(head, hidden, packed, batch.labels, batch.scored)
    selected = scored_tokens(batch.labels, batch.scored)
    with torch.no_grad():
        masked = packed.is_mask[selected]
        proteins, num_proteins = packed.protein_index[selected], packed.num_proteins
        columns["masked_loss"] = sum_per_protein(cross_entropy.detach() * masked, proteins, num_proteins)
        columns["masked"] = sum_per_protein(masked, proteins, num_proteins)
    return columns


def _metrics(masking: Masking) -> tuple[Metric, ...]:
    kept, drawn = masking.keep_fraction, masking.random_fraction
    mix = (
        f"{masking.mask_fraction:.0%} of the residues scored, {1 - kept - drawn:.0%} of them shown as <mask>, "
        f"{kept:.0%} as they are, {drawn:.0%} as a random amino acid; pooled over scored residues"
    )
    scored, masked = "scored residues", "residues shown as <mask>"
    return (
        Metric("loss", f"cross-entropy in nats; {mix}", PooledRatio("loss", "scored"), "scored", scored, False),
        Metric(
            "perplexity",
            f"exp of the cross-entropy in nats; {mix}",
            PooledRatio("loss", "scored", exponential=True),
            "scored",
            scored,
            False,
        ),
        Metric(
            "masked_loss",
            "cross-entropy in nats at residues shown as <mask> alone, pooled over them; "
            "a model without context cannot go below the unigram entropy",
            PooledRatio("masked_loss", "masked"),
            "masked",
            masked,
            False,
        ),
        Metric(
            "accuracy",
            f"share of residues predicted right; {mix}",
            PooledRatio("correct", "scored"),
            "scored",
            scored,
            is_main=False,
        ),
    )

"""Masked language modelling: the objective of pretraining, as a task.

Shapes: N tokens of the micro batch, M scored tokens among them, B proteins, D hidden.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.masking import check_fractions, mask_tokens
from proteinlm.tasks.heads import classify_tokens, scored_tokens, sum_per_protein
from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.task import Batch, Metric, Task, Window

NAME = "masked_language_modeling"
MASK_ID = "mask_id"
"""Name of the head's buffer that holds the id of <mask>: the head is all that tells `score` which alphabet it is."""


def masked_language_modeling(
    mask_fraction: float = 0.15, keep_fraction: float = 0.1, random_fraction: float = 0.1
) -> Task:
    """The task of the paper: of `mask_fraction` of the residues, 80 % show <mask>, 10 % themselves, 10 % another.

    Its splits are a corpus's: "valid" (random proteins) and "holdout" (whole clans and families), watched separately.
    """
    check_fractions(mask_fraction, keep_fraction, random_fraction)
    return Task(
        name=NAME,
        columns=(),
        label_level="residue",
        label_dtype="int8",
        prepare=partial(
            _prepare, mask_fraction=mask_fraction, keep_fraction=keep_fraction, random_fraction=random_fraction
        ),
        make_head=_make_head,
        score=_score,
        metrics=_metrics(mask_fraction, keep_fraction, random_fraction),
        valid_splits=("valid", "holdout"),
    )


def _prepare(
    window: Window, *, mask_fraction: float, keep_fraction: float, random_fraction: float
) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    tokens, labels = mask_tokens(
        window.tokens,
        window.lengths,
        window.rows,
        alphabet=window.alphabet,
        seed=window.seed,
        epoch=window.epoch,
        mask_fraction=mask_fraction,
        keep_fraction=keep_fraction,
        random_fraction=random_fraction,
    )
    return tokens, labels


def _make_head(encoder: ProteinEncoder) -> nn.Module:
    head = LanguageModelHead(encoder.config, encoder.token_embedding)
    mask_id = torch.tensor(get_alphabet(encoder.config.alphabet).mask_id)
    head.register_buffer(MASK_ID, mask_id, persistent=False)  # moves with the head, and is no part of what is saved
    return head


def _score(head: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Per-protein columns [B]; "masked_loss" and "masked" count the scored tokens that show <mask> alone."""
    packed = batch.packed
    columns, cross_entropy = classify_tokens(head, hidden, packed, batch.labels)
    selected = scored_tokens(batch.labels)
    with torch.no_grad():
        masked = packed.tokens[selected] == head.get_buffer(MASK_ID)
        proteins, num_proteins = packed.protein_index[selected], packed.num_proteins
        columns["masked_loss"] = sum_per_protein(cross_entropy.detach() * masked, proteins, num_proteins)
        columns["masked"] = sum_per_protein(masked, proteins, num_proteins)
    return columns


def _metrics(mask_fraction: float, keep_fraction: float, random_fraction: float) -> tuple[Metric, ...]:
    shown = 1 - keep_fraction - random_fraction
    mix = (
        f"{mask_fraction:.0%} of the residues scored, {shown:.0%} of them shown as <mask>, {keep_fraction:.0%} as they "
        f"are, {random_fraction:.0%} as a random amino acid; pooled over scored residues"
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

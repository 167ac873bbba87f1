"""Contact prediction: which pairs of residues lie near each other in the folded protein.

A contact is a C-alpha distance below 8 Angstrom. Scored are the pairs i < j with j - i of 6 and more whose residues are
both resolved (`valid_mask`). Labels travel as coordinates, three numbers a residue, and become pairs where they are
scored: a map of L x L labels would be a thousand times as large.

Metrics are precisions, P@L/5 and its relatives: from the ranking of a protein's scored pairs come the counts of every
range of separation j - i and every cut. Our precision takes each pair once and is a mean over proteins. The paper's
code takes cells of the full symmetric matrix and so sees only half as many pairs: it has metrics of its own name.

Shapes: N tokens of the micro batch, B proteins, R residues of all B proteins, L residues of one, P scored pairs of one,
D hidden.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from proteinlm.models.encoder import ProteinEncoder
from proteinlm.tasks.contact_heads import ConcatenationHead, ProductHead
from proteinlm.tasks.heads import HeadName, check_head
from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.records import TaskSchema, residue_coordinates, residue_mask
from proteinlm.tasks.task import Batch, Metric, Output, Task, Window, kept_residues

NAME = "contact_prediction"
COORDINATES_COLUMN = "tertiary"
MASK_COLUMN = "valid_mask"
PROBABILITY = "contact_probability"
CONTACT_DISTANCE = 8.0
"""Angstrom between C-alpha atoms: nearer residues are in contact."""
MIN_SEPARATION = 6
"""Pairs of smaller j - i are not scored: neighbours in sequence touch anyway."""
RANGES: Mapping[str, tuple[int, int | None]] = {
    "sep6": (6, None),
    "sep12": (12, None),
    "sep24": (24, None),
    "sep6_11": (6, 11),
    "sep12_23": (12, 23),
}
"""Smallest and largest separation j - i of a range; the field calls 6 to 11 short, 12 to 23 medium, 24 and more long.
"""
CUTS: Mapping[str, int] = {"l5": 5, "l2": 2, "l": 1}
"""The top L / 5, L / 2 and L pairs."""
MAIN = ("precision_l5_sep6", "precision_l5_sep12", "precision_l5_sep24", "precision_l_sep24")
HEADS: Mapping[HeadName, type[ConcatenationHead] | type[ProductHead]] = {
    "paper": ConcatenationHead,
    "tape": ProductHead,
}


def contact_prediction(head: HeadName = "paper") -> Task:
    """The task "contact_prediction" with the paper's head on (h_j, h_i) or TAPE's on (h_i * h_j, h_i - h_j).

    Raises ValueError for another head.
    """
    check_head(head)
    fields = (residue_coordinates(COORDINATES_COLUMN), residue_mask(MASK_COLUMN))
    return Task(
        name=NAME,
        columns=(COORDINATES_COLUMN, MASK_COLUMN),
        label_level="residue",
        label_dtype="float32",
        label_shape=(3,),
        prepare=_prepare,
        make_head=partial(_make_head, head=head),
        score=_score,
        count=count_pairs,
        metrics=_metrics(),
        outputs=(Output(PROBABILITY, "pair", "float16"),),
        test_splits=("test",),
        records=TaskSchema(NAME, "proteinnet", fields, _count_labels),
    )


def known_coordinates(table: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """C-alpha coordinates [R, 3] in Angstrom of all proteins of `table`, NaN where unresolved, and residues of each
    protein [B].
    """
    coordinates = pa.compute.list_flatten(table.column(COORDINATES_COLUMN)).to_numpy().astype(np.float32).reshape(-1, 3)
    is_known = pa.compute.list_flatten(table.column(MASK_COLUMN)).to_numpy().astype(np.bool_)
    lengths = pa.compute.list_value_length(table.column(MASK_COLUMN)).to_numpy().astype(np.int64)
    return np.where(is_known[:, None], coordinates, np.float32(np.nan)), lengths


def coordinates_of_each(table: pa.Table) -> list[NDArray[np.float32]]:
    """Coordinates [L, 3] of each protein [B], NaN where not known."""
    coordinates, lengths = known_coordinates(table)
    return np.split(coordinates, np.cumsum(lengths)[:-1]) if len(lengths) else []


def scored_pairs(
    coordinates: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Residues i < j of the scored pairs [P] of one protein, row by row, and which are contacts, from its coordinates
    [L, 3] (NaN where not known).
    """
    is_known = ~np.isnan(coordinates[:, 0])
    first, second = np.nonzero(np.triu(is_known[:, None] & is_known, MIN_SEPARATION))
    squared_distance = np.square(coordinates[first] - coordinates[second]).sum(axis=1)
    return first, second, squared_distance < CONTACT_DISTANCE**2


def count_pairs(coordinates: NDArray[np.generic], lengths: NDArray[np.int64]) -> int:
    """How many pairs are scored, from coordinates [N, 3] (NaN: not known) and tokens of each protein [B].

    Counted in time linear in N, without the pairs of `scored_pairs`: this runs for every micro batch that is cut.
    """
    is_known = ~np.isnan(coordinates[:, 0].astype(np.float32))
    known_before = np.concatenate([[0], np.cumsum(is_known)])
    start = np.repeat(np.cumsum(lengths) - lengths, lengths)
    # A known residue j pairs with all known ones from its protein's start to j - MIN_SEPARATION.
    end = np.maximum(start, np.arange(len(is_known)) - MIN_SEPARATION + 1)
    return int((known_before[end] - known_before[start])[is_known].sum())


def _prepare(window: Window) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
    """Coordinates [N, 3] of the window's tokens: special tokens have none, and a crop takes its own residues'."""
    coordinates, residues = known_coordinates(window.columns)
    is_residue, source = kept_residues(window, residues)
    of_tokens = np.full((len(is_residue), 3), np.nan, np.float32)
    of_tokens[is_residue] = coordinates[source]
    return window.tokens, of_tokens


def _count_labels(row: Mapping[str, object]) -> int:
    is_known = np.asarray(row[MASK_COLUMN], np.bool_)
    return count_pairs(np.where(is_known, 0.0, np.nan)[:, None], np.array([len(is_known)]))


def _make_head(encoder: ProteinEncoder, *, head: HeadName) -> nn.Module:
    return HEADS[head](encoder.config.hidden_size)


def _score(head: nn.Module, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Per-protein columns [B]: summed cross-entropy and scored pairs; the counts of `precision_counts` and the
    probability of every pair where the head is not in training.
    """
    packed, is_residue = batch.packed, batch.packed.is_residue
    if head.training:  # no pair of an unresolved residue is scored: the head need not see it
        is_residue = is_residue & ~batch.labels[:, 0].isnan()
    selected = torch.nonzero(is_residue).squeeze(1)
    lengths = torch.bincount(packed.protein_index[selected], minlength=packed.num_proteins).tolist()
    log_odds = head(hidden[selected], lengths)
    places = packed.positions[selected].split_with_sizes(lengths)
    coordinates = batch.labels[selected].split_with_sizes(lengths)
    losses, scored, counts = [], [], []
    for found, place, position in zip(log_odds, places, coordinates, strict=True):
        separation, is_contact, is_scored = _pairs(place, position)
        chosen, truth = found[is_scored], is_contact[is_scored]
        losses.append(functional.binary_cross_entropy_with_logits(chosen, truth.to(chosen.dtype), reduction="sum"))
        scored.append(len(chosen))
        if not head.training:
            scores, contacts, apart = (x.detach().cpu().numpy() for x in (chosen, truth, separation[is_scored]))
            counts.append(precision_counts(scores, contacts, apart, len(place)))
    columns = {"loss": torch.stack(losses), "scored": hidden.new_tensor(scored, dtype=torch.float32)}
    if not head.training:
        columns |= {name: torch.from_numpy(values).to(hidden.device) for name, values in stacked(counts).items()}
        columns[PROBABILITY] = torch.cat([_upper_triangle(found).sigmoid() for found in log_odds])
    return columns


def _pairs(places: Tensor, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Separation j - i, whether in contact, and whether scored, [L, L] each, from places [L] and coordinates [L, 3].

    As `scored_pairs`, on the device and as matrices, because the head's log odds are a matrix.
    """
    separation = places - places[:, None]
    is_known = ~coordinates[:, 0].isnan()
    is_scored = (separation >= MIN_SEPARATION) & is_known & is_known[:, None]
    squared_distance = torch.stack([(axis - axis[:, None]).square() for axis in coordinates.unbind(1)]).sum(0)
    return separation, squared_distance < CONTACT_DISTANCE**2, is_scored


def _upper_triangle(values: Tensor) -> Tensor:
    """Values [L, L] of the pairs i < j, row by row: [L (L - 1) / 2]."""
    return values[torch.ones_like(values, dtype=torch.bool).triu(1)]


def _metrics() -> tuple[Metric, ...]:
    loss = Metric(
        "loss",
        f"cross-entropy in nats of contact (C-alpha distance below {CONTACT_DISTANCE:g} Angstrom) or not, of pairs "
        f"i < j of resolved residues with j - i of {MIN_SEPARATION} and more; pooled over the pairs of all proteins",
        PooledRatio("loss", "scored"),
        "scored",
        "pairs",
        larger_is_better=False,
        is_main=False,
    )
    return (*precision_metrics(), loss)


def precision_counts(
    scores: NDArray[np.floating], is_contact: NDArray[np.bool_], separations: NDArray[np.int64], length: int
) -> dict[str, float]:
    """Columns of one protein of `length` L from the scores [P] of its scored pairs i < j, row by row: the higher, the
    likelier a contact. `separations` [P] is j - i.

    "picked_<cut>_<range>" pairs were picked, of which "hits_..." are contacts; "paper_picked_<cut>" and
    "paper_hits_..." count cells of the symmetric matrix. Equal scores are ranked in the order of the
    pairs, NaN comes last.
    """
    order = np.argsort(-scores, kind="stable")
    contact, separation = is_contact[order], separations[order]
    counts: dict[str, float] = {}
    for name, (nearest, farthest) in RANGES.items():
        in_range = contact[(separation >= nearest) & (separation <= (farthest or length))]
        for cut, divisor in CUTS.items():
            top = in_range[: max(1, length // divisor)]
            counts[f"hits_{cut}_{name}"], counts[f"picked_{cut}_{name}"] = float(top.sum()), float(len(top))
    for cut, divisor in CUTS.items():
        cells = length // divisor
        # Cells (i, j) and (j, i) have one score: the top is whole pairs, twice each, and half a pair where it is odd.
        hits = np.repeat(contact[: (cells + 1) // 2], 2)[:cells]
        counts[f"paper_hits_{cut}"], counts[f"paper_picked_{cut}"] = float(hits.sum()), float(cells)
    return counts


def stacked(proteins: Sequence[Mapping[str, float]]) -> dict[str, NDArray[np.float64]]:
    """Columns [B] from the counts of each protein; no proteins give empty columns."""
    names = proteins[0] if proteins else precision_counts(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), 0)
    return {name: np.array([protein[name] for protein in proteins], np.float64) for name in names}


def precision_metrics() -> tuple[Metric, ...]:
    """All metrics of the columns of `precision_counts`; the first one is P@L/5 of separation 6 and more."""
    ours = [_precision(cut, name) for name in RANGES for cut in CUTS]
    return (*ours, *(_paper_precision(cut) for cut in CUTS))


def _precision(cut: str, name: str) -> Metric:
    nearest, farthest = RANGES[name]
    separations = f"of {nearest} and more" if farthest is None else f"of {nearest} to {farthest}"
    metric = f"precision_{cut}_{name}"
    return Metric(
        metric,
        f"share of contacts (C-alpha distance below {CONTACT_DISTANCE:g} Angstrom) among the {_top(cut)} pairs i < j "
        f"of resolved residues with a separation j - i {separations} (at least one, all where there are fewer), L "
        "being all residues of the protein; each pair counts once; for each protein with such a pair, then the mean "
        "over proteins",
        PooledRatio(f"hits_{cut}_{name}", f"picked_{cut}_{name}", pooled="proteins"),
        f"picked_{cut}_{name}",
        "pairs picked",
        is_main=metric in MAIN,
    )


def _paper_precision(cut: str) -> Metric:
    return Metric(
        f"paper_precision_{cut}",
        f"ProteinLM's own count, NOT comparable with precision_{cut}_sep6: share of contacts among the {_top(cut)} "
        "cells of the full symmetric matrix with |i - j| of 6 and more; every pair stands in it twice, so that only "
        "half as many pairs are looked at; hits of all proteins over picked cells of all proteins (cells that a "
        "protein lacks count as misses)",
        PooledRatio(f"paper_hits_{cut}", f"paper_picked_{cut}"),
        f"paper_picked_{cut}",
        "cells picked",
        is_main=cut == "l5",
    )


def _top(cut: str) -> str:
    return "L highest-ranked" if CUTS[cut] == 1 else f"floor(L/{CUTS[cut]}) highest-ranked"

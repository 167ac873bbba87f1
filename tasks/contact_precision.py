"""How many of the highest-ranked pairs of residues are in contact: P@L and its relatives, each with its definition.

A protein has one list of scored pairs i < j, row by row; from its ranking come the counts of every range of separation
j - i and every cut. Our precision takes each pair once and is a mean over proteins. The paper's code takes cells of the
full symmetric matrix and so sees only half as many pairs: it has metrics of its own name.

Shapes: P scored pairs of one protein, L its residues, B proteins.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from proteinlm.tasks.metrics import PooledRatio
from proteinlm.tasks.task import Metric

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

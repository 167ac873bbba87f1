"""How simulated proteins descend from their ancestors: clans, families, and a binary tree in each family.

Sites mutate at their own rates, to similar residues that the site prefers; ends fray and coils lose a few residues.

Shapes: F families, T sites of all families, P proteins of one level of the trees, R residues of all of them, A = 20.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.simulated.sites import SS3_OF_STRUCTURE, Sites, draw_ancestor_sites, profiles, substitutions

FAMILY_BRANCH = 1.0
"""Branch length from a clan's ancestor to a family's."""
MEAN_BRANCH = 0.15
"""Mean length of one branch of a family's tree."""


@dataclass(frozen=True)
class Families:
    """The families' ancestors, concatenated."""

    group: NDArray[np.int64]
    """[F] the clan, or the clanless family's own group."""
    has_clan: NDArray[np.bool_]
    """[F]"""
    lengths: NDArray[np.int64]
    """[F] sites of each family."""
    sites: Sites
    residues: NDArray[np.int8]
    """[T] index in STANDARD_AMINO_ACIDS."""


@dataclass(frozen=True)
class Proteins:
    """The leaves of all trees, family after family."""

    family: NDArray[np.int64]
    """[P]"""
    lengths: NDArray[np.int64]
    """[P]"""
    residues: NDArray[np.int8]
    """[R]"""
    structure: NDArray[np.int8]
    """[R] index in STRUCTURES."""


def draw_families(generator: np.random.Generator, num_families: int, shortest: int, longest: int) -> Families:
    """Clans and families, each family with its ancestor."""
    group = _draw_groups(generator, num_families)
    ancestors = [draw_ancestor_sites(generator, shortest, longest) for _ in range(group.max() + 1)]
    sizes = np.bincount(group)
    lengths = np.array([len(ancestors[g].rate) for g in group])
    table = np.cumsum(profiles(), axis=1)
    letters = [_pick(table[sites.site_class], generator) for sites in ancestors]
    sites = Sites(
        *(
            np.concatenate([getattr(ancestors[g], name) for g in group])
            for name in ("structure", "host", "grade", "rate")
        )
    )
    residues = np.concatenate([letters[g] for g in group])
    branch = np.where(sizes[group] > 1, FAMILY_BRANCH, 0.0).repeat(lengths)
    return Families(group, sizes[group] > 1, lengths, sites, _mutate(generator, residues, sites, branch))


def _draw_groups(generator: np.random.Generator, num_families: int) -> NDArray[np.int64]:
    """The group [F] of each family: clans of two to four families, or a family on its own; at least three groups."""
    sizes = [1, 1, 1]
    while sum(sizes) < num_families:
        sizes.append(min(int(generator.choice([1, 2, 3, 4])), num_families - sum(sizes)))
    return np.repeat(np.arange(len(sizes)), sizes)


def grow_trees(
    generator: np.random.Generator, families: Families, per_family: int
) -> tuple[Families, NDArray[np.int64], NDArray[np.int64], NDArray[np.int8]]:
    """All leaves: (families, family [P], site [R] of each residue, residues [R])."""
    starts = np.cumsum(families.lengths) - families.lengths
    levels = max(0, int(np.ceil(np.log2(per_family))))
    residues, parents = families.residues, 1
    site = np.arange(len(residues))
    for level in range(1, levels + 1):
        children = -(-per_family // 2 ** (levels - level))
        family = np.repeat(np.arange(len(families.lengths)), children)
        lengths = families.lengths[family]
        within = _places(lengths)
        member = np.tile(np.arange(children), len(families.lengths)) // 2
        residues = residues[np.repeat(parents * starts[family] + member * lengths, lengths) + within]
        site = np.repeat(starts[family], lengths) + within
        branch = generator.gamma(2.0, MEAN_BRANCH / 2, len(family)).repeat(lengths)
        residues = _mutate(generator, residues, _at(families.sites, site), branch)
        parents = children
    return families, np.repeat(np.arange(len(families.lengths)), parents), site, residues


def _mutate(
    generator: np.random.Generator, residues: NDArray[np.int8], sites: Sites, branch: NDArray[np.float64]
) -> NDArray[np.int8]:
    """`residues` [R] after evolving along branches of length `branch` [R]."""
    changed = np.flatnonzero(generator.random(len(residues)) < -np.expm1(-branch * sites.rate))
    table = np.cumsum(substitutions(), axis=2)
    evolved = residues.copy()
    evolved[changed] = _pick(table[sites.site_class[changed], residues[changed]], generator)
    return evolved


def _pick(cumulative: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int8]:
    """An index for each row of cumulative probabilities [R, A]."""
    drawn = generator.random((len(cumulative), 1))
    picked = np.minimum((cumulative < drawn).sum(axis=1), cumulative.shape[1] - 1)
    return np.asarray(picked, np.int8)


def fray(
    generator: np.random.Generator,
    families: Families,
    family: NDArray[np.int64],
    site: NDArray[np.int64],
    residues: NDArray[np.int8],
) -> Proteins:
    """The leaves with up to 5 residues lost at each end and, in three of ten, 1 to 3 residues of a coil."""
    lengths = families.lengths[family]
    within = _places(lengths)
    structure = families.sites.structure[site]
    first, last = generator.integers(0, 6, (2, len(lengths)))
    gap_start = generator.integers(0, lengths)
    gap_end = gap_start + np.where(generator.random(len(lengths)) < 0.3, generator.integers(1, 4, len(lengths)), 0)
    in_gap = (
        (within >= gap_start.repeat(lengths)) & (within < gap_end.repeat(lengths)) & (SS3_OF_STRUCTURE[structure] == 2)
    )
    kept = (within >= first.repeat(lengths)) & (within < (lengths - last).repeat(lengths)) & ~in_gap
    kept_lengths = np.add.reduceat(kept.astype(np.int64), np.cumsum(lengths) - lengths)
    return Proteins(family, kept_lengths, residues[kept], structure[kept])


def _at(sites: Sites, index: NDArray[np.int64]) -> Sites:
    return Sites(sites.structure[index], sites.host[index], sites.grade[index], sites.rate[index])


def _places(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, ... within each protein."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)

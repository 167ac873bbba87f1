"""Families of simulated proteins: the sites of their ancestors, and how proteins descend from these.

Residues are preferred by structure (helices turn one face to the core, strands alternate), by burial, and by the host:
the G and C of its genome and the salt it lives in shift the composition of all its proteins. Most scales are published
ones, the contrasts are set so that a small model finds them quickly.

Ancestors are those of clans, then of families; in each family a binary tree grows. Sites mutate at their own rates, to
similar residues that the site prefers; ends fray and coils lose a few residues.

Shapes: A = 20 amino acids in the order of STANDARD_AMINO_ACIDS, K = 320 site classes (host, structure, burial), F
families, T sites of all families, P proteins of one level of the trees, R residues of all of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRUCTURES = "GHIBESTC"
"""DSSP's eight, in the order of TAPE's ss8 codes."""
SS3_OF_STRUCTURE = np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int8)
NUM_GRADES = 5
"""Grades of burial, 0 = exposed to 4 = core."""

# A row for each of STANDARD_AMINO_ACIDS, a column for each scale:
#   background: Swiss-Prot, percent
#   helix: P(a), Chou and Fasman 1978
#   strand: P(b)
#   turn: P(turn)
#   hydropathy: Kyte and Doolittle 1982
#   volume: cubic Angstrom, Zamyatnin 1972
#   charge: at pH 7
#   codon_gc: G or C among the first two letters of its codons, on average
#   salt: a rough sketch of what salt-loving hosts have more (above 0) and less of
_TABLE = np.array(
    [
        # background, helix, strand, turn, hydropathy, volume, charge, codon_gc, salt
        [8.25, 1.42, 0.83, 0.66, 1.8, 88.6, 0.0, 2.0, 0.0],  # A
        [1.38, 0.7, 1.19, 1.19, 2.5, 108.5, 0.0, 1.0, -0.5],  # C
        [5.46, 1.01, 0.54, 1.46, -3.5, 111.1, -1.0, 1.0, 1.0],  # D
        [6.72, 1.51, 0.37, 0.74, -3.5, 138.4, -1.0, 1.0, 1.0],  # E
        [3.86, 1.13, 1.38, 0.6, 2.8, 189.9, 0.0, 0.0, -0.3],  # F
        [7.07, 0.57, 0.75, 1.56, -0.4, 60.1, 0.0, 2.0, 0.0],  # G
        [2.27, 1.0, 0.87, 0.95, -3.2, 153.2, 0.3, 1.0, 0.0],  # H
        [5.91, 1.08, 1.6, 0.47, 4.5, 166.7, 0.0, 0.0, -0.5],  # I
        [5.8, 1.16, 0.74, 1.01, -3.9, 168.6, 1.0, 0.0, -1.0],  # K
        [9.65, 1.21, 1.3, 0.59, 3.8, 166.7, 0.0, 0.7, -0.3],  # L
        [2.41, 1.45, 1.05, 0.6, 1.9, 162.9, 0.0, 0.0, 0.0],  # M
        [4.06, 0.67, 0.89, 1.56, -3.5, 114.1, 0.0, 0.0, 0.0],  # N
        [4.74, 0.57, 0.55, 1.52, -1.6, 112.7, 0.0, 2.0, 0.0],  # P
        [3.93, 1.11, 1.1, 0.98, -3.5, 143.8, 0.0, 1.0, 0.0],  # Q
        [5.53, 0.98, 0.93, 0.95, -4.5, 173.4, 1.0, 1.7, 0.0],  # R
        [6.65, 0.77, 0.75, 1.43, -0.8, 89.0, 0.0, 1.0, 0.0],  # S
        [5.36, 0.83, 1.19, 0.96, -0.7, 116.1, 0.0, 1.0, 0.3],  # T
        [6.86, 1.06, 1.7, 0.5, 4.2, 140.0, 0.0, 1.0, 0.3],  # V
        [1.1, 1.08, 1.37, 0.96, -0.9, 227.8, 0.0, 1.0, 0.0],  # W
        [2.92, 0.69, 1.47, 1.14, -1.3, 193.6, 0.0, 0.0, 0.0],  # Y
    ]
)
_BACKGROUND, _HELIX, _STRAND, _TURN, _HYDROPATHY, _VOLUME, _CHARGE, _CODON_GC, _SALT = _TABLE.T

_PREFERENCES = {
    "G": _HELIX,
    "H": _HELIX,
    "I": _HELIX,
    "B": _STRAND,
    "E": _STRAND,
    "S": _TURN**0.5,
    "T": _TURN,
    "C": _TURN**0.75,
}
HOSTS = tuple((gc, salt) for gc in (-1.0, -0.4, 0.4, 1.0) for salt in (-1.0, 1.0))
"""The organisms that proteins come from: how much G and C their genomes hold, and how much salt they live in."""
STRUCTURE_CONTRAST = 1.5
BURIAL_CONTRAST = 2.0
GC_CONTRAST = 1.2
SALT_CONTRAST = 0.9
SIMILARITY_SCALE = 1.2
"""Distance of amino acids (hydropathy, volume, charge; in standard deviations) that makes a change e times rarer."""


@dataclass(frozen=True)
class Sites:
    """The sites [T] of one or more ancestors."""

    structure: NDArray[np.int8]
    """Index in STRUCTURES."""
    host: NDArray[np.int8]
    """Index in HOSTS."""
    grade: NDArray[np.int8]
    """Burial, 0 to NUM_GRADES - 1."""
    rate: NDArray[np.float32]
    """Substitutions per unit of branch length; 1 on average."""

    @property
    def site_class(self) -> NDArray[np.int64]:
        """Index of each site's row in `profiles`."""
        return (self.host.astype(np.int64) * len(STRUCTURES) + self.structure) * NUM_GRADES + self.grade


def profiles() -> NDArray[np.float64]:
    """Probability of each amino acid at a site of each class [K, A]."""
    hydropathy = (_HYDROPATHY - _HYDROPATHY.mean()) / _HYDROPATHY.std()
    burial = np.linspace(-1, 1, NUM_GRADES)
    rows = [
        _BACKGROUND
        * _PREFERENCES[structure] ** STRUCTURE_CONTRAST
        * np.exp(
            BURIAL_CONTRAST * grade * hydropathy + GC_CONTRAST * gc * (_CODON_GC - 1) + SALT_CONTRAST * salt * _SALT
        )
        for gc, salt in HOSTS
        for structure in STRUCTURES
        for grade in burial
    ]
    table = np.stack(rows)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def substitutions() -> NDArray[np.float64]:
    """Probability [K, A, A] of the residue that replaces another, by site class: a preferred and a similar one."""
    scales = (_HYDROPATHY / _HYDROPATHY.std(), _VOLUME / _VOLUME.std(), _CHARGE / _CHARGE.std())
    distance = sum((np.abs(scale[:, None] - scale[None, :]) for scale in scales), np.zeros((20, 20)))
    similarity = np.exp(-distance / SIMILARITY_SCALE)
    np.fill_diagonal(similarity, 0.0)
    table = profiles()[:, None, :] * similarity[None]
    return np.asarray(table / table.sum(axis=2, keepdims=True))


def draw_ancestor_sites(generator: np.random.Generator, shortest: int, longest: int) -> Sites:
    """The sites of one ancestor in one host: coils, and between them helices and strands in a share drawn first."""
    helix_share = generator.choice([0.15, 0.5, 0.85])
    length = int(generator.integers(shortest, longest + 1))
    pieces: list[tuple[NDArray[np.int8], NDArray[np.int8]]] = []
    placed = 0
    while placed < length:
        element = _helix(generator) if generator.random() < helix_share else _strand(generator)
        for piece in (_coil(generator), element):
            pieces.append(piece)
            placed += len(piece[0])
    structure = np.concatenate([piece[0] for piece in pieces])[:length]
    grade = np.concatenate([piece[1] for piece in pieces])[:length]
    rate = generator.gamma(1.0, 1.0, length) * np.where(grade == NUM_GRADES - 1, 0.6, 1.1)  # cores change slowly
    host = np.full(length, generator.integers(len(HOSTS)), np.int8)
    return Sites(structure, host, grade, rate.astype(np.float32))


def _helix(generator: np.random.Generator) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """A helix of 7 to 18 residues, 100 degrees each; seldom a short 3-10 helix or one that ends as a pi helix."""
    kind = generator.random()
    length = int(generator.integers(3, 5)) if kind < 0.15 else int(generator.integers(7, 19))
    structure = np.full(length, STRUCTURES.index("G" if length < 5 else "H"), np.int8)
    if kind > 0.96:
        structure[-5:] = STRUCTURES.index("I")
    angle = np.deg2rad(100 * np.arange(length) + generator.uniform(0, 360))
    return structure, np.rint((NUM_GRADES - 1) * (1 + np.cos(angle)) / 2).astype(np.int8)


def _strand(generator: np.random.Generator) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """A strand of 4 to 9 residues that alternates between core and outside, seldom a lone bridge residue."""
    length = 1 if generator.random() < 0.12 else int(generator.integers(4, 10))
    structure = np.full(length, STRUCTURES.index("B" if length == 1 else "E"), np.int8)
    inside = (np.arange(length) + generator.integers(2)) % 2 == 0
    return structure, np.where(inside, NUM_GRADES - 1, 1).astype(np.int8)


def _coil(generator: np.random.Generator) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """A coil of 2 to 7 residues: a plain start, then turns, bends and plain residues in runs of two."""
    length = int(generator.integers(2, 8))
    kinds = np.array([STRUCTURES.index(letter) for letter in "TSC"], np.int8)
    runs = np.repeat(generator.choice(kinds, length, p=[0.4, 0.25, 0.35]), 2)[: length - 1]
    structure = np.concatenate([kinds[2:], runs]).astype(np.int8)
    return structure, generator.choice(np.array([0, 1, 2], np.int8), length, p=[0.6, 0.3, 0.1])


FAMILY_BRANCH = 1.0
"""Branch length from a clan's ancestor to a family's."""
MEAN_BRANCH = 0.15
"""Mean length of one branch of a family's tree."""


@dataclass(frozen=True)
class Families:
    """The families' ancestors, concatenated."""

    group: NDArray[np.int64]  # [F] the clan, or the clanless family's own group
    has_clan: NDArray[np.bool_]  # [F]
    lengths: NDArray[np.int64]  # [F] sites of each family
    sites: Sites
    residues: NDArray[np.int8]  # [T] index in STANDARD_AMINO_ACIDS


@dataclass(frozen=True)
class Proteins:
    """The leaves of all trees, family after family."""

    family: NDArray[np.int64]  # [P]
    lengths: NDArray[np.int64]  # [P]
    residues: NDArray[np.int8]  # [R] index in STANDARD_AMINO_ACIDS
    structure: NDArray[np.int8]  # [R] index in STRUCTURES


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

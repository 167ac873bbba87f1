"""Simulated proteins that carry signal to learn, for a demo and for tests without any download. They are not real.

An ancestor is drawn for each clan: a host that sets its composition, segments of helix, strand and coil, and at each
site a residue by the preferences of host, structure and burial. Families descend from their clan's ancestor, and the
proteins of a family from its ancestor along a tree (families.py). So composition, neighbours, structure and relatives
each tell something about a residue, as in nature, but more plainly: a small model sees it within a minute.

    OUT/SIMULATED.txt  OUT/simulated.fasta  OUT/clans.tsv  OUT/secondary_structure_{train,valid,simulated_test}.jsonl.gz

Shapes: F families, P proteins, R residues of all of them.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from proteinlm.models.alphabet import STANDARD_AMINO_ACIDS
from proteinlm.platform.labelled.files import MARKER_FILE, TEST_SPLIT
from proteinlm.platform.simulated.families import SS3_OF_STRUCTURE, Families, Proteins, draw_families, fray, grow_trees
from proteinlm.platform.storage.atomic import write_atomically

MOST_FAMILIES = 9999
VALID_SHARE, TEST_SHARE = 0.1, 0.2
"""Shares of the clans (and clanless families) whose proteins are the task's valid and test split."""


@dataclass(frozen=True)
class Simulated:
    """What `simulate` wrote."""

    directory: Path
    fasta: Path
    clans: Path
    num_families: int
    num_clans: int
    num_proteins: int
    num_residues: int
    task_proteins: dict[str, int]
    """Secondary-structure split -> proteins."""


def simulate(
    out: Path | str,
    *,
    num_families: int,
    proteins_per_family: int,
    seed: int,
    structures_per_family: int = 8,
    shortest: int = 60,
    longest: int = 160,
) -> Simulated:
    """Write simulated proteins into `out`: FASTA with Pfam-A headers, a clans file and secondary-structure records.

    At most `structures_per_family` proteins of a family get a secondary-structure record; a clan is wholly in one split
    of those. Lengths lie between about `shortest` and `longest` residues. The files depend on the arguments alone.
    Raises ValueError for arguments out of range, OSError where `out` cannot be written.
    """
    _check_arguments(num_families, proteins_per_family, structures_per_family, shortest, longest)
    generator = np.random.default_rng([seed, num_families, proteins_per_family])
    families = draw_families(generator, num_families, shortest, longest)
    proteins = fray(generator, *grow_trees(generator, families, proteins_per_family))
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    settings = f"num_families={num_families} proteins_per_family={proteins_per_family} seed={seed}"
    # The marker goes first: whatever else is there, however the run ended, can be told from real proteins.
    write_atomically(
        directory / MARKER_FILE, f"Simulated proteins, not real ones. Made by proteinlm: {settings}\n".encode()
    )
    fasta, clans = directory / "simulated.fasta", directory / "clans.tsv"
    write_atomically(fasta, _fasta(proteins, proteins_per_family))
    write_atomically(clans, _clans(families))
    chosen = min(structures_per_family, proteins_per_family)
    task_proteins = {}
    for split, members in _task_members(generator, families, proteins_per_family, chosen).items():
        records = _structure_records(generator, proteins, proteins_per_family, members)
        task_proteins[split] = len(members)
        write_atomically(directory / f"secondary_structure_{split}.jsonl.gz", _gzipped_lines(records))
    return Simulated(
        directory=directory,
        fasta=fasta,
        clans=clans,
        num_families=num_families,
        num_clans=len(np.unique(families.group[families.has_clan])),
        num_proteins=len(proteins.lengths),
        num_residues=len(proteins.residues),
        task_proteins=task_proteins,
    )


def _check_arguments(num_families: int, per_family: int, structures: int, shortest: int, longest: int) -> None:
    if not 3 <= num_families <= MOST_FAMILIES:
        raise ValueError(f"num_families is {num_families}; accepted: 3 (one for each split) to {MOST_FAMILIES}")
    if per_family < 1 or structures < 1:
        raise ValueError(
            f"proteins_per_family is {per_family} and structures_per_family {structures}; both must be at least 1"
        )
    if not 20 <= shortest <= longest:
        raise ValueError(f"lengths from {shortest} to {longest}; accepted: 20 <= shortest <= longest")


def _task_members(
    generator: np.random.Generator, families: Families, per_family: int, chosen: int
) -> dict[str, NDArray[np.int64]]:
    """Split -> rows of the proteins with a secondary-structure record, clan by clan, spread over each family's tree."""
    num_groups = int(families.group.max()) + 1
    order = generator.permutation(num_groups)
    num_valid, num_test = (max(1, int(share * num_groups)) for share in (VALID_SHARE, TEST_SHARE))
    groups = {"valid": order[:num_valid], TEST_SPLIT: order[num_valid : num_valid + num_test]}
    groups["train"] = order[num_valid + num_test :]
    spread = np.linspace(0, per_family - 1, chosen).astype(np.int64)
    return {
        split: (np.flatnonzero(np.isin(families.group, groups[split]))[:, None] * per_family + spread).ravel()
        for split in ("train", "valid", TEST_SPLIT)
    }


def _structure_records(
    generator: np.random.Generator, proteins: Proteins, per_family: int, members: NDArray[np.int64]
) -> Iterator[dict[str, object]]:
    """TAPE-style records of the proteins `members`; in three of ten, valid_mask leaves out residues at each end."""
    ends = np.cumsum(proteins.lengths)
    unresolved = generator.integers(1, 4, (len(members), 2)) * (generator.random((len(members), 1)) < 0.3)
    letters = np.frombuffer(STANDARD_AMINO_ACIDS.encode(), np.uint8)
    for row, (first, last) in zip(members.tolist(), unresolved.tolist(), strict=True):
        here = slice(ends[row] - proteins.lengths[row], ends[row])
        structure = proteins.structure[here]
        mask = np.ones(len(structure), np.int8)
        mask[:first] = 0
        mask[len(mask) - last :] = 0
        yield {
            "id": _identifier(int(proteins.family[row]), row % per_family),
            "family": _family_name(int(proteins.family[row])),
            "primary": letters[proteins.residues[here]].tobytes().decode(),
            "protein_length": len(structure),
            "ss3": SS3_OF_STRUCTURE[structure].tolist(),
            "ss8": structure.tolist(),
            "valid_mask": mask.tolist(),
        }


def _family_name(family: int) -> str:
    return f"PF{90001 + family}"  # Pfam itself has not come to PF90000


def _identifier(family: int, member: int) -> str:
    return f"SIM{family + 1:04d}M{member + 1:05d}_SIMUL"


def _fasta(proteins: Proteins, per_family: int) -> bytes:
    letters = np.frombuffer(STANDARD_AMINO_ACIDS.encode(), np.uint8)[proteins.residues].tobytes().decode()
    lines, start = [], 0
    for row, (family, length) in enumerate(zip(proteins.family.tolist(), proteins.lengths.tolist(), strict=True)):
        name = f"{_identifier(family, row % per_family)}/1-{length}"
        lines.append(
            f">{name} {name} {_family_name(family)}.1;Simulated-{family + 1};\n{letters[start : start + length]}\n"
        )
        start += length
    return "".join(lines).encode()


def _clans(families: Families) -> bytes:
    """Pfam-A.clans.tsv's five columns: family, clan, clan name, family name, description."""
    lines = []
    for family, (group, has_clan) in enumerate(zip(families.group.tolist(), families.has_clan.tolist(), strict=True)):
        clan = f"CL{1000 + group}\tSimulated-clan-{group}" if has_clan else "\t"
        lines.append(f"{_family_name(family)}\t{clan}\tSimulated-{family + 1}\tSimulated family, not in nature\n")
    return "".join(lines).encode()


def _gzipped_lines(records: Iterator[dict[str, object]]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(
        filename="", mode="wb", fileobj=buffer, compresslevel=6, mtime=0
    ) as stream:  # equal bytes each time
        for record in records:
            stream.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    return buffer.getvalue()

"""What a sequence must be to count as a protein: how its text is cleaned, and what else it may turn out to be.

One judgement for all that is read: corpus sources, labelled records, and the letters of a corpus that stands.

    residues = clean_sequence(text)                       # upper case, no blanks, gaps or final '*'
    kind = non_protein_kind(text)                         # None, or one of KINDS: what a single record is instead
    composition.add([text, ...], [kind, ...])             # of a whole file
    composition.verdict()                                 # None, or a sentence: what the file is instead of proteins

Letters alone do not tell: A, C, G and T are amino acids, and so are all letters of secondary structure. So a record is
judged from a length on, by rules that no real protein of 30 residues or more is known to meet, and a file by all of its
letters together.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from proteinlm.models.alphabet import RESIDUE_LETTERS

NUCLEOTIDES, THREE_LETTERS, SECONDARY_STRUCTURE, STRUCTURE_AWARE, STRUCTURE_3DI = (
    "nucleotides",
    "three-letter codes",
    "secondary structure",
    "structure-aware sequences (SaProt)",
    "3Di structure letters",
)
KINDS = (NUCLEOTIDES, THREE_LETTERS, SECONDARY_STRUCTURE, STRUCTURE_AWARE, STRUCTURE_3DI)
"""What is taken for proteins by mistake. The last is told of a file only, never of a single record."""
_MEND = {
    NUCLEOTIDES: "translate them into proteins first",
    THREE_LETTERS: "write one letter for each residue",
    SECONDARY_STRUCTURE: "leave these records out; they describe structure, not residues",
    STRUCTURE_AWARE: "keep every first letter (the residue) and leave the structure letters out",
    STRUCTURE_3DI: "give the amino-acid sequences of the same proteins",
}

_RESIDUES = RESIDUE_LETTERS.encode()
_UPPER = bytes.maketrans(b"abcdefghijklmnopqrstuvwxyz", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DROPPED = b" \t\r\n\v\f-."

_BASES = b"ACGTUN"
_AMBIGUOUS_BASES = b"ACGTUNRYSWKMBDHV"
_SHORTEST, _SHORTEST_RNA = 20, 8
"""Letters from which on a single record is judged by its letters. U, in proteins selenocysteine, makes RNA plain."""
_FEWEST_LETTERS = 100
"""Letters from which on a file is judged by the letters of all its records together."""
_BASE_SHARE = 0.9
_FILE_BASE_SHARE = 0.95
_SS_LETTERS = b"HEGIBTSCLP"
"""DSSP's states; P is the kappa helix of DSSP 4, C or L the coil of three-state strings."""
_SS_REPEATS = 0.5
"""Share of letters equal to the one before, from which on such a record is secondary structure: states come in runs."""
_NO_BASE, _NO_STATE = re.compile(rb"[EFILPQefilpq]"), re.compile(rb"[ADFKMNQRVWYadfkmnqrvwy]")
"""A residue that is no letter of nucleotides, and one that is no state of secondary structure."""
_CODES = frozenset(
    b"ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    b"ASX GLX SEC PYL MSE XAA UNK TER".split()
)
_FEWEST_CODES = 5
_NUCLEIC_CHAIN = re.compile(rb"\|(?:DNA|RNA|DNA/RNA)[^|]*\((?:5'-|\d+-MER)")
"""In the header of a PDB entry's FASTA. pdb_seqres.txt says `mol:na`, and ss.txt has each chain twice, as
`1000:A:sequence` and as `1000:A:secstr`."""

_ORDER = b"ACDEFGHIKLMNPQRSTVWY"
# Shares per thousand, in this order: of 3Di letters (foldseek's substitution matrix, van Kempen et al. 2023), and of
# amino acids (Swiss-Prot's release statistics).
_OF_3DI = (49, 31, 101, 33, 28, 42, 45, 31, 30, 61, 15, 22, 78, 51, 26, 61, 20, 216, 31, 30)
_OF_PROTEINS = (83, 14, 55, 67, 39, 71, 23, 59, 58, 97, 24, 41, 47, 39, 55, 67, 54, 69, 11, 29)
_3DI_FEWEST_LETTERS = 500
_3DI_EVIDENCE = 0.02
"""Nats per letter by which 3Di's shares must explain a file better than those of amino acids do. Expected are +0.24 for
3Di and -0.22 for proteins."""
_3DI_REPEATS = 0.14
"""Share of pairs of equal letters (proteins: 0.07)."""


def clean_sequence(text: bytes) -> bytes:
    """Upper-case residues of `text`, or ValueError with the reason for which the record is rejected.

    Lower case becomes upper case (soft-masked regions). Whitespace is removed, and so are the gap characters `-` and
    `.` (aligned FASTA). `*` at the end is a translated stop codon and is removed; inside the sequence it is refused,
    for there are two proteins. Any letter that is not one of the 25 residues, J (leucine or isoleucine) among them, is
    refused by name: no alphabet in use here has it. What is empty after this is refused.
    """
    residues = text.translate(_UPPER, _DROPPED).rstrip(b"*")
    unknown = residues.translate(None, _RESIDUES)
    if unknown:
        place = residues.index(unknown[:1]) + 1
        if unknown[:1] == b"*":
            raise ValueError(f"stop codon '*' inside the sequence, at residue {place}")
        letter = residues[place - 1 : place + 3].decode("utf-8", "replace")[0]
        raise ValueError(f"unknown letter {letter!r} at residue {place}")
    if not residues:
        raise ValueError("empty sequence")
    return residues


def non_protein_kind(text: bytes, header: bytes = b"") -> str | None:
    """Which of `KINDS` the sequence `text` is, None where it may be a protein.

    `text` is taken as it stands in its source, before `clean_sequence`: structure-aware sequences differ from proteins
    by lower case alone. `header` is what a FASTA header says beside it. A sequence of fewer than 20 letters is judged
    by its header, as three-letter codes and as RNA only.
    """
    if b"mol:na" in header or (b"NA (" in header and _NUCLEIC_CHAIN.search(header)):
        return NUCLEOTIDES
    if b":secstr" in header:
        return SECONDARY_STRUCTURE
    if _is_plainly_protein(text):
        return None
    letters = text.translate(None, _DROPPED)
    if len(letters) >= _SHORTEST and _is_structure_aware(letters):
        return STRUCTURE_AWARE
    letters = letters.translate(_UPPER)
    if _is_three_letter_codes(letters):
        return THREE_LETTERS
    if len(letters) < _SHORTEST:
        is_rna = len(letters) >= _SHORTEST_RNA and letters.count(b"U") > 1 and not letters.translate(None, b"ACGUN")
        return NUCLEOTIDES if is_rna else None
    if not letters.translate(None, _AMBIGUOUS_BASES) and _is_nucleotides(letters):
        return NUCLEOTIDES
    if not letters.translate(None, _SS_LETTERS) and _is_secondary_structure(letters):
        return SECONDARY_STRUCTURE
    return None


def _is_plainly_protein(text: bytes) -> bool:
    """Whether two letters and the beginning tell that it is of no other kind, as they do for nearly all proteins."""
    begin = text[:3]
    return (
        begin.isalpha()
        and not begin[1:2].islower()
        and begin.upper() not in _CODES
        and _NO_BASE.search(text) is not None
        and _NO_STATE.search(text) is not None
    )


def mend(kind: str) -> str:
    """What to do about sequences of this kind."""
    return _MEND[kind]


def _is_structure_aware(letters: bytes) -> bool:
    """SaProt's form: each residue in upper case is followed by its 3Di letter in lower case, '#' where unknown."""
    if len(letters) % 2:
        return False
    structure = letters[1::2].translate(None, b"#")
    if not (structure.isalpha() and structure.islower()):
        return False
    residues = letters[::2].translate(None, b"#")
    return residues.isalpha() and residues.isupper()


def _is_three_letter_codes(letters: bytes) -> bool:
    count = len(letters) // 3
    if count < _FEWEST_CODES or len(letters) % 3 or letters[:3] not in _CODES:
        return False
    return sum(letters[start : start + 3] in _CODES for start in range(0, len(letters), 3)) >= 0.95 * count


def _is_nucleotides(letters: bytes) -> bool:
    counts = {chr(base): letters.count(base) for base in _BASES}
    return _are_bases(counts, len(letters), _BASE_SHARE)


def _are_bases(counts: Mapping[str, int], total: int, share: float) -> bool:
    """Whether nearly all letters are bases, three of the four among them: runs of A and G are proteins too."""
    known = sum(counts.get(base, 0) for base in "ACGTU")
    of_base = (counts.get("A", 0), counts.get("C", 0), counts.get("G", 0), counts.get("T", 0) + counts.get("U", 0))
    enough = sum(count >= 0.04 * known for count in of_base) >= 3
    return enough and of_base[1] + of_base[3] > 0 and known + counts.get("N", 0) >= share * total and 2 * known > total


def _is_secondary_structure(letters: bytes) -> bool:
    """Runs of states, with helices or strands among them."""
    states = np.frombuffer(letters, np.uint8)
    repeats = float((states[1:] == states[:-1]).mean())
    kinds = set(letters)
    of_three_states = len(kinds) == 2 and kinds <= set(b"HECL")
    return repeats >= _SS_REPEATS and bool(kinds & set(b"HE")) and (len(kinds) > 2 or of_three_states)


@dataclass
class Composition:
    """The letters of a file, and how many of its records are no proteins: what a file is judged by."""

    records: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Of `KINDS` -> records."""
    letters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """[256] how often each byte occurs."""
    pairs: int = 0
    """Of letters that were compared: the first with the second, the third with the fourth, and so on."""
    repeats: int = 0
    """Pairs of equal letters."""

    def add(self, texts: Sequence[bytes], kinds: Sequence[str | None]) -> None:
        """Count sequences as they stand in their source, and what `non_protein_kind` said of each."""
        self.records += len(texts)
        self.kinds.update(kind for kind in kinds if kind)
        joined = b"".join(texts)
        # Two letters at a time, which is twice as fast as one.
        pairs = np.bincount(np.frombuffer(joined + b" " * (len(joined) % 2), "<u2"), minlength=1 << 16).reshape(
            256, 256
        )
        self.letters += pairs.sum(axis=0) + pairs.sum(axis=1)
        self.pairs += len(joined) // 2
        self.repeats += int(np.trace(pairs))

    def update(self, other: "Composition") -> None:
        """Count what another part of the file holds."""
        self.records += other.records
        self.kinds.update(other.kinds)
        self.letters += other.letters
        self.pairs += other.pairs
        self.repeats += other.repeats

    def verdict(self) -> str | None:
        """What the file holds instead of proteins, as a sentence with figures and what to do; None for proteins.

        More than half of the records of one kind, or letters that no proteins have together.
        """
        kind, count = self.kinds.most_common(1)[0] if self.kinds else ("", 0)
        counts = self._upper_case()
        if 2 * count > self.records:
            if kind == NUCLEOTIDES:
                return _sentence(kind, f"{count:,} of {self.records:,} records; {_bases_text(counts)}")
            return _sentence(kind, f"{count:,} of {self.records:,} records")
        total = sum(counts.values())
        if total >= _3DI_FEWEST_LETTERS and self.repeats >= _3DI_REPEATS * self.pairs and _evidence_of_3di(counts) > 0:
            return _sentence(STRUCTURE_3DI, f"by the shares of the letters, V {counts.get('V', 0) / total:.0%}")
        return letters_verdict(counts)

    def _upper_case(self) -> Counter[str]:
        """How often each letter occurs, lower case counted as upper case, without blanks and gaps."""
        counts: Counter[str] = Counter()
        for byte in np.flatnonzero(self.letters):
            if byte not in _DROPPED:
                counts[chr(_UPPER[byte])] += int(self.letters[byte])
        return counts


def letters_verdict(counts: Mapping[str, int]) -> str | None:
    """As `Composition.verdict`, where only the number of each upper-case letter is known."""
    total = sum(counts.values())
    if total < _FEWEST_LETTERS:
        return None
    if _are_bases(counts, total, _FILE_BASE_SHARE):
        return _sentence(NUCLEOTIDES, _bases_text(counts))
    states = next((coil for coil in ("HEC", "HEL") if counts.get(coil[-1], 0) > 0.1 * total), _SS_LETTERS.decode())
    in_states = sum(counts.get(state, 0) for state in states)
    if in_states >= 0.98 * total and counts.get("H", 0) >= 0.1 * total and counts.get("E", 0) >= 0.02 * total:
        return _sentence(SECONDARY_STRUCTURE, f"{in_states / total:.1%} of the letters are {', '.join(states)}")
    return None


def _bases_text(counts: Mapping[str, int]) -> str:
    total = max(1, sum(counts.values()))
    share = sum(counts.get(base, 0) for base in _BASES.decode()) / total
    return f"{share:.1%} of the letters are A, C, G, T, U or N"


def _evidence_of_3di(counts: Mapping[str, int]) -> float:
    """Nats per letter by which the shares of 3Di explain the letters better, less what is needed."""
    of_letter = np.array([counts.get(chr(letter), 0) for letter in _ORDER], np.float64)
    if not of_letter.sum():
        return -_3DI_EVIDENCE
    gain = np.log(np.array(_OF_3DI) / np.array(_OF_PROTEINS))
    return float((of_letter * gain).sum() / of_letter.sum()) - _3DI_EVIDENCE


def _sentence(kind: str, figures: str) -> str:
    return f"looks like {kind}, not proteins ({figures}); {_MEND[kind]}"

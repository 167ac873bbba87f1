"""Alphabets: the tokens of a model and their ids, and the conversion of sequences to token ids and back.

Three are built in: ESM's 33 tokens (the default: weights go in and out of transformers' EsmForMaskedLM), TAPE's IUPAC
alphabet of 30 and ProteinLM's of 31. An id always fits in a byte.

Shapes: N tokens (residues and special tokens), B proteins, V alphabet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

STANDARD_AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 amino acids of the genetic code, in alphabetical order."""

NONSTANDARD_RESIDUES = "XBUZO"
"""Letters that stand for a residue too: any, Asx, selenocysteine, Glx, pyrrolysine."""

RESIDUE_LETTERS = STANDARD_AMINO_ACIDS + NONSTANDARD_RESIDUES
"""The 25 letters that stand for a residue."""

ArrayT = TypeVar("ArrayT", bound=NDArray[Any])


@dataclass(frozen=True)
class Alphabet:
    """The tokens of a model in the order of their ids, and which of them are special tokens."""

    name: str
    tokens: tuple[str, ...]
    """[V] token of each id; a token of one character is a letter that may stand in a sequence."""
    cls_token: str
    eos_token: str | None
    """Put after each protein; None where the alphabet packs proteins without an end token."""
    pad_token: str
    mask_token: str
    unknown_token: str

    @property
    def size(self) -> int:
        """V, the number of tokens."""
        return len(self.tokens)

    @property
    def cls_id(self) -> int:
        """Id of the token before each protein."""
        return self.tokens.index(self.cls_token)

    @property
    def eos_id(self) -> int | None:
        """Id of the token after each protein, None where there is no such token."""
        return None if self.eos_token is None else self.tokens.index(self.eos_token)

    @property
    def pad_id(self) -> int:
        """Id of padding; never in a stream of ours, but exported models need it."""
        return self.tokens.index(self.pad_token)

    @property
    def mask_id(self) -> int:
        """Id of the token that hides a residue."""
        return self.tokens.index(self.mask_token)

    @property
    def unknown_id(self) -> int:
        """Id that a letter outside the alphabet gets."""
        return self.tokens.index(self.unknown_token)

    @property
    def specials_per_protein(self) -> int:
        """How many special tokens `encode` adds to each protein."""
        return 1 if self.eos_token is None else 2

    @cached_property
    def amino_acid_ids(self) -> NDArray[np.int64]:
        """[20] ids of the standard amino acids, alphabetical by letter."""
        return _read_only(np.array([self.tokens.index(letter) for letter in STANDARD_AMINO_ACIDS], dtype=np.int64))

    @cached_property
    def residue_ids(self) -> NDArray[np.int64]:
        """Ids of all letters that are residues: the 20 standard ones, then X B U Z O."""
        return _read_only(np.array([self.tokens.index(letter) for letter in RESIDUE_LETTERS], dtype=np.int64))

    @cached_property
    def is_residue(self) -> NDArray[np.bool_]:
        """[V] whether an id is a residue; indexed with tokens [N] it gives the residues of a stream."""
        table = np.zeros(self.size, dtype=np.bool_)
        table[self.residue_ids] = True
        return _read_only(table)

    @cached_property
    def _id_of_byte(self) -> bytes:
        """256 ids, one of each one-byte letter."""
        table = bytearray([self.unknown_id] * 256)
        for token_id, token in enumerate(self.tokens):
            if len(token) == 1:
                table[ord(token)] = token_id
        return bytes(table)

    def encode(
        self, sequences: Sequence[str] | bytes | NDArray[np.uint8], lengths: NDArray[np.integer[Any]] | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Token ids of proteins, special tokens added, unpadded.

        `sequences` is a list of sequences, or the joined letters (one byte each) of all proteins with their `lengths`
        [B]. A letter outside the alphabet, lower case included, becomes `unknown_id`.

        Returns tokens [N] and the tokens of each protein [B], special tokens counted.
        Raises ValueError where `lengths` is missing, not wanted, or does not add up to the letters.
        """
        letters, residues = _checked(sequences, lengths)
        totals = residues + self.specials_per_protein
        ends = np.cumsum(totals)
        tokens = np.empty(int(totals.sum()), dtype=np.uint8)
        is_letter = np.ones(tokens.size, dtype=np.bool_)
        tokens[ends - totals] = self.cls_id
        is_letter[ends - totals] = False
        if self.eos_id is not None:
            tokens[ends - 1] = self.eos_id
            is_letter[ends - 1] = False
        # bytes.translate looks up a byte at a time and is several times as fast as indexing with an array of bytes
        tokens[is_letter] = np.frombuffer(letters.tobytes().translate(self._id_of_byte), dtype=np.uint8)
        return tokens, totals.astype(np.int32)

    def decode(self, tokens: NDArray[np.integer[Any]] | Sequence[int]) -> str:
        """Letters of tokens [N]; start, end and padding are left out, `<mask>` and `<unk>` are spelled out."""
        silent = {self.cls_token, self.eos_token, self.pad_token}
        return "".join(token for token in (self.tokens[int(i)] for i in tokens) if token not in silent)


def _read_only(array: ArrayT) -> ArrayT:
    array.flags.writeable = False
    return array


def joined_letters(sequences: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All letters one after the other, a byte each, and how many every protein has [B].

    A letter that latin-1 lacks becomes "?", which no alphabet has.
    """
    residues = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
    return np.frombuffer("".join(sequences).encode("latin-1", "replace"), dtype=np.uint8), residues


def amino_acid_numbers(letters: NDArray[np.uint8], other: int) -> NDArray[np.int64]:
    """For each letter (a byte; any shape) its place in STANDARD_AMINO_ACIDS, 0 to 19; `other` for any other letter."""
    number_of_byte = np.full(256, other, np.int64)
    number_of_byte[np.frombuffer(STANDARD_AMINO_ACIDS.encode(), np.uint8)] = np.arange(len(STANDARD_AMINO_ACIDS))
    return np.asarray(number_of_byte[letters])


def _checked(
    sequences: Sequence[str] | bytes | NDArray[np.uint8], lengths: NDArray[np.integer[Any]] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Letters and lengths as `joined_letters` gives them, from either form that `encode` takes."""
    if isinstance(sequences, bytes | np.ndarray):
        if lengths is None:
            raise ValueError("joined letters need the lengths of their proteins")
        letters = np.frombuffer(sequences, dtype=np.uint8)
        residues = np.asarray(lengths, dtype=np.int64)
        if int(residues.sum()) != letters.size or bool((residues < 0).any()):
            raise ValueError(f"lengths add up to {int(residues.sum())}, but there are {letters.size} letters")
        return letters, residues
    if isinstance(sequences, str):
        raise ValueError("encode takes a list of sequences, found one string; write [sequence]")
    if lengths is not None:
        raise ValueError("a list of sequences has its own lengths; give lengths with joined letters only")
    return joined_letters(sequences)


_IUPAC_LETTERS = tuple("ABCDEFGHIKLMNOPQRSTUVWXYZ")
"""A to Z without J."""

ALPHABETS: Mapping[str, Alphabet] = MappingProxyType(
    {
        "esm": Alphabet(
            name="esm",
            tokens=(
                *("<cls>", "<pad>", "<eos>", "<unk>"),
                *"LAGVSERTIDPKQNFYMHWCXBUZO.-",
                *("<null_1>", "<mask>"),
            ),
            cls_token="<cls>",
            eos_token="<eos>",
            pad_token="<pad>",
            mask_token="<mask>",
            unknown_token="<unk>",
        ),
        "tape": Alphabet(
            name="tape",
            tokens=("<pad>", "<mask>", "<cls>", "<sep>", "<unk>", *_IUPAC_LETTERS),
            cls_token="<cls>",
            eos_token="<sep>",
            pad_token="<pad>",
            mask_token="<mask>",
            unknown_token="<unk>",
        ),
        # The paper packs [CLS] p1 [CLS] p2 ...: its [SEP] has an id and is never put into a stream.
        "proteinlm": Alphabet(
            name="proteinlm",
            tokens=("[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]", "[unused1]", *_IUPAC_LETTERS),
            cls_token="[CLS]",
            eos_token=None,
            pad_token="[PAD]",
            mask_token="[MASK]",
            unknown_token="[UNK]",
        ),
    }
)


def get_alphabet(name: str) -> Alphabet:
    """The built-in alphabet of that name; ValueError that names the accepted ones where there is none."""
    if name not in ALPHABETS:
        near = get_close_matches(name[:80], ALPHABETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown alphabet {name[:80]!r}{hint}; accepted: {', '.join(ALPHABETS)}")
    return ALPHABETS[name]

"""What a protein must be to enter a corpus, and which split it goes to: the rules alone, without files or Ray.

A cleaned protein has an id and upper-case residues of the alphabets' 25 letters. All else is a `Reject` with
a reason.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from proteinlm.models.sequences import Composition, clean_sequence, non_protein_kind
from proteinlm.platform.corpus.chunks import Oversized
from proteinlm.platform.data.compression import compression_of, decompressed
from proteinlm.platform.data.sources import Source, lmdb_records, parse_json
from proteinlm.platform.settings.config import CorpusConfig

_PFAM_IN_HEADER = re.compile(rb"\s(PF\d{5})(?:\.\d+)?;")
_SHOWN = 60
"""Characters of a value that a reason repeats."""
_PFAM_VERSION = re.compile(r"^(PF\d{5})\.\d+$")


@dataclass(frozen=True)
class Protein:
    """One cleaned protein of a source."""

    line: int
    """Line (text) or record number (LMDB) within its chunk, from 0."""
    id: str
    sequence: bytes
    family: str | None
    clan: str | None


@dataclass(frozen=True)
class Reject:
    """A record that is no protein by the rules, and why."""

    line: int
    id: str
    reason: str


class Cleaner:
    """Makes proteins of a chunk's records by the rules of `config`, and counts what its letters are.

    Every method gives a `Reject` with the reason for a record that is no protein.
    """

    def __init__(self, config: CorpusConfig) -> None:
        self._config = config
        self._max_record_bytes = config.max_record_bytes
        self._texts: list[bytes] = []
        self._kinds: list[str | None] = []

    def composition(self) -> Composition:
        """Of all records that were read so far and have a sequence."""
        composition = Composition()
        composition.add(self._texts, self._kinds)
        return composition

    def fasta_proteins(self, text: bytes, where: str) -> Iterator[Protein | Reject]:
        """The records of a FASTA text that begins at a record (blank lines before the first are allowed).

        The id is the header's first word; a Pfam-A.fasta header (`>O67024/9-140 O67024/9-140 PF00578.24;AhpC-TSA;`)
        gives the family, its version cut. ValueError where text stands before the first '>': then it is not FASTA.
        """
        body = text.lstrip(b"\xef\xbb\xbf \t\r\n")
        line = text.count(b"\n", 0, len(text) - len(body))
        if not body:
            return
        _check_fasta(body, where)
        for entry in body[1:].split(b"\n>"):
            header, _, sequence = entry.partition(b"\n")
            family = _PFAM_IN_HEADER.search(header)
            about = _About(line, _first_word(header), family.group(1).decode() if family else None, None, header)
            is_long = len(entry) > self._max_record_bytes
            yield self._too_long(about, len(entry)) if is_long else self._protein(about, sequence)
            line += entry.count(b"\n") + 1

    def json_proteins(self, text: bytes, where: str) -> Iterator[Protein | Reject]:
        """The records of a JSON lines text; a line that is no JSON dict is a reject. Blank lines are passed over."""
        for line, content in enumerate(text.split(b"\n")):
            if len(content) > self._max_record_bytes:
                yield self._too_long(_About(line, ""), len(content))
            elif content.strip():
                try:
                    values = parse_json(content, "the line")
                except ValueError as error:
                    yield Reject(line, "", str(error))
                    continue
                yield self._from_values(line, values, None)

    def lmdb_proteins(self, source: Source, start: int, stop: int, label: str) -> Iterator[Protein | Reject]:
        """The records `start` to `stop - 1` of a TAPE LMDB; one without an id (TAPE's pfam) is called `label/number`.

        A record that cannot be unpickled is a reject.
        """
        for number, values in lmdb_records(source, start, stop):
            if isinstance(values, ValueError):
                where = f"{source.path} record {number}"
                yield Reject(number - start, "", str(values).replace(where, "the record", 1))
                continue
            yield self._from_values(number - start, values, f"{label}/{number}")

    def oversized(self, record: Oversized, source: Source, line: int) -> Reject | None:
        """The reject for a record that was passed over, which begins at `line`; None for blank space."""
        if record.is_blank:
            return None
        if source.kind == "fasta":
            _check_fasta(record.begin.removeprefix(b"\xef\xbb\xbf").lstrip(), source.path)
        name = _first_word(re.split(rb"[\r\n]", record.begin)[0][1:101]) if source.kind == "fasta" else ""
        return self._too_long(_About(line, name), record.size)

    def _from_values(self, line: int, values: Mapping[str, object], default_id: str | None) -> Protein | Reject:
        """A protein from TAPE's keys: primary or sequence, id, family_id or family, clan_id or clan."""
        try:
            name = _id(values.get("id", default_id))
        except ValueError as error:
            return Reject(line, "", str(error))
        sequence = values.get("primary", values.get("sequence"))
        if not isinstance(sequence, (str, bytes)):
            found = "no" if sequence is None else f"a {type(sequence).__name__} as"
            return Reject(line, name, f"{found} sequence under the keys 'primary' or 'sequence'")
        if values.get("sequence", sequence) != sequence:
            return Reject(line, name, "the sequences under 'primary' and 'sequence' differ")
        try:
            family, clan = _accession(values, "family", "PF", 5), _accession(values, "clan", "CL", 4)
        except ValueError as error:
            return Reject(line, name, str(error))
        content = sequence.encode("utf-8", "replace") if isinstance(sequence, str) else sequence
        return self._protein(_About(line, name, family, clan), content)

    def _protein(self, about: "_About", text: bytes) -> Protein | Reject:
        kind = non_protein_kind(text, about.header)
        self._texts.append(text)
        self._kinds.append(kind)
        if not about.id:
            return Reject(about.line, "", "no id")
        if kind and not self._config.accept_non_protein:
            return Reject(about.line, about.id, f"{kind}, not a protein (accept_non_protein takes it)")
        try:
            residues = clean_sequence(text)
        except ValueError as error:
            return Reject(about.line, about.id, str(error))
        shortest, longest = self._config.min_length, self._config.max_length
        if len(residues) < shortest:
            return Reject(about.line, about.id, f"{len(residues)} residues, fewer than the {shortest} asked for")
        if len(residues) > longest:
            return Reject(about.line, about.id, f"{len(residues):,} residues, more than max_length {longest:,}")
        return Protein(about.line, about.id, residues, about.family, about.clan)

    def _too_long(self, about: "_About", size: int) -> Reject:
        most, longest = self._config.max_record_bytes, self._config.max_length
        limit = f"accepted: {most:,} (max_length {longest:,} sets it)"
        return Reject(about.line, about.id, f"a record of {size:,} bytes; {limit}")


class _About(NamedTuple):
    """What a record says beside its sequence."""

    line: int
    id: str
    family: str | None = None
    clan: str | None = None
    header: bytes = b""


def _check_fasta(body: bytes, where: str) -> None:
    if body[:1] != b">":
        begin = body[:40].split(b"\n")[0].decode("utf-8", "replace")
        raise ValueError(f"{where} is not FASTA: text before the first '>': {begin!r}")


def _first_word(header: bytes) -> str:
    words = header.split(None, 1)
    return words[0].decode("utf-8", "replace") if words else ""


def _accession(values: Mapping[str, object], key: str, prefix: str, digits: int) -> str | None:
    """`<key>_id` where there is one, else `<key>`: a string, or the number of a Pfam accession as TAPE stores it."""
    value: Any = values.get(f"{key}_id")
    if value is None:
        value = values.get(key)
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, (str, bytes)):
        text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip()
        version = _PFAM_VERSION.match(text)
        return version.group(1) if version else text or None
    if not isinstance(value, Integral):
        raise ValueError(f"the value {_shown(value)} under {key!r} is neither a name nor a number")
    number = int(value)
    return f"{prefix}{number:0{digits}d}" if number > 0 else None


def _id(value: object) -> str:
    """A record's id as text, empty where it has none; ValueError for what is neither text nor a whole number."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool) or not isinstance(value, (str, Integral)):
        raise ValueError(f"the id is {_shown(value)}, a {type(value).__name__}; accepted: text or a whole number")
    return str(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def sequence_key(sequence: bytes, seed: int) -> bytes:
    """16 bytes that place a sequence: the corpus is in the order of its keys, which is a shuffle drawn from `seed`.

    The first 8 bytes order, the last 8 choose between train and valid, so that the two are independent.
    """
    return hashlib.blake2b(sequence, digest_size=16, key=seed.to_bytes(8, "little", signed=True)).digest()


def read_clans(path: Path) -> dict[str, str]:
    """Family -> clan from Pfam-A.clans.tsv, plain or compressed (family, clan, ...; one without clan has none)."""
    if not path.is_file():
        raise FileNotFoundError(f"no such clans file: {path}")
    clans: dict[str, str] = {}
    with decompressed(path, compression_of(path)) as file:
        try:
            for number, line in enumerate(io.TextIOWrapper(file, "utf-8"), start=1):
                fields = line.rstrip("\n").split("\t")
                if not line.strip():
                    continue
                if len(fields) < 2 or not re.fullmatch(r"PF\d{5}", fields[0]):
                    raise ValueError(f"{path} line {number} is not 'PFxxxxx<tab>CLxxxx...': {line[:60].rstrip()!r}")
                if fields[1] not in ("", r"\N", "No_clan"):
                    clans[fields[0]] = fields[1]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} cannot be read as Pfam's clans file: {error}") from None
    return clans


@dataclass(frozen=True)
class HeldOut:
    """Clans and families of which no protein is in train or valid."""

    clans: tuple[str, ...]
    families: tuple[str, ...]


def choose_held_out(
    records: Mapping[tuple[str | None, str | None], int],
    *,
    clans: Sequence[str],
    families: Sequence[str],
    fraction: float,
    seed: int,
) -> HeldOut:
    """The clans and families to hold out: those named, then whole ones drawn by `seed` until `fraction` is reached.

    `records`: (family, clan) -> number of records, (None, None) among them. Drawn is a whole clan, or a family that
    has none, so that no drawn family has relatives of its clan in train. One that would exceed `fraction` is passed
    over, and the draw ends at nine tenths of it (else the rest would be filled with the smallest families alone). A
    named family is held out alone, as TAPE does it.
    """
    clan_of: dict[str, str] = {}
    for known_family, known_clan in sorted((family, clan) for family, clan in records if family and clan):
        clan_of.setdefault(known_family, known_clan)
    held_clans, held_families, held = set(clans), set(families), 0
    groups: dict[str, int] = {}
    for (family, clan), count in records.items():
        group = clan or (clan_of.get(family) if family else None) or family
        if group is None:
            continue
        if group in held_clans or family in held_families:
            held += count
        else:
            groups[group] = groups.get(group, 0) + count
    target = fraction * sum(records.values())
    known_clans = {clan for _, clan in records}
    for group in sorted(groups, key=lambda name: sequence_key(name.encode(), seed)):
        if held >= 0.9 * target:
            break
        if held + groups[group] <= target:
            held += groups[group]
            (held_clans if group in known_clans else held_families).add(group)
    # A family of a held-out clan is held out also where a record does not say its clan.
    held_families.update(family for family, clan in clan_of.items() if clan in held_clans)
    return HeldOut(tuple(sorted(held_clans)), tuple(sorted(held_families)))

"""A sharded data set: its Parquet shards, and the manifest that says what they hold. The manifest is written last.

    DIR/manifest.json   DIR/<split>/shard-00000.parquet ...   DIR/rejects.jsonl (corpus builds)

A corpus and a task's records have the same form: one row per protein, `id`, `sequence`, `length` and further columns.
A shard is read by `read_shard` alone, which compares it with the manifest: a damaged or exchanged one is named.
"""

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from proteinlm.models.messages import printable
from proteinlm.platform.places.places import place
from proteinlm.platform.storage.atomic import crc32, is_unfinished, staged_file, write_atomically
from proteinlm.platform.storage.run_directory import first_fault

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 had the same files. The digests of a corpus are the same in both; those of a task's records covered ids and
sequences alone, without labels."""
ABOUT_A_PROTEIN = ("id", "sequence", "length", "family", "clan")
"""Columns that are no labels."""


class Shard(BaseModel):
    """One Parquet file of a split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Path relative to the data set's directory, below it."""
    rows: int = Field(ge=0)
    residues: int = Field(ge=0)
    digest: str
    """`content_digest` of the rows (a Parquet writer may change the file's bytes)."""
    checksum: int | None = None
    """CRC-32 of the file's bytes; None in data sets of earlier versions, whose rows are compared with `digest`."""

    @field_validator("file")
    @classmethod
    def _is_below(cls, file: str) -> str:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"found {file!r}; accepted: a path below the data set's directory")
        return file


class Split(BaseModel):
    """One split: its shards in order, and the counts that floors and plans are made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[Shard, ...]
    residue_counts: dict[str, Annotated[int, Field(ge=0)]]
    """Letter -> how often it occurs in the split."""
    longest: int
    """Residues of the longest protein."""

    @property
    def rows(self) -> int:
        """Proteins of the split."""
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """Row number in the split of each shard's first row."""
        return tuple(accumulate((shard.rows for shard in self.shards[:-1]), initial=0))

    @property
    def residues(self) -> int:
        """Residues of the split."""
        return sum(shard.residues for shard in self.shards)

    @property
    def content_hash(self) -> str:
        """First 16 hex digits of the digest over the shards: equal for equal proteins in equal order."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()[:16]

    @property
    def mask_seed(self) -> int:
        """Seed of the masks that the split is validated with: fixed by its content, so all runs score the same ones."""
        return int(self.content_hash[:12], 16)


class Manifest(BaseModel):
    """What a data set directory holds and how it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    kind: str
    """"corpus" or the name of a task."""
    splits: dict[str, Split]
    settings: dict[str, object]
    """Everything that determined the content: sources, seed, fractions, held-out families ..."""
    counts: dict[str, int]
    """Records read, kept, duplicates, rejected ..."""
    is_simulated: bool = False
    """True where the proteins are made up: said beside every figure that comes from them."""

    @property
    def content_hash(self) -> str:
        """First 16 hex digits of the digest over all splits: the corpus hash that rows carry."""
        joined = "".join(f"{name}:{self.splits[name].content_hash};" for name in sorted(self.splits))
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def split(self, name: str) -> Split:
        """The split `name`; ValueError names those there are."""
        if name not in self.splits:
            raise ValueError(f"split {name!r} not found; this data set has {', '.join(sorted(self.splits))}")
        return self.splits[name]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest` into `directory`, when all that it lists is in its place."""
    write_atomically(directory / MANIFEST_FILE, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


def read_manifest(directory: Path | str) -> Manifest:
    """The manifest of `directory`; FileNotFoundError or ValueError say what is wrong with it."""
    path = place(directory) / MANIFEST_FILE
    if not path.is_file():
        why = "a build that did not finish leaves none" if path.parent.exists() else "the directory does not exist"
        raise FileNotFoundError(
            f"no data set at {directory}: {path.name} is missing ({why}); make one with `proteinlm corpus build`"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not a manifest of this version: {first_fault(error)}") from None
    for name, split in manifest.splits.items():
        if fault := _fault_of(split):
            raise ValueError(f"{path}: the split {printable(name)} {fault}")
    if manifest.format_version not in READABLE_VERSIONS:
        raise ValueError(f"{path} has format version {manifest.format_version}; this version reads 1 and 2")
    return manifest


def _fault_of(split: Split) -> str:
    """Which of its counts contradict each other, in words that follow its name; "" where none do."""
    if not split.shards:
        return "has no shards; accepted: at least one"
    if sum(split.residue_counts.values()) != split.residues:
        return f"has residue_counts that are not those of the {split.residues:,} residues of its shards"
    if not split.residues <= split.longest * split.rows <= split.residues * split.rows:
        return f"has {split.rows:,} proteins of {split.residues:,} residues, and the longest of {split.longest:,}"
    return ""


def standing_build(directory: Path, kind: str, settings: Mapping[str, object]) -> Manifest | None:
    """The manifest at `directory` where it is a build of this `kind` and these `settings`; None where nothing is there.

    Settings that the manifest has beside these (what a build found out itself) are not compared, and a build in a store
    that is not at its end is nothing. ValueError, with what differs, for another build, or files that are no build.
    """
    if not (directory / MANIFEST_FILE).is_file():
        is_empty = not directory.exists() or (directory.is_dir() and not any(directory.iterdir()))
        if is_empty or is_unfinished(directory):
            return None
        raise ValueError(f"{directory} exists and holds no finished build; name another directory or remove it")
    manifest = read_manifest(directory)
    wanted, there = {"kind": kind, **settings}, {"kind": manifest.kind, **manifest.settings}
    if different := [name for name in wanted if name not in there or there[name] != wanted[name]]:
        found = "; ".join(f"{name}: found {there.get(name)!r}, wanted {wanted[name]!r}" for name in different)
        raise ValueError(f"{directory} holds another build ({found}); name another directory or remove it")
    return manifest


@dataclass(frozen=True)
class WrittenShard:
    """A shard as the manifest lists it, and what its split adds up."""

    shard: Shard
    residue_counts: dict[str, int]
    longest: int


def write_shard(directory: Path, split: str, number: int, table: pa.Table) -> WrittenShard:
    """Write `table` as shard `number` of `split` in `directory`; it has the columns id and sequence, and any others."""
    file = f"{split}/shard-{number:05d}.parquet"
    (directory / split).mkdir(parents=True, exist_ok=True)
    with staged_file(directory / file) as staging:
        pq.write_table(table, staging, compression="zstd", row_group_size=max(1, table.num_rows))
        checksum = crc32(staging)
    sequences: list[str] = table.column("sequence").to_pylist()
    counts = np.bincount(np.frombuffer("".join(sequences).encode(), dtype=np.uint8), minlength=128)
    lengths = [len(sequence) for sequence in sequences]
    return WrittenShard(
        Shard(file=file, rows=len(lengths), residues=sum(lengths), digest=content_digest(table), checksum=checksum),
        {chr(letter): int(counts[letter]) for letter in np.flatnonzero(counts)},
        max(lengths, default=0),
    )


def read_shard(directory: Path | str, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of `shard` of the data set at `directory`, in order; `columns`: None reads all.

    ValueError that names the file where it is missing, damaged, or another than the manifest says: in its checksum, its
    number of rows or its residues.
    """
    path, named = place(directory) / shard.file, place(directory) / printable(shard.file)
    try:
        content = path.read_bytes()
    except OSError as error:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise OSError(f"{named}, which {MANIFEST_FILE} lists, cannot be read: {error.strerror or error}") from None
        raise ValueError(f"{named} is missing; {MANIFEST_FILE} beside it lists it: build the data set again") from None
    if shard.checksum is not None and zlib.crc32(content) != shard.checksum:
        raise _damaged(named, "its checksum is not that of")
    try:
        file = pq.ParquetFile(pa.BufferReader(content))
        table = file.read(columns=None if columns is None else list(columns), use_threads=False)
        is_listed = shard.checksum is not None or _is_as_listed(file.read(use_threads=False), shard)
    except (LookupError, ValueError, OSError, pa.ArrowException):  # a damaged file makes Arrow raise nearly anything
        raise _damaged(named, "it is no Parquet file with the columns of") from None
    if not is_listed:
        raise _damaged(named, "its rows are not those of")
    if table.num_rows != shard.rows:
        raise _damaged(named, f"it has {table.num_rows:,} rows, not {shard.rows:,} as in")
    if "sequence" in table.column_names:
        residues = pc.sum(pc.utf8_length(table.column("sequence"))).as_py() or 0
        if residues != shard.residues:
            raise _damaged(named, f"it has {residues:,} residues, not {shard.residues:,} as in")
    return table


def _damaged(path: Path, how: str) -> ValueError:
    """The error of a shard that is not what the manifest says."""
    return ValueError(f"{path} is damaged or was exchanged: {how} {MANIFEST_FILE}; build the data set again")


def _is_as_listed(table: pa.Table, shard: Shard) -> bool:
    """Whether its digest is that of the shard, or that of format version 1, without labels; none covers the lengths."""
    lengths = pc.utf8_length(table.column("sequence")).cast(pa.int64())
    return lengths == table.column("length").cast(pa.int64()) and shard.digest in (
        content_digest(table),
        content_digest(table.select(["id", "sequence"])),
    )


def content_digest(table: pa.Table) -> str:
    """SHA-256 (hex) of the rows in order: of ids and sequences, then of each label column by its name.

    Labels are all columns but those of `ABOUT_A_PROTEIN`. It does not depend on how Arrow holds the columns (chunks,
    row groups): only on the values, where null is a value of its own, and on the type of labels.
    """
    digest = hashlib.sha256()
    rows = zip(table.column("id").to_pylist(), table.column("sequence").to_pylist(), strict=True)
    for name, sequence in rows:
        digest.update(f"{name}\n{sequence}\n".encode())
    for name in sorted(set(table.column_names) - set(ABOUT_A_PROTEIN)):
        digest.update(f"{name} {_type_name(table.column(name).type)}\n".encode())
        for part in _parts(table.column(name).combine_chunks()):
            digest.update(part)
    return digest.hexdigest()


def _type_name(kind: pa.DataType) -> str:
    """Arrow's name of a type, but for lists, whose items Arrow names one way in memory and another in Parquet."""
    return f"list<{_type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def _parts(values: pa.Array) -> Iterator[bytes]:
    """The values of a column as bytes: which are null, then, outer to inner, the lengths of lists and their values."""
    yield np.asarray(values.is_null()).astype(np.uint8).tobytes()
    if pa.types.is_list(values.type):
        yield np.asarray(pc.list_value_length(values).fill_null(0)).astype("<i8").tobytes()
        yield from _parts(pc.list_flatten(values))
    elif pa.types.is_string(values.type):
        yield "\n".join(values.fill_null("").to_pylist()).encode()
    else:
        known = values.fill_null(False if pa.types.is_boolean(values.type) else 0)
        numbers = known.to_numpy(zero_copy_only=False)
        yield numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()


def split_of(shards: Sequence[WrittenShard]) -> Split:
    """The manifest's entry for a split with these shards, in this order."""
    counts: dict[str, int] = {}
    for written in shards:
        for letter, count in written.residue_counts.items():
            counts[letter] = counts.get(letter, 0) + count
    return Split(
        shards=tuple(written.shard for written in shards),
        residue_counts=dict(sorted(counts.items())),
        longest=max((written.longest for written in shards), default=0),
    )

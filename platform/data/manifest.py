"""A sharded data set: its Parquet shards, and the manifest that says what they hold. The manifest is written last.

    DIR/manifest.json   DIR/<split>/shard-00000.parquet ...   DIR/rejects.jsonl (corpus builds)

A corpus and a task's records have the same form: one row per protein, `id`, `sequence`, `length` and further columns.
"""

import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from proteinlm.platform.storage.atomic import write_atomically

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1


class Shard(BaseModel):
    """One Parquet file of a split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    """Path relative to the data set's directory."""
    rows: int
    residues: int
    digest: str
    """Hex digest of the rows' ids and sequences in order (a Parquet writer may change the file's bytes)."""


class Split(BaseModel):
    """One split: its shards in order, and the counts that floors and plans are made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shards: tuple[Shard, ...]
    residue_counts: dict[str, int]
    """Letter -> how often it occurs in the split."""
    longest: int
    """Residues of the longest protein."""

    @property
    def rows(self) -> int:
        """Proteins of the split."""
        return sum(shard.rows for shard in self.shards)

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
    """Write `manifest` into `directory`, aside and renamed."""
    write_atomically(directory / MANIFEST_FILE, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


def read_manifest(directory: Path | str) -> Manifest:
    """The manifest of `directory`; FileNotFoundError or ValueError say what is wrong with it."""
    path = Path(directory) / MANIFEST_FILE
    if not path.is_file():
        why = "a build that did not finish leaves none" if path.parent.exists() else "the directory does not exist"
        raise FileNotFoundError(
            f"no data set at {directory}: {path.name} is missing ({why}); make one with `proteinlm corpus build`"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ValueError(f"{path} is not a manifest of this version: {error}") from None
    if manifest.format_version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {manifest.format_version}; this version reads {FORMAT_VERSION}")
    return manifest


@dataclass(frozen=True)
class WrittenShard:
    """A shard as the manifest lists it, and what its split adds up."""

    shard: Shard
    residue_counts: dict[str, int]
    longest: int


def write_shard_file(directory: Path, file: str, table: pa.Table) -> WrittenShard:
    """Write `table` (columns id and sequence, further ones as they are) to `directory/file`, aside and renamed."""
    target = directory / file
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that a task that Ray runs twice at once does not write into the other's file.
    aside = target.with_suffix(f".{uuid.uuid4().hex[:8]}.writing")
    pq.write_table(table, aside, compression="zstd", row_group_size=max(1, table.num_rows))
    os.replace(aside, target)
    ids: list[str] = table.column("id").to_pylist()
    sequences: list[str] = table.column("sequence").to_pylist()
    digest = hashlib.sha256()
    for name, sequence in zip(ids, sequences, strict=True):
        digest.update(f"{name}\n{sequence}\n".encode())
    counts = np.bincount(np.frombuffer("".join(sequences).encode(), dtype=np.uint8), minlength=128)
    lengths = [len(sequence) for sequence in sequences]
    return WrittenShard(
        Shard(file=file, rows=len(ids), residues=sum(lengths), digest=digest.hexdigest()),
        {chr(letter): int(counts[letter]) for letter in np.flatnonzero(counts)},
        max(lengths, default=0),
    )


def split_of(shards: list[WrittenShard]) -> Split:
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


def shard_ranges(rows: int, shard_rows: int) -> list[tuple[int, int]]:
    """(first, last + 1) row of each shard of a split: about `shard_rows` rows, equal to within one row."""
    count = max(1, round(rows / shard_rows))
    edges = [rows * number // count for number in range(count + 1)]
    return list(pairwise(edges))

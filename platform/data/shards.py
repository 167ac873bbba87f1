"""One Parquet shard of a data set: written aside and renamed, and described for the manifest."""

import hashlib
import os
import uuid
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from proteinlm.platform.data.manifest import Shard, Split


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

"""The work of one task of a corpus build, on files alone: no Ray here, so each step can be tested by itself.

    scatter     one chunk of a source -> its proteins cut into buckets by sequence key, and its ids cut by id hash
    check_ids   one bucket of ids -> which proteins repeat an id with another sequence
    gather      one bucket of proteins -> ordered by key, without duplicates, one run per split
    cut_shard   a range of a split's rows, out of its runs -> one Parquet shard

Keys are hashes, so buckets are of equal size, and buckets in order of their key prefix are the corpus in key order,
whatever the number of chunks, buckets and tasks. Files between the passes: scratch.py.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from proteinlm.models.sequences import Composition
from proteinlm.platform.corpus.chunks import Chunk, read_part, unix_lines
from proteinlm.platform.corpus.cleaning import Cleaner, HeldOut, Protein, Reject, sequence_key
from proteinlm.platform.corpus.scratch import (
    RUN_ROWS,
    Recipe,
    Scattered,
    place_of,
    read_bucket,
    read_rows,
    write_buckets,
    write_ipc,
    write_rejects,
)
from proteinlm.platform.data.manifest import ABOUT_A_PROTEIN, WrittenShard, write_shard

SPLITS = ("train", "valid", "holdout")
_SCATTERED = pa.schema(
    [("hi", pa.uint64()), ("lo", pa.uint64()), ("place", pa.int64())]
    + [(name, pa.string()) for name in ("id", "sequence", "family", "clan")]
)
_IDS = pa.schema(
    [(name, pa.uint64()) for name in ("id_hi", "id_lo", "hi", "lo")] + [("place", pa.int64()), ("id", pa.string())]
)
_REPEATED = pa.schema([("hi", pa.uint64()), ("place", pa.int64())])


# ---------------------------------------------------------------------------------------------------------- scatter


def scatter(chunk: Chunk, recipe: Recipe) -> Scattered:
    """Read, clean and cut one chunk into buckets; rejects go to a file beside."""
    lines, entries, composition = read_chunk(chunk, recipe)
    proteins = [entry for entry in entries if isinstance(entry, Protein)]
    rejects = [entry for entry in entries if isinstance(entry, Reject)]
    name = f"{chunk.source:05d}-{chunk.number:07d}"
    if rejects:
        write_rejects(
            recipe.scratch("rejects", f"{name}.jsonl"),
            [(place_of(chunk.source, chunk.number, reject.line), reject.id, reject.reason) for reject in rejects],
        )
    if proteins:
        _scatter_proteins(proteins, chunk, recipe, name)
    families = Counter((protein.family, _clan(protein, recipe)) for protein in proteins)
    return Scattered(
        chunk.source,
        chunk.number,
        lines,
        len(proteins) + len(rejects),
        len(rejects),
        composition,
        tuple((family, clan, count) for (family, clan), count in families.items()),
    )


def read_chunk(chunk: Chunk, recipe: Recipe) -> tuple[int, list[Protein | Reject], Composition]:
    """Lines of the chunk (records of an LMDB), its proteins and rejects in order, and what its letters are."""
    source, cleaner = recipe.sources[chunk.source], Cleaner(recipe.config)
    if source.kind == "lmdb":
        label = recipe.labels[chunk.source]
        found = list(cleaner.lmdb_proteins(source, chunk.start, chunk.stop, label))
        return chunk.stop - chunk.start, found, cleaner.composition()
    part = chunk.part or read_part(source, chunk.start, chunk.stop, recipe.config.max_record_bytes)
    text = unix_lines(part.text)
    lines = text.count(b"\n")
    found = list((cleaner.fasta_proteins if source.kind == "fasta" else cleaner.json_proteins)(text, source.path))
    if part.oversized:
        reject = cleaner.oversized(part.oversized, source, lines)
        found += [reject] if reject else []
        lines += part.oversized.lines
    return lines, found, cleaner.composition()


def _clan(protein: Protein, recipe: Recipe) -> str | None:
    """The record's own clan, or its family's."""
    return protein.clan or (recipe.clan_of.get(protein.family) if protein.family else None)


def _scatter_proteins(proteins: Sequence[Protein], chunk: Chunk, recipe: Recipe, name: str) -> None:
    hi, lo = _numbers([sequence_key(protein.sequence, recipe.config.seed) for protein in proteins])
    id_hi, id_lo = _numbers([hashlib.blake2b(protein.id.encode(), digest_size=16).digest() for protein in proteins])
    place = np.array([protein.line for protein in proteins], np.int64) + place_of(chunk.source, chunk.number, 0)
    ids = pa.array([protein.id for protein in proteins], pa.string())
    rows = [
        hi,
        lo,
        place,
        ids,
        pa.array([protein.sequence.decode() for protein in proteins], pa.string()),
        pa.array([protein.family for protein in proteins], pa.string()),
        pa.array([_clan(protein, recipe) for protein in proteins], pa.string()),
    ]
    write_buckets(recipe.scratch("rows", f"{name}.arrow"), pa.record_batch(rows, schema=_SCATTERED), hi, recipe.buckets)
    identity = pa.record_batch([id_hi, id_lo, hi, lo, place, ids], schema=_IDS)
    write_buckets(recipe.scratch("ids", f"{name}.arrow"), identity, id_hi, recipe.buckets)


def _numbers(digests: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First and last 8 bytes of each digest, as numbers that order as the bytes do."""
    pairs = np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])


# ------------------------------------------------------------------------------------------------------- duplicates


def check_ids(bucket: int, recipe: Recipe) -> int:
    """Find the proteins of an id bucket that repeat an id with another sequence: the first of its id stays.

    Writes them as rejects and, by sequence bucket, as a list that `gather` leaves out. Returns how many there are.
    """
    table = read_bucket(recipe.scratch("ids"), bucket, _IDS)
    if not table.num_rows:
        return 0
    id_hi, id_lo, hi, lo, place = (table.column(name).to_numpy() for name in ("id_hi", "id_lo", "hi", "lo", "place"))
    order = np.lexsort((place, id_lo, id_hi))
    is_first = _starts(id_hi[order], id_lo[order])
    first = order[np.flatnonzero(is_first)[np.cumsum(is_first) - 1]]
    differs = (hi[order] != hi[first]) | (lo[order] != lo[first])
    repeated = order[differs]
    if len(repeated):
        name = f"{bucket:06d}"
        rejects = [
            (int(place[row]), table.column("id")[int(row)].as_py(), int(place[original]))
            for row, original in zip(repeated, first[differs], strict=True)
        ]
        write_rejects(recipe.scratch("repeated-rejects", f"{name}.jsonl"), rejects)
        left_out = pa.record_batch([hi[repeated], place[repeated]], schema=_REPEATED)
        write_buckets(recipe.scratch("repeated", f"{name}.arrow"), left_out, hi[repeated], recipe.buckets)
    return len(repeated)


@dataclass(frozen=True)
class Gathered:
    """What became of one bucket."""

    bucket: int
    rows: dict[str, int]
    """Per split."""
    duplicates: int


def gather(bucket: int, recipe: Recipe, held_out: HeldOut) -> Gathered:
    """Order a bucket by key, drop repeats, and write one run per split.

    Of equal sequences one stays: one of a held-out family or clan before others, so that no held-out protein is in
    train under another family's name; among these the first as given.
    """
    table = read_bucket(recipe.scratch("rows"), bucket, _SCATTERED)
    repeated = read_bucket(recipe.scratch("repeated"), bucket, _REPEATED).column("place").to_numpy()
    if len(repeated):
        table = table.filter(pa.array(~np.isin(table.column("place").to_numpy(), repeated))).combine_chunks()
    hi, lo, place = (table.column(name).to_numpy() for name in ("hi", "lo", "place"))
    is_held = _is_in(table, "family", held_out.families) | _is_in(table, "clan", held_out.clans)
    order = np.lexsort((place, ~is_held, lo, hi))
    kept = order[_starts(hi[order], lo[order])]
    is_valid = lo[kept] < np.uint64(min(int(recipe.config.valid_fraction * 2**64), 2**64 - 1))
    split = np.where(is_held[kept], 2, np.where(is_valid, 1, 0))
    counts = {}
    for code, name in enumerate(SPLITS):
        rows = table.select(["id", "sequence", "family", "clan"]).take(pa.array(kept[split == code]))
        counts[name] = rows.num_rows
        if rows.num_rows:
            batches = rows.combine_chunks().to_batches(max_chunksize=RUN_ROWS)
            write_ipc(recipe.scratch("runs", name, f"{bucket:06d}.arrow"), batches, batches[0].schema)
    return Gathered(bucket, counts, len(order) - len(kept))


def _starts(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True where an ordered row differs from the row before."""
    starts = np.ones(len(hi), np.bool_)
    starts[1:] = (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])
    return starts


def _is_in(table: pa.Table, column: str, names: Sequence[str]) -> NDArray[np.bool_]:
    found = pc.is_in(table.column(column), value_set=pa.array(names, pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


# ----------------------------------------------------------------------------------------------------------- shards


@dataclass(frozen=True)
class ShardPlan:
    """Which rows of which runs make one shard."""

    split: str
    number: int
    parts: tuple[tuple[int, int, int], ...]
    """(bucket, first row, last row + 1) of each run, in order."""


def shard_plans(split: str, runs: Sequence[int], shard_rows: int) -> list[ShardPlan]:
    """The shards of a split that has `runs[bucket]` rows in each bucket: rows in bucket order, cut evenly."""
    if not any(runs):
        return []
    ends = np.cumsum(runs)
    plans = []
    for number, (first, last) in enumerate(shard_ranges(int(ends[-1]), shard_rows)):
        parts = []
        bucket = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            begin = int(ends[bucket]) - runs[bucket]
            end = min(last, int(ends[bucket]))
            if end > first:
                parts.append((bucket, first - begin, end - begin))
            first, bucket = end, bucket + 1
        plans.append(ShardPlan(split, number, tuple(parts)))
    return plans


def cut_shard(plan: ShardPlan, recipe: Recipe) -> tuple[ShardPlan, WrittenShard]:
    """Write one shard from the runs that hold its rows."""
    pieces = [
        piece
        for bucket, first, last in plan.parts
        for piece in read_rows(recipe.scratch("runs", plan.split, f"{bucket:06d}.arrow"), first, last)
    ]
    table = pa.Table.from_batches(pieces)
    table = table.append_column("length", pc.binary_length(table.column("sequence")).cast(pa.int32()))
    table = table.select(ABOUT_A_PROTEIN).combine_chunks()
    return plan, write_shard(recipe.work, plan.split, plan.number, table)


def shard_ranges(rows: int, shard_rows: int) -> list[tuple[int, int]]:
    """(first, last + 1) row of each shard of a split: about `shard_rows` rows, equal to within one row."""
    count = max(1, round(rows / shard_rows))
    edges = [rows * number // count for number in range(count + 1)]
    return list(pairwise(edges))

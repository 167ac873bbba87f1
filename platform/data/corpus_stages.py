"""The four stages of a corpus build in order, and what each leaves for the next; who runs tasks is not known here."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from proteinlm.platform.data.corpus import HeldOut, choose_held_out
from proteinlm.platform.data.corpus_passes import (
    SPLITS,
    Scattered,
    check_ids,
    cut_shard,
    gather,
    scatter,
    shard_plans,
)
from proteinlm.platform.data.corpus_recipe import Chunk, Recipe
from proteinlm.platform.data.corpus_rejects import LineNumbers, list_rejects, refuse_too_many
from proteinlm.platform.data.corpus_request import CorpusRequest
from proteinlm.platform.data.manifest import Manifest, Split
from proteinlm.platform.data.shards import WrittenShard, split_of
from proteinlm.platform.data.sources import Source, lmdb_length

Progress = Callable[[str, int, int | None], None]
"""(what is being done, units done, units in all where known)"""

RECORD_BYTES = 512
"""About what a record of an LMDB takes, to cut it into chunks."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner(Protocol):
    """Runs tasks in any number at once, and gives their results in any order."""

    @property
    def chunk_bytes(self) -> int:
        """Text that one task reads at a time."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`function` of each item."""

    def map_streams(
        self, function: Callable[[Chunk], Result], sources: Sequence[tuple[int, Source]]
    ) -> Iterator[Result]:
        """`function` of each chunk of the numbered sources' decompressed text."""


def make_corpus(
    request: CorpusRequest,
    recipe: Recipe,
    runner: Runner,
    progress: Progress,
    *,
    settings: dict[str, object],
    max_reject_fraction: float,
    rejects_beside: Path,
) -> Manifest:
    """Shards and rejects.jsonl in `recipe.work`, and the manifest that is to be written there last."""
    for folder in ("rows", "ids", "rejects", "repeated", "repeated-rejects", *(f"runs/{split}" for split in SPLITS)):
        recipe.scratch(folder).mkdir(parents=True)
    counts: Counter[str] = Counter()
    families, lines = _read(recipe, runner, progress, counts)
    buckets = range(recipe.buckets)
    for done, repeated in enumerate(runner.map(partial(check_ids, recipe=recipe), buckets), 1):
        counts["rejected"] += repeated
        progress("checking ids", done, recipe.buckets)
    listed = Path(recipe.work, "rejects.jsonl")
    list_rejects(listed, recipe, lines)
    refuse_too_many(counts, max_reject_fraction, listed, rejects_beside)
    held_out = choose_held_out(
        families,
        clans=request.holdout_clans,
        families=request.holdout_families,
        fraction=request.holdout_fraction,
        seed=request.seed,
    )
    splits = _cut(recipe, runner, progress, _gather(recipe, runner, progress, counts, held_out), request.shard_rows)
    if "train" not in splits:
        raise ValueError("no protein is left for the split train: all were rejected, held out or drawn for valid")
    return Manifest(
        kind="corpus",
        splits=splits,
        settings={**settings, "held_out": {"clans": list(held_out.clans), "families": list(held_out.families)}},
        counts={name: counts[name] for name in ("read", "kept", "rejected", "duplicates", *SPLITS)},
        is_simulated=request.is_simulated,
    )


def _read(
    recipe: Recipe, runner: Runner, progress: Progress, counts: Counter[str]
) -> tuple[Counter[tuple[str | None, str | None]], LineNumbers]:
    """Records per (family, clan), and where each chunk's lines begin."""
    families: Counter[tuple[str | None, str | None]] = Counter()
    lines, read = LineNumbers(recipe), Counter[int]()
    for scattered in _scattered(recipe, runner):
        lines.add(scattered)
        read[scattered.source] += scattered.records
        counts["read"] += scattered.records
        counts["rejected"] += scattered.rejected
        for family, clan, count in scattered.families:
            families[family, clan] += count
        progress("reading proteins", counts["read"], None)
    lines.finish()
    for number, source in enumerate(recipe.sources):
        if not read[number]:
            raise ValueError(f"{source.path} is empty: it holds no record")
    return families, lines


def _scattered(recipe: Recipe, runner: Runner) -> Iterator[Scattered]:
    """Every source through `scatter`: gzip files as streams of chunks, the rest by ranges."""
    numbered = list(enumerate(recipe.sources))
    task = partial(scatter, recipe=recipe)
    streams = [(number, source) for number, source in numbered if source.is_gzip]
    if streams:
        yield from runner.map_streams(task, streams)
    ranges = [
        chunk
        for number, source in numbered
        if not source.is_gzip
        for chunk in _ranges(number, source, runner.chunk_bytes)
    ]
    if ranges:
        yield from runner.map(task, ranges)


def _ranges(number: int, source: Source, chunk_bytes: int) -> Iterator[Chunk]:
    is_lmdb = source.kind == "lmdb"
    end = lmdb_length(source) if is_lmdb else source.size
    step = max(1, chunk_bytes // RECORD_BYTES) if is_lmdb else chunk_bytes
    for place, start in enumerate(range(0, end, step)):
        yield Chunk(number, place, start, min(start + step, end))


def _gather(
    recipe: Recipe, runner: Runner, progress: Progress, counts: Counter[str], held_out: HeldOut
) -> dict[str, list[int]]:
    """Rows of each split in each bucket."""
    runs = {split: [0] * recipe.buckets for split in SPLITS}
    task = partial(gather, recipe=recipe, held_out=held_out)
    for done, gathered in enumerate(runner.map(task, range(recipe.buckets)), 1):
        counts["duplicates"] += gathered.duplicates
        for split in SPLITS:
            runs[split][gathered.bucket] = gathered.rows[split]
            counts[split] += gathered.rows[split]
            counts["kept"] += gathered.rows[split]
        progress("ordering and splitting", done, recipe.buckets)
    return runs


def _cut(
    recipe: Recipe, runner: Runner, progress: Progress, runs: dict[str, list[int]], shard_rows: int
) -> dict[str, Split]:
    """The splits that have proteins, each with its shards in order."""
    plans = [plan for split in SPLITS for plan in shard_plans(split, runs[split], shard_rows)]
    written: dict[str, list[tuple[int, WrittenShard]]] = {}
    for done, (plan, shard) in enumerate(runner.map(partial(cut_shard, recipe=recipe), plans), 1):
        written.setdefault(plan.split, []).append((plan.number, shard))
        progress("writing shards", done, len(plans))
    return {
        split: split_of([shard for _, shard in sorted(written[split], key=lambda pair: pair[0])])
        for split in SPLITS
        if split in written
    }

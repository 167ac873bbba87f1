"""Building a corpus from proteins: four stages over files, spread over the cluster by Ray Data.

    sources -> scatter -> check_ids -> gather -> cut_shard -> OUT/<split>/shard-00000.parquet ... OUT/manifest.json

Tasks hand only counts back; the proteins go through files under `OUT.staging`, in pieces of a fixed size, so memory
does not grow with the corpus. The order is that of seeded hash keys: a shuffle that does not depend on the number of
tasks. OUT must be a path that all nodes see, or a URI: then its own folder `scratch` takes the files, and OUT counts
once its manifest is there. The work of one task is in passes.py, the rules in cleaning.py.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from proteinlm.cluster.connect import connected
from proteinlm.models.sequences import Composition
from proteinlm.platform.corpus.chunks import Chunk
from proteinlm.platform.corpus.cleaning import HeldOut, choose_held_out, read_clans
from proteinlm.platform.corpus.passes import SPLITS, check_ids, cut_shard, gather, scatter, shard_plans
from proteinlm.platform.corpus.ray_tasks import RayDataRunner, quiet_data
from proteinlm.platform.corpus.scratch import (
    REJECTS_FILE,
    LineNumbers,
    Recipe,
    Scattered,
    list_rejects,
    refuse_too_many,
)
from proteinlm.platform.data.manifest import Manifest, Split, WrittenShard, split_of, standing_build, write_manifest
from proteinlm.platform.data.sources import Source, fingerprint, inspect_sources, lmdb_length
from proteinlm.platform.data.tape_lmdb import content_file
from proteinlm.platform.places.places import is_remote, place, probe, reach, remove_tree
from proteinlm.platform.settings.config import CorpusConfig
from proteinlm.platform.storage.atomic import staged_directory
from proteinlm.platform.storage.lock import held

Progress = Callable[[str, int, int | None], None]
"""(what is being done, units done, units in all where known)"""

RECORD_BYTES = 512
"""About what a record of an LMDB takes, to cut it into chunks."""
MAX_BUCKETS = 512
"""Beyond it (2 GB of text) buckets grow instead: each chunk is cut into one piece per bucket, and pieces get tiny."""
COMPRESSION_RATIO = 3
"""About how much smaller proteins get: only for the number of buckets, which changes nothing in the corpus."""
RULES_VERSION = 2
"""Of cleaning, order and splitting: part of the settings, so that a corpus of older rules is not taken for this one."""


def build_corpus(config: CorpusConfig, on_progress: Progress | None = None) -> Manifest:
    """Build the corpus that `config` asks for and return its manifest.

    Rules of cleaning: `clean_sequence`; of duplicates: `check_ids` and `gather`. A split that gets no protein is left
    out of the manifest. In the counts, read = kept + rejected + duplicates. A finished build of the same content at
    `config.out` is returned as it is. `on_progress` is called as the work goes on.

    ValueError, FileNotFoundError or OSError name what is wrong, RuntimeError that the counts do not add up; then
    nothing stands at `config.out`, and `OUT.rejects.jsonl` beside it where too many records were rejected.
    """
    for setting, path in [("out", config.out), ("clans", config.clans), *(("sources", one) for one in config.sources)]:
        reach(setting, path)
    sources = inspect_sources(config.sources)
    clan_of = read_clans(config.clans) if config.clans else {}
    stamps = _stamps(sources)
    settings = content_settings(config)
    out = config.out.absolute()
    progress = on_progress or (lambda what, done, total: None)
    if (standing := _standing(out, settings, progress)) is not None:
        return standing
    _check_place(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with held(out.with_name(f".{out.name}.lock"), f"the corpus {out}"):
        return _build(config, sources, stamps, clan_of, settings, progress)


def _build(
    config: CorpusConfig,
    sources: tuple[Source, ...],
    stamps: Sequence[tuple[int, int]],
    clan_of: dict[str, str],
    settings: dict[str, object],
    progress: Progress,
) -> Manifest:
    """Build the corpus at `config.out`, which is held, or return the one that stands there.

    `stamps`: those of `sources` before their digests were taken for `settings`.
    """
    out = config.out.absolute()
    if (standing := _standing(out, settings, progress)) is not None:
        return standing  # another process made it just now
    beside = out.with_name(out.name + ".rejects.jsonl")
    work = config.work
    with (
        connected(work.address, has_dashboard=False),
        staged_directory(out, is_shared=True) as staging,
        quiet_data(work.chunk_bytes),
    ):
        beside.unlink(missing_ok=True)
        recipe = Recipe(staging, sources, _labels(sources), clan_of, _buckets(sources, work.bucket_bytes), config)
        manifest = _make(
            recipe, RayDataRunner(work.chunk_bytes, config.max_record_bytes, work.max_tasks), progress, settings, beside
        )
        _check_unchanged(sources, stamps)
        remove_tree(recipe.scratch())
        write_manifest(staging, manifest)
    return manifest


def _standing(out: Path, settings: Mapping[str, object], progress: Progress) -> Manifest | None:
    standing = standing_build(out, "corpus", settings)
    if standing is not None:
        progress("this very corpus is there already", 1, 1)
    return standing


def _stamps(sources: Sequence[Source]) -> list[tuple[int, int]]:
    """Bytes and time of the last change of each source."""
    about = [content_file(place(source.path)).stat() for source in sources]
    return [(one.st_size, one.st_mtime_ns) for one in about]


def _check_unchanged(sources: Sequence[Source], before: Sequence[tuple[int, int]]) -> None:
    """ValueError where a source is not the file any more whose digest stands in the manifest."""
    changed = [source.path for source, old, new in zip(sources, before, _stamps(sources), strict=True) if old != new]
    if changed:
        raise ValueError(f"{', '.join(changed)}: changed while the corpus was built from it; build it again")


def content_settings(config: CorpusConfig) -> dict[str, object]:
    """All that determines a corpus' content, for its manifest; sources by name, size and a digest of their content."""
    about_the_build = {"sources", "out", "clans", "max_reject_fraction", "work"}
    return {
        "rules_version": RULES_VERSION,
        "sources": [fingerprint(path) for path in config.sources],
        "clans": fingerprint(config.clans) if config.clans else None,
        **config.model_dump(mode="json", exclude=about_the_build),
        "holdout_clans": sorted(config.holdout_clans),
        "holdout_families": sorted(config.holdout_families),
        "split_rule": config.split_rule,
    }


def _make(
    recipe: Recipe, runner: RayDataRunner, progress: Progress, settings: dict[str, object], beside: Path
) -> Manifest:
    """Shards and rejects.jsonl in `recipe.work`, and the manifest that is to be written there last."""
    config = recipe.config
    for folder in ("rows", "ids", "rejects", "repeated", "repeated-rejects", *(f"runs/{split}" for split in SPLITS)):
        recipe.scratch(folder).mkdir(parents=True)
    counts: Counter[str] = Counter()
    families, lines = _read(recipe, runner, progress, counts)
    buckets = range(recipe.buckets)
    for done, repeated in enumerate(runner.map(partial(check_ids, recipe=recipe), buckets), 1):
        counts["rejected"] += repeated
        progress("checking ids", done, recipe.buckets)
    listed = recipe.work / REJECTS_FILE
    list_rejects(listed, recipe, lines)
    refuse_too_many(counts, config.max_reject_fraction, listed, beside)
    held_out = choose_held_out(
        families,
        clans=config.holdout_clans,
        families=config.holdout_families,
        fraction=config.holdout_fraction,
        seed=config.seed,
    )
    splits = _cut(recipe, runner, progress, _gather(recipe, runner, progress, counts, held_out), config.shard_rows)
    _check_sum(counts, config.out)
    if "train" not in splits:
        raise ValueError("no protein is left for the split train: all were rejected, held out or drawn for valid")
    return Manifest(
        kind="corpus",
        splits=splits,
        settings={**settings, "held_out": {"clans": list(held_out.clans), "families": list(held_out.families)}},
        counts={name: counts[name] for name in ("read", "kept", "rejected", "duplicates", *SPLITS)},
        is_simulated=config.is_simulated,
    )


def _check_sum(counts: Mapping[str, int], out: Path) -> None:
    """RuntimeError where records got lost or were counted twice between the stages."""
    told = {name: counts[name] for name in ("read", "kept", "rejected", "duplicates")}
    if told["read"] != told["kept"] + told["rejected"] + told["duplicates"] or told["kept"] != sum(
        counts[split] for split in SPLITS
    ):
        text = ", ".join(f"{name} {count:,}" for name, count in told.items())
        raise RuntimeError(
            f"{out}: the counts do not add up ({text}; read must be kept + rejected + duplicates), so proteins were "
            "lost on the way: was a file of the build changed by something else? Nothing was kept; build it again"
        )


def _check_place(out: Path) -> None:
    """OSError where a directory `out` cannot be made; ValueError where it is a whole bucket."""
    if is_remote(out):
        if len(out.parts) < 3:
            raise ValueError(f"out: found the bucket {out}; accepted: a folder in it, such as {out}/corpus")
        probe("out", out.parent)
        return
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OSError(f"{out} cannot be made: {parent} is not a directory that can be written to")


def _read(
    recipe: Recipe, runner: RayDataRunner, progress: Progress, counts: Counter[str]
) -> tuple[Counter[tuple[str | None, str | None]], LineNumbers]:
    """Records per (family, clan), and where each chunk's lines begin."""
    families: Counter[tuple[str | None, str | None]] = Counter()
    lines, composition = LineNumbers(recipe), [Composition() for _ in recipe.sources]
    read = Counter[int]()
    for scattered in _scattered(recipe, runner):
        lines.add(scattered)
        composition[scattered.source].update(scattered.composition)
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
        verdict = None if recipe.config.accept_non_protein else composition[number].verdict()
        if verdict:
            raise ValueError(f"{source.path} {verdict}; to take them as they are, set accept_non_protein=true")
    return families, lines


def _scattered(recipe: Recipe, runner: RayDataRunner) -> Iterator[Scattered]:
    """Every source through `scatter`: compressed files as streams of chunks, the rest by ranges."""
    numbered = list(enumerate(recipe.sources))
    task = partial(scatter, recipe=recipe)
    streams = [(number, source) for number, source in numbered if source.compression]
    if streams:
        yield from runner.map_streams(task, streams)
    ranges = [
        chunk
        for number, source in numbered
        if not source.compression
        for chunk in _ranges(number, source, runner.chunk_bytes)
    ]
    if ranges:
        yield from runner.map(task, ranges)


def _ranges(number: int, source: Source, chunk_bytes: int) -> Iterator[Chunk]:
    is_lmdb = source.kind == "lmdb"
    end = lmdb_length(source) if is_lmdb else source.size
    step = max(1, chunk_bytes // RECORD_BYTES) if is_lmdb else chunk_bytes
    for part, start in enumerate(range(0, end, step)):
        yield Chunk(number, part, start, min(start + step, end))


def _gather(
    recipe: Recipe, runner: RayDataRunner, progress: Progress, counts: Counter[str], held_out: HeldOut
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
    recipe: Recipe, runner: RayDataRunner, progress: Progress, runs: dict[str, list[int]], shard_rows: int
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


def _labels(sources: Sequence[Source]) -> tuple[str, ...]:
    """Per source, what records without an id are called after: its name, numbered where two sources share it."""
    stems = [Path(source.path).name.split(".")[0] for source in sources]
    return tuple(f"{stem}-{n}" if stems.count(stem) > 1 else stem for n, stem in enumerate(stems))


def _buckets(sources: tuple[Source, ...], bucket_bytes: int) -> int:
    text = sum(source.size * (COMPRESSION_RATIO if source.compression else 1) for source in sources)
    return min(MAX_BUCKETS, max(1, round(text / bucket_bytes)))

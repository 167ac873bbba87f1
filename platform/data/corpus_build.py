"""Building a corpus from proteins: four passes over files, spread over the cluster by Ray Data.

    sources -> scatter -> check_ids -> gather -> cut_shard -> OUT/<split>/shard-00000.parquet ... OUT/manifest.json

Tasks hand only counts back; the proteins go through files under `OUT.building`, in pieces of a fixed size, so memory
does not grow with the corpus. The order is that of seeded hash keys: a shuffle that does not know the number of tasks.
OUT must be a path that all nodes see. The passes are in corpus_passes.py, their order in corpus_stages.py, the rules
in corpus.py; this file is the door to Ray Data.
"""

import copy
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from proteinlm.cluster.connect import cluster_size, connected
from proteinlm.platform.data.corpus import TAPE_HOLDOUT_CLANS, TAPE_HOLDOUT_FAMILIES, read_clans
from proteinlm.platform.data.corpus_recipe import Chunk, Recipe
from proteinlm.platform.data.corpus_request import CorpusRequest, check_request, same_build
from proteinlm.platform.data.corpus_scratch import built_aside
from proteinlm.platform.data.corpus_stages import Progress, make_corpus
from proteinlm.platform.data.manifest import Manifest, write_manifest
from proteinlm.platform.data.sources import Source, stream_chunks

CHUNK_BYTES = 2 << 20
"""Text that one task reads at a time."""
BUCKET_BYTES = 4 << 20
MAX_BUCKETS = 512
"""Beyond it (2 GB of text) buckets grow instead: each chunk is cut into one piece per bucket, and pieces get tiny."""
GZIP_RATIO = 3
"""About how much smaller gzip makes proteins: only for the number of buckets, which changes nothing in the corpus."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def build_corpus(
    sources: Sequence[Path],
    out: Path,
    *,
    clans: Path | None = None,
    seed: int = 0,
    valid_fraction: float = 0.05,
    holdout_fraction: float = 0.02,
    holdout_clans: Sequence[str] = TAPE_HOLDOUT_CLANS,
    holdout_families: Sequence[str] = TAPE_HOLDOUT_FAMILIES,
    shard_rows: int = 4096,
    max_reject_fraction: float = 0.01,
    min_length: int = 1,
    is_simulated: bool = False,
    on_progress: Progress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    bucket_bytes: int = BUCKET_BYTES,
    max_tasks: int | None = None,
    address: str | None = None,
) -> Manifest:
    """Build a corpus at `out` from FASTA, JSON lines and LMDB `sources`, on the Ray of `address` (see `connected`).

    Held out are the named clans and families and whole further ones drawn by `seed` up to `holdout_fraction` of the
    records; of the rest `valid_fraction` goes to valid. A split that gets no protein is left out of the manifest. Rules
    of cleaning: `clean_sequence`; of duplicates: `check_ids` and `gather`. In the counts, read = kept + rejected +
    duplicates. `chunk_bytes`, `bucket_bytes` and `max_tasks` (at once) change the work, never the corpus.

    A finished build of the same settings at `out` is returned as it is. ValueError, FileNotFoundError or OSError name
    what is wrong; then nothing stands at `out`, and `OUT.rejects.jsonl` where too many records were rejected.
    """
    request = CorpusRequest(
        tuple(Path(path) for path in sources),
        Path(clans) if clans else None,
        seed,
        valid_fraction,
        holdout_fraction,
        tuple(sorted(holdout_clans)),
        tuple(sorted(holdout_families)),
        shard_rows,
        min_length,
        is_simulated,
    )
    inspected = check_request(request)
    clan_of = read_clans(request.clans) if request.clans else {}
    settings = request.settings()
    out = Path(out).absolute()
    progress = on_progress or (lambda what, done, total: None)
    standing = same_build(out, settings)
    if standing is not None:
        progress("this very corpus is there already", 1, 1)
        return standing
    beside = out.with_name(out.name + ".rejects.jsonl")
    with connected(address), built_aside(out) as work, _quiet_data(chunk_bytes):
        beside.unlink(missing_ok=True)
        recipe = Recipe(
            str(work),
            inspected,
            _labels(inspected),
            clan_of,
            seed,
            min_length,
            valid_fraction,
            _buckets(inspected, bucket_bytes),
        )
        manifest = make_corpus(
            request,
            recipe,
            RayDataRunner(chunk_bytes, max_tasks),
            progress,
            settings=settings,
            max_reject_fraction=max_reject_fraction,
            rejects_beside=beside,
        )
        shutil.rmtree(recipe.scratch())
        write_manifest(work, manifest)
    return manifest


def _labels(sources: Sequence[Source]) -> tuple[str, ...]:
    """Per source, what records without an id are called after: its name, numbered where two sources share it."""
    stems = [Path(source.path).name.split(".")[0] for source in sources]
    return tuple(f"{stem}-{n}" if stems.count(stem) > 1 else stem for n, stem in enumerate(stems))


def _buckets(sources: Sequence[Source], bucket_bytes: int) -> int:
    text = sum(source.size * (GZIP_RATIO if source.is_gzip else 1) for source in sources)
    return min(MAX_BUCKETS, max(1, round(text / bucket_bytes)))


# --------------------------------------------------------------------------------------------------------- Ray Data


@dataclass(frozen=True)
class RayDataRunner:
    """Runs the tasks of a build on the cluster through Ray Data."""

    chunk_bytes: int
    max_tasks: int | None = None
    """At once; None is as many as there are CPUs."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`function` of each item, in any order."""
        import ray.data

        rows = [{"item": pickle.dumps(item)} for item in items]
        tasks = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4096))
        yield from _results(
            tasks.map_batches(
                _Guarded(function), batch_size=None, batch_format="pyarrow", num_cpus=1, concurrency=self.max_tasks
            )
        )

    def map_streams(
        self, function: Callable[[Chunk], Result], sources: Sequence[tuple[int, Source]]
    ) -> Iterator[Result]:
        """`function` of each chunk of the numbered gzip sources, in any order."""
        import ray.data

        rows = [{"item": pickle.dumps(numbered)} for numbered in sources]
        streams = ray.data.from_items(rows, override_num_blocks=len(rows))
        # Different CPU shares keep Ray Data from fusing the two into one task that would do both in turn; together they
        # are one CPU, so that a cluster of a single CPU can run both.
        chunks = streams.map_batches(
            _Streaming(self.chunk_bytes), batch_size=None, batch_format="pyarrow", num_cpus=0.25
        )
        yield from _results(
            chunks.map_batches(
                _Guarded(function), batch_size=None, batch_format="pyarrow", num_cpus=0.75, concurrency=self.max_tasks
            )
        )


@dataclass(frozen=True)
class _Streaming:
    """The chunks of gzip sources, one block each. An error travels in a chunk's place, as in `_Guarded`."""

    chunk_bytes: int

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for content in rows.column("item").to_pylist():
            number, source = pickle.loads(content)
            try:
                for place, text in enumerate(stream_chunks(source, self.chunk_bytes)):
                    yield _block("item", pickle.dumps(Chunk(number, place, text=text)))
            except (ValueError, OSError) as error:
                yield _block("item", pickle.dumps(error))


@dataclass(frozen=True)
class _Guarded:
    """Items in, results out, both pickled. What is wrong with the input comes back as a result, not as a crash.

    Ray wraps an error raised in a task in its own, with the task's traceback; a user is to read one plain message.
    """

    function: Callable[[Any], Any]

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for content in rows.column("item"):
            item = pickle.loads(content.as_buffer())
            try:
                result = item if isinstance(item, Exception) else self.function(item)
            except (ValueError, OSError) as error:
                result = error
            yield _block("result", pickle.dumps(result))


def _block(name: str, content: bytes) -> pa.Table:
    return pa.table({name: pa.array([content], pa.large_binary())})


def _results(tasks: Any) -> Iterator[Any]:
    for row in tasks.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield result


@contextmanager
def _quiet_data(chunk_bytes: int) -> Iterator[None]:
    """Ray Data without its progress bars and start messages, with small blocks and a bound on those that wait."""
    from ray.data import DataContext, ExecutionOptions, ExecutionResources

    context = copy.deepcopy(DataContext.get_current())
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = max(1, chunk_bytes // 4)  # a chunk goes out as soon as it is there
    waiting = int(2 * chunk_bytes * (2 + cluster_size().cpus))
    context.execution_options = ExecutionOptions(resource_limits=ExecutionResources(object_store_memory=waiting))
    # The second says once, as a warning, that the bars are off, which is what was asked for.
    loggers = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        with DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

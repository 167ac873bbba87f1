"""Files of a corpus build between its stages: the staging directory, buckets of rows, ordered runs, and rejects.

Scratch files are written under a temporary name and renamed, so that a task that Ray runs again writes the same file
again. Rejects are one JSON line each, with file, line, id and reason.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from proteinlm.models.sequences import Composition
from proteinlm.platform.data.sources import Source
from proteinlm.platform.places.places import arrow_file
from proteinlm.platform.settings.config import CorpusConfig
from proteinlm.platform.storage.atomic import staged_file, write_atomically


@dataclass(frozen=True)
class Scattered:
    """What became of one chunk."""

    source: int
    chunk: int
    lines: int
    """Lines (text) or records (LMDB) of the chunk: what line numbers of later chunks are counted from."""
    records: int
    rejected: int
    composition: Composition
    """Of all its records, rejected ones too."""
    families: tuple[tuple[str | None, str | None, int], ...]
    """(family, clan, records)"""


REJECTS_FILE = "rejects.jsonl"
"""Of a finished corpus: one JSON line for each record that was rejected."""
RUN_ROWS = 1024
"""Rows of one record batch of a run: what is read at least to get at a row."""
_VARYING = re.compile(r"'[^']*'|\d[\d,]*|(?<=sequence at ).*")
"""What differs between rejects of one reason."""
_SHOWN_REASONS = 5
MAX_CHUNKS, MAX_LINES = 1 << 20, 1 << 30
"""With MAX_SOURCES, what a place, one 63-bit number, has room for."""


def place_of(source: int, chunk: int, line: int) -> int:
    """One number that orders records as they were given: by source, chunk, line in the chunk."""
    return (source * MAX_CHUNKS + chunk) * MAX_LINES + line


def unplaced(place: int) -> tuple[int, int, int]:
    """(source, chunk, line in the chunk) of a place."""
    rest, line = divmod(place, MAX_LINES)
    source, chunk = divmod(rest, MAX_CHUNKS)
    return source, chunk, line


def write_buckets(path: Path, rows: pa.RecordBatch, hi: NDArray[np.uint64], buckets: int) -> None:
    """Write `rows` as one record batch per bucket; the bucket is a prefix of `hi`."""
    bucket = (hi >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
    order = np.argsort(bucket, kind="stable")
    rows = rows.take(pa.array(order))
    edges = np.searchsorted(bucket[order], np.arange(buckets + 1))
    write_ipc(path, (rows.slice(first, last - first) for first, last in pairwise(edges)), rows.schema)


def write_ipc(path: Path, batches: Sequence[pa.RecordBatch] | Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write `batches` to `path`."""
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with (
        staged_file(path) as staging,
        staging.open("wb") as file,
        pa.ipc.new_file(file, schema, options=options) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


def write_rejects(path: Path, rejects: Sequence[tuple[int, str, str | int]]) -> None:
    """Write (place, id, reason or place of the first) lines to `path`."""
    write_atomically(path, "".join(json.dumps(reject) + "\n" for reject in rejects))


def read_bucket(folder: Path, bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket from all files of `folder`, in one piece per column."""
    batches = []
    for path in sorted(folder.glob("*.arrow")):
        with arrow_file(path) as file:
            batches.append(pa.ipc.open_file(file).get_batch(bucket))
    return pa.Table.from_batches(batches, schema).combine_chunks()


def read_rows(path: Path, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Rows `first` to `last - 1` of a run."""
    with arrow_file(path) as file:
        reader = pa.ipc.open_file(file)
        for number in range(first // RUN_ROWS, -(-last // RUN_ROWS)):
            begin = number * RUN_ROWS
            yield reader.get_batch(number).slice(
                max(first - begin, 0), min(last - begin, RUN_ROWS) - max(first - begin, 0)
            )


@dataclass(frozen=True)
class Recipe:
    """What all tasks of a build know."""

    work: Path
    """The directory aside that becomes the corpus, in a store the corpus' own; its `scratch` goes before."""
    sources: tuple[Source, ...]
    labels: tuple[str, ...]
    """Per source: what records without an id are called after."""
    clan_of: dict[str, str]
    buckets: int
    config: CorpusConfig

    def scratch(self, *names: str) -> Path:
        """A path under the scratch directory."""
        return self.work.joinpath("scratch", *names)


class LineNumbers:
    """Turns a place into a line of its file (from 1), or a record of its LMDB (from 0), once all chunks are counted."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._lines: dict[tuple[int, int], int] = {}
        self._first: dict[tuple[int, int], int] = {}

    def add(self, scattered: Scattered) -> None:
        """Count the lines of a chunk; chunks may come in any order."""
        self._lines[scattered.source, scattered.chunk] = scattered.lines

    def finish(self) -> None:
        """Sum up where each chunk begins."""
        line, last_source = 0, -1
        for source, chunk in sorted(self._lines):
            if source != last_source:
                line, last_source = (0 if self._recipe.sources[source].kind == "lmdb" else 1), source
            self._first[source, chunk] = line
            line += self._lines[source, chunk]

    def locate(self, place: int) -> tuple[str, int]:
        """(path, line or record) of a place."""
        source, chunk, line = unplaced(place)
        return self._recipe.sources[source].path, self._first[source, chunk] + line


def list_rejects(path: Path, recipe: Recipe, lines: LineNumbers) -> None:
    """Gather the rejects of all tasks into `path`: first those no protein, as given, then repeated ids, by id hash."""
    with staged_file(path) as staging, staging.open("w") as file:
        for reject in _rejects(recipe, lines):
            file.write(json.dumps(reject) + "\n")


def _rejects(recipe: Recipe, lines: LineNumbers) -> Iterator[dict[str, Any]]:
    for place, name, reason in _entries(recipe.scratch("rejects")):
        source, line = lines.locate(place)
        yield {"source": source, "line": line, "id": name, "reason": reason}
    for place, name, original in _entries(recipe.scratch("repeated-rejects")):
        source, line = lines.locate(place)
        first_source, first_line = lines.locate(original)
        reason = f"id stands for another sequence at {first_source} line {first_line}"
        yield {"source": source, "line": line, "id": name, "reason": reason}


def _entries(folder: Path) -> Iterator[list[Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as file:
            yield from map(json.loads, file)


def reject_reasons(listed: Path) -> str:
    """How often each reason stands in a rejects file, most frequent first: "5 x empty sequence, 2 x no id"."""
    with listed.open() as file:
        reasons = Counter(_VARYING.sub("...", json.loads(line)["reason"]) for line in file)
    shown = [f"{count:,} x {reason}" for reason, count in reasons.most_common(_SHOWN_REASONS)]
    return ", ".join([*shown, *(["and others"] if len(reasons) > _SHOWN_REASONS else [])])


def refuse_too_many(counts: Mapping[str, int], max_fraction: float, listed: Path, beside: Path) -> None:
    """ValueError where more than `max_fraction` of the records were rejected; then `listed` is copied to `beside`."""
    if counts["rejected"] <= max_fraction * counts["read"]:
        return
    with staged_file(beside) as staging, listed.open("rb") as source, staging.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    with listed.open() as file:
        first = [json.loads(line) for line in islice(file, 3)]
    examples = "; ".join(f"{Path(item['source']).name} line {item['line']}: {item['reason']}" for item in first)
    raise ValueError(
        f"{counts['rejected']} of {counts['read']} records were rejected, more than the accepted share of "
        f"{max_fraction:g} (raise it with max_reject_fraction): {reject_reasons(listed)}. The first: {examples}. "
        f"All are in {beside}"
    )

"""Files of a corpus build on its way: the directory aside, buckets of rows, ordered runs, rejects, a record's place.

Scratch files are written aside and renamed, so that a task that Ray runs again writes the same file again.
"""

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

RUN_ROWS = 1024
"""Rows of one record batch of a run: what is read at least to get at a row."""
MAX_SOURCES, MAX_CHUNKS, MAX_LINES = 1 << 13, 1 << 20, 1 << 30
"""What a place, one 63-bit number, has room for."""


@contextmanager
def built_aside(out: Path) -> Iterator[Path]:
    """`OUT.building`, renamed to `out` at the end, or removed with all that is in it where something fails."""
    work = out.with_name(out.name + ".building")
    try:
        if work.exists():
            shutil.rmtree(work)  # left by a build that was killed
        work.mkdir(parents=True)
        yield work
        work.rename(out)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, f"the disk is full: no space left to build {out}; nothing was kept") from None
        raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


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
    aside = _aside(path)
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with aside.open("wb") as file, pa.ipc.new_file(file, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    os.replace(aside, path)


def write_rejects(path: Path, rejects: Sequence[tuple[int, str, str | int]]) -> None:
    """Write (place, id, reason or place of the first) lines to `path`."""
    aside = _aside(path)
    aside.write_text("".join(json.dumps(reject) + "\n" for reject in rejects))
    os.replace(aside, path)


def _aside(path: Path) -> Path:
    """A name of its own beside `path`: Ray may run a task twice at once."""
    return path.with_suffix(f".{uuid.uuid4().hex[:8]}.writing")


def read_bucket(folder: Path, bucket: int, schema: pa.Schema) -> pa.Table:
    """The rows of one bucket from all files of `folder`, in one piece per column."""
    batches = []
    for path in sorted(folder.glob("*.arrow")):
        with pa.OSFile(str(path)) as file:
            batches.append(pa.ipc.open_file(file).get_batch(bucket))
    return pa.Table.from_batches(batches, schema).combine_chunks()


def read_rows(path: Path, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """Rows `first` to `last - 1` of a run."""
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(first // RUN_ROWS, -(-last // RUN_ROWS)):
            begin = number * RUN_ROWS
            yield reader.get_batch(number).slice(
                max(first - begin, 0), min(last - begin, RUN_ROWS) - max(first - begin, 0)
            )

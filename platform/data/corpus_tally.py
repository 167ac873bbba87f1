"""Going once through a split's shards: lengths, families, clans, and the slots that padded batches would take."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from proteinlm.platform.data.manifest import Manifest

BATCH_SIZES = (8, 32, 128)
SORTED_WINDOW = 4096
"""Proteins among which those of near length are put together, for the padding factor of length-sorted batches."""
HISTOGRAM_EDGES = (1, 32, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048)


class Padding:
    """Slots that padded batches take, added up as lengths come."""

    def __init__(self, batch_size: int, window: int) -> None:
        self.batch_size, self.window, self.slots = batch_size, window, 0
        self._waiting: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Take further proteins; whole windows are sorted and cut into batches."""
        waiting = np.concatenate([self._waiting, lengths])
        whole = len(waiting) // self.window * self.window
        self._count(waiting[:whole])
        self._waiting = waiting[whole:]

    def finish(self) -> int:
        """Slots of all batches, the last and smaller ones included."""
        self._count(self._waiting)
        self._waiting = self._waiting[:0]
        return self.slots

    def _count(self, lengths: NDArray[np.int64]) -> None:
        for start in range(0, len(lengths), self.window):
            window = lengths[start : start + self.window]
            if self.window > self.batch_size:
                window = np.sort(window)
            starts = np.arange(0, len(window), self.batch_size)
            sizes = np.diff(starts, append=len(window))
            self.slots += int((np.maximum.reduceat(window, starts) * sizes).sum())


@dataclass
class Tally:
    """What is kept of a split while its shards go by."""

    by_length: NDArray[np.int64]
    """[longest + 1] proteins of each length."""
    families: set[str] = field(default_factory=set)
    clans: set[str] = field(default_factory=set)
    random: dict[int, Padding] = field(default_factory=lambda: {size: Padding(size, size) for size in BATCH_SIZES})
    sorted: dict[int, Padding] = field(
        default_factory=lambda: {size: Padding(size, SORTED_WINDOW) for size in BATCH_SIZES}
    )


def tally_split(directory: Path, manifest: Manifest, split: str) -> Tally:
    """Read the lengths, families and clans of a split."""
    tally = Tally(np.zeros(manifest.splits[split].longest + 1, np.int64))
    for table in read_shards(directory, manifest, split, ["length", "family", "clan"]):
        lengths = table.column("length").to_numpy().astype(np.int64)
        tally.by_length += np.bincount(lengths, minlength=len(tally.by_length))
        for padding in (*tally.random.values(), *tally.sorted.values()):
            padding.add(lengths)
        for column, names in (("family", tally.families), ("clan", tally.clans)):
            if column in table.column_names:
                names.update(name for name in table.column(column).unique().to_pylist() if name is not None)
    return tally


def read_shards(directory: Path, manifest: Manifest, split: str, columns: list[str]) -> Iterator[Any]:
    """The split's shards one after another, with those of `columns` that they have."""
    for shard in manifest.splits[split].shards:
        with pq.ParquetFile(directory / shard.file) as file:
            yield file.read([name for name in columns if name in file.schema_arrow.names])


def quantile(ends: NDArray[np.int64], share: float) -> int:
    """The smallest length that at least `share` of the proteins do not exceed."""
    return int(np.searchsorted(ends, share * ends[-1]))


def histogram(by_length: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """(shortest, longest, proteins) of each bar, for `by_length` [longest + 1]."""
    edges = [edge for edge in HISTOGRAM_EDGES if edge < len(by_length)] + [len(by_length)]
    return tuple((first, last - 1, int(by_length[first:last].sum())) for first, last in pairwise(edges))

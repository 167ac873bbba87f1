"""The order of global batches: a pure function of (data set, seed, batch section), never of the cluster.

    epoch e, permuted shards:   s7 s2 s9 s0 ...   then epoch e + 1:   s3 s7 ...      one endless sequence of windows
    lane 0 takes windows 0, L, 2L ...   lane 1 takes 1, L + 1 ...                    L lanes
    a window is cut into M micro batches, by length or at random; a global step takes one from every lane
    step s: round s // M, micro batch s % M of the window that each lane has in that round

A worker owns the lanes rank, rank + W, ... of W workers; where W does not divide L, some own one lane less than others.
M is the same for every window, so shard lengths in the manifest and the step number say exactly where a run is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.data.manifest import Shard, Split

Draw = Literal["by_length", "random"]
"""How a training micro batch is taken out of its window: see `cut_evenly` and `draw_evenly`."""
BANDS = 4
"""Bands of length that every training micro batch takes proteins from where they are drawn by length."""


@dataclass(frozen=True)
class WindowSlice:
    """One window to read: which rows of which file, and into how many micro batches they are cut, and how.

    It holds all that a reader must know of the split, so that the manifest, which may be large, need not travel.
    """

    source: Shard
    first_row: int
    """Row number in the split of the shard's first row."""
    num_rows: int
    """Rows to read, the shard's first ones."""
    shard: int
    epoch: int
    micro_batches: int
    is_training: bool
    draw: Draw = "by_length"
    """How it is cut in training; in scoring a micro batch holds proteins of one length."""

    @classmethod
    def of(
        cls,
        split: Split,
        shard: int,
        micro_batches: int,
        is_training: bool,
        *,
        epoch: int = 0,
        num_rows: int | None = None,
        draw: Draw = "by_length",
    ) -> "WindowSlice":
        """Shard number `shard` of `split`; of its rows the first `num_rows` (None: all)."""
        found = split.shards[shard]
        rows = found.rows if num_rows is None else num_rows
        return cls(found, split.first_rows[shard], rows, shard, epoch, micro_batches, is_training, draw)

    def cut(self, lengths: NDArray[np.integer], seed: int) -> list[NDArray[np.int64]]:
        """The numbers of the proteins of each micro batch, in the order in which micro batches are trained on.

        `lengths` [B] tokens of the window's proteins. Depends on them, `seed`, the epoch and the shard alone.
        """
        if not self.is_training:
            return cut_evenly(lengths, self.micro_batches)
        generator = np.random.default_rng([seed, self.epoch, self.shard])
        if self.draw == "random":
            return draw_evenly(lengths, self.micro_batches, generator)
        groups = cut_evenly(lengths, self.micro_batches, BANDS)
        # Groups come shortest first: in that order lengths would rise through every window.
        return [groups[i] for i in generator.permutation(len(groups))]


@dataclass(frozen=True)
class BatchPlan:
    """Windows, lanes and micro batches of a training run over one split."""

    split: Split
    seed: int
    lanes: int
    micro_batch_residues: int
    draw: Draw = "by_length"
    max_length: int | None = None
    """Residues that longer proteins are cropped to; None: no protein is cropped."""

    @cached_property
    def micro_batches(self) -> int:
        """M: micro batches per window, from the mean window's residues; never more than a window has proteins."""
        wanted = max(1, round(self.split.residues / len(self.split.shards) / self.micro_batch_residues))
        return min(wanted, *(shard.rows for shard in self.split.shards))

    @property
    def steps_per_epoch(self) -> float:
        """Global steps in which every row is seen once."""
        return len(self.split.shards) * self.micro_batches / self.lanes

    def window(self, index: int) -> WindowSlice:
        """Window `index` of the endless sequence."""
        epoch, number = divmod(index, len(self.split.shards))
        shard = int(_permutation(len(self.split.shards), self.seed, epoch)[number])
        return WindowSlice.of(self.split, shard, self.micro_batches, True, epoch=epoch, draw=self.draw)

    def lane_window(self, lane: int, round_: int) -> WindowSlice:
        """The window that `lane` reads in `round_`."""
        return self.window(round_ * self.lanes + lane)

    def place_of(self, step: int) -> tuple[int, int]:
        """(round, micro batch in the window) of global step `step`."""
        return divmod(step, self.micro_batches)

    def most_tokens(self, specials: int) -> int:
        """Tokens that no micro batch exceeds, `specials` special tokens of each protein counted.

        Known from the manifest alone, so that a stream can be given one length before anything is read. Two micro
        batches of a window differ by at most one longest protein where they are drawn at random, and by two where they
        are drawn by length; the largest of M is above their mean by at most (M - 1) / M of that.
        """
        longest = min(self.split.longest, self.max_length or self.split.longest)
        spread = (1 if self.draw == "random" else 2) * (longest + specials)
        largest = max(min(shard.residues, shard.rows * longest) + shard.rows * specials for shard in self.split.shards)
        return (largest + (self.micro_batches - 1) * spread) // self.micro_batches

    @property
    def most_proteins(self) -> int:
        """Proteins that no micro batch exceeds: at random all have equally many, by length each has at least one."""
        rows = max(shard.rows for shard in self.split.shards)
        return -(-rows // self.micro_batches) if self.draw == "random" else rows - self.micro_batches + 1


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, 0x5EED]).permutation(count)


def cut_evenly(lengths: NDArray[np.integer], parts: int, bands: int = 1) -> list[NDArray[np.int64]]:
    """Cut proteins into `parts` groups of near-equal residue count, each of `bands` runs of similar lengths.

    `lengths` [B]; gives `parts` arrays of protein numbers. With one band a group holds proteins of one length only: no
    padding anywhere, but a step then learns from short proteins, the next from long ones. With several bands every
    group has short and long proteins, still in few runs that attend together. A group is empty only where there are
    fewer proteins than groups.

    Two groups differ by at most twice the longest protein: the pieces of a band differ by no more, for each is that
    near to its share, and the largest of them goes to the smallest group.
    """
    by_length = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[by_length], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    # A protein goes where its middle falls: no piece is late by more than half a protein.
    middles = ends - lengths[by_length] / 2
    piece = np.minimum((middles * parts * bands / max(total, 1)).astype(np.int64), parts * bands - 1)
    loads, part_of_piece = np.zeros(parts), np.empty((bands, parts), dtype=np.int64)
    residues = np.bincount(piece, weights=lengths[by_length], minlength=parts * bands).reshape(bands, parts)
    for band in range(bands):
        # The largest piece of the band goes to the group that has least so far.
        largest_first, emptiest_first = np.argsort(-residues[band], kind="stable"), np.argsort(loads, kind="stable")
        part_of_piece[band, largest_first] = emptiest_first
        loads[emptiest_first] += residues[band, largest_first]
    part = part_of_piece.reshape(-1)[piece]
    order = np.argsort(part, kind="stable")
    groups = np.split(by_length[order], np.searchsorted(part[order], np.arange(1, parts)))
    if all(len(group) for group in groups):
        return groups
    return [by_length[part::parts] for part in range(parts)]  # proteins as long as a group: deal them out one by one


def draw_evenly(lengths: NDArray[np.integer], parts: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Draw proteins at random into `parts` groups of equally many proteins and near-equal residue count.

    `lengths` [B]; gives `parts` arrays of protein numbers, each shortest first. In the order of length, every `parts`
    proteins are dealt out at random, one to each group: a group is a random sample of the window that has as many short
    and long proteins as the others. Groups differ by at most one protein, and by at most the longest one in residues
    (from deal to deal the differences begin where the last ones ended).
    """
    shuffled = generator.permutation(len(lengths))  # or proteins of one length would always be dealt in one order
    by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
    # What does not come out even is missing among the shortest.
    deals = np.concatenate([np.full(-len(lengths) % parts, -1), by_length]).reshape(-1, parts)
    groups = generator.permuted(deals, axis=1).T
    return [group[group >= 0] for group in groups]


Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One worker's share of the global batches of steps [first_step, last_step): what its lanes carry."""

    plan: BatchPlan
    lanes: Sequence[int]
    first_step: int
    last_step: int

    @property
    def num_windows(self) -> int:
        """Windows that it reads."""
        if self.first_step >= self.last_step:
            return 0
        last_round = self.plan.place_of(self.last_step - 1)[0]
        return len(self.lanes) * (last_round + 1 - self.plan.place_of(self.first_step)[0])

    def window(self, number: int) -> WindowSlice:
        """Window `number` of those: in each round lane after lane."""
        round_, lane = divmod(number, len(self.lanes))
        return self.plan.lane_window(self.lanes[lane], self.plan.place_of(self.first_step)[0] + round_)

    def steps(self, micro_batches: Iterator[Item]) -> Iterator[list[Item]]:
        """For every step one micro batch of each lane, out of all `micro_batches` of the windows in their order."""
        step = self.first_step
        while step < self.last_step:
            lanes = [list(islice(micro_batches, self.plan.micro_batches)) for _ in self.lanes]
            number = self.plan.place_of(step)[1]
            for batches in islice(zip(*lanes, strict=True), number, number + self.last_step - step):
                yield list(batches)
                step += 1


def lanes_of(rank: int, world_size: int, lanes: int) -> Sequence[int]:
    """The lanes that worker `rank` of `world_size` owns: all workers together own each lane once."""
    return range(rank, lanes, world_size)


def micro_batches_per_step(lanes: int, world_size: int) -> int:
    """Micro batches that every worker runs in a step: as many as the worker with most lanes owns.

    The others fill up with a blank one, because sharded parameters and gradient accumulation need the same number of
    forward passes everywhere. ValueError where a worker would own no lane at all.
    """
    if world_size > lanes:
        raise ValueError(
            f"batches.lanes is {lanes} and there are {world_size} workers; accepted: cluster.num_workers up to "
            "batches.lanes, for every worker takes at least one lane of a global batch"
        )
    return -(-lanes // world_size)

"""The order of global batches: a pure function of (data set, seed, batch section), never of the cluster.

    epoch e, permuted shards:   s7 s2 s9 s0 ...   then epoch e + 1:   s3 s7 ...      one endless sequence of windows
    lane 0 takes windows 0, L, 2L ...   lane 1 takes 1, L + 1 ...                    L lanes
    a window is cut into M micro batches; a global step takes one micro batch from every lane
    step s: round s // M, micro batch s % M of the window that each lane has in that round

A worker owns the lanes rank, rank + W, ... of W workers; where W does not divide L, some own one lane less than others.
M is the same for every window, so shard lengths in the manifest and the step number say exactly where a run is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.data.manifest import Split


@dataclass(frozen=True)
class WindowPlace:
    """Which shard one window is, and in which epoch it is read."""

    epoch: int
    shard: int


@dataclass(frozen=True)
class BatchPlan:
    """Windows, lanes and micro batches of a training run over one split."""

    split: Split
    seed: int
    lanes: int
    micro_batch_residues: int

    @cached_property
    def micro_batches(self) -> int:
        """M: micro batches per window, from the mean window's residues; never more than a window has proteins."""
        wanted = max(1, round(self.split.residues / len(self.split.shards) / self.micro_batch_residues))
        return min(wanted, *(shard.rows for shard in self.split.shards))

    @property
    def steps_per_epoch(self) -> float:
        """Global steps in which every row is seen once."""
        return len(self.split.shards) * self.micro_batches / self.lanes

    def window(self, index: int) -> WindowPlace:
        """Window `index` of the endless sequence."""
        epoch, place = divmod(index, len(self.split.shards))
        return WindowPlace(epoch, int(_permutation(len(self.split.shards), self.seed, epoch)[place]))

    def lane_window(self, lane: int, round_: int) -> WindowPlace:
        """The window that `lane` reads in `round_`."""
        return self.window(round_ * self.lanes + lane)

    def place_of(self, step: int) -> tuple[int, int]:
        """(round, micro batch in the window) of global step `step`."""
        return divmod(step, self.micro_batches)


@lru_cache(maxsize=16)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch, 0x5EED]).permutation(count)


BANDS = 4
"""Bands of length that every training micro batch takes proteins from."""


def cut_evenly(lengths: NDArray[np.integer], parts: int, bands: int = 1) -> list[NDArray[np.int64]]:
    """Cut proteins into `parts` groups of near-equal residue count, each of `bands` runs of similar lengths.

    `lengths` [B]; gives `parts` arrays of protein numbers. With one band a group holds
    proteins of one length only: no padding anywhere, but a step then learns from short proteins, the next from long
    ones. With several bands every group has short and long proteins, still in few runs that attend together. A group is
    empty only where there are fewer proteins than groups.
    """
    by_length = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[by_length], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    # A protein goes where its middle falls: no piece is late by more than half a protein.
    middles = ends - lengths[by_length] / 2
    piece = np.minimum((middles * parts * bands / max(total, 1)).astype(np.int64), parts * bands - 1)
    edges = np.searchsorted(piece, np.arange(parts * bands + 1))
    pieces = [by_length[start:end] for start, end in pairwise(edges)]
    loads, members = np.zeros(parts), [[pieces[0][:0]] for _ in range(parts)]
    for band in range(bands):
        of_band = pieces[band * parts : (band + 1) * parts]
        residues = np.array([lengths[piece].sum() for piece in of_band])
        # The largest piece of the band goes to the group that has least so far.
        for piece, part in zip(np.argsort(-residues, kind="stable"), np.argsort(loads, kind="stable"), strict=True):
            members[part].append(of_band[piece])
            loads[part] += residues[piece]
    groups = [np.concatenate(parts_of_group) for parts_of_group in members]
    if all(len(group) for group in groups):
        return groups
    return [by_length[part::parts] for part in range(parts)]  # proteins as long as a group: deal them out one by one


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

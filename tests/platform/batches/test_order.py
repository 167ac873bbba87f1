"""The order of global batches: every row once an epoch, no dependence on workers, parts of near-equal size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proteinlm.platform.batches.order import (
    BANDS,
    BatchPlan,
    Share,
    WindowSlice,
    cut_evenly,
    lanes_of,
    micro_batches_per_step,
)
from proteinlm.platform.data.manifest import Shard, Split


def split_of(num_shards: int, residues: int = 1000) -> Split:
    shards = tuple(Shard(file=f"{i}", rows=10, residues=residues, digest="") for i in range(num_shards))
    return Split(shards=shards, residue_counts={"A": 1}, longest=100)


@given(num_shards=st.integers(1, 12), lanes=st.integers(1, 7), seed=st.integers(0, 5))
def test_lanes_together_read_every_shard_once_an_epoch(num_shards: int, lanes: int, seed: int) -> None:
    plan = BatchPlan(split_of(num_shards), seed, lanes, micro_batch_residues=250)
    rounds = num_shards  # this many rounds of `lanes` windows are exactly `lanes` epochs
    read = [plan.lane_window(lane, round_) for round_ in range(rounds) for lane in range(lanes)]
    for epoch in range(lanes):
        assert sorted(place.shard for place in read if place.epoch == epoch) == list(range(num_shards))


def test_epochs_are_permuted_differently_and_by_the_seed() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        plan = BatchPlan(split_of(20), seed, 1, 250)
        return [plan.window(epoch * 20 + i).shard for i in range(20)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_lanes_take_the_windows_in_turn_in_an_order_that_stays_what_it_is() -> None:
    """Sums over a global batch round by its order: another one would change the losses of a run that is resumed."""
    plan = BatchPlan(split_of(5), seed=0, lanes=3, micro_batch_residues=1000)
    read = [[plan.lane_window(lane, round_) for lane in range(3)] for round_ in range(3)]
    assert read == [[plan.window(index) for index in (first, first + 1, first + 2)] for first in (0, 3, 6)]
    assert [[(place.epoch, place.shard) for place in places] for places in read] == [
        [(0, 0), (0, 2), (0, 3)],
        [(0, 1), (0, 4), (1, 2)],
        [(1, 0), (1, 1), (1, 3)],
    ]
    alone = share_of(plan, 0, 1, 0, 3)
    assert [[place for place, _ in step] for step in alone] == read
    assert [[place for place, _ in step] for step in share_of(plan, 1, 2, 0, 3)] == [[places[1]] for places in read]


def test_a_window_is_never_cut_into_more_micro_batches_than_it_has_proteins() -> None:
    assert BatchPlan(split_of(3, residues=9000), 0, lanes=1, micro_batch_residues=100).micro_batches == 10


def test_steps_of_a_window_follow_its_micro_batches() -> None:
    plan = BatchPlan(split_of(6, residues=1000), 0, lanes=2, micro_batch_residues=250)
    assert plan.micro_batches == 4
    assert [plan.place_of(step) for step in (0, 3, 4, 9)] == [(0, 0), (0, 3), (1, 0), (2, 1)]
    assert plan.steps_per_epoch == 12


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=200), parts=st.integers(1, 20), bands=st.integers(1, 4)
)
def test_a_window_is_cut_into_parts_that_hold_every_protein_once(lengths: list[int], parts: int, bands: int) -> None:
    sizes = np.array(lengths)
    groups = cut_evenly(sizes, parts, bands)
    assert len(groups) == parts
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    mean, longest = sizes.sum() / parts, sizes.max()
    assert all(abs(sizes[group].sum() - mean) <= max(bands, 2) * longest for group in groups)
    assert all(len(group) for group in groups) == (len(lengths) >= parts)


def test_proteins_of_a_part_are_of_similar_length() -> None:
    sizes = np.random.default_rng(0).integers(20, 500, 4000)
    groups = cut_evenly(sizes, 100)
    padded = sum(len(group) * sizes[group].max() for group in groups)
    assert padded / sizes.sum() < 1.02


def test_parts_with_bands_are_equally_large() -> None:
    """What one band leaves a part short of, the next one makes up for."""
    sizes = np.random.default_rng(0).integers(20, 500, 4000)
    residues = np.array([sizes[group].sum() for group in cut_evenly(sizes, 100, bands=4)])
    assert np.abs(residues / residues.mean() - 1).max() < 0.025


def test_with_bands_every_part_has_short_and_long_proteins() -> None:
    sizes = np.random.default_rng(0).integers(20, 500, 4000)
    spread = [np.ptp(sizes[group]) for group in cut_evenly(sizes, 100, bands=4)]
    assert min(spread) > 150
    assert max(np.ptp(sizes[group]) for group in cut_evenly(sizes, 100)) < 60


@given(lanes=st.integers(1, 12), world_size=st.integers(1, 12))
def test_workers_share_the_lanes_and_run_equally_many_micro_batches(lanes: int, world_size: int) -> None:
    if world_size > lanes:
        with pytest.raises(ValueError, match=r"batches.lanes is .* cluster.num_workers"):
            micro_batches_per_step(lanes, world_size)
        return
    shares = [list(lanes_of(rank, world_size, lanes)) for rank in range(world_size)]
    assert sorted(lane for mine in shares for lane in mine) == list(range(lanes))
    assert all(shares)
    assert max(map(len, shares)) == micro_batches_per_step(lanes, world_size)
    assert max(map(len, shares)) - min(map(len, shares)) == (1 if lanes % world_size else 0)


Steps = list[list[tuple[WindowSlice, int]]]
"""For every step its micro batches, each as its window and its number in there."""


def share_of(plan: BatchPlan, rank: int, world_size: int, first: int, last: int) -> Steps:
    share = Share(plan, lanes_of(rank, world_size, plan.lanes), first, last)
    numbers = range(plan.micro_batches)
    return list(share.steps((share.window(i), number) for i in range(share.num_windows) for number in numbers))


def global_batches(plan: BatchPlan, world_size: int, first: int, last: int) -> Steps:
    shares = [share_of(plan, rank, world_size, first, last) for rank in range(world_size)]
    return [
        sorted((batch for share in step for batch in share), key=lambda batch: (repr(batch[0]), batch[1]))
        for step in zip(*shares, strict=True)
    ]


@given(
    num_shards=st.integers(1, 7),
    lanes=st.integers(1, 6),
    micro_batches=st.integers(1, 5),
    seed=st.integers(0, 3),
    first=st.integers(0, 40),
    length=st.integers(0, 25),
)
def test_a_global_batch_is_the_same_on_every_world_and_from_every_start(
    num_shards: int, lanes: int, micro_batches: int, seed: int, first: int, length: int
) -> None:
    plan = BatchPlan(split_of(num_shards, residues=1000 * micro_batches), seed, lanes, micro_batch_residues=1000)
    alone = global_batches(plan, 1, 0, first + length)
    assert len(alone) == first + length
    assert all(len(step) == lanes for step in alone)
    for world_size in range(1, min(lanes, 4) + 1):
        assert global_batches(plan, world_size, first, first + length) == alone[first:]


@given(
    lengths=st.lists(st.lists(st.integers(1, 90), min_size=4, max_size=12), min_size=1, max_size=6),
    lanes=st.integers(1, 5),
    world_size=st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_every_row_comes_once_an_epoch(lengths: list[list[int]], lanes: int, world_size: int, seed: int) -> None:
    shards = tuple(Shard(file=f"{i}", rows=len(s), residues=sum(s), digest="") for i, s in enumerate(lengths))
    plan = BatchPlan(Split(shards=shards, residue_counts={"A": 1}, longest=90), seed, lanes, micro_batch_residues=100)
    cut = [cut_evenly(np.array(sizes), plan.micro_batches, BANDS) for sizes in lengths]
    epochs = lanes  # so many of them end with a round of windows
    seen: dict[int, list[tuple[int, int]]] = {epoch: [] for epoch in range(epochs)}
    for step in global_batches(plan, min(world_size, lanes), 0, len(shards) * plan.micro_batches):
        for place, number in step:
            seen[place.epoch] += [(place.shard, int(row)) for row in cut[place.shard][number]]
    rows = [(shard, row) for shard, sizes in enumerate(lengths) for row in range(len(sizes))]
    assert all(sorted(of_epoch) == rows for of_epoch in seen.values())

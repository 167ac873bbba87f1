"""The order of global batches: every row once an epoch, no dependence on workers, parts of near-equal size."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proteinlm.platform.batches.order import (
    BatchPlan,
    Draw,
    Share,
    WindowSlice,
    cut_evenly,
    draw_evenly,
    lanes_of,
    micro_batches_per_step,
)
from proteinlm.platform.data.manifest import Shard, Split

DRAWS: tuple[Draw, ...] = get_args(Draw)


def split_of(num_shards: int, residues: int = 1000) -> Split:
    shards = tuple(Shard(file=f"{i}", rows=10, residues=residues, digest="") for i in range(num_shards))
    return Split(shards=shards, residue_counts={"A": 1}, longest=100)


def split_with(lengths: list[list[int]]) -> Split:
    """A split whose shards hold proteins of these residues."""
    shards = tuple(Shard(file=f"{i}", rows=len(s), residues=sum(s), digest="") for i, s in enumerate(lengths))
    return Split(shards=shards, residue_counts={"A": 1}, longest=max(map(max, lengths)))


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
@example(lengths=[29] * 11 + [39] * 16 + [59] * 16 + [62] * 16, parts=6, bands=4)  # they differ by 1.7 x 62
def test_a_window_is_cut_into_parts_that_hold_every_protein_once(lengths: list[int], parts: int, bands: int) -> None:
    sizes = np.array(lengths)
    groups = cut_evenly(sizes, parts, bands)
    assert len(groups) == parts
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert np.ptp([sizes[group].sum() for group in groups]) <= 2 * sizes.max()
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


@given(
    lengths=st.lists(st.integers(0, 400), min_size=1, max_size=200), parts=st.integers(1, 20), seed=st.integers(0, 9)
)
def test_a_random_draw_holds_every_protein_once_in_equal_parts(lengths: list[int], parts: int, seed: int) -> None:
    sizes = np.array(lengths)
    groups = draw_evenly(sizes, parts, np.random.default_rng(seed))
    assert len(groups) == parts
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert np.ptp([len(group) for group in groups]) == (1 if len(lengths) % parts else 0)
    assert np.ptp([sizes[group].sum() for group in groups]) <= sizes.max()
    assert all((np.diff(sizes[group]) >= 0).all() for group in groups)


def test_a_random_draw_gives_each_part_short_and_long_proteins_and_equally_many_residues() -> None:
    sizes = np.random.default_rng(0).integers(20, 500, 4000)
    groups = draw_evenly(sizes, 10, np.random.default_rng(1))
    residues = np.array([sizes[group].sum() for group in groups])
    assert np.abs(residues / residues.mean() - 1).max() < 0.0025
    assert all(np.abs(np.quantile(sizes[group], [0.1, 0.5, 0.9]) - [68, 260, 452]).max() < 12 for group in groups)


@pytest.mark.parametrize("spread", [0, 300])
def test_a_random_draw_puts_a_protein_into_every_part_equally_often_and_beside_every_other(spread: int) -> None:
    """With proteins of different lengths, and of one length: all that are cropped have one."""
    sizes = np.random.default_rng(0).integers(100, 101 + spread, 60)
    times, parts = 2000, 4
    part_of = np.empty((times, len(sizes)), dtype=np.int64)
    for time, generator in enumerate(np.random.default_rng(2).spawn(times)):
        for number, group in enumerate(draw_evenly(sizes, parts, generator)):
            part_of[time, group] = number
    shares = np.stack([(part_of == part).mean(axis=0) for part in range(parts)])
    assert np.abs(shares - 1 / parts).max() < 0.05
    together = (part_of[:, :1] == part_of[:, 1:]).mean(axis=0)  # protein 0 and each other one
    apart = (np.abs(sizes[1:] - sizes[0]) < 25) if spread else np.zeros(len(sizes) - 1, dtype=bool)  # may be one deal
    assert np.abs(together[~apart] - 1 / parts).max() < 0.05


def cut(draw: Draw, *, seed: int = 0, epoch: int = 0, shard: int = 0, is_training: bool = True) -> list[list[int]]:
    lengths = np.array([5, 9, 2, 7, 7, 3, 30, 4, 6, 12, 7])
    window = WindowSlice.of(split_of(4), shard, 3, is_training, epoch=epoch, draw=draw)
    return [group.tolist() for group in window.cut(lengths, seed)]


def test_micro_batches_of_a_window_stay_what_they_are() -> None:
    """A run that is resumed by another version of the code goes on with the batches that it would have had."""
    assert cut("by_length") == [[0, 3, 4], [2, 5, 7, 10, 6], [8, 1, 9]]
    assert cut("random") == [[7, 10, 9], [5, 8, 3, 6], [2, 0, 4, 1]]
    assert cut("random", is_training=False) == cut("by_length", is_training=False), "scoring does not draw"


def test_a_draw_is_its_own_for_every_seed_epoch_and_shard() -> None:
    draws = [cut("random", **{name: value}) for name in ("seed", "epoch", "shard") for value in (1, 2, 3)]
    assert all(draw != other for i, draw in enumerate(draws) for other in [*draws[:i], cut("random")])
    assert all(cut("random", epoch=epoch) == cut("random", epoch=epoch) for epoch in range(3))
    composed = {frozenset(map(frozenset, cut("by_length", epoch=epoch))) for epoch in range(3)}
    assert len(composed) == 1, "by length another epoch brings the same micro batches in another order"


@given(
    lengths=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=60), min_size=1, max_size=4),
    micro_batch_residues=st.integers(50, 3000),
    max_length=st.none() | st.integers(1, 400),
    draw=st.sampled_from(DRAWS),
    seed=st.integers(0, 3),
)
def test_no_micro_batch_has_more_tokens_or_proteins_than_the_plan_says(
    lengths: list[list[int]], micro_batch_residues: int, max_length: int | None, draw: Draw, seed: int
) -> None:
    specials = 2
    plan = BatchPlan(split_with(lengths), seed, 1, micro_batch_residues, draw, max_length)
    for number in range(2 * len(lengths)):  # two epochs
        window = plan.window(number)
        tokens = np.minimum(lengths[window.shard], max_length or 300) + specials
        groups = window.cut(tokens, seed)
        assert len(groups) == plan.micro_batches
        assert max(tokens[group].sum() for group in groups) <= plan.most_tokens(specials)
        assert max(map(len, groups)) <= plan.most_proteins


@pytest.mark.parametrize(("draw", "tail"), [("by_length", 0.06), ("random", 0.045)])
def test_a_stream_as_long_as_the_longest_micro_batch_is_nearly_full(draw: Draw, tail: float) -> None:
    """Micro batches of a GPU's size, from shards of lengths as Pfam's domains have them."""
    generator = np.random.default_rng(0)
    lengths = [np.clip(generator.gamma(2.2, 74, 4096), 20, 1200).astype(int).tolist() for _ in range(20)]
    plan = BatchPlan(split_with(lengths), 0, 1, 65_536, draw, 1024)
    assert plan.micro_batches == 10
    mean = sum(min(length, 1024) + 2 for shard in lengths for length in shard) / 200
    assert mean < plan.most_tokens(2) < (1 + tail) * mean
    if draw == "random":
        assert plan.most_proteins == 410


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
    draw=st.sampled_from(DRAWS),
)
def test_every_row_comes_once_an_epoch(
    lengths: list[list[int]], lanes: int, world_size: int, seed: int, draw: Draw
) -> None:
    plan = BatchPlan(split_with(lengths), seed, lanes, micro_batch_residues=100, draw=draw)
    epochs = lanes  # so many of them end with a round of windows
    seen: dict[int, list[tuple[int, int]]] = {epoch: [] for epoch in range(epochs)}
    for step in global_batches(plan, min(world_size, lanes), 0, len(lengths) * plan.micro_batches):
        for place, number in step:
            proteins = place.cut(np.array(lengths[place.shard]), seed)[number]
            seen[place.epoch] += [(place.shard, int(row)) for row in proteins]
    rows = [(shard, row) for shard, sizes in enumerate(lengths) for row in range(len(sizes))]
    assert all(sorted(of_epoch) == rows for of_epoch in seen.values())

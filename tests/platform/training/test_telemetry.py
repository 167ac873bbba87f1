"""Telemetry with a clock that the test turns: rates, shares, what counts as time, and sums over workers."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, forward_flops, training_flops
from proteinlm.models.packed import NOT_SCORED, pack
from proteinlm.platform.training.telemetry import Meter, attention_slots, batch_flops, matmul_peak
from proteinlm.tasks.task import Batch
from tests.made.host_reads import HostReads

CPU = torch.device("cpu")
CONFIG = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)


def batch(*lengths: int, num_scored: int = 1) -> Batch:
    packed = pack(np.full(sum(lengths), 5, np.uint8), np.array(lengths), get_alphabet("esm"))
    labels = torch.full((sum(lengths),), NOT_SCORED)
    labels[:num_scored] = 5
    rows, num_residues = tuple(range(len(lengths))), sum(lengths) - 2 * len(lengths)
    return Batch(packed, labels, rows, num_residues=num_residues, num_scored=num_scored)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def started(clock: Clock, **options: object) -> Meter:
    """A meter after its first reading, 1000 residues into the run."""
    meter = Meter(1000, clock=clock, **options)  # type: ignore[arg-type]
    clock.passes(5)
    meter.read()
    return meter


def test_rates_are_of_the_seconds_since_the_last_reading() -> None:
    clock = Clock()
    meter = started(clock, flops=lambda _: 600, peak=1000.0)
    meter.add([batch(12, 12), batch(22)])
    clock.passes(2)
    figures = meter.read()
    assert figures["residues_per_s"] == 40 / 2
    assert figures["residues"] == 1040
    assert figures["flops_per_s"] == 600
    assert figures["peak_share"] == pytest.approx(0.6)
    assert figures["padding_share"] == 0.0
    assert 0.05 < figures["memory_gb"] < 100
    clock.passes(1)
    assert meter.read()["residues_per_s"] == 0


def test_validation_and_saving_are_in_no_rate() -> None:
    clock = Clock()
    meter = started(clock)
    meter.add([batch(12)])
    clock.passes(1)
    with meter.paused():
        clock.passes(100)
    with meter.saving():
        clock.passes(50)
    clock.passes(1)
    assert meter.read()["residues_per_s"] == 10 / 2


def test_stalls_are_shares_of_the_whole_launch_after_its_start() -> None:
    clock = Clock()
    meter = Meter(0, clock=clock)
    with meter.waiting():
        clock.passes(30)  # the pipeline starts
    assert not {"data_stall_share", "checkpoint_stall_share"} & meter.read().keys()
    with meter.waiting():
        clock.passes(1)
    clock.passes(9)
    with meter.saving():
        clock.passes(10)
    figures = meter.read()
    assert figures["data_stall_share"] == pytest.approx(0.1)
    assert figures["checkpoint_stall_share"] == pytest.approx(0.5)
    clock.passes(10)
    figures = meter.read()
    assert figures["data_stall_share"] == pytest.approx(1 / 20)
    assert figures["checkpoint_stall_share"] == pytest.approx(10 / 30)


def test_waiting_is_what_passes_until_the_next_item() -> None:
    clock = Clock()
    meter = started(clock)

    def slow() -> Iterator[int]:
        for item in range(3):
            clock.passes(1)
            yield item

    seen = []
    for item in meter.awaited(slow()):
        seen.append(item)
        clock.passes(3)
    assert seen == [0, 1, 2]
    assert meter.read()["data_stall_share"] == pytest.approx(3 / 12)


def test_a_failing_save_is_counted_too() -> None:
    clock = Clock()
    meter = started(clock)

    def save() -> None:
        with meter.saving():
            clock.passes(1)
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        save()
    clock.passes(1)
    assert meter.read()["checkpoint_stall_share"] == pytest.approx(0.5)


def test_the_total_counts_what_no_reading_has_seen_yet() -> None:
    meter = started(Clock())
    meter.add([batch(12)])
    assert meter.total() == meter.total() == 1010
    meter.read()
    assert meter.total() == 1010


def test_what_is_not_known_is_absent() -> None:
    assert not {"flops_per_s", "peak_share"} & started(Clock()).read().keys()
    assert "peak_share" not in started(Clock(), flops=lambda _: 1).read()


def test_padding_is_what_attention_computes_on_beyond_the_tokens() -> None:
    uneven = batch(40, 41, 42).packed
    assert attention_slots(uneven) == sum(group.num_proteins * group.length for group in uneven.groups) > 123
    assert attention_slots(batch(40, 40).packed) == 80
    clock = Clock()
    meter = started(clock)
    meter.add([batch(40, 41, 42)])
    assert meter.read()["padding_share"] == pytest.approx(1 - 123 / attention_slots(uneven))


def test_by_cumulative_lengths_nothing_is_padded_and_filling_is_told_apart() -> None:
    clock = Clock()
    meter = started(clock)
    uneven = batch(40, 41, 42)
    with HostReads() as reads:
        meter.add([replace(uneven, packed=uneven.packed.without_groups())])
    assert reads.found == []
    figures = meter.read()
    assert figures["padding_share"] == 0.0
    assert "filling_share" not in figures
    meter.add([replace(uneven, packed=uneven.packed.filled(164, 5))])
    figures = meter.read()
    assert figures["padding_share"] == 0.0
    assert figures["filling_share"] == pytest.approx(41 / 164)


def test_flops_are_of_the_part_that_is_trained() -> None:
    some = batch(30, 20, num_scored=7)
    assert batch_flops(CONFIG, some, is_language_model=True) == training_flops(CONFIG, [30, 20], 7)
    assert batch_flops(CONFIG, some, is_language_model=False) == training_flops(CONFIG, [30, 20])
    assert batch_flops(CONFIG, some, is_language_model=False, is_frozen=True) == forward_flops(CONFIG, [30, 20])


def test_the_matmul_peak_is_faster_than_a_small_product() -> None:
    assert matmul_peak(CPU, torch.float32, seconds=0.02) > 1e9


class TwoWorkers:
    """A process group of two, the second of which reads last and so sees the sum."""

    def __init__(self) -> None:
        self.rank = 0
        self.reduced: list[torch.Tensor] = []

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return self.rank

    def all_reduce(self, values: torch.Tensor) -> None:
        self.reduced.append(values.clone())
        if self.rank == 1:
            values += self.reduced[-2]


def test_workers_are_added_up_with_one_all_reduce(monkeypatch: pytest.MonkeyPatch) -> None:
    group, clock = TwoWorkers(), Clock()
    monkeypatch.setattr("proteinlm.platform.training.telemetry.dist", group)
    meters = [Meter(1000, flops=lambda _: 600, peak=peak, clock=clock) for peak in (1000.0, 500.0)]
    for group.rank in (0, 1):
        meters[group.rank].read()
    with meters[0].waiting():
        clock.passes(1)
    clock.passes(1)
    meters[0].add([batch(12)])
    meters[1].add([batch(22), batch(12)])
    group.reduced.clear()
    for group.rank in (0, 1):
        figures = meters[group.rank].read()
    assert len(group.reduced) == 2, "one for each worker"
    assert figures["residues"] == 1040
    assert figures["residues_per_s"] == 40 / 2
    assert figures["flops_per_s"] == 1800 / 2
    assert figures["peak_share"] == pytest.approx((300 / 1000 + 600 / 500) / 2)
    assert figures["data_stall_share"] == pytest.approx((1 / 2 + 0) / 2)
    memory = [float(group.reduced[worker][worker - 2]) for worker in (0, 1)]
    assert figures["memory_gb"] == max(memory) / 1e9

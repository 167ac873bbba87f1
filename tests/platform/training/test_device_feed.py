"""The way of micro batches to a device, with stand-ins for its stream: what is made ready, in which order it comes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.platform.batches.windows import blank_batch
from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.training.device_feed import DeviceFeed, Filling, carried, tensors_of, with_tensors
from proteinlm.platform.training.job import Run, Worker
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.heads import scored_tokens
from proteinlm.tasks.task import Batch
from tests.made import engine_workers
from tests.made.jobs import job
from tests.made.small_corpus import write_small_corpus

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
LM = build_task("masked_language_modeling")


def steps(count: int) -> list[list[Batch]]:
    return engine_workers.global_batches(0, count)


class Copies:
    """A stream on which tensors come late: they hold what they should only once its mark was taken over."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._inside = threading.local()
        self._late: list[tuple[Tensor, Tensor]] = []
        self._num_marks = 0

    @contextmanager
    def copying(self) -> Iterator[None]:
        self._inside.value = True
        yield
        self._inside.value = False

    def copied(self, tensor: Tensor) -> Tensor:
        assert self._inside.value
        self._late.append((torch.zeros_like(tensor), tensor))
        return self._late[-1][0]

    def mark(self) -> list[tuple[Tensor, Tensor]]:
        self.events.append(f"copied {self._num_marks}")
        self._num_marks += 1
        copied, self._late = self._late, []
        return copied

    def take_over(self, mark: object, tensors: Sequence[Tensor]) -> None:
        assert isinstance(mark, list)
        assert {id(tensor) for tensor in tensors} == {id(there) for there, _ in mark}
        for there, source in mark:
            there.copy_(source)


def test_on_a_cpu_micro_batches_pass_as_they_are() -> None:
    given = steps(2)
    found = [list(batches) for batches in DeviceFeed(CPU, by_lengths=False).steps(given)]
    assert [[id(batch) for batch in batches] for batches in found] == [[id(b) for b in batches] for batches in given]


def test_every_tensor_comes_and_only_after_its_mark() -> None:
    given = steps(3)
    for number, batches in enumerate(carried(given, Copies())):
        for batch, source in zip(batches, given[number], strict=True):
            there, here = tensors_of(batch), tensors_of(source)
            assert len(there) == len(here) > 8
            assert all(one.equal(other) and one is not other for one, other in zip(there, here, strict=True))
            assert (batch.rows, batch.num_scored, batch.packed.lengths) == (
                source.rows,
                source.num_scored,
                source.packed.lengths,
            )
    assert number == 2


def test_steps_are_copied_before_they_are_asked_for_and_not_many() -> None:
    asked = [threading.Event() for _ in range(12)]
    read: list[int] = []

    def reading() -> Iterator[list[Batch]]:
        for number, batches in enumerate(steps(12)):
            read.append(number)
            asked[number].set()
            yield batches

    for taken, _ in enumerate(carried(reading(), Copies(), ahead=2), start=1):
        assert asked[min(taken + 1, 11)].wait(timeout=60), "while this step runs, later ones come"
        assert len(read) <= taken + 3, "two wait and one is in hand"
    assert taken == 12


def test_an_error_of_the_reader_is_raised_where_its_step_is_asked_for() -> None:
    def reading() -> Iterator[list[Batch]]:
        yield from steps(2)
        raise ValueError("the shard is damaged")

    found = carried(reading(), Copies())
    assert len([next(found), next(found)]) == 2
    with pytest.raises(ValueError, match="the shard is damaged"):
        next(found)


def test_the_thread_ends_with_the_iteration() -> None:
    before = set(threading.enumerate())
    found = carried(steps(12), Copies())
    next(found)
    (thread,) = set(threading.enumerate()) - before
    found.close()  # type: ignore[attr-defined]
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_a_gpu_is_told_which_tokens_are_scored_and_spared_groups_where_it_needs_none() -> None:
    ((batch, *_),) = steps(1)
    ready = DeviceFeed(GPU, by_lengths=True).ready(batch)
    assert ready.scored is not None
    assert ready.scored.equal(scored_tokens(batch.labels))
    assert not ready.packed.groups
    volta = DeviceFeed(GPU, by_lengths=False).ready(batch)
    assert volta.packed is batch.packed
    assert volta.scored is not None


@pytest.fixture
def static_run(tmp_path: Path) -> Run:
    """A pretraining whose streams are filled, on a CPU that emulates attention by cumulative lengths."""
    manifest = write_small_corpus(tmp_path)
    shape = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    training = TrainingSection(steps=1, precision="fp32", compile="static")
    told = job(verb="pretrain", mode="pretrain", task=LM.name, data=tmp_path, model=shape, training=training)
    return Run(told, manifest, told.build_task(manifest), Worker(0, 1, CPU))


def test_filled_streams_have_one_shape_and_the_same_losses(static_run: Run) -> None:
    model = engine_workers.model()
    batches = [*steps(1)[0], blank_batch(get_alphabet("esm"), LM)]
    with emulated_attention():
        feed = DeviceFeed.of(static_run)
        (fed,) = feed.steps([batches])
        assert feed.filling is not None
        assert feed.filling.num_tokens % 128 == 0
        assert len({tuple(tensor.shape for tensor in tensors_of(batch.packed)) for batch in fed}) == 1
        for batch, source in zip(fed, batches, strict=True):
            torch.testing.assert_close(model(batch)["loss"], model(source)["loss"], rtol=1e-5, atol=1e-5)


def test_scored_splits_are_filled_up_to_their_own_largest_micro_batch(static_run: Run) -> None:
    batches = steps(1)[0]
    most = max(batch.packed.num_tokens for batch in batches)
    small = DeviceFeed(CPU, by_lengths=True, filling=Filling(128, 2)).holding(batches)
    assert small.filling is not None
    assert most <= small.filling.num_tokens < most + 128
    assert small.filling.num_proteins == max(batch.packed.num_proteins for batch in batches)
    assert [batch.packed.num_tokens for batch in small.batches(batches)] == [small.filling.num_tokens] * len(batches)
    with emulated_attention():
        large = DeviceFeed.of(static_run)
        assert large.holding(batches).filling == large.filling
    assert DeviceFeed(CPU, by_lengths=True).holding(batches).filling is None


def test_what_is_no_tensor_stays_as_it_is() -> None:
    assert with_tensors((1, "two", None, [np.int64(3)]), lambda tensor: tensor + 1) == (1, "two", None, [3])

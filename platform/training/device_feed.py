"""The way of micro batches to the device: made ready for its attention, pinned, and copied ahead of the step.

    reader -> ready (host) -> pinned memory -> a stream of its own -> step

A thread does this while the device computes, a few steps ahead. On a CPU there is no way to go: micro batches pass as
they are.

Where attention goes by cumulative lengths (models/varlen_attention.py) the groups of length stay behind: some hundred
small tensors. With `training.compile: static` the stream is filled up to one number of tokens. Which tokens are scored
is looked up here, for a GPU would make the host wait for the answer.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.platform.training.device import attends_by_lengths, compile_mode
from proteinlm.platform.training.job import Run, batch_plan
from proteinlm.tasks.heads import scored_tokens
from proteinlm.tasks.task import Batch

AHEAD = 2
"""Steps whose micro batches wait on the device, beside the one that is being copied."""
TOKENS_MULTIPLE = 128
"""A stream is filled up to a multiple of so many tokens: whole blocks for matrix products."""


@dataclass(frozen=True)
class Filling:
    """What a micro batch is filled up to (`Packed.filled`)."""

    num_tokens: int
    num_proteins: int

    def holding(self, batches: Sequence[Batch]) -> "Filling":
        """The least filling that holds this and all of `batches`."""
        tokens = max((batch.packed.num_tokens for batch in batches), default=0)
        proteins = max((batch.packed.num_proteins for batch in batches), default=0)
        tokens = -(-tokens // TOKENS_MULTIPLE) * TOKENS_MULTIPLE
        return Filling(max(self.num_tokens, tokens), max(self.num_proteins, proteins))


class Copies(Protocol):
    """How tensors come to a device beside what it computes; one thread copies, another takes over."""

    def copying(self) -> AbstractContextManager[object]:
        """Context in which `copied` is called."""

    def copied(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, once what `mark` gives is reached."""

    def mark(self) -> object:
        """A mark behind everything that was copied so far."""

    def take_over(self, mark: object, tensors: Sequence[Tensor]) -> None:
        """Have the calling thread's work on the device wait for `mark`; it uses `tensors` from now on."""


class CudaCopies:
    """Copies through pinned memory on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copying(self) -> AbstractContextManager[object]:
        """Context in which `copied` is called."""
        return torch.cuda.stream(self._stream)

    def copied(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, once what `mark` gives is reached."""
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def mark(self) -> object:
        """A mark behind everything that was copied so far."""
        return self._stream.record_event()

    def take_over(self, mark: object, tensors: Sequence[Tensor]) -> None:
        """Have the calling thread's work on the device wait for `mark`; it uses `tensors` from now on."""
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(cast(torch.cuda.Event, mark))
        for tensor in tensors:
            tensor.record_stream(stream)  # its memory is free for other copies only after the step


@dataclass(frozen=True)
class DeviceFeed:
    """Brings the micro batches of a run to its worker's device."""

    device: torch.device
    by_lengths: bool
    """Attention goes by cumulative lengths."""
    filling: Filling | None = None
    """What streams are filled up to; None: they are not."""

    @classmethod
    def of(cls, run: Run) -> "DeviceFeed":
        """The one of a run, on its worker's device."""
        job, device = run.job, run.worker.device
        if compile_mode(job, device) != "static":
            return cls(device, attends_by_lengths(job, device))
        plan = batch_plan(job, run.manifest.split(run.task.train_split))
        tokens = plan.most_tokens(get_alphabet(job.model.alphabet).specials_per_protein)
        whole = -(-tokens // TOKENS_MULTIPLE) * TOKENS_MULTIPLE
        return cls(device, by_lengths=True, filling=Filling(whole, plan.most_proteins))

    def steps(self, steps: Iterable[Sequence[Batch]]) -> Iterator[Sequence[Batch]]:
        """Yields the micro batches of each step, on the device."""
        ready = ([self.ready(batch) for batch in batches] for batches in steps)
        if self.device.type == "cpu":
            return ready
        return carried(ready, CudaCopies(self.device))

    def batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields each of the micro batches, on the device."""
        return (batch for (batch,) in self.steps([batch] for batch in batches))

    def holding(self, batches: Sequence[Batch]) -> "DeviceFeed":
        """The feed with a filling that `batches` fit into, which may be larger than those that are trained on."""
        return self if self.filling is None else replace(self, filling=self.filling.holding(batches))

    def ready(self, batch: Batch) -> Batch:
        """The micro batch, still on the host, with all that its device needs and no more."""
        if self.device.type != "cpu" and batch.labels.ndim == 1 and not batch.labels.is_floating_point():
            batch = replace(batch, scored=scored_tokens(batch.labels))
        if not self.by_lengths or batch.pooled is not None:
            return batch
        if self.filling is None:
            return replace(batch, packed=batch.packed.without_groups())
        return replace(batch, packed=batch.packed.filled(self.filling.num_tokens, self.filling.num_proteins))


def carried(steps: Iterable[Sequence[Batch]], copies: Copies, ahead: int = AHEAD) -> Iterator[list[Batch]]:
    """Yields `steps` on the device; a thread reads and copies them, `ahead` of them before they are asked for.

    An error of `steps` is raised here, in its place. The thread ends with the iteration, whoever ends it.
    """
    waiting: queue.Queue[tuple[list[Batch], object] | BaseException | None] = queue.Queue(ahead)
    is_over = threading.Event()

    def put(item: tuple[list[Batch], object] | BaseException | None) -> None:
        is_in = False
        while not (is_in or is_over.is_set()):
            with suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                is_in = True

    def carry() -> None:
        try:
            for batches in steps:
                with copies.copying():
                    moved = [with_tensors(batch, copies.copied) for batch in batches]
                    mark = copies.mark()
                put((moved, mark))
                if is_over.is_set():
                    return
            put(None)
        except BaseException as error:  # whatever it is, the step that asks for the batch is told
            put(error)

    threading.Thread(target=carry, name="device feed", daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            batches, mark = item
            copies.take_over(mark, tensors_of(batches))
            yield batches
    finally:
        is_over.set()


def with_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with every tensor in it changed: it may be one, or a frozen dataclass, tuple or list that holds some."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(with_tensors(one, change) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        held = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{name: with_tensors(one, change) for name, one in held.items()})
    return value


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor in `value`, which is as `with_tensors` takes it."""
    found: list[Tensor] = []
    with_tensors(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found

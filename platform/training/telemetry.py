"""Telemetry: the speed of a run, its share of the machine's matmul peak, and where time is lost.

One `Meter` per worker counts the micro batches of its steps and the seconds that were not spent computing; `read` adds
up all workers in one all-reduce. Residues are those of proteins, without special tokens and padding.

Counting reads nothing from the device: what a micro batch holds is known on the host, and micro batches for
variable-length attention come without groups, so that nothing of them counts as padding (device_feed.py).

Shapes: N tokens of a micro batch's proteins, P slots of its padded attention stream (models/packed.py).
"""

import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch
from torch import distributed as dist

from proteinlm.models.config import ModelConfig, forward_flops, training_flops
from proteinlm.models.packed import Packed
from proteinlm.platform.storage.phases import phase
from proteinlm.tasks.task import Batch

ItemT = TypeVar("ItemT")


@cache
@phase("matmul peak")
def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Return FLOP/s of the fastest large matrix product measured in about `seconds`, with this process's threads.

    On cores that other processes use too it is less than the data sheet says. It is measured once for each process.
    """
    sizes = (4096, 8192) if device.type == "cuda" else (1024, 2048)
    return max(_product_rate(size, device, dtype, seconds / len(sizes)) for size in sizes)


def _product_rate(size: int, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of the fastest of several [size, size] products."""
    # Random, for a GPU keeps a higher clock on equal numbers; not from the generator that training draws from.
    left = torch.randn((size, size), device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    right, out = left.clone(), torch.empty_like(left)

    def once() -> float:
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()
    end = time.perf_counter() + seconds
    fastest = once()
    while time.perf_counter() < end:
        fastest = min(fastest, once())
    return 2.0 * size**3 / fastest


def attention_slots(packed: Packed) -> int:
    """Return P, the slots of the attention stream with the padding inside groups; N where nothing is padded.

    What fills the stream up to a fixed length (`Packed.filled`) is told apart: it is no padding.
    """
    return sum(packed.lengths) if packed.source is None else packed.source.shape[0]


def batch_flops(config: ModelConfig, batch: Batch, *, is_language_model: bool, is_frozen: bool = False) -> int:
    """Return the model FLOPs of training on one micro batch.

    `is_language_model`: the head is the language model's, on scored tokens; another task's head is not counted.
    `is_frozen`: the encoder runs forward only.
    """
    num_scored = batch.num_scored if is_language_model else 0
    count = forward_flops if is_frozen else training_flops
    return count(config, batch.packed.lengths, num_scored)


@dataclass
class _Counts:
    """What one worker counted since the last `read`."""

    residues: int = 0
    tokens: int = 0
    """Of proteins, with their special ones."""
    slots: int = 0
    filling: int = 0
    """Tokens that fill streams up to a fixed length."""
    flops: int = 0
    waiting: float = 0.0
    """Seconds without a batch."""
    saving: float = 0.0
    """Seconds in which training waited for a checkpoint."""
    paused: float = 0.0
    """Seconds of anything that is not training, such as validation."""


@dataclass
class _Launch:
    """Seconds of one worker since the first `read` of this launch."""

    training: float = 0.0
    """With waiting, without saving and pauses."""
    waiting: float = 0.0
    saving: float = 0.0


class Meter:
    """Counts micro batches and times of one worker; `read` combines all workers.

    Time inside `paused` and `saving` is not part of any rate. Shares of stalls are taken over the whole launch, since
    a single stall fills most of one interval between two reads. They leave out the time before the launch's first read:
    the first batch and the first step, which compiles kernels, would dominate them.
    """

    def __init__(
        self,
        first_residues: int,
        *,
        flops: Callable[[Batch], int] | None = None,
        peak: float | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`first_residues`: residues seen before this launch, over all workers.

        `flops` returns a micro batch's model FLOPs (`batch_flops`); `peak` is this worker's matmul peak in FLOP/s;
        `device` is where it computes (None: the CPU).
        """
        self._total = first_residues
        self._flops, self._peak, self._clock = flops, peak, clock
        self._device = device or torch.device("cpu")
        self._unread = _Counts()
        self._launch: _Launch | None = None
        self._since = clock()

    def add(self, batches: Sequence[Batch]) -> None:
        """Count this worker's micro batches of one step."""
        for batch in batches:
            self._unread.residues += batch.num_residues
            tokens = sum(batch.packed.lengths)
            self._unread.tokens += tokens
            self._unread.slots += attention_slots(batch.packed)
            self._unread.filling += batch.packed.num_tokens - tokens
            self._unread.flops += self._flops(batch) if self._flops else 0

    def waiting(self) -> AbstractContextManager[None]:
        """Context in which this worker waits for data: a data stall."""
        return self._timed("waiting")

    def saving(self) -> AbstractContextManager[None]:
        """Context in which training waits for a checkpoint: a checkpoint stall."""
        return self._timed("saving")

    def paused(self) -> AbstractContextManager[None]:
        """Context that is not training, such as validation; its time is left out of all metrics."""
        return self._timed("paused")

    def awaited(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yields `items`; the time until each one is there counts as waiting."""
        iterator = iter(items)
        while True:
            with self.waiting():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            setattr(self._unread, name, getattr(self._unread, name) + self._clock() - start)

    def total(self) -> int:
        """Return the residues seen since the run began, over all workers; all workers call it."""
        (residues,), _ = self._over_workers([self._unread.residues], own=0.0)
        return self._total + round(residues)

    def read(self) -> dict[str, float]:
        """Return metrics over all workers; all workers call it. Shares are means over workers, unknown metrics absent.

        Since the last `read`: `residues_per_s`; `padding_share` of the slots that attention computes on;
        `filling_share` of the tokens that all layers compute on, absent where nothing is filled; `flops_per_s`, model
        FLOP/s of all workers together; `peak_share`, a worker's model FLOP/s divided by its own matmul peak.
        Since the launch's first `read`, and absent from it: `data_stall_share` of the training time,
        `checkpoint_stall_share` of training time and stalls. Since the run began: `residues`. Now: `memory_gb`, 10^9
        bytes, of the worker that has most.
        """
        counts, now = self._unread, self._clock()
        seconds = max(now - self._since - counts.paused - counts.saving, 1e-9)
        stalls = self._stall_shares(seconds)
        peak_share = counts.flops / seconds / self._peak if self._peak else 0.0
        counted = [counts.residues, counts.tokens, counts.slots, counts.filling, counts.flops]
        own = [*counted, seconds, peak_share, *stalls.values()]
        sums, memory = self._over_workers(own, own=_memory_bytes(self._device))
        workers = len(memory)
        residues, tokens, slots, filling, flops, all_seconds, peak_shares, *stall_sums = sums
        self._total += round(residues)
        self._unread, self._since = _Counts(), now

        metrics = {"residues_per_s": residues * workers / all_seconds, "residues": float(self._total)}
        metrics["padding_share"] = 1.0 - tokens / max(slots, 1.0)
        if filling:
            metrics["filling_share"] = filling / (tokens + filling)
        if self._flops:
            metrics["flops_per_s"] = flops * workers / all_seconds
        if self._flops and self._peak:
            metrics["peak_share"] = peak_shares / workers
        metrics |= {name: total / workers for name, total in zip(stalls, stall_sums, strict=True)}
        return metrics | {"memory_gb": max(memory) / 1e9}

    def _stall_shares(self, seconds: float) -> dict[str, float]:
        """Shares of this worker since the launch's first `read`; `seconds` of training are new."""
        if self._launch is None:  # the first `read` covers the start
            self._launch = _Launch()
            return {}
        launch, counts = self._launch, self._unread
        launch.training += seconds
        launch.waiting += counts.waiting
        launch.saving += counts.saving
        return {
            "data_stall_share": launch.waiting / launch.training,
            "checkpoint_stall_share": launch.saving / (launch.training + launch.saving),
        }

    def _over_workers(self, sums: Sequence[float], own: float) -> tuple[list[float], list[float]]:
        """Return `sums` added up over all workers, and every worker's `own`, with one all-reduce."""
        if not dist.is_initialized():
            return list(sums), [own]
        everyone = [0.0] * dist.get_world_size()
        everyone[dist.get_rank()] = own
        # NCCL reduces on the device alone, gloo on the CPU.
        values = torch.tensor([*sums, *everyone], dtype=torch.float64, device=self._device)
        dist.all_reduce(values)
        added: list[float] = values.tolist()
        return added[: len(sums)], added[len(sums) :]


def _memory_bytes(device: torch.device) -> float:
    """Resident bytes of this process; on CUDA the most that torch had allocated on `device`."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        with open("/proc/self/statm") as file:
            return float(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most it ever had, in bytes on macOS
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

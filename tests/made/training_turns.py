"""A training step (forward, backward, fused AdamW) that is done again and again and timed; the models that GPUs are
measured with, what their speed is divided by, and how that is said.

FLOPs are the model's (models/config.py): neither padding nor recomputation counts. No share is printed without its
divisor. Batches are on the device, and kernels chosen, before a clock starts.

Shapes: N tokens of a micro batch, D hidden, M width of the MLP.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.encoder import CompileMode, ProteinEncoder
from proteinlm.models.varlen_attention import takes_lengths
from proteinlm.platform.settings.sections import OptimizerSection
from proteinlm.platform.training.device_feed import DeviceFeed, Filling
from proteinlm.platform.training.optim import make_optimizer
from proteinlm.platform.training.telemetry import batch_flops
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, TaskModel

EAGER = "eager"
COMPILED_FORMS: tuple[CompileMode, ...] = ("dynamic", "static")
"""Forms in which our layers can be compiled; on a GPU the first is measured without being asked for."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
GIBIBYTE = 2**30
TERA = 1e12

FLOPS_FORMULA = "3 * (layers * (2 * (4 * D**2 + 2 * D * M) * N + 4 * D * L2) + 2 * D * (D + 33) * scored)"
"""Model FLOPs of a training step with ESM's 33 tokens, as `models/config.py: training_flops` counts them."""
FLOPS_LEGEND = "N tokens, L2 the sum of the proteins' squared lengths, D hidden, M width of the MLP, scored tokens"

DATA_SHEET_PEAK: Mapping[str, float] = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
"""Part of a board's name -> dense bf16 FLOP/s of NVIDIA's data sheets (their figures with sparsity, halved); the first
part that fits counts, and the last three are SXM boards."""

Products = tuple[tuple[int, int, int], ...]
"""(rows, inner, columns) of matrix products."""

PEAK_PRODUCTS: Mapping[str, Products] = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048), (4096, 2048, 512)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}


@dataclass(frozen=True)
class Measured:
    """A model that is measured, and on how large micro batches."""

    values: Mapping[str, int]
    """Of its `ModelConfig`."""
    micro_batch_residues: int

    @property
    def config(self) -> ModelConfig:
        """The rest as in pretraining by default: rotary positions, no dropout."""
        return ModelConfig.model_validate(dict(self.values))


def _measured(hidden: int, layers: int, heads: int, residues: int, mlp: int | None = None) -> Measured:
    values = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return Measured(values | ({} if mlp is None else {"intermediate_size": mlp}), residues)


MODELS: Mapping[str, Measured] = {
    "35m": _measured(480, 12, 20, 65_536),
    "133m": _measured(768, 24, 12, 65_536, mlp=2048),
    "150m": _measured(640, 30, 20, 65_536),
    "650m": _measured(1280, 33, 20, 32_768),
    "tiny": _measured(64, 2, 2, 2048),
    "tiny-deep": _measured(64, 4, 4, 1024),
}
"""35m, 150m and 650m have ESM-2's shapes; 133m is the shape of other published figures on Hopper; the tiny ones stand
for them where there is no GPU."""

Turn = Callable[[], tuple[int, float]]
"""Does something once; gives the real residues and the model FLOPs that were in it."""

Fed = tuple[Any, int, int]
"""A batch on the device, its real residues and its model FLOPs (0: not counted)."""


@dataclass(frozen=True)
class Spent:
    """What one turn took, and what it was worth."""

    seconds: float
    cpu_seconds: float
    """Of all threads of this process."""
    residues: int
    flops: float


def measured(turn: Turn, device: str, repeats: int = 1) -> Spent:
    """Run it `repeats` times."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, cpu_start = time.perf_counter(), time.process_time()
    done = [turn() for _ in range(repeats)]
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Spent(seconds, cpu_seconds, sum(residues for residues, _ in done), sum(flops for _, flops in done))


def residues_per_second(rounds: Sequence[Spent]) -> float:
    """Median over the rounds."""
    return statistics.median(one.residues / one.seconds for one in rounds)


class Trained:
    """A model that is trained step by step, on one batch after the other."""

    def __init__(self, model: nn.Module, mean_loss: Callable[[Any], Tensor], precision: str, device: str) -> None:
        """`precision` bf16 is autocast."""
        self.model = model
        self._mean_loss, self._precision, self._device = mean_loss, precision, device
        self._optimizer = make_optimizer(model, OptimizerSection())

    def on(self, batches: Sequence[Fed]) -> Turn:
        """One optimizer step on the next of `batches`."""
        endless = cycle(batches)

        def step() -> tuple[int, float]:
            batch, residues, flops = next(endless)
            with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
                loss = self._mean_loss(batch)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            return residues, float(flops)

        return step


def our_turn(config: ModelConfig, batches: Sequence[Batch], precision: str, device: str, form: str = EAGER) -> Turn:
    """Training steps of our model on its micro batches; `form`: `EAGER` or one of `COMPILED_FORMS`."""
    torch.manual_seed(0)
    with torch.device(device):
        model = TaskModel(build_task("masked_language_modeling"), ProteinEncoder(config))
    for mode in COMPILED_FORMS:
        if mode == form:
            model.encoder.compile_layers(mode, torch.device(device))

    def mean_loss(batch: Batch) -> Tensor:
        with attention_for(form, device):
            columns: dict[str, Tensor] = model(batch)
        return columns["loss"].sum() / columns["scored"].sum()

    by_lengths = takes_lengths(torch.device(device), DTYPES[precision], config.head_size, dropout=0.0)
    fed = [
        (on_device, batch.num_residues, batch_flops(config, batch, is_language_model=True))
        for batch, on_device in zip(batches, as_fed(batches, form, by_lengths, device), strict=True)
    ]
    return Trained(model, mean_loss, precision, device).on(fed)


def as_fed(batches: Sequence[Batch], form: str, by_lengths: bool, device: str) -> list[Batch]:
    """The micro batches on the device, as a run gives them to layers of this form: static ones filled alike.

    `by_lengths`: attention goes by cumulative lengths, as it always does on static ones.
    """
    filling = Filling(0, 0) if form == "static" else None
    feed = DeviceFeed(torch.device(device), by_lengths or form == "static", filling).holding(batches)
    return list(feed.batches(batches))


def attention_for(form: str, device: str) -> AbstractContextManager[None]:
    """Context of a forward pass: filled micro batches need variable-length attention, which a CPU emulates."""
    return emulated_attention() if form == "static" and device == "cpu" else nullcontext()


def peak(dtype: torch.dtype, device: str, products: Products | None = None) -> tuple[float, float]:
    """FLOP/s and FLOP per CPU second of the fastest of several large matrix products of random numbers.

    Random, because a GPU draws less power, and keeps a higher clock, where bits do not change. `products` None: those
    of the device.
    """
    rates = []
    for rows, inner, columns in products or PEAK_PRODUCTS[device]:
        left = torch.randn((rows, inner), device=device, dtype=dtype)
        right = torch.randn((inner, columns), device=device, dtype=dtype)
        for _ in range(4):
            spent = measured(lambda a=left, b=right: (len(torch.mm(a, b)), 0.0), device, repeats=3)
            flops = 3 * 2.0 * rows * inner * columns
            rates.append((flops / spent.seconds, flops / spent.cpu_seconds))
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)


def data_sheet_peak(board: str | None) -> float | None:
    """Dense bf16 FLOP/s that the data sheet says of a GPU of this name; None where none is known."""
    return next((flops for part, flops in DATA_SHEET_PEAK.items() if board and part in board), None)


def board_name(device: str) -> str | None:
    """The GPU's name; None on a CPU."""
    return torch.cuda.get_device_name() if device == "cuda" else None


def share_of(speed: float, divisor: float | None) -> str:
    """`speed` as a share of `divisor`, both in FLOP/s, which is said beside it."""
    return "no divisor known" if divisor is None else f"{speed / divisor:.1%} of {divisor / TERA:,.4g} TFLOP/s"


@contextmanager
def peak_memory(device: str) -> Iterator[Callable[[], float | None]]:
    """Gives a function that says the most GiB that were allocated in the body so far; None on a CPU."""
    if device != "cuda":
        yield lambda: None
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / GIBIBYTE

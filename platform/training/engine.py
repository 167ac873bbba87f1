"""The engine: forward, backward, optimizer step, state, behind five methods. DeepSpeed ZeRO 0 to 3, or plain PyTorch.

    train_step   one optimizer step over this worker's micro batches of a global batch
    eval_step    per-protein columns of one micro batch, without gradient
    save, load   everything that the next step depends on, into and out of a directory
    module       the whole model, gathered on every worker (ZeRO-3 keeps it in pieces)

Loss = sum of losses over the global batch / number of scored labels in the global batch, whoever holds them: the
gradient does not depend on workers, micro batches or ZeRO stage. A step whose gradient is not finite on any worker is
skipped on all: weights and optimizer state stay as they were.

A step asks the device for nothing: what it found are scalars there, and whoever reads them waits for the device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor
from torch import distributed as dist

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.device import TORCH_DTYPES
from proteinlm.platform.training.optim import make_optimizer, set_learning_rate, skipping
from proteinlm.tasks.task import Batch, TaskModel


@dataclass(frozen=True)
class StepFigures:
    """The result of one optimizer step, over all workers."""

    loss: float
    """Mean over the scored labels of the global batch."""
    scored: int
    """Scored labels of the global batch."""
    gradient_norm: float
    """L2 norm of the whole gradient before clipping."""
    is_skipped: bool
    """The gradient was not finite, so the optimizer did not step."""
    loss_scale: float
    """Factor on the loss in fp16, which keeps small gradients from underflow."""


@dataclass(frozen=True)
class StepReport:
    """`StepFigures` as scalars on one device, which may not have computed them yet."""

    loss: Tensor
    scored: Tensor
    gradient_norm: Tensor
    is_skipped: Tensor
    """[] bool."""
    loss_scale: Tensor

    def read(self) -> StepFigures:
        """Wait for the device and return the figures."""
        told = (self.loss, self.scored, self.gradient_norm, self.is_skipped, self.loss_scale)
        loss, scored, norm, is_skipped, scale = torch.stack([one.double() for one in told]).tolist()
        return StepFigures(loss, int(scored), norm, bool(is_skipped), scale)


def world_size() -> int:
    """Return the number of workers that share a global batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum `value` in place over all workers and return it."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def count_scored(batches: Sequence[Batch], device: torch.device) -> Tensor:
    """Return the number of scored labels of the global batch as [] fp64 on `device`; all workers call it."""
    return sum_over_workers(scalar(float(sum(batch.num_scored for batch in batches)), device))


def scalar(value: float, device: torch.device) -> Tensor:
    """Return `value` as [] fp64 on `device`. A copy from the host (`torch.tensor`) would wait for the device."""
    return torch.full((), value, dtype=torch.float64, device=device)


def seed_dropout(seed: int, batch: Batch) -> None:
    """Seed dropout from (`seed` of the step, first row of the batch), so that resuming needs no generator state."""
    torch.manual_seed((seed * 1_000_003 + (batch.rows[0] if batch.rows else 0)) % 2**63)


class Engine(Protocol):
    """What the training loop calls; see the module's docstring."""

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """Make one optimizer step over this worker's micro batches; `seed` is that of dropout in this step."""

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return the task's per-protein columns [B] of one micro batch, without gradient and without dropout."""

    def save(self, directory: Path) -> None:
        """Write everything that the next step depends on into `directory`; every worker calls it."""

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote into `directory`; every worker calls it."""

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        """Yields the whole model on every worker; with `writes`, the first worker's changes to it are kept."""


_STATE_FILE = "state.pt"


@contextmanager
def fitting(file: Path) -> Iterator[None]:
    """Run the body, which puts what `file` holds into a model; ValueError that names it where it is of another one."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (LookupError, TypeError, AttributeError, RuntimeError, ValueError) as error:  # as torch words it
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file} does not fit this model: {type(error).__name__}: {reason}") from error


class PlainEngine:
    """PyTorch alone on one device: for small finetuning trials, and the reference that DeepSpeed is tested against."""

    def __init__(
        self, model: TaskModel, training: TrainingSection, optimizer: OptimizerSection, device: torch.device
    ) -> None:
        self._model = model.to(device)
        self._optimizer = make_optimizer(model, optimizer)
        self._device = device
        self._clip = optimizer.gradient_clip
        self._precision = training.precision
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        dtype = TORCH_DTYPES[self._precision]
        with torch.autocast(self._device.type, dtype=dtype, enabled=self._precision != "fp32"):
            return cast(dict[str, Tensor], self._model(batch.to(self._device)))

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """Make one optimizer step; see `Engine`."""
        self._model.train()
        set_learning_rate(self._optimizer.param_groups, learning_rate)
        scored = count_scored(batches, self._device)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        self._optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            seed_dropout(seed, batch)
            loss = self._forward(batch)["loss"].sum()
            self._scaler.scale(loss / scored.clamp(min=1).to(loss.dtype)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._scaler.unscale_(cast(torch.optim.Optimizer, self._optimizer))
        trainable = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trainable, self._clip)
        is_skipped = norm.isfinite().logical_not()
        with skipping(self._optimizer, is_skipped):
            self._optimizer.step()
        scale = self._scaler.scale(torch.ones((), device=self._device))
        self._scaler.update()
        return StepReport(total / scored.clamp(min=1), scored, norm, is_skipped, scale)

    @torch.no_grad()
    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return per-protein columns [B] of the task."""
        self._model.eval()
        return self._forward(batch)

    def save(self, directory: Path) -> None:
        """Write model, optimizer and loss scale into `directory`."""
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        file = directory / _STATE_FILE
        state = torch.load(file, map_location=self._device, weights_only=True)
        with fitting(file):
            self._model.load_state_dict(state["model"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._scaler.load_state_dict(state["scaler"])

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        """Yields the model itself."""
        yield self._model

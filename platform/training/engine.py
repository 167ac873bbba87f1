"""The engine: forward, backward, optimizer step, state, behind five methods. DeepSpeed ZeRO 0 to 3, or plain PyTorch.

    train_step   one optimizer step over this worker's micro batches of a global batch
    eval_step    per-protein columns of one micro batch, without gradient
    save, load   everything that the next step depends on, into and out of a directory
    module       the whole model, gathered on every worker (ZeRO-3 keeps it in pieces)

Loss = sum of losses over the global batch / number of scored labels in the global batch, whoever holds them: the
gradient does not depend on workers, micro batches or ZeRO stage.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch import distributed as dist

from proteinlm.models.objectives import NOT_SCORED
from proteinlm.platform.config import OptimizerSection, TrainingSection
from proteinlm.platform.training.optim import make_optimizer, set_learning_rate
from proteinlm.tasks.task import Batch, TaskModel

_TAG = "state"
_PLAIN_FILE = "state.pt"


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step gave, over all workers."""

    loss: float
    """Mean loss of a scored label of the global batch."""
    scored: int
    gradient_norm: float
    """Norm of the whole gradient before clipping."""


class Engine(Protocol):
    """What the loop needs; see the module's docstring."""

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport: ...  # noqa: D102

    def eval_step(self, batch: Batch) -> dict[str, Tensor]: ...  # noqa: D102

    def save(self, directory: Path) -> None: ...  # noqa: D102

    def load(self, directory: Path) -> None: ...  # noqa: D102

    @contextmanager
    def module(self) -> Iterator[TaskModel]: ...  # noqa: D102


def make_engine(
    model: TaskModel,
    training: TrainingSection,
    optimizer: OptimizerSection,
    *,
    device: torch.device,
    micro_batches: int,
) -> Engine:
    """The engine that `training.engine` names; `micro_batches` per worker and step."""
    if training.engine == "plain":
        return PlainEngine(model, training, optimizer, device)
    return DeepSpeedEngine(model, training, optimizer, device, micro_batches)


def deepspeed_settings(training: TrainingSection, optimizer: OptimizerSection, micro_batches: int) -> dict[str, Any]:
    """DeepSpeed's JSON for one run; a micro batch is one sample to DeepSpeed, whatever it holds."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": optimizer.gradient_clip,
        "zero_optimization": {"stage": training.zero_stage},
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if training.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}  # weights stay fp32
    if training.precision == "fp16":
        settings["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
    return settings


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _sum_over_workers(value: Tensor) -> Tensor:
    if _world_size() > 1:
        dist.all_reduce(value)
    return value


def _count_scored(batches: Sequence[Batch], device: torch.device) -> Tensor:
    """Scored labels of the global batch, as a tensor on `device`: known before the first forward pass."""
    local = sum(int((batch.labels != NOT_SCORED).sum()) for batch in batches)
    return _sum_over_workers(torch.tensor(float(local), dtype=torch.float64)).to(device)


def _seed_dropout(seed: int, batch: Batch) -> None:
    # Dropout depends on (seed, step, rows), not on how often this worker's generator was used: resume needs no state.
    torch.manual_seed((seed * 1_000_003 + (batch.rows[0] if batch.rows else 0)) % 2**63)


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0 to 3 in the process group that Ray Train made."""

    def __init__(
        self,
        model: TaskModel,
        training: TrainingSection,
        optimizer: OptimizerSection,
        device: torch.device,
        micro_batches: int,
    ) -> None:
        import deepspeed

        self._deepspeed = deepspeed
        self._device = device
        self._zero_stage = training.zero_stage
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=make_optimizer(model, optimizer),
            config=deepspeed_settings(training, optimizer, micro_batches),
            dist_init_required=False,
        )

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """One optimizer step; all workers call it with the same number of micro batches."""
        self._engine.train()
        set_learning_rate(self._engine.optimizer.param_groups, learning_rate)
        scored = _count_scored(batches, self._device)
        # DeepSpeed averages over workers and accumulation steps; undo that, and divide by what was scored instead.
        scale = _world_size() * len(batches) / scored.clamp(min=1)
        total = torch.zeros((), dtype=torch.float64)
        for batch in batches:
            _seed_dropout(seed, batch)
            loss = self._engine(batch.to(self._device))["loss"].sum()
            self._engine.backward(loss * scale.to(loss.dtype))
            norm = self._unsharded_norm()
            self._engine.step()
            total += loss.detach().double().cpu()
        total = _sum_over_workers(total)
        norm = norm or float(self._engine.get_global_grad_norm() or 0.0)
        return StepReport(float(total / scored.cpu().clamp(min=1)), int(scored), norm)

    def _unsharded_norm(self) -> float:
        """Norm of the averaged gradient where DeepSpeed does not say it: at stage 0, before the optimizer step."""
        if self._zero_stage > 0 or self._engine.fp16_enabled() or not self._engine.is_gradient_accumulation_boundary():
            return 0.0
        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    @torch.no_grad()
    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Per-protein columns [B] of the task."""
        self._engine.eval()
        return cast(dict[str, Tensor], self._engine(batch.to(self._device)))

    def save(self, directory: Path) -> None:
        """Write this worker's part; all workers call it, each with a directory that exists."""
        self._engine.save_checkpoint(str(directory), tag=_TAG, save_latest=False)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote on the same number of workers."""
        path, _ = self._engine.load_checkpoint(str(directory), tag=_TAG)
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed state in checkpoint {directory}")

    @contextmanager
    def module(self) -> Iterator[TaskModel]:
        """The whole model on every worker."""
        model = cast(TaskModel, self._engine.module)
        if self._zero_stage < 3:
            yield model
            return
        with self._deepspeed.zero.GatheredParameters(list(model.parameters())):
            yield model


class PlainEngine:
    """PyTorch alone on one device: what small finetuning trials need, and the reference the other engine is held to."""

    def __init__(
        self, model: TaskModel, training: TrainingSection, optimizer: OptimizerSection, device: torch.device
    ) -> None:
        self._model = model.to(device)
        self._optimizer = make_optimizer(model, optimizer)
        self._device = device
        self._clip = optimizer.gradient_clip
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[training.precision]
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return cast(dict[str, Tensor], self._model(batch.to(self._device)))

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """One optimizer step."""
        self._model.train()
        set_learning_rate(self._optimizer.param_groups, learning_rate)
        scored = _count_scored(batches, self._device)
        total = torch.zeros((), dtype=torch.float64)
        self._optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            _seed_dropout(seed, batch)
            loss = self._forward(batch)["loss"].sum()
            self._scaler.scale(loss / scored.clamp(min=1).to(loss.dtype)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach().double().cpu()
        self._scaler.unscale_(self._optimizer)
        trainable = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trainable, self._clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return StepReport(float(total / scored.cpu().clamp(min=1)), int(scored), float(norm))

    @torch.no_grad()
    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Per-protein columns [B] of the task."""
        self._model.eval()
        return self._forward(batch)

    def save(self, directory: Path) -> None:
        """Write model, optimizer and loss scale."""
        state = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        torch.save(state, directory / _PLAIN_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(directory / _PLAIN_FILE, map_location=self._device, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    @contextmanager
    def module(self) -> Iterator[TaskModel]:
        """The model itself."""
        yield self._model

"""PyTorch alone behind the engine's five methods (engine.py), for one device."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from proteinlm.platform.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.optim import make_optimizer, set_learning_rate
from proteinlm.platform.training.step import StepReport, count_scored, seed_dropout
from proteinlm.tasks.task import Batch, TaskModel

_STATE_FILE = "state.pt"


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
        norm = float(torch.nn.utils.clip_grad_norm_(trainable, self._clip))
        is_skipped = not math.isfinite(norm)
        if self._scaler.is_enabled() or not is_skipped:  # the scaler passes over a step that is not finite by itself
            self._scaler.step(cast(torch.optim.Optimizer, self._optimizer))
        scale = self._scaler.get_scale()
        self._scaler.update()
        return StepReport(float(total / scored.clamp(min=1)), int(scored), norm, is_skipped, scale)

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
        torch.save(state, directory / _STATE_FILE)

    def load(self, directory: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(directory / _STATE_FILE, map_location=self._device, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        """The model itself."""
        yield self._model

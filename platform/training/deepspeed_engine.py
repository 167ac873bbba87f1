"""DeepSpeed ZeRO 0 to 3 behind the engine's five methods (engine.py); the only file that imports `deepspeed`.

ZeRO cuts the optimizer state into as many parts as there are workers and loads no other number of parts. A checkpoint
of another number of workers is therefore converted when the run starts, to DeepSpeed's universal format: whole tensors,
a file for each parameter (DeepSpeed, checkpoint/ds_to_universal.py).

In fp32 and bf16 up to stage 2 a step reads nothing back from the device: norm, clipping and the check for values that
are not finite are done here, where DeepSpeed reads the norm three times. At stage 3 it waits for its reduction in every
micro batch, and in fp16 for its loss scale; there they are left to it. Gradients of several micro batches are summed on
each worker before they are reduced (stages 0 and 1); stages 2 and 3, which keep parts of them, reduce every time.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.storage.phases import phase
from proteinlm.platform.training.engine import (
    StepReport,
    count_scored,
    scalar,
    seed_dropout,
    sum_over_workers,
    world_size,
)
from proteinlm.platform.training.optim import make_optimizer, set_learning_rate, skipping
from proteinlm.tasks.task import Batch, TaskModel

STATE_DIRECTORY = "state"
"""DeepSpeed's tag: the folder of its parts in a checkpoint."""


SMALL_BUCKETS = {"contiguous_gradients": False, "reduce_bucket_size": 5_000_000}
"""ZeRO's gradient buffers on a CPU: the large default ones, allocated anew in each step, cost twice as much."""
GPU_BUCKETS = {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
"""Elements: 200 MB of fp32, enough for full bandwidth, where the default is 2 GB. DeepSpeed's `overlap_comm` stays off
up to stage 2, for it waits for the whole device at every bucket."""


def deepspeed_settings(
    training: TrainingSection, optimizer: OptimizerSection, micro_batches: int, device: torch.device
) -> dict[str, Any]:
    """Return DeepSpeed's configuration of a run; each micro batch counts as one sample, whatever it holds."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        # At stages 1 and 2 its checkpoints hold this value; the engine clips all the same.
        "gradient_clipping": 0.0 if training.zero_stage == 0 and clips_itself(training) else optimizer.gradient_clip,
        "zero_optimization": {"stage": training.zero_stage} | (SMALL_BUCKETS if device.type == "cpu" else GPU_BUCKETS),
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device before and after every micro batch
    }
    if training.precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}  # weights stay fp32
    if training.precision == "fp16":
        settings["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2}
    return settings


def clips_itself(training: TrainingSection) -> bool:
    """Whether the engine clips and checks the gradient, without a read; else DeepSpeed does."""
    return training.zero_stage <= 2 and training.precision != "fp16"


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0 to 3 in the process group that Ray Train made."""

    def __init__(
        self,
        model: TaskModel,
        training: TrainingSection,
        optimizer: OptimizerSection,
        device: torch.device,
        micro_batches: int,
        loads_universal: bool,
    ) -> None:
        with phase("import of DeepSpeed"):
            import deepspeed

        # Else it asks a compiler about all of its extensions, and builds one whose collective only inference calls.
        deepspeed.ops.__compatible_ops__ = {}
        self._deepspeed = deepspeed
        self._device = device
        self._zero_stage = training.zero_stage
        self._own_clip = optimizer.gradient_clip if clips_itself(training) else None
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=lambda _: make_optimizer(model, optimizer),  # a callable: DeepSpeed takes Muon beside AdamW so
            config=deepspeed_settings(training, optimizer, micro_batches, device)
            | ({"checkpoint": {"load_universal": True}} if loads_universal else {}),
            dist_init_required=False,
        )

    def train_step(self, batches: Sequence[Batch], learning_rate: float, seed: int) -> StepReport:
        """Make one optimizer step; all workers call it with the same number of micro batches."""
        self._engine.train()
        set_learning_rate(self._engine.optimizer.param_groups, learning_rate)
        scored = count_scored(batches, self._device)
        # DeepSpeed averages over workers and accumulation steps; undo that, and divide by what was scored instead.
        scale = world_size() * len(batches) / scored.clamp(min=1)
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        for number, batch in enumerate(batches, start=1):
            seed_dropout(seed, batch)
            loss = self._engine(batch.to(self._device))["loss"].sum()
            self._engine.backward(loss * scale.to(loss.dtype))
            total += loss.detach()
            if number < len(batches):
                self._engine.step()  # it counts micro batches: the optimizer steps after the last one
        norm, is_skipped = self._step() if self._own_clip is None else self._step_unread(self._own_clip)
        mean_loss = sum_over_workers(total) / scored.clamp(min=1)
        loss_scale = float(getattr(self._engine.optimizer, "loss_scale", 1.0))
        return StepReport(mean_loss, scored, norm, is_skipped, scalar(loss_scale, self._device))

    def _step(self) -> tuple[Tensor, Tensor]:
        """Let DeepSpeed clip, check and step; the gradient's norm [], and whether the step was skipped [] bool."""
        self._engine.step()
        is_skipped = bool(getattr(self._engine.optimizer, "overflow", False))
        found: Tensor | float = math.nan if is_skipped else self._engine.get_global_grad_norm()
        norm = found.to(self._device) if isinstance(found, Tensor) else scalar(found, self._device)
        return norm, norm.isfinite().logical_not()

    def _step_unread(self, clip: float) -> tuple[Tensor, Tensor]:
        """What `_step` does, without reading anything back from the device."""
        if self._zero_stage == 0:
            # Gradients are averaged by now, so that all workers see the same norm.
            norm = torch.nn.utils.clip_grad_norm_(list(self._engine.module.parameters()), clip)
            is_skipped = norm.isfinite().logical_not()
            with skipping(self._engine.optimizer, is_skipped):
                self._engine.step()
            return norm, is_skipped
        zero = self._engine.optimizer
        norm = clip_partitions(zero.averaged_gradients.values(), clip)
        is_skipped = norm.isfinite().logical_not()
        configured = zero.clip_grad
        zero.compute_grad_norm, zero.clip_grad = False, 0.0
        with skipping(zero.optimizer, is_skipped):
            self._engine.step()
        zero.compute_grad_norm, zero.clip_grad = True, configured
        return norm, is_skipped

    @torch.no_grad()
    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return per-protein columns [B] of the task."""
        self._engine.eval()
        return cast(dict[str, Tensor], self._engine(batch.to(self._device)))

    def save(self, directory: Path) -> None:
        """Write this worker's part; all workers call it, each with a directory that exists."""
        self._engine.save_checkpoint(str(directory), tag=STATE_DIRECTORY, save_latest=False)
        # DeepSpeed copies its scripts (zero_to_fp32.py ...) beside the state: code that no checkpoint needs.
        for script in directory.rglob("*.py"):
            script.unlink(missing_ok=True)

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote on as many workers, or its universal form where the engine `loads_universal`."""
        own = [_settings(group) for group in self._engine.optimizer.param_groups]
        with plain_values_only():
            path, _ = self._engine.load_checkpoint(str(directory), tag=STATE_DIRECTORY)
        if path is None:
            raise FileNotFoundError(f"no DeepSpeed state in checkpoint {directory}")
        # At stage 3 the universal form gives all groups the settings of the first one (biases would decay from now on),
        # and all of them one step counter, which then counts every step once for each group.
        for group, settings in zip(self._engine.optimizer.param_groups, own, strict=True):
            group.update(settings)
        optimizer = getattr(self._engine.optimizer, "optimizer", self._engine.optimizer)
        for state in optimizer.state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].clone()

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[TaskModel]:
        """Yields the whole model on every worker; with `writes`, the first worker's changes to it are kept."""
        model = cast(TaskModel, self._engine.module)
        if self._zero_stage < 3:
            yield model
            return
        with self._deepspeed.zero.GatheredParameters(list(model.parameters()), modifier_rank=0 if writes else None):
            yield model


def clip_partitions(groups: Iterable[Sequence[Tensor]], clip: float) -> Tensor:
    """Scale the workers' parts of a gradient down to norm `clip`, in place, and return its norm [] before that.

    `groups` are this worker's parts for each parameter group; all workers call it. Norm and factor are those of
    DeepSpeed's runtime/zero/stage_1_and_2.py, to the bit.
    """
    squares = []
    for parts in groups:
        held = [part for part in parts if not getattr(part, "_zero_padding", False)]
        norms = torch.stack(torch._foreach_norm(held, 2.0, torch.float64)) if held else parts[0].new_zeros(1).double()
        squares.append(sum_over_workers(norms.pow(2.0).sum().float()))
    norm: Tensor = torch.linalg.vector_norm(torch.stack([square.pow(0.5) for square in squares]))
    factor = 1.0 / ((norm + 1e-6) / clip).clamp(min=1.0)
    torch._foreach_mul_([part for parts in groups for part in parts], factor)
    return norm


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


FORCE_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Makes torch.load pickle nothing but tensors, plain values and allowed classes, whatever its caller asks for."""


@contextmanager
def plain_values_only() -> Iterator[None]:
    """Inside the body torch.load refuses all but tensors, plain values and three small classes of DeepSpeed.

    DeepSpeed loads its checkpoints with weights_only=False, by which a checkpoint of a stranger could run code.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = os.environ.get(FORCE_WEIGHTS_ONLY)
    os.environ[FORCE_WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        os.environ.pop(FORCE_WEIGHTS_ONLY)
        if before is not None:
            os.environ[FORCE_WEIGHTS_ONLY] = before


def unreadable(file: Path) -> str:
    """Why the file of tensors cannot be loaded, in words that follow its name; "" where it can."""
    with plain_values_only():
        try:
            torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises nearly anything for a damaged file
            asked = re.search(r"GLOBAL ((?:\w+\.)*\w+)", str(error))
            if asked:
                return f"asks for {asked[1]}: refused, for a checkpoint holds tensors and plain values alone"
            return "is damaged: torch cannot read it"
    return ""


CONVERTER = "from proteinlm.platform.training.deepspeed_engine import run_converter; run_converter()"


def run_converter() -> None:
    """Be the process of `convert_to_universal`: DeepSpeed's command line, reading nothing but plain values."""
    from deepspeed.checkpoint import ds_to_universal

    with plain_values_only():
        ds_to_universal.main(ds_to_universal.parse_arguments())


def convert_to_universal(state: Path, converted: Path) -> None:
    """Write the universal form of DeepSpeed's `state` directory as `converted`; RuntimeError where that fails.

    In a process of its own: the converter forks, which a worker with threads and a process group must not.
    """
    converted.parent.mkdir(parents=True, exist_ok=True)
    folders = ["--input_folder", str(state), "--output_folder", str(converted)]
    # Engines other than Megatron's do not write the state that this flag fills in.
    command = [sys.executable, "-c", CONVERTER, *folders, "--inject_missing_state"]
    searched = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # ours may not be installed
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=searched)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the checkpoint in {state} could not be converted to the universal format: {last[0]}")

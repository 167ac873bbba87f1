"""A worker's device: precision, threads, memory, and guards that end a run which can only waste hours.

Precision follows the compute capability. `torch.cuda.is_bf16_supported()` would also say yes on a V100, which only
emulates bf16 and is slow at it.
"""

import ctypes
import gc
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from proteinlm.cluster.connect import usable_cores
from proteinlm.models.encoder import CompileMode
from proteinlm.models.varlen_attention import takes_lengths
from proteinlm.platform.settings.sections import BatchSection, TrainingSection
from proteinlm.platform.training.job import TrainingJob

Precision = Literal["fp32", "bf16", "fp16"]
FIRST_WITH_BF16 = (8, 0)
"""CUDA compute capability (sm_80, Ampere)."""


def with_precision(section: TrainingSection, device: torch.device) -> TrainingSection:
    """Return `section` with its precision settled for `device`; ValueError where the device cannot compute in it.

    All workers call it; ValueError as well where different hardware would make them compute differently.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    has_cpu_bf16 = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    settled = settle(section.precision, capability, has_cpu_bf16)
    check_agreement(settled, _everywhere(settled))
    return section.model_copy(update={"precision": settled})


def check_agreement(here: str, everywhere: Sequence[str]) -> None:
    """ValueError where workers on different hardware settled on different precisions."""
    if set(everywhere) != {here}:
        raise ValueError(
            f"training.precision: auto is {' and '.join(sorted(set(everywhere)))} on this cluster's different GPUs; "
            "accepted: one that all of them compute in, by name"
        )


def _everywhere(settled: Precision) -> list[str]:
    everyone = [str(settled)]
    if dist.is_initialized() and dist.get_world_size() > 1:
        everyone = [""] * dist.get_world_size()
        dist.all_gather_object(everyone, settled)
    return everyone


def settle(wanted: str, capability: tuple[int, int] | None, has_cpu_bf16: bool) -> Precision:
    """Return the precision for a GPU of compute `capability`, or a CPU (None); ValueError names what is accepted."""
    if wanted == "auto":
        if capability is None:
            return "bf16" if has_cpu_bf16 else "fp32"
        return "bf16" if capability >= FIRST_WITH_BF16 else "fp16"
    if wanted == "fp16" and capability is None:
        raise ValueError("training.precision: fp16 needs a GPU; accepted on this CPU: auto, bf16, fp32")
    if wanted == "bf16" and capability is not None and capability < FIRST_WITH_BF16:
        raise ValueError(
            f"training.precision: bf16 is only emulated on this GPU (sm_{capability[0]}{capability[1]}); "
            "accepted: auto, fp16, fp32"
        )
    return "fp32" if wanted == "fp32" else "bf16" if wanted == "bf16" else "fp16"


TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What matrix products compute in, by settled precision."""


def attends_by_lengths(job: TrainingJob, device: torch.device) -> bool:
    """Whether the job's model, in training, attends by cumulative lengths: its micro batches need no groups."""
    dtype = TORCH_DTYPES[job.training.precision]
    return not job.is_cnn and takes_lengths(device, dtype, job.model.head_size, job.model.dropout)


def compile_mode(job: TrainingJob, device: torch.device) -> CompileMode | None:
    """How the layers of the job's encoder are compiled on `device`; None: not at all.

    ValueError where `training.compile` asks for what cannot be: static shapes without attention by cumulative lengths,
    or compiled layers whose weights ZeRO stage 3 gathers one by one.
    """
    wanted, by_lengths = job.training.compile, attends_by_lengths(job, device)
    gathers = job.training.engine == "deepspeed" and job.training.zero_stage == 3
    if wanted == "auto":
        return "dynamic" if device.type == "cuda" and by_lengths and not gathers else None
    if wanted == "off" or job.is_cnn:
        return None
    if gathers:
        raise ValueError(f"training.compile: {wanted} does not work with training.zero_stage 3; accepted: auto, off")
    if wanted == "static" and not by_lengths:
        raise ValueError(
            "training.compile: static needs attention by cumulative lengths (a GPU of compute capability 8.0 or more, "
            "bf16 or fp16, model.dropout 0); accepted here: auto, off, dynamic"
        )
    return wanted


_CPU_ALLOCATOR = "DefaultCPUAllocator"


class SkippedSteps:
    """Counts, on the device, optimizer steps that the engine skipped because their gradient was not finite.

    Once `max_skipped_steps` in a row were skipped the count stands still, so that whether a run ends does not depend on
    when somebody looks.
    """

    def __init__(self, section: TrainingSection, before: int) -> None:
        """`before`: steps skipped before the checkpoint that the run resumes from."""
        self._most, self._before = section.max_skipped_steps, before
        self._total = self._in_a_row = self._last_good = torch.zeros((), dtype=torch.int64)

    def note(self, step: int, is_skipped: Tensor) -> None:
        """Count step `step` (1-based); `is_skipped` [] bool. Nothing waits for the device."""
        if self._total.device != is_skipped.device:  # the first step
            self._total = self._in_a_row = self._last_good = torch.zeros_like(is_skipped, dtype=torch.int64)
        is_counting = self._in_a_row < self._most
        self._total = self._total + is_skipped
        self._in_a_row = torch.where(is_counting, (self._in_a_row + 1) * is_skipped, self._in_a_row)
        self._last_good = self._last_good.masked_fill(is_counting & ~is_skipped, step)

    def total(self) -> int:
        """Wait for the device and return the steps skipped since the run began."""
        return self._before + int(self._total)

    def reason_to_stop(self, last_checkpoint: int) -> str | None:
        """Wait for the device; a message for the user once too many steps in a row were skipped, None until then."""
        in_a_row, last_good = torch.stack([self._in_a_row, self._last_good]).tolist()
        if in_a_row < self._most:
            return None
        return (
            f"training.max_skipped_steps: the loss or the gradient of the {in_a_row} optimizer steps after step "
            f"{last_good} was not finite; the checkpoint of step {last_checkpoint} is kept. "
            "Lower optimizer.learning_rate, or lengthen optimizer.warmup_steps, under another name"
        )


@contextmanager
def explained_out_of_memory(batches: BatchSection) -> Iterator[None]:
    """Turn an allocator's error into one message with the residue budget to try, as a RuntimeError."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and _CPU_ALLOCATOR not in str(error):
            raise
        raise RuntimeError(out_of_memory_message(batches)) from error


def out_of_memory_message(batches: BatchSection) -> str:
    """Return a message with the next smaller micro batch and the lanes that keep the global batch as it is."""
    smaller = max(1, batches.micro_batch_residues // 2)
    crop = f" batches.max_length={smaller}" if batches.max_length > smaller else ""
    return (
        f"out of memory: micro batches of {batches.micro_batch_residues} residues do not fit; try "
        f"batches.micro_batch_residues={smaller} batches.lanes={batches.lanes * 2}{crop} (the same global batch), "
        "or model.activation_checkpointing=true"
    )


def prepare_process(job: TrainingJob, device: torch.device, workers_on_node: int) -> None:
    """Set the process's threads, caches and warnings for `job`; `workers_on_node` workers share the node's cores."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed would look for an accelerator of its own
        # Micro batches differ in size, and oneDNN would keep kernels for the last 1024 sizes: gigabytes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        torch.set_num_threads(job.threads_per_worker or max(1, usable_cores() // workers_on_node))
    # DeepSpeed 0.19.8 uses two collectives under names that torch 2.13 calls old.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"deepspeed|torch\.distributed")


def give_back_memory() -> None:
    """Return freed memory to the operating system, where the allocator is glibc's.

    Micro batches differ in size, so freed blocks lie between used ones and glibc keeps them: about a gigabyte for each
    trial that the same process runs.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

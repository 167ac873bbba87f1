"""Which arithmetic a device is given: chosen by what its hardware computes in, not by what can be emulated.

`torch.cuda.is_bf16_supported()` also says yes on a V100, where bf16 is emulated and slow; the capability does not.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import distributed as dist

from proteinlm.platform.sections import TrainingSection

Precision = Literal["fp32", "bf16", "fp16"]
FIRST_WITH_BF16 = (8, 0)
"""CUDA compute capability (sm_80, Ampere)."""


def with_precision(section: TrainingSection, device: torch.device) -> TrainingSection:
    """`section` with its precision settled for `device`; ValueError where the device cannot compute in it.

    All workers call it: ValueError as well where they have different hardware and would compute differently.
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
    """The precision for a GPU of `capability`, or for a CPU (None); ValueError names what is accepted."""
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

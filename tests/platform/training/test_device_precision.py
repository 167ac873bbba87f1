"""Precision follows the hardware's capability: bf16 from sm_80 on, fp16 before, and no emulation."""

import pytest
import torch

from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.training.device import check_agreement, settle, with_precision

V100, A100 = (7, 0), (8, 0)


@pytest.mark.parametrize(
    ("wanted", "capability", "cpu_bf16", "settled"),
    [
        ("auto", V100, False, "fp16"),
        ("auto", A100, False, "bf16"),
        ("auto", (9, 0), True, "bf16"),
        ("auto", None, True, "bf16"),
        ("auto", None, False, "fp32"),
        ("fp16", V100, False, "fp16"),
        ("fp16", A100, False, "fp16"),
        ("bf16", None, False, "bf16"),
        ("fp32", V100, False, "fp32"),
    ],
)
def test_what_a_device_is_given(wanted: str, capability: tuple[int, int] | None, cpu_bf16: bool, settled: str) -> None:
    assert settle(wanted, capability, cpu_bf16) == settled


def test_what_a_device_cannot_compute_in_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.precision: bf16 is only emulated on this GPU \(sm_70\)"):
        settle("bf16", V100, False)
    with pytest.raises(ValueError, match=r"training\.precision: fp16 needs a GPU; accepted on this CPU: auto, bf16"):
        settle("fp16", None, True)


def test_a_section_is_settled_for_this_cpu() -> None:
    section = with_precision(TrainingSection(steps=1), torch.device("cpu"))
    assert section.precision in ("bf16", "fp32")
    assert section.steps == 1


def test_workers_that_would_compute_differently_are_refused() -> None:
    check_agreement("bf16", ["bf16", "bf16"])
    with pytest.raises(ValueError, match=r"training\.precision: auto is bf16 and fp16 on this cluster"):
        check_agreement("fp16", ["fp16", "bf16"])

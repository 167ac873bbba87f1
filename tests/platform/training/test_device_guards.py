"""Skipped steps in a row end a run; memory that runs out is one message with the budget to try."""

import pytest
import torch

from proteinlm.platform.settings.sections import BatchSection, TrainingSection
from proteinlm.platform.training.device import (
    SkippedSteps,
    explained_out_of_memory,
)
from tests.made.host_reads import HostReads

BATCHES = BatchSection(micro_batch_residues=8192, lanes=4, max_length=1024)


def test_only_steps_in_a_row_end_a_run() -> None:
    skipped = SkippedSteps(TrainingSection(steps=9, max_skipped_steps=2), before=5)
    for step, is_skipped in enumerate([True, False, True], start=1):
        skipped.note(step, torch.tensor(is_skipped))
        assert skipped.reason_to_stop(last_checkpoint=0) is None
    assert skipped.total() == 7
    skipped.note(4, torch.tensor(True))
    reason = skipped.reason_to_stop(last_checkpoint=0)
    assert reason is not None
    assert "the 2 optimizer steps after step 2 was not finite; the checkpoint of step 0 is kept" in reason


def test_a_run_ends_whenever_somebody_looks_and_counting_waits_for_no_device() -> None:
    """Good steps after too many skipped ones change nothing: the cadence of logs determines no result."""
    skipped = SkippedSteps(TrainingSection(steps=9, max_skipped_steps=2), before=0)
    with HostReads() as reads:
        noted = [zero.clone() > 0 for zero in torch.tensor([0, 1, 1, 0, 1])]
        reads.found.clear()
        for step, is_skipped in enumerate(noted, start=1):
            skipped.note(step, is_skipped)
    assert reads.found == []
    assert skipped.total() == 3
    assert "the 2 optimizer steps after step 1 was not finite" in str(skipped.reason_to_stop(last_checkpoint=0))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_the_residue_budget_to_try(error: Exception) -> None:
    words = r"micro batches of 8192 residues do not fit; try batches.micro_batch_residues=4096 batches.lanes=8 \("
    with pytest.raises(RuntimeError, match=words), explained_out_of_memory(BATCHES):
        raise error


def test_a_budget_below_the_longest_protein_crops_it_too() -> None:
    tight = BatchSection(micro_batch_residues=1500, lanes=1, max_length=1024)
    with (
        pytest.raises(RuntimeError, match=r"=750 batches\.lanes=2 batches\.max_length=750"),
        explained_out_of_memory(tight),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), explained_out_of_memory(BATCHES):
        raise RuntimeError("shapes differ")

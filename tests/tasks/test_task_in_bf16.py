"""Every task's pooling, head and loss take the bf16 hidden states that encoders give under bf16 autocast."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.tasks.catalog import TASKS, build_task
from proteinlm.tasks.task import Batch, Task
from tests.made.small_models import random_packed, tiny_model

LENGTHS = (40, 31, 60)


def batch_of(task: Task) -> Batch:
    """Labels for all tokens or proteins: classes 0 and 1, numbers, or coordinates in a box of 12 Angstrom."""
    packed = random_packed(LENGTHS)
    count = packed.num_tokens if task.label_level == "residue" else len(LENGTHS)
    generator = np.random.default_rng(0)
    shape = (count, *task.label_shape)
    is_float = np.issubdtype(np.dtype(task.label_dtype), np.floating)
    drawn = generator.uniform(1, 12, shape) if is_float else generator.integers(4, 6, shape)
    labels = torch.from_numpy(drawn.astype(task.label_dtype) - (0 if is_float or "language" in task.name else 4))
    return Batch(packed, labels, tuple(range(len(LENGTHS))))


@pytest.mark.parametrize("name", TASKS)
def test_losses_and_gradients_are_those_of_fp32_but_for_rounding(name: str) -> None:
    task = build_task(name)
    model, batch = tiny_model(task), batch_of(task)
    model.eval()  # no dropout in the head
    losses, norms = [], []
    for dtype in (None, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            columns = model(batch)
        columns["loss"].sum().backward()
        losses.append(columns["loss"])
        norms.append(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
    assert losses[1].dtype == torch.float32
    torch.testing.assert_close(losses[1], losses[0], rtol=0.03, atol=0.01)
    torch.testing.assert_close(norms[1], norms[0], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", TASKS)
def test_columns_are_of_the_proteins_and_not_of_what_fills_the_stream(name: str) -> None:
    task = build_task(name)
    model, batch = tiny_model(task).eval(), batch_of(task)
    with emulated_attention(), torch.no_grad():
        expected = model(batch)
        found = model(replace(batch, packed=batch.packed.filled(500, 7)))
    assert found.keys() == expected.keys()
    for column, values in expected.items():
        torch.testing.assert_close(found[column], values, rtol=1e-4, atol=1e-4)

"""The paper's token head, and the loss on scored tokens against torch's own."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.packed import NOT_SCORED, pack
from proteinlm.tasks.heads import TokenHead, classify_tokens, scored_tokens, sum_per_protein

LENGTHS = np.array([4, 7, 3], np.int32)


def make_packed():
    return pack(np.zeros(LENGTHS.sum(), np.uint8), LENGTHS, get_alphabet("esm"))


def test_the_head_is_the_papers():
    torch.manual_seed(0)
    head = TokenHead(64, 8)
    assert [type(layer).__name__ for layer in head.children()] == ["Linear", "Dropout", "Linear"]
    assert head.dropout.p == 0.1
    assert head.dense.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not head.dense.bias.any()
    assert not head.classifier.bias.any()
    hidden = torch.randn(5, 64)
    expected = torch.tanh(hidden @ head.dense.weight.T) @ head.classifier.weight.T
    torch.testing.assert_close(head.eval()(hidden), expected)
    # Field facts: at hidden size 3072 the paper's SS3 head has 9.45 M parameters.
    assert sum(p.numel() for p in TokenHead(3072, 3).parameters()) == 3072 * 3072 + 3072 + 3 * 3072 + 3


def test_sums_equal_torchs_cross_entropy_for_all_and_for_each_protein():
    torch.manual_seed(1)
    head, hidden = TokenHead(16, 3).eval(), torch.randn(14, 16)
    labels = torch.randint(0, 3, (14,), dtype=torch.int16)
    labels[[0, 4, 9, 11]] = NOT_SCORED
    columns, cross_entropy = classify_tokens(head, hidden, make_packed(), labels)
    logits, targets = head(hidden), labels.long()
    assert columns["loss"].sum().item() == pytest.approx(
        functional.cross_entropy(logits, targets, reduction="sum").item()
    )
    assert columns["scored"].tolist() == [3, 5, 2]
    start = 0
    for protein, length in enumerate(LENGTHS.tolist()):
        here = slice(start, start + length)
        start += length
        expected = functional.cross_entropy(logits[here], targets[here], reduction="sum")
        torch.testing.assert_close(columns["loss"][protein], expected)
        assert columns["correct"][protein] == (logits[here].argmax(1) == targets[here]).sum()
    assert len(cross_entropy) == len(scored_tokens(labels)) == 10


def test_the_gradient_is_that_of_the_summed_loss():
    torch.manual_seed(2)
    head, hidden = TokenHead(16, 3).eval(), torch.randn(14, 16, requires_grad=True)
    labels = torch.randint(0, 3, (14,))
    labels[3:6] = NOT_SCORED
    columns, _ = classify_tokens(head, hidden, make_packed(), labels)
    (ours,) = torch.autograd.grad(columns["loss"].sum(), hidden)
    (theirs,) = torch.autograd.grad(functional.cross_entropy(head(hidden), labels, reduction="sum"), hidden)
    torch.testing.assert_close(ours, theirs)
    assert not columns["correct"].requires_grad


def test_nothing_scored_gives_zeros_that_carry_a_graph():
    head, hidden = TokenHead(16, 3), torch.randn(14, 16, requires_grad=True)
    columns, _ = classify_tokens(head, hidden, make_packed(), torch.full((14,), NOT_SCORED, dtype=torch.int16))
    assert {name: values.tolist() for name, values in columns.items()} == {
        "loss": [0, 0, 0],
        "scored": [0, 0, 0],
        "correct": [0, 0, 0],
    }
    columns["loss"].sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())
    assert not hidden.grad.any()


def test_low_precision_is_summed_in_float32():
    values = torch.full((3000,), 1.0, dtype=torch.bfloat16)
    total = sum_per_protein(values, torch.zeros(3000, dtype=torch.int64), 1)
    assert total.dtype == torch.float32
    assert total.item() == 3000

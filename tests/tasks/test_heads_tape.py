"""TAPE's convolutions for residues: equal to plain ones on each protein alone, whatever lies beside it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.packed import pack
from proteinlm.tasks.heads import ConvolutionHead
from proteinlm.tasks.secondary_structure import secondary_structure
from tests.made.small_models import make_batch, make_window, secondary_structure_table, tiny_model

LENGTHS = np.array([4, 7, 1, 3], np.int32)


def make_head(num_classes: int = 3) -> ConvolutionHead:
    torch.manual_seed(0)
    head = ConvolutionHead(16, num_classes)
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    return head


def packed_of(lengths: np.ndarray):
    return pack(np.zeros(lengths.sum(), np.uint8), lengths, get_alphabet("esm"))


def test_each_protein_is_answered_as_if_alone_and_as_by_plain_convolutions():
    head, hidden = make_head().eval(), torch.randn(int(LENGTHS.sum()), 16)
    together = torch.split(head(hidden, packed_of(LENGTHS)), LENGTHS.tolist())
    plain = nn.Sequential(head.norm, head.wide, nn.ReLU(), head.narrow)
    for part, logits in zip(torch.split(hidden, LENGTHS.tolist()), together, strict=True):
        torch.testing.assert_close(logits, plain(part.T[None])[0].T, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, head(part, packed_of(np.array([len(part)]))), atol=1e-5, rtol=1e-5)


def test_weights_have_one_length_for_the_whole_kernel_and_survive_copies():
    head, hidden = make_head().eval(), torch.randn(int(LENGTHS.sum()), 16)
    assert head.wide.parametrizations.weight.original0.numel() == 1
    other = ConvolutionHead(16, 3).eval()
    other.load_state_dict(head.state_dict())
    for copied in (other, copy.deepcopy(head)):
        torch.testing.assert_close(copied(hidden, packed_of(LENGTHS)), head(hidden, packed_of(LENGTHS)))


def test_one_token_alone_can_be_trained_on():
    head = make_head().train()
    assert torch.isfinite(head(torch.randn(1, 16), packed_of(np.array([1])))).all()


@pytest.mark.parametrize("num_labels", [3, 8])
def test_secondary_structure_takes_it_and_learns(num_labels):
    task = secondary_structure(num_labels, head="tape")
    model = tiny_model(task)
    assert isinstance(model.head, ConvolutionHead)
    batch = make_batch(task, make_window(secondary_structure_table().rename_columns({"ss3": task.columns[0]})))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        columns = model(batch)
        optimizer.zero_grad()
        columns["loss"].sum().backward()
        optimizer.step()
    assert columns["scored"].tolist() == [8, 6, 7]
    assert columns["correct"].sum() >= 19
    with pytest.raises(ValueError, match="head is 'conv'; accepted: paper, tape"):
        secondary_structure(num_labels, head="conv")

"""Heads for pairs of residues against the naive ones that hold the whole L x L x 2D tensor."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from proteinlm.tasks.contact_heads import ConcatenationHead, ProductHead

HIDDEN = 12
LENGTHS = [9, 1, 14]


def pair_features(head, hidden):
    """What the naive heads classify: [L, L, 2D] of one protein."""
    rows, columns = hidden[:, None].expand(len(hidden), *hidden.shape), hidden.expand(len(hidden), *hidden.shape)
    if isinstance(head, ConcatenationHead):
        return torch.cat([columns, rows], dim=2)
    return torch.cat([rows * columns, rows - columns], dim=2)


def naive_logits(head, hidden, dropout=0.0):
    """Logits [L, L, 2] of one protein, computed as the published code does, averaged with their transpose."""
    features = pair_features(head, hidden)
    if isinstance(head, ConcatenationHead):
        features = torch.tanh(functional.linear(features, head.dense_weight, head.dense_bias))
    logits = functional.linear(functional.dropout(features, dropout), head.classifier_weight, head.classifier_bias)
    return (logits + logits.transpose(0, 1)) / 2


def make_head(kind, **options):
    """A head whose biases and weights are large enough for every one of them to matter."""
    torch.manual_seed(3)
    head = kind(HIDDEN, **options)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    return head


@pytest.mark.parametrize("block_bytes", [1, 700, None])
def test_the_papers_head_equals_the_naive_one_and_so_do_its_gradients(block_bytes):
    check_equal(make_head(ConcatenationHead, dropout=0.0, block_bytes=block_bytes))


def test_tapes_head_equals_the_naive_one_and_so_do_its_gradients():
    check_equal(make_head(ProductHead, dropout=0.0))


def check_equal(head):
    hidden = torch.randn(sum(LENGTHS), HIDDEN, requires_grad=True)
    truth = [torch.rand(length, length).triu(1).round().long() for length in LENGTHS]
    ours = head(hidden, LENGTHS)
    naive = [naive_logits(head, protein) for protein in hidden.split(LENGTHS)]
    for found, logits in zip(ours, naive, strict=True):
        torch.testing.assert_close(found, logits[..., 1] - logits[..., 0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found, found.T, rtol=0, atol=1e-6)
    our_loss = sum(
        functional.binary_cross_entropy_with_logits(found.triu(1), labels.float(), reduction="sum")
        for found, labels in zip(ours, truth, strict=True)
    )
    naive_loss = sum(
        functional.cross_entropy(
            (logits * torch.ones(len(labels), len(labels)).triu(1)[..., None]).flatten(0, 1),
            labels.flatten(),
            reduction="sum",
        )
        for logits, labels in zip(naive, truth, strict=True)
    )
    inputs = [hidden, *head.parameters()]
    torch.testing.assert_close(our_loss, naive_loss, rtol=1e-6, atol=0)
    for our, their in zip(torch.autograd.grad(our_loss, inputs), torch.autograd.grad(naive_loss, inputs), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert all(map(torch.equal, head(hidden, LENGTHS), ours))


@pytest.mark.parametrize(("kind", "dropout"), [(ConcatenationHead, 0.1), (ProductHead, 0.5)])
def test_dropout_has_the_naive_heads_mean_and_variance_for_every_pair(kind, dropout):
    head = make_head(kind)
    assert head.dropout == dropout
    hidden, draws = torch.randn(3, HIDDEN), 8000
    torch.manual_seed(0)
    with torch.no_grad():
        ours = torch.stack([head(hidden, [3])[0] for _ in range(draws)])
        logits = torch.stack([naive_logits(head, hidden, dropout) for _ in range(draws)])
    naive = logits[..., 1] - logits[..., 0]
    first, second = torch.triu_indices(3, 3, 1)
    ours, naive = ours[:, first, second], naive[:, first, second]
    assert (ours.mean(0) - naive.mean(0)).abs().max() < 5 * naive.std(0).max() * math.sqrt(2 / draws)
    torch.testing.assert_close(ours.std(0), naive.std(0), rtol=0.06, atol=0)
    together = torch.corrcoef(ours.T) - torch.eye(3)
    assert together.abs().max() < 0.06  # every pair has a mask of its own
    assert not ours.std(0).eq(0).any()


def test_the_papers_backward_pass_sees_the_masks_of_the_forward_pass():
    head = make_head(ConcatenationHead, block_bytes=200).double()
    hidden = torch.randn(4, HIDDEN, dtype=torch.float64, requires_grad=True)

    def log_odds(*inputs):
        torch.manual_seed(5)
        return head(inputs[0], [4])[0]

    assert torch.autograd.gradcheck(log_odds, (hidden, *head.parameters()))


def test_the_classifiers_of_tapes_difference_learn_through_dropout_alone():
    head, hidden = make_head(ProductHead), torch.randn(5, HIDDEN)
    for is_training in (True, False):
        head.train(is_training).zero_grad()
        head(hidden, [5])[0].square().sum().backward()
        assert bool(head.classifier_weight.grad[:, HIDDEN:].any()) is is_training
        assert head.classifier_weight.grad[:, :HIDDEN].all()


@pytest.mark.parametrize("kind", [ConcatenationHead, ProductHead])
def test_autocast_leaves_no_ties_and_nothing_infinite(kind):
    head = make_head(kind, dropout=0.1)
    hidden = (100 * torch.randn(30, HIDDEN)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = head(hidden, [30])
        loss = functional.binary_cross_entropy_with_logits(found, torch.ones_like(found), reduction="sum")
        loss.backward()
    assert found.dtype == loss.dtype == torch.float32
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in (hidden, *head.parameters()))
    assert torch.unique(found[torch.ones(30, 30).triu(1) > 0]).numel() > 400


@pytest.mark.parametrize("kind", [ConcatenationHead, ProductHead])
def test_no_residues_give_a_zero_that_carries_a_graph(kind):
    head, hidden = make_head(kind), torch.zeros(0, HIDDEN, requires_grad=True)
    (found,) = head(hidden, [0])
    assert found.shape == (0, 0)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_the_heads_have_the_papers_sizes_and_start():
    head = ConcatenationHead(3072)
    # Field facts: at hidden size 3072 the paper's contact head has 18.9 M parameters.
    assert sum(p.numel() for p in head.parameters()) == 2 * 3072 * 3072 + 3072 + 2 * 3072 + 2
    assert head.dense_weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert not head.dense_bias.any()
    assert ProductHead(64).classifier_weight.shape == (2, 128)
    assert ProductHead(3072).classifier_weight.std().item() == pytest.approx(0.02, rel=0.05)

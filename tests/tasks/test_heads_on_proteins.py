"""Pooling in every alphabet, and the heads for whole proteins."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from proteinlm.models.alphabet import ALPHABETS, get_alphabet
from proteinlm.models.packed import pack
from proteinlm.tasks.heads import (
    TapeSequenceHead,
    first_token,
    get_pool,
    make_sequence_head,
    mean_of_residues,
)
from tests.made.small_models import SEQUENCES, make_window


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_pools_take_the_first_token_or_exactly_the_residues(alphabet):
    window = make_window(pa.table({"sequence": list(SEQUENCES)}), alphabet)
    packed = pack(window.tokens, window.lengths, window.alphabet)
    hidden = torch.randn(packed.num_tokens, 5)
    parts = torch.split(hidden, list(packed.lengths))
    torch.testing.assert_close(first_token(hidden, packed), torch.stack([part[0] for part in parts]))
    means = [part[1 : 1 + len(sequence)].mean(0) for part, sequence in zip(parts, SEQUENCES, strict=True)]
    torch.testing.assert_close(mean_of_residues(hidden, packed), torch.stack(means))


def test_a_protein_without_residues_is_pooled_to_zeros():
    packed = pack(np.array([0, 2], np.uint8), np.array([2]), get_alphabet("esm"))
    assert mean_of_residues(torch.randn(2, 4), packed).tolist() == [[0, 0, 0, 0]]


def test_the_papers_head_has_its_parameters():
    # Field facts: at hidden size 3072 the regression head has 9.44 M parameters, remote homology's 13.1 M.
    sizes = [sum(p.numel() for p in make_sequence_head("paper", 3072, count).parameters()) for count in (1, 1195)]
    assert [round(size / 1e6, 2) for size in sizes] == [9.44, 13.11]


def test_tapes_head_is_a_tanh_pooler_and_a_weight_normalised_perceptron():
    torch.manual_seed(0)
    head, pooled = TapeSequenceHead(16, 7), torch.randn(3, 16)
    assert head.pooler.weight.std().item() == pytest.approx(0.02, rel=0.2)
    weights = head.dense.parametrizations.weight
    assert weights.original0.numel() == 1  # one length for the whole matrix
    torch.testing.assert_close(
        weights.original0.squeeze() * weights.original1 / weights.original1.norm(), head.dense.weight
    )
    inside = torch.relu(functional.linear(torch.tanh(head.pooler(pooled)), head.dense.weight, head.dense.bias))
    torch.testing.assert_close(head(pooled), functional.linear(inside, head.output.weight, head.output.bias))


def test_tapes_head_survives_copies_and_state_dicts():
    torch.manual_seed(0)
    head, pooled = TapeSequenceHead(8, 2), torch.randn(3, 8)
    other = TapeSequenceHead(8, 2)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(copy.deepcopy(head)(pooled), head(pooled))
    torch.testing.assert_close(other(pooled), head(pooled))


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="head is 'mlp'; accepted: paper, tape"):
        make_sequence_head("mlp", 8, 1)
    with pytest.raises(ValueError, match="pool is 'max'; accepted: cls, mean"):
        get_pool("max")

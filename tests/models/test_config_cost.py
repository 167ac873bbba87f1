"""Model FLOPs against what torch counts on the real encoder and head."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, forward_flops, training_flops
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.packed import pack

CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=80)


def counted(lengths: list[int], num_scored: int, trains: bool = False) -> int:
    """Operations of matrix products that torch dispatches, in fp32 on equal lengths (attention spelled out)."""
    torch.manual_seed(0)
    encoder = ProteinEncoder(CONFIG)
    head = LanguageModelHead(CONFIG, encoder.token_embedding)
    packed = pack(np.full(sum(lengths), 5, np.uint8), np.array(lengths), get_alphabet("esm"))
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        logits = head(encoder(packed)[:num_scored])
        if trains:
            logits.sum().backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("lengths", "num_scored"), [([21], 3), ([21, 21, 21, 21], 17), ([64, 64], 128)])
def test_forward_is_what_torch_counts_where_nothing_is_padded(lengths: list[int], num_scored: int) -> None:
    assert forward_flops(CONFIG, lengths, num_scored) == counted(lengths, num_scored)


def test_training_is_three_times_forward_as_torch_counts_it() -> None:
    assert training_flops(CONFIG, [40, 40], 12) == counted([40, 40], 12, trains=True)


def test_padding_is_no_work_and_attention_has_each_proteins_own_length() -> None:
    lengths = [20, 22]
    apart = sum(forward_flops(CONFIG, [length], 2) for length in lengths)
    assert forward_flops(CONFIG, lengths, 4) == apart == counted([20], 2) + counted([22], 2)


def test_without_scored_tokens_the_encoder_alone_counts() -> None:
    head = 2 * 5 * (32 * 32 + 32 * 33)
    assert forward_flops(CONFIG, [10], 5) - forward_flops(CONFIG, [10]) == head


def test_close_to_the_formula_per_token_of_the_palm_paper() -> None:
    """6 x weights + 12 x layers x hidden x length per token, forward and backward, the head left out."""
    config = ModelConfig(hidden_size=512, num_hidden_layers=8, num_attention_heads=8)
    weights = 8 * 12 * 512 * 512
    assert training_flops(config, [256] * 4) == 1024 * (6 * weights + 12 * 8 * 512 * 256)

"""What computing takes: work by hand, and seconds at a speed."""

import math

import pytest

from proteinlm.models.config import ModelConfig, forward_flops
from proteinlm.models.work import Speed, Work, forward_work, training_passes

CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)


def test_each_head_of_each_layer_has_a_weight_for_each_pair_of_tokens() -> None:
    work = forward_work(CONFIG, [10, 20], 5)
    assert work.flops == forward_flops(CONFIG, [10, 20], 5)
    assert work.weights == 3 * 4 * (100 + 400)


def test_time_is_the_sum_of_both() -> None:
    work = Work(6e9, 2e6) + Work(2e9, 1e6) * 2
    assert work == Work(10e9, 4e6)
    assert Speed(1e9, 1e6).seconds(work) == pytest.approx(10 + 4)
    assert Speed(1e9).seconds(work) == 10.0
    assert Speed(1e9).weights == math.inf


def test_recomputed_layers_are_one_pass_more() -> None:
    assert training_passes(CONFIG) == 3
    assert training_passes(CONFIG.model_copy(update={"activation_checkpointing": True})) == 4

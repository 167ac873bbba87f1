"""Memory of training as models/cost.py counts it, against the tensors of real steps and against peaks of an H100."""

from typing import Literal

import pytest

from proteinlm.models.config import ModelConfig
from proteinlm.models.cost import TrainingSetup, largest_micro_batch, memory_bytes
from tests.made.tensor_peak import training_peak


def shape(hidden: int, layers: int, heads: int, mlp: int | None = None, checkpointing: bool = False) -> ModelConfig:
    return ModelConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=mlp,
        activation_checkpointing=checkpointing,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "proteins", "length", "precision", "optimizer"),
    [
        (shape(64, 2, 2), 8, 128, "fp32", "adamw"),
        (shape(128, 6, 4), 16, 128, "fp32", "adamw"),
        (shape(256, 4, 4), 16, 256, "bf16", "adamw"),
        (shape(256, 4, 8), 32, 128, "fp32", "muon"),
        (shape(128, 12, 4, checkpointing=True), 32, 128, "fp32", "adamw"),
        (shape(192, 8, 6, checkpointing=True), 16, 200, "bf16", "muon"),
    ],
)
def test_memory_is_within_15_percent_of_the_peak_of_real_steps(
    config: ModelConfig,
    proteins: int,
    length: int,
    precision: Literal["fp32", "bf16"],
    optimizer: Literal["adamw", "muon"],
) -> None:
    setup = TrainingSetup(proteins * length, precision, optimizer, is_cpu=True, longest=length)
    measured = training_peak(config, [length] * proteins, is_bf16=precision == "bf16", optimizer=optimizer)
    assert memory_bytes(config, setup) == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("config", "tokens", "gib"),
    [
        (shape(1280, 33, 20), 32_768, 57.1),
        (shape(768, 24, 12, 2048), 16_384, 11.0),
        (shape(768, 24, 12, 2048), 32_768, 20.0),
        (shape(768, 24, 12, 2048), 65_536, 37.0),
        (shape(480, 12, 20), 65_536, 13.7),
    ],
)
def test_memory_agrees_with_an_h100_of_the_time_of_an_fp32_stream(config: ModelConfig, tokens: int, gib: float) -> None:
    setup = TrainingSetup(tokens, is_fp32_stream=True)
    assert memory_bytes(config, setup) / 2**30 == pytest.approx(gib, rel=0.06)


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    config, setup = shape(1280, 33, 20), TrainingSetup(0)
    most = largest_micro_batch(config, setup, 80e9)
    fitting, above = (memory_bytes(config, TrainingSetup(tokens)) for tokens in (most, most + 1))
    assert fitting <= 80e9 < above
    assert largest_micro_batch(config, setup, 1e9) == 0

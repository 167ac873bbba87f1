"""The engines agree: a global batch gives the same loss and gradient for any workers, micro batches and ZeRO stage."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch

from proteinlm.platform.training.engine import Engine, deepspeed_settings, make_engine
from tests.conftest import ROOT
from tests.platform import two_workers


def plain_engine() -> Engine:
    section = two_workers.training(0, "plain")
    return make_engine(two_workers.model(), section, two_workers.OPTIMIZER, device=torch.device("cpu"), micro_batches=1)


@pytest.fixture(scope="module")
def plain() -> list[list[float]]:
    return two_workers.losses(plain_engine(), 0, 1)


@pytest.fixture(scope="module")
def deepspeed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("engine") / "out.json"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.platform.two_workers"]
    pipe = subprocess.PIPE
    workers = [
        subprocess.Popen([*command, str(rank), str(port), str(out)], cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    texts = [worker.communicate(timeout=400)[0].decode() for worker in workers]
    assert out.is_file(), texts[0][-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_two_workers_at_every_zero_stage_equal_one_plain_worker(
    stage: str, deepspeed: dict[str, Any], plain: list[list[float]]
) -> None:
    for found, expected in zip(deepspeed[stage]["trained"], plain, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert deepspeed[stage]["weights"] == pytest.approx(deepspeed["0"]["weights"], rel=1e-6)


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_a_loaded_checkpoint_goes_on_bit_for_bit(stage: str, deepspeed: dict[str, Any]) -> None:
    assert deepspeed[stage]["after"] == deepspeed[stage]["before"]
    assert deepspeed[stage]["before"] != deepspeed[stage]["trained"]


def test_the_gradient_does_not_know_how_a_global_batch_was_cut(plain: list[list[float]]) -> None:
    engine = plain_engine()
    reports = [engine.train_step([two_workers.joined(step)], 1e-2, seed=0) for step in two_workers.global_batches()]
    for report, expected in zip(reports, plain, strict=True):
        assert [report.loss, report.gradient_norm] == pytest.approx(expected, rel=1e-5)


def test_fp16_scales_its_loss_dynamically_and_bf16_keeps_fp32_weights() -> None:
    def settings(precision: str) -> dict[str, Any]:
        section = two_workers.training(2).model_copy(update={"precision": precision})
        return deepspeed_settings(section, two_workers.OPTIMIZER, micro_batches=3)

    assert settings("fp16")["fp16"]["enabled"]
    assert "loss_scale" not in settings("fp16")["fp16"]
    assert settings("bf16")["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "bf16" not in settings("bf16")
    assert settings("fp32")["gradient_accumulation_steps"] == 3
    assert settings("fp32")["zero_optimization"]["stage"] == 2

"""When the encoder's layers are compiled, and what is refused."""

from typing import Any

import pytest
import torch

from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.platform.settings.sections import TrainingSection
from proteinlm.platform.training import device
from proteinlm.platform.training.device import compile_mode
from proteinlm.platform.training.job import TrainingJob
from tests.made.jobs import job

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def told(precision: str = "bf16", mode: str = "pretrain", **training: Any) -> TrainingJob:
    values = {"steps": 1, "precision": precision, **training}
    verb = "pretrain" if mode == "pretrain" else "finetune"
    return job(verb=verb, mode=mode, training=TrainingSection.model_validate(values))


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that attends by cumulative lengths in half precision."""
    monkeypatch.setattr(
        device, "takes_lengths", lambda at, dtype, *_: at.type == "cuda" and dtype in (torch.bfloat16, torch.float16)
    )


@pytest.mark.usefixtures("ampere")
def test_by_itself_only_where_it_helps() -> None:
    assert compile_mode(told(), GPU) == "dynamic"
    assert compile_mode(told(zero_stage=0), GPU) == "dynamic"
    assert compile_mode(told(zero_stage=3), GPU) is None
    assert compile_mode(told(zero_stage=3, engine="plain"), GPU) == "dynamic"
    assert compile_mode(told("fp32"), GPU) is None
    assert compile_mode(told(), CPU) is None
    assert compile_mode(told(mode="cnn"), GPU) is None


@pytest.mark.usefixtures("ampere")
def test_as_asked() -> None:
    assert compile_mode(told(compile="off"), GPU) is None
    assert compile_mode(told(compile="static"), GPU) == "static"
    assert compile_mode(told("fp32", compile="dynamic"), CPU) == "dynamic"
    assert compile_mode(told(mode="cnn", compile="static"), GPU) is None
    with pytest.raises(ValueError, match=r"training\.compile: static needs attention by cumulative lengths"):
        compile_mode(told("fp32", compile="static"), GPU)
    with pytest.raises(ValueError, match=r"training\.compile: dynamic does not work with training\.zero_stage 3"):
        compile_mode(told(zero_stage=3, compile="dynamic"), GPU)


def test_a_cpu_that_emulates_such_a_gpu_takes_filled_streams() -> None:
    with emulated_attention():
        assert compile_mode(told("fp32", compile="static"), CPU) == "static"

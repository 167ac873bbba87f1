"""`proteinlm plan`: figures by hand, options that are refused, and the verb on a shipped file."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proteinlm.cli import app
from proteinlm.models.config import num_parameters, training_flops
from proteinlm.models.cost import memory_bytes
from proteinlm.platform.plan import Assumed, read_devices, sent_bytes, setup_of, time_of
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import load_settings, validate
from tests.conftest import ROOT

DEVICES = read_devices()
PAPER = ROOT / "platform/configs/pretrain-200m-v100.yaml"
GIB = 2**30


def config(**changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "name": "p",
        "corpus": "c",
        "model": {"preset": "esm2-650m"},
        "batches": {"micro_batch_residues": 32_768, "lanes": 16, "max_length": 1024},
        "training": {"steps": 1000, "zero_stage": 1},
        "cluster": {"num_workers": 8},
    }
    return validate(PretrainConfig, values | changes, "test")


def test_time_is_flops_over_the_share_of_peak_and_then_what_is_sent() -> None:
    told, device = config(), DEVICES["H100-80"]
    parameters = num_parameters(told.model)
    time = time_of(told, Assumed("H100-80", gigabits=400.0), device)
    assert time is not None
    assert time.share == 0.34  # measured with this very shape
    flops = training_flops(told.model, [256], round(0.15 * 256)) / 256
    assert time.compute == pytest.approx(2 * 32_768 * flops / (0.34 * 989e12))
    assert time.communication == pytest.approx(2 * 4 * parameters * 7 / 8 * 8 / 400e9)
    assert time.residues_per_s == pytest.approx(16 * 32_768 / (time.compute + time.communication))
    assert time.seconds == pytest.approx(1000 * (time.compute + time.communication))
    of_epochs = config(training={"epochs": 1.0})
    assert (found := time_of(of_epochs, Assumed("H100-80"), device)) is not None
    assert found.seconds is None


def test_recomputed_layers_are_one_pass_more() -> None:
    kept, recomputed = (
        time_of(
            config(model={"preset": "esm2-650m", "activation_checkpointing": flag}),
            Assumed("H100-80"),
            DEVICES["H100-80"],
        )
        for flag in (False, True)
    )
    assert kept is not None
    assert recomputed is not None
    assert recomputed.compute == pytest.approx(4 / 3 * kept.compute)


def test_one_worker_sends_nothing_and_stage_3_half_as_much_again() -> None:
    assert sent_bytes(config(cluster={"num_workers": 1}), 1) == 0
    assert sent_bytes(config(), 3) == 1.5 * sent_bytes(config(), 0)
    half = config(training={"steps": 1, "precision": "fp16"})
    assert sent_bytes(half, 0) == sent_bytes(config(), 0) / 2
    plain = {"steps": 1, "engine": "plain", "precision": "fp16"}  # gradients stay fp32
    assert not setup_of(config(training=plain, cluster={"num_workers": 1})).is_half


def test_the_share_is_that_of_the_nearest_model_or_the_users() -> None:
    device = DEVICES["H100-80"]
    assert [device.share_for(round(size)) for size in (8e6, 40e6, 150e6, 3e9)] == [0.13, 0.13, 0.22, 0.34]
    assert replace(device, shares=()).share_for(1) is None
    assert time_of(config(), Assumed("H100-80"), replace(device, shares=())) is None
    mine = time_of(config(), Assumed("H100-80", share=0.5), device)
    assert mine is not None
    assert mine.share == 0.5


def test_gradients_are_there_from_the_start_with_several_micro_batches_a_step() -> None:
    alone = {"engine": "plain", "steps": 1}
    one, several = (
        setup_of(
            config(
                training=alone,
                batches={"micro_batch_residues": 4096, "lanes": lanes, "max_length": 1024},
                cluster={"num_workers": 1},
            )
        )
        for lanes in (1, 2)
    )
    assert (one.keeps_gradients, several.keeps_gradients) == (False, True)


def test_the_papers_3b_does_not_fit_a_v100_whole_but_shared_by_480() -> None:
    """Field facts: 480 V100-32GB; with 16 bytes a parameter 3 billion need some 43 GB."""
    told = config(
        model={"preset": "esm2-3b", "activation_checkpointing": True},
        training={"steps": 1, "precision": "fp16", "zero_stage": 1},
        batches={"micro_batch_residues": 2176, "lanes": 480, "max_length": 1022},
        cluster={"num_workers": 480},
    )
    assert 2.5e9 < num_parameters(told.model) < 3.5e9
    setup = setup_of(told)
    whole, shared = (memory_bytes(told.model, replace(setup, zero_stage=stage)) for stage in (0, 1))
    assert whole > 40 * GIB
    assert shared < 32 * GIB


def run(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *options], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_verb_tells_the_whole_plan_of_a_shipped_file() -> None:
    code, said = run(str(PAPER), "--price", "3")
    assert code == 0, said
    told = load_settings(PretrainConfig, PAPER, [])
    time = time_of(told, Assumed(), DEVICES["V100-32"])
    assert time is not None
    assert time.seconds is not None
    hours = time.seconds / 3600 * 32
    assert f"{hours:,.1f} device-hours, cost {3 * hours:,.2f}" in said
    assert f"{memory_bytes(told.model, setup_of(told)) / GIB:.1f}" in said
    assert all(name in said for name in (*DEVICES, "Gbit/s", "recomputed", "DLPerf"))
    assert "corpus" not in said.replace(str(PAPER), "")  # it need not be there


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "V100"], ["--device", "'V100'", "V100-32"]),
        (["--share", "1.5"], ["--share", "1.5", "at most 1"]),
        (["--gigabits", "0"], ["--gigabits", "0"]),
        (["--price", "-1"], ["--price", "-1"]),
        (["--length", "0"], ["--length", "0"]),
        (["--gigabits", "nan"], ["--gigabits", "nan"]),
        (["model.hidden_siz=8"], ["model.hidden_siz", "hidden_size"]),
    ],
)
def test_wrong_options_are_named(options: list[str], words: list[str]) -> None:
    code, said = run(str(PAPER), *options)
    assert code == 2
    assert "Traceback" not in said
    assert all(word in said for word in words), said


def test_a_users_own_table_takes_the_place_of_ours(tmp_path: Path) -> None:
    table = tmp_path / "mine.yaml"
    table.write_text(
        "Mine: {memory: 24, peak: 1.0e+14, shares: [{parameters: 1.0e+8, share: 0.5}], source: my bench}\n"
    )
    code, said = run(str(PAPER), "--device", str(table))
    assert code == 0, said
    assert "my bench" in said
    table.write_text("Mine: {memory: -1}\n")
    code, said = run(str(PAPER), "--device", str(table))
    assert code == 2
    assert "mine.yaml is no table of devices" in said
    table.write_text("{}")
    code, said = run(str(PAPER), "--device", str(table))
    assert code == 2
    assert "mine.yaml has 0 devices" in said
    code, said = run(str(PAPER), "--device", str(tmp_path / "none.yml"))
    assert code == 2
    assert "none.yml" in said


def test_every_share_of_the_table_is_one() -> None:
    for device in DEVICES.values():
        assert device.shares
        assert all(0 < one.share < 1 and math.isfinite(one.parameters) for one in device.shares)
        assert device.source


def test_a_model_far_smaller_than_any_measured_is_said_to_take_longer() -> None:
    tiny = {"model": {"preset": "cpu-tiny"}}
    assert "takes longer" in " ".join(
        Assumed("H100-80").warning(DEVICES["H100-80"], num_parameters(config(**tiny).model))
    )
    assert Assumed("H100-80", share=0.01).warning(DEVICES["H100-80"], 10**5) == []
    assert Assumed("H100-80").warning(DEVICES["H100-80"], 3 * 10**7) == []

"""`proteinlm plan` of a sweep: figures by hand, what does not fit, options that are refused, the shipped sweeps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from proteinlm.cli import app
from proteinlm.models.config import ModelConfig, forward_flops, num_parameters
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.plan import Assumed, Device, Measured, read_devices, time_of
from proteinlm.platform.results.formatting import duration
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.on_devices import assumed_work, needs_of, show_sweep
from proteinlm.sweeps.planning.plan import load_sweep, plan_sweep
from tests.conftest import ROOT
from tests.made.planned_sweep import BASE, sweep

TABLE7 = ROOT / "sweeps/table7.yaml"
DEVICES = {"Mine": Device(16, 1e12, (Measured(1e4, 0.5),), "my bench")}
MINE = Assumed("Mine", price=2.0)


def shown(gpus: int | None = None, assumed: Assumed = MINE, **changes: Any) -> str:
    console = Console(record=True, width=200)
    show_sweep(plan_sweep(sweep(**changes)), assumed, DEVICES, gpus, console)
    return console.export_text()


def test_each_trial_takes_what_its_run_takes_and_the_sweep_their_sum() -> None:
    plan = plan_sweep(sweep(pretrain={"training": {"steps": 10**6}}))
    needs = needs_of(plan, MINE, DEVICES["Mine"])
    pretraining, finetuning = needs[0], needs[2]
    assert isinstance(pretraining.trial.config, PretrainConfig)
    assert isinstance(finetuning.trial.config, FinetuneConfig)
    time = time_of(pretraining.trial.config, MINE, DEVICES["Mine"])
    assert time is not None
    assert pretraining.seconds == time.seconds
    work = assumed_work(finetuning.trial.config, pretraining.trial.config.model, 256)
    assert finetuning.seconds == pytest.approx(work.flops / 0.5e12)
    assert needs[-1].model is None  # the baseline
    total = sum(one.device_seconds for one in needs) / 3600
    text = shown(2, pretrain={"training": {"steps": 10**6}})
    assert f"5 trials, 1 of them without a device: {total:,.1f} Mine-hours, cost {2 * total:,.2f}; " in text
    assert "on 2 at once" in text


def test_a_trial_holds_all_its_workers_and_the_wall_is_no_shorter_than_a_chain() -> None:
    changes: dict[str, Any] = {
        "workers_per_trial": 4,
        "pretrain": {"training": {"steps": 10**7, "zero_stage": 1}, "batches": {"lanes": 4}},
    }
    needs = needs_of(plan_sweep(sweep(**changes)), MINE, DEVICES["Mine"])
    assert [one.workers for one in needs] == [4, 4, 1, 1, 0]
    longest = max(one.seconds or 0.0 for one in needs)
    assert needs[1].device_seconds == 4 * longest
    assert f"{duration(longest)} on 400 at once" in shown(400, **changes)
    with pytest.raises(ValueError, match=r"--gpus: found 3; accepted: 4 or more"):
        shown(3, **changes)


def test_finetuning_is_counted_for_the_records_of_tape() -> None:
    plan = plan_sweep(sweep())
    pretrained, config = plan.trials[0].config, plan.trials[2].config
    assert isinstance(pretrained, PretrainConfig)
    assert isinstance(config, FinetuneConfig)
    of_token = forward_flops(pretrained.model, [200]) / 200
    tested = (513 + 115 + 21) * 200
    once = config.training.model_copy(update={"steps": None, "epochs": 2.0, "validation_residues": 1})

    def tokens(**changes: Any) -> float:
        changed = config.model_copy(update={"training": once} | changes)
        return assumed_work(changed, pretrained.model, 200).flops / of_token

    assert tokens() == pytest.approx(3 * 2 * 8678 * 200 + tested, rel=0.03)
    assert tokens(max_train_examples=100, max_test_examples=10) == pytest.approx(3 * 2 * 100 * 200 + 30 * 200, rel=0.3)
    assert tokens(mode="frozen") == pytest.approx(8678 * 200 + tested, rel=0.01)
    longer = once.model_copy(update={"validation_residues": 10**9, "validate_every": 10**6})
    assert tokens(training=longer) - tokens() == pytest.approx(2170 * 200, rel=0.01)


def test_a_sweep_of_finetuning_alone_takes_the_shape_of_its_pretrained_model(tmp_path: Path) -> None:
    values = {key: value for key, value in BASE.items() if key not in ("pretrain", "configurations")}
    values["finetune"] = {"data": "d", "pretrained": str(tmp_path / "model"), "training": {"steps": 3}}
    with pytest.raises(FileNotFoundError, match="model"):
        needs_of(plan_sweep(validate(SweepConfig, values, "test")), MINE, DEVICES["Mine"])
    config = ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    encoder = ProteinEncoder(config)
    save_pretrained(tmp_path / "model", encoder, LanguageModelHead(config, encoder.token_embedding), {})
    plan = plan_sweep(validate(SweepConfig, values, "test"))
    finetuning, baseline = needs_of(plan, MINE, DEVICES["Mine"])
    assert finetuning.model == config
    assert baseline.model is None
    console = Console(record=True, width=200)
    show_sweep(plan, MINE, DEVICES, None, console)
    assert console.export_text().startswith("2 trials, 1 of them without a device")


def test_what_does_not_fit_is_said_with_the_micro_batch_that_would() -> None:
    tight = {"Mine": replace(DEVICES["Mine"], memory=0.01)}
    console = Console(record=True, width=300)
    plan = plan_sweep(sweep(configurations=[{"model.hidden_size": 512}], tasks=[]))
    show_sweep(plan, MINE, tight, None, console)
    text = console.export_text()
    assert "does not fit Mine (0.01 GiB, 90% of it): pretrain of hidden-512-layer-2-head-2, 1 trials" in text
    assert "fits up to 0 residues (none)" in text
    assert "does not fit" not in shown()


def test_models_far_smaller_than_any_measured_are_said_to_take_longer() -> None:
    parameters = num_parameters(needs_of(plan_sweep(sweep()), MINE, DEVICES["Mine"])[0].model)  # type: ignore[arg-type]
    small = {"Mine": replace(DEVICES["Mine"], shares=(Measured(5.0 * parameters, 0.5),))}
    for table, share, is_said in ((small, None, True), (small, 0.3, False), (DEVICES, None, False)):
        console = Console(record=True, width=300)
        show_sweep(plan_sweep(sweep()), replace(MINE, share=share), table, None, console)
        assert ("takes longer than this says" in console.export_text()) == is_said


def test_halving_is_said_not_to_be_counted() -> None:
    assert "halving is not counted" in shown(halving={"rungs": [0.1], "keep": 0.5})
    assert "halving" not in shown()


def run(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["plan", *options], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_papers_ten_shapes_on_v100s_from_the_settings_alone() -> None:
    """No corpus and no records are needed."""
    code, said = run(str(TABLE7), "--gpus", "64", "--price", "3.06")
    assert code == 0, said
    needs = needs_of(load_sweep(TABLE7), Assumed(), read_devices()["V100-32"])
    total = sum(one.device_seconds for one in needs) / 3600
    assert f"{total:,.1f} V100-32-hours, cost {3.06 * total:,.2f}" in said
    assert said.count("300,000") == 10
    # 24 layers of 3,072 take 16 bytes a parameter on the one device that the plain engine has
    assert [one.trial.label for one in needs if not one.fits] == ["hidden-3072-layer-24-head-16"] * 18
    largest = needs[9]
    assert largest.trial.label == "hidden-3072-layer-24-head-16"
    assert largest.memory < 12 * 2**30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--gpus", "8"], ["--gpus", "8", "32 or more"]),
        (["--device", "V100"], ["--device", "'V100'", "V100-32"]),
        (["pretrain.model.hidden_siz=8"], ["hidden_siz", "hidden_size"]),
    ],
)
def test_wrong_options_are_named(options: list[str], words: list[str]) -> None:
    code, said = run(str(TABLE7), *options)
    assert code == 2
    assert "Traceback" not in said
    assert all(word in said for word in words), said


def test_a_run_takes_no_number_of_devices() -> None:
    code, said = run(str(ROOT / "platform/configs/pretrain-200m-v100.yaml"), "--gpus", "8")
    assert code == 2
    assert "cluster.num_workers" in said


def test_epochs_of_a_corpus_that_is_not_here_are_not_guessed(tmp_path: Path) -> None:
    text = shown(pretrain={"training": {"steps": None, "epochs": 1.0}, "corpus": str(tmp_path / "none")})
    assert "2 trials are not in it" in text

"""Settings are what was typed; values out of range are refused by name, all in one message, before anything starts."""

from pathlib import Path

import pytest

from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import SettingsError, load_settings


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        ("storage=lab project #3", "storage", Path("lab project #3")),
        ("corpus=#3", "corpus", Path("#3")),
        ("corpus=a: b", "corpus", Path("a: b")),
        ("corpus=12", "corpus", Path("12")),
        ("corpus=[x]", "corpus", Path("[x]")),
        ("corpus='x y'", "corpus", Path("x y")),
        ("corpus=~/x", "corpus", Path.home() / "x"),
        ("corpus=~", "corpus", Path.home()),
        ("corpus=x~", "corpus", Path("x~")),
        ("name=007", "name", "007"),
        ("name=1e-3", "name", "1e-3"),
        ("name=true", "name", "true"),
        ("configuration=null", "configuration", None),
        ("configuration=2", "configuration", "2"),
    ],
)
def test_a_value_is_taken_as_it_was_typed(typed: str, name: str, value: object) -> None:
    given = ["name=a", "corpus=c", "model.preset=cpu-tiny", "training.steps=200", typed]
    assert getattr(load_settings(PretrainConfig, None, given), name) == value


def test_a_home_directory_is_meant_in_a_file_too_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\ncorpus: ~/x\nmodel: {preset: cpu-tiny}\ntraining: {steps: 200}\n")
    assert load_settings(PretrainConfig, path).corpus == Path.home() / "x"
    with pytest.raises(ValueError, match=r"corpus: found '~nobody-known/x': whose home directory '~nobody-known'"):
        load_settings(PretrainConfig, path, ["corpus=~nobody-known/x"])


def test_a_name_with_a_comment_in_it_is_no_other_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name: found 'tiny #2', expected"):
        load_settings(PretrainConfig, None, ["name=tiny #2", "corpus=c", "model.preset=cpu-tiny", "training.steps=200"])


OUT_OF_RANGE = {
    "optimizer.epsilon": [".inf", "0", "2"],
    "optimizer.betas": ["[2.0,5.0]", "[-1,0]", "[.nan,.nan]", "[0.9,1.0]"],
    "optimizer.weight_decay": [".inf", "-1", ".nan"],
    "optimizer.gradient_clip": [".inf", "0"],
    "optimizer.learning_rate": [".nan", ".inf", "2"],
    "optimizer.warmup_steps": ["-1", "10000000000000"],
    "seed": ["99999999999999999999999", "9223372036854775808", "-1"],
    "model.layer_norm_eps": [".inf", "2"],
    "model.initial_deviation": [".inf"],
    "model.num_hidden_layers": ["10000000"],
    "model.hidden_size": ["10000000000"],
    "cluster.cpus_per_worker": [".inf", "0"],
    "cluster.num_workers": ["1000000000", "[1, 1000000000]"],
    "cluster.threads_per_worker": ["1000000000"],
    "training.checkpoint_minutes": [".inf", ".nan"],
    "training.epochs": [".inf", ".nan", "1e300"],
    "training.log_every": ["0", "99999999999999999999"],
    "batches.lanes": ["1000000000000"],
    "batches.micro_batch_residues": ["99999999999999"],
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_by_its_name(name: str) -> None:
    given = ["name=a", "corpus=c", "model.preset=cpu-tiny"] + ["training.steps=200"] * (name != "training.epochs")
    for value in OUT_OF_RANGE[name]:
        with pytest.raises(SettingsError) as caught:
            load_settings(PretrainConfig, None, [*given, f"{name}={value}"])
        said = [f"{fault.name}: {fault.text}" for fault in caught.value.faults]
        key = name.rpartition(".")[2]  # a model that is too large is refused as one, by the names of its sizes
        assert any(line.startswith(name) or (line.startswith("model: ") and key in line) for line in said), said


def test_all_ranges_are_said_in_one_message() -> None:
    given = ["name=a", "corpus=c", "model.preset=cpu-tiny", "training.steps=200"]
    with pytest.raises(ValueError, match=r"3 faults in the settings") as caught:
        load_settings(
            PretrainConfig, None, [*given, "optimizer.epsilon=.inf", "optimizer.betas=[2,0.9]", f"seed={2**64}"]
        )
    for line in (
        "optimizer.epsilon: found inf, expected a finite number",
        "optimizer.betas[0]: found 2",
        "seed: found",
    ):
        assert line in str(caught.value)


def test_a_warm_up_longer_than_the_run_is_refused_where_somebody_asked_for_it() -> None:
    given = ["name=a", "corpus=c", "model.preset=cpu-tiny", "training.steps=50"]
    with pytest.raises(ValueError, match=r"optimizer\.warmup_steps is 100; accepted: up to training\.steps \(50\)"):
        load_settings(PretrainConfig, None, [*given, "optimizer.warmup_steps=100"])
    config = load_settings(PretrainConfig, None, given)
    assert PretrainConfig.model_validate(config.model_dump(mode="json")) == config  # as it crosses to a worker


def test_names_from_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text('"\\e]0;owned\\a": 1\nname: "\\e[31m"\nsteps: "\\e[31m"\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(PretrainConfig, path)
    message = str(caught.value)
    assert message.replace("\n", "").isprintable()
    assert r"\x1b]0;owned\x07: unknown setting" in message

"""Broken sweep files: each is refused in one message that names every fault by its dotted name or line."""

import re
from pathlib import Path

import pytest

from proteinlm.sweeps.planning.plan import load_sweep

GOOD = """\
name: s
pretrain: {corpus: c, model: {preset: cpu-tiny}, training: {steps: 5}}
configurations:
  - {model.hidden_size: 32}
  - {model.hidden_size: 64, like: hidden-512-layer-32-head-8}
finetune: {data: d, training: {steps: 3}}
tasks:
  - {task: secondary_structure_q3, mode: full}
"""
WITHOUT_LIST = GOOD.replace("configurations:\n", "").replace("  - {model.hidden_size: 32}\n", "")
WITHOUT_LIST = WITHOUT_LIST.replace("  - {model.hidden_size: 64, like: hidden-512-layer-32-head-8}\n", "")

BROKEN: dict[str, tuple[str, tuple[str, ...]]] = {
    "a key given twice": (GOOD + "name: again\n", ("line 9", "name")),
    "not YAML": (GOOD.replace("tasks:", "tasks: ["), ("line",)),
    "unknown section, near name": (GOOD.replace("tasks:", "task:"), ("task: unknown setting", "tasks")),
    "no name": (GOOD.replace("name: s\n", ""), ("name: not given",)),
    "list and grid": (GOOD + "grid: {seed: [0, 1]}\n", ("configurations and grid", "accepted")),
    "nothing varied": (WITHOUT_LIST, ("configurations", "grid", "search")),
    "empty grid": (WITHOUT_LIST + "grid: {seed: []}\n", ("grid.seed", "no values")),
    "unknown distribution": (
        WITHOUT_LIST + "search: {trials: 2, space: {seed: {normal: [0, 1]}}}\n",
        ("search.space.seed.normal", "unknown setting"),
    ),
    "upside-down distribution": (
        WITHOUT_LIST + "search: {trials: 2, space: {optimizer.learning_rate: {loguniform: [1e-2, 1e-4]}}}\n",
        ("search.space.optimizer.learning_rate", "loguniform", "low < high"),
    ),
    "wrong setting in one configuration": (
        GOOD.replace("{model.hidden_size: 32}", "{model.hiden_size: 32}"),
        ("configurations[0]", "model.hiden_size", "hidden_size"),
    ),
    "heads that do not divide": (
        GOOD.replace("{model.hidden_size: 32}", "{model.num_attention_heads: 5}"),
        ("configurations[0]", "num_attention_heads (5) must divide hidden_size (64)"),
    ),
    "the same trial twice": (
        GOOD.replace("64, like: hidden-512-layer-32-head-8", "32"),
        ("hidden-32-layer-2-head-2", "stands twice"),
    ),
    "wrong mode and wrong task": (
        GOOD + "  - {task: secondary_structure_q3, mode: half}\n  - {task: secondary_structure_q33, mode: full}\n",
        ("tasks[1]", "half", "tasks[2]", "secondary_structure_q33", "secondary_structure_q3"),
    ),
    "a fault in the base, in a task and in a section": (
        GOOD.replace("steps: 5", "steps: -5").replace("mode: full", "mode: ful") + "max_concurrent: none\n",
        ("training.steps", "-5", "tasks[0]", "ful", "max_concurrent"),
    ),
    "rungs that do not rise": (GOOD + "halving: {rungs: [0.5, 0.2]}\n", ("halving", "rungs", "[0.5, 0.2]", "rising")),
    "constraint upside down": (GOOD + "constraints: {parameters: [10, 1]}\n", ("constraints", "parameters", "[10, 1]")),
    "a configuration out of bounds": (
        GOOD + "constraints: {parameters: [1e6, 1e7]}\n",
        ("configurations[0]", "configurations[1]", "constraints.parameters"),
    ),
    "an unknown paper's configuration": (GOOD.replace("layer-32-head-8", "layer-32"), ("configurations[1]", "like")),
    "a number where a section belongs": (GOOD.replace("{data: d, training: {steps: 3}}", "7"), ("finetune", "7")),
    "halving of nothing": ("name: s\nhalving: {rungs: [0.5]}\ntasks: [{task: stability}]\n", ("pretrain: missing",)),
}


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path, GOOD)).sweep.name == "s"


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    text, words = BROKEN[kind]
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        load_sweep(write(tmp_path, text))
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, message


def test_a_fault_that_all_configurations_share_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps") as caught:
        load_sweep(write(tmp_path, GOOD.replace("steps: 5", "steps: -5")))
    assert str(caught.value).count("-5") == 1


def test_settings_of_the_command_line_count(tmp_path: Path) -> None:
    assert load_sweep(write(tmp_path, GOOD), ["seeds=[3]", "pretrain.training.steps=9"]).sweep.seeds == (3,)

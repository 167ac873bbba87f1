"""A finetuned model as a directory computes what it computed, for every task and mode, and is whole or not there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from proteinlm.models import model_directory
from proteinlm.models.config import ModelConfig, expand_preset
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards, read_split
from proteinlm.tasks.catalog import TAPE_TASKS, build_task
from proteinlm.tasks.finetuned import Adapters, Finetuned, load_finetuned, make_task_model, save_finetuned
from proteinlm.tasks.task import Batch, TaskModel
from tests.made.small_models import make_batch, make_window
from tests.made.tape_records import FILE_STEMS, tape_record, write_as_tape

SHAPE = ModelConfig(**expand_preset({"preset": "cpu-tiny"}))
ADAPTERS = Adapters(rank=2, alpha=4, dropout=0.1, layers=("qkv", "output"))
MODES: dict[str, Adapters | None] = {"full": None, "frozen": None, "lora": ADAPTERS, "scratch": None, "cnn": None}


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Batch]:
    """Task -> a micro batch of made-up proteins with labels."""
    folder = tmp_path_factory.mktemp("records")
    made = {}
    for task in TAPE_TASKS:
        stem = FILE_STEMS[task]
        for split in ("train", "valid"):
            if not (folder / f"{stem}_{split}.lmdb").exists():
                write_as_tape(folder / f"{stem}_{split}.lmdb", [tape_record(stem, number) for number in range(4)])
        manifest = build_task_shards(task, folder, folder / task, SplitOptions(seed=0))
        table = read_split(folder / task, manifest, "train").drop_columns(["id", "length"])
        made[task] = make_batch(build_task(task), make_window(table))
    return made


def make_model(task: str, mode: str, **options: Any) -> tuple[TaskModel, Finetuned]:
    """A model whose weights are all random, those too that start as zeros (adapters, biases)."""
    torch.manual_seed(0)
    about = Finetuned(task, options, mode, SHAPE, MODES[mode], {"run": "made", "steps": 3})
    model = make_task_model(build_task(task, **options), about)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval(), about


def outputs(model: TaskModel, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TAPE_TASKS)
def test_it_computes_what_it_computed(task: str, mode: str, tmp_path: Path, batches: dict[str, Batch]) -> None:
    model, about = make_model(task, mode)
    expected = outputs(model, batches[task])
    save_finetuned(tmp_path / "model", model, about)
    again, found = load_finetuned(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert (found.task, found.mode, found.model, found.extra) == (task, mode, SHAPE, {"run": "made", "steps": 3})
    assert not again.training
    assert again.frozen == (mode == "frozen")
    computed = outputs(again, batches[task])
    assert computed.keys() == expected.keys()
    assert all(torch.equal(computed[name], expected[name]) for name in expected)
    assert any(values.std() > 0 for values in expected.values())


@pytest.mark.parametrize(("task", "options"), [
    ("secondary_structure_q8", {"head": "tape"}),
    ("remote_homology", {"head": "tape", "pool": "mean"}),
    ("contact_prediction", {"head": "tape"}),
])  # fmt: skip
def test_options_of_the_task_are_part_of_it(
    task: str, options: dict[str, Any], tmp_path: Path, batches: dict[str, Batch]
) -> None:
    model, about = make_model(task, "full", **options)
    save_finetuned(tmp_path / "model", model, about)
    again, found = load_finetuned(tmp_path / "model")
    assert found.task_options == options
    expected, computed = outputs(model, batches[task]), outputs(again, batches[task])
    assert all(torch.equal(computed[name], expected[name]) for name in expected)


def test_config_says_what_the_metrics_are(tmp_path: Path) -> None:
    model, about = make_model("stability", "full")
    save_finetuned(tmp_path, model, about)
    said = json.loads((tmp_path / "config.json").read_text())
    assert (said["format"], said["format_version"], said["label_level"]) == ("proteinlm-finetuned", 1, "protein")
    assert said["metrics"][0] == {
        "name": "spearman",
        "definition": build_task("stability").metrics[0].definition,
        "unit": "proteins",
    }


def changed(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        file = directory / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(format="proteinlm-pretrained"), r"'proteinlm-pretrained'; 'format': 'proteinlm-finetuned' is"),
        (changed(format_version=9), r"format version 9; this program reads 1"),
        (changed(task="stabilty"), r"config\.json: .*stability"),
        (changed(task_options={"heat": 1}), r"config\.json: .*heat"),
        (changed(mode="lora", lora={"rank": 2}), r"config\.json: .*alpha"),
        (changed(mode="cnn"), r"missing .*not known"),
        (changed(model={"hidden_size": 7}), r"section 'model'"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 9), r"is not the file that config\.json"),
        (lambda path: (path / "config.json").write_text("{"), r"is not JSON"),
    ],
    ids=["format", "version", "task", "option", "adapters", "encoder", "shape", "weights", "json"],
)  # fmt: skip
def test_a_broken_directory_is_refused_by_name(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    model, about = make_model("stability", "full")
    save_finetuned(tmp_path / "model", model, about)
    change(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        load_finetuned(tmp_path / "model")


def test_a_save_that_is_cut_off_leaves_the_older_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, about = make_model("stability", "full")
    save_finetuned(tmp_path / "model", model, about)
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def cut(staging: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_directory, "_put_in_place", cut)
    with pytest.raises(KeyboardInterrupt):
        save_finetuned(tmp_path / "model", make_model("stability", "scratch")[0], about)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_no_other_directory_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    model, about = make_model("stability", "full")
    with pytest.raises(ValueError, match="is not a directory of the format proteinlm-finetuned"):
        save_finetuned(tmp_path, model, about)


def test_saving_keeps_the_model_as_it_was(tmp_path: Path) -> None:
    model, about = make_model("fluorescence", "full")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_finetuned(tmp_path / "model", model, about)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("changes", [{"rank": 0}, {"layers": ["none"]}, {"rank": "two"}, {"dropout": 7}])
def test_adapters_that_peft_refuses_are_named(changes: dict[str, object], tmp_path: Path) -> None:
    model, about = make_model("stability", "lora")
    save_finetuned(tmp_path / "model", model, about)
    config = tmp_path / "model" / "config.json"
    found = json.loads(config.read_text())
    config.write_text(json.dumps(found | {"lora": found["lora"] | changes}))
    with pytest.raises(ValueError, match=r"config\.json: \S"):
        load_finetuned(tmp_path / "model")

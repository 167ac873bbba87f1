"""The schema for editors: as committed, it takes every shipped sweep and knows every setting, and refuses mistakes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import _names
from proteinlm.platform.settings.yaml_text import parse_value, read_yaml
from proteinlm.sweeps.planning.schema import schema_text, sweep_schema
from tests.conftest import ROOT

SCHEMA = sweep_schema()
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
SMALLEST = "{name: small, pretrain: {corpus: data/pfam}, %s}"


def faults(values: object) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(values)]


def test_the_committed_schema_is_that_of_the_models() -> None:
    committed = (ROOT / "sweeps" / "sweep.schema.json").read_text()
    refresh = "python -m proteinlm.sweeps.planning.schema > sweeps/sweep.schema.json"
    assert committed == schema_text(), f"the settings have changed; run: {refresh}"


def test_it_is_a_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMA)
    resolved = [reference for reference in references(SCHEMA) if found(reference) is not None]
    assert len(resolved) == len(list(references(SCHEMA))) > 100


def references(schema: object) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def found(reference: str) -> object:
    place: Any = SCHEMA
    for key in reference.removeprefix("#/").split("/"):
        place = place.get(key, {})
    return place or None


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_is_accepted_by_every_reader_of_yaml(path: Path) -> None:
    assert faults(read_yaml(path)) == []
    assert faults(yaml.safe_load(path.read_text())) == []  # YAML 1.1: 1e-3 is text


def test_every_setting_has_a_dotted_name() -> None:
    for part, model in {"Configuration": PretrainConfig, "Grid": PretrainConfig, "Task": FinetuneConfig}.items():
        assert set(_names(model)) <= SCHEMA["$defs"][part]["properties"].keys()


def test_settings_say_what_they_are() -> None:
    patience = SCHEMA["$defs"]["TrainingSection"]["properties"]["patience"]["description"]
    assert patience.startswith("Finetuning ends after")
    assert all("description" in SCHEMA["properties"][name] for name in ("pretrain", "grid", "tasks"))


@pytest.mark.parametrize(
    "text",
    [
        "configurations: [{model.preset: cpu-tiny, like: hidden-512-layer-32-head-8, training_flops: 1e15}]",
        "configurations: [{model: {preset: cpu}, optimizer.learning_rate: '1e-3', training.steps: '1_000'}]",
        "grid: {model.hidden_size: [64, 128], objective.mask_fraction: [.15]}",
        "search: {trials: 4, space: {optimizer.learning_rate: {loguniform: [1e-4, 1e-2]}, seed: {choice: [1, 2]}}}",
        "tasks: [{task: all, mode: lora, options.head: tape, per_task.stability.training.epochs: 3}]",
        "finetune_grid: {optimizer.learning_rate: [1e-4]}, finetune: {options: {head: tape}}, seeds: [0, 1]",
    ],
)
def test_what_a_sweep_may_say_is_accepted(text: str) -> None:
    for read in (parse_value, yaml.safe_load):
        assert faults(read(SMALLEST % text)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("configuration: []", "$: Additional properties are not allowed ('configuration' was unexpected)"),
        (
            "configurations: [{model.hiden_size: 64}]",
            "$.configurations[0]: Additional properties are not allowed ('model.hiden_size'",
        ),
        ("grid: {model.hidden_size: 64}", "$.grid['model.hidden_size']: 64 is not of type 'array'"),
        ("tasks: [{task: stabilty}]", "$.tasks[0].task: 'stabilty' is not one of"),
        ("max_concurrent: 0", "$.max_concurrent: 0 is not valid under any of the given schemas"),
        ("finetune: {training: {step: 3}}", "$.finetune.training: Additional properties are not allowed ('step'"),
        ("search: {trials: 2, space: {seed: {uniform: 3}}}", "$.search: {"),
        ("configurations: [{training.steps: many}]", "$.configurations[0]['training.steps']: 'many' is not valid"),
        ("finetune: {model: {preset: cpu-tny}}", "$.finetune.model: {'preset': 'cpu-tny'} is not valid"),
        ("halving: {keep: 0.5}", "$.halving: {'keep': 0.5} is not valid"),
    ],
)
def test_a_mistake_is_refused_where_it_stands(text: str, said: str) -> None:
    (fault,) = faults(parse_value(SMALLEST % text))
    assert fault.startswith(said)

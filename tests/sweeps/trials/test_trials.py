"""What is checked of all trials before Ray starts, their inputs and storage in an S3 server among it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.places.places import place, put
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.plan import Plan, plan_finetuning, plan_sweep
from proteinlm.sweeps.trials.trials import check_trials
from tests.made.object_store import BUCKET, object_store
from tests.made.small_sweep import small_sweep


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    """The URI of a folder in a store."""
    with object_store():
        yield f"s3://{BUCKET}/lab"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab")


@pytest.fixture
def values(lab: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep, all of whose places are in the store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = small_sweep(local, "tiny")
    if not place(f"{lab}/corpus").exists():
        put(local / "corpus", place(f"{lab}/corpus"))
        put(local / "records", place(f"{lab}/records"))
    return dict(json.loads(json.dumps(made).replace(str(local), lab)))


def plan(values: dict[str, Any]) -> Plan:
    return plan_sweep(validate(SweepConfig, values, "test"))


def test_a_sweep_in_a_store_has_the_trials_of_the_one_on_a_disk(values: dict[str, Any], local: Path, lab: str) -> None:
    remote = plan(values)
    check_trials(remote.trials)
    assert [trial.name for trial in remote.trials] == [trial.name for trial in plan(small_sweep(local, "tiny")).trials]
    assert {str(trial.config.storage) for trial in remote.trials} == {f"{lab}/runs/tiny"}
    starts = [str(t.config.pretrained) for t in remote.trials if isinstance(t.config, FinetuneConfig) and t.needs]
    assert starts == [f"{lab}/runs/tiny/{trial.name}/model" for trial in remote.trials if trial.verb == "pretrain"]


def test_models_of_the_sweep_itself_are_not_fetched_to_be_checked(values: dict[str, Any], tmp_path: Path) -> None:
    """One that a killed trial had half put would else be a fault, and all others be copied to the driver's disk."""
    trials = plan(values).trials
    (place(str(trials[0].config.directory)) / "model" / "model.safetensors").write_bytes(b"half of it")
    before = [trial.name for trial in trials]
    check_trials(trials)
    assert [trial.name for trial in plan(values).trials] == before
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


def test_a_model_from_elsewhere_in_the_store_is_known_by_its_content(
    values: dict[str, Any], local: Path, lab: str
) -> None:
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    save_pretrained(local / "model", encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {})
    put(local / "model", place(f"{lab}/model"))

    def names(folder: str) -> list[str]:
        changed = values | {"finetune": values["finetune"] | {"pretrained": f"{folder}/model"}}
        trials = plan(changed).trials
        check_trials(trials)
        return [trial.name for trial in trials]

    assert names(lab) == names(str(local))
    (place(f"{lab}/model") / "config.json").unlink()
    with pytest.raises(ValueError, match=r"trial .*config.json not found"):
        names(lab)


def test_a_store_that_cannot_be_written_is_named_before_anything_is_read(values: dict[str, Any]) -> None:
    with pytest.raises(OSError, match=r"^storage: s3://no-such-bucket/.*there is no such bucket"):
        check_trials(plan(values | {"storage": "s3://no-such-bucket/runs"}).trials)


def test_several_tasks_take_uris(values: dict[str, Any], lab: str) -> None:
    settings = values["finetune"] | {"name": "many", "storage": f"{lab}/runs", "task": "secondary_structure_q3"}
    settings |= {"modes": ["scratch"], "seeds": [0, 1], "model": {"preset": "cpu-tiny"}}
    trials = plan_finetuning(validate(FinetuneConfig, settings, "test"))
    check_trials(trials)
    assert {str(trial.config.directory.parent) for trial in trials} == {f"{lab}/runs/many"}
    missing = validate(FinetuneConfig, settings | {"data": f"{lab}/nowhere"}, "test")
    with pytest.raises(ValueError, match=rf"data: no directory {lab}/nowhere"):
        check_trials(plan_finetuning(missing))

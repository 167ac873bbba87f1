"""Every shipped YAML file loads: runs against their settings, sweeps into their trials."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from proteinlm.models.config import TABLE_7
from proteinlm.platform.settings.config import CorpusConfig, FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import load_settings
from proteinlm.sweeps.planning.plan import load_sweep
from tests.conftest import ROOT
from tests.made.small_corpus import write_small_corpus

RUNS = sorted((ROOT / "platform" / "configs").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_loads(path: Path) -> None:
    models: dict[str, type[BaseModel]] = {"finetune": FinetuneConfig, "corpus": CorpusConfig}
    model = models.get(path.name.partition("-")[0], PretrainConfig)
    assert isinstance(load_settings(model, path, []), model)


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_plans(path: Path, tmp_path: Path) -> None:
    write_small_corpus(tmp_path)  # equal FLOPs are counted on the corpus
    overrides = [f"pretrain.corpus={tmp_path}"] if "\npretrain:" in path.read_text() else []
    assert len(load_sweep(path, overrides).trials) >= 4


@pytest.mark.parametrize("name", ["table7", "table7-mini"])
def test_the_ten_configurations_of_the_paper(name: str) -> None:
    trials = load_sweep(ROOT / "sweeps" / f"{name}.yaml").trials
    models = [trial.config.model for trial in trials if isinstance(trial.config, PretrainConfig)]
    wide, deep, many = (1, 1, 1) if name == "table7" else (16, 4, 2)
    assert [
        (model.hidden_size * wide, model.num_hidden_layers * deep, model.num_attention_heads * many) for model in models
    ] == list(TABLE_7)
    labels = [trial.like or trial.label for trial in trials if trial.verb == "pretrain"]
    assert labels == [f"hidden-{width}-layer-{layers}-head-{heads}" for width, layers, heads in TABLE_7]


def test_there_are_shipped_files() -> None:
    assert RUNS
    names = {"table7", "table7-mini", "learning-rate", "finetune-grid", "heads", "iso-flop"}
    assert names < {path.stem for path in SWEEPS}

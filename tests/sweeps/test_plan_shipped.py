"""Every shipped YAML file loads: runs against their settings, sweeps into their trials."""

import pytest

from proteinlm.platform.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings import load_settings
from proteinlm.sweeps.plan import SweepConfig, plan_trials
from tests.conftest import ROOT

RUNS = sorted((ROOT / "platform" / "configs").glob("*.yaml"))
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_loads(path: object) -> None:
    model = FinetuneConfig if str(path).rsplit("/", 1)[-1].startswith("finetune") else PretrainConfig
    assert load_settings(model, path, []).name  # type: ignore[type-var, arg-type]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_plans(path: object) -> None:
    assert len(plan_trials(load_settings(SweepConfig, path, []))) >= 4  # type: ignore[arg-type]


def test_there_are_shipped_files() -> None:
    assert RUNS
    assert SWEEPS

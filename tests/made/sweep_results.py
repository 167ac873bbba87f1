"""A made-up table of a sweep, and rows in run directories, for the tests of tables and pictures."""

import json
from pathlib import Path
from typing import Any

from proteinlm.platform.results.rows import append_rows
from proteinlm.platform.results.tables import Cell
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.storage.run_directory import mark_finished
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.results.runs import ConfigurationResult, SweepResults
from proteinlm.sweeps.results.table7 import COLUMNS
from tests.made.result_rows import make_row

BY_TITLE = {column.title: column for column in COLUMNS}
P_AT_L5, Q3, VALID = BY_TITLE["P@L/5"], BY_TITLE["SS Q3"], BY_TITLE["valid loss"]
TRAINING = {"steps": 4, "engine": "plain"}
HOSTILE = "loss_1 & gradient <not finite>: 100 % #1 $x^2$ {~} | \\n"
"""What a program's message may hold."""


def pretraining(name: str, *, hidden_size: int = 64, seed: int = 0, like: str | None = None) -> Trial:
    values = {
        "name": name,
        "configuration": name.removesuffix(f"-seed-{seed}"),
        "corpus": "corpus",
        "seed": seed,
        "model": {"hidden_size": hidden_size, "num_hidden_layers": 2, "num_attention_heads": 2},
        "training": TRAINING,
    }
    label = f"hidden-{hidden_size}-layer-2-head-2"
    return Trial(name, "pretrain", validate(PretrainConfig, values, "test"), None, label, like=like)


def finetuning(name: str, task: str, needs: Trial | None, *, mode: str = "full", seed: int = 0, **more: Any) -> Trial:
    values = {"name": name, "task": task, "data": "records", "mode": mode, "seed": seed, "training": TRAINING}
    values |= {"pretrained": f"runs/{needs.name}/model"} if needs else {}
    values["configuration"] = name.removesuffix(f"-seed-{seed}")
    config = validate(FinetuneConfig, values | more, "test")
    return Trial(name, "finetune", config, needs.name if needs else None, needs.label if needs else "")


def finish_run(directory: Path, trial: Trial, **changes: Any) -> None:
    """Leave one row of the trial (of Q3, or valid loss) in its run directory, and the mark."""
    about: dict[str, Any] = {
        "run": trial.name,
        "seed": trial.config.seed,
        "task": Q3.task,
        "split": Q3.split,
        "metric": Q3.metric,
        "value": 0.5,
        "num_proteins": 511,
        "num_scored": 9000,
        "definition": "right class of 3",
        "parameters": None,
    }
    if trial.verb == "pretrain":
        loss = {"task": VALID.task, "split": VALID.split, "metric": VALID.metric, "larger_is_better": False}
        about |= {"kind": "pretrain", "mode": "pretrain", "residues": 1000, **loss}
    append_rows(directory / trial.name, [make_row(**{**about, **changes})])
    mark_finished(directory / trial.name, 4)


def write_lines(path: Path, *lines: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def make_line(name: str, figures: dict[str, Cell] | None = None, **changes: Any) -> ConfigurationResult:
    """A line with figures by column title."""
    values: dict[str, Any] = {
        "mode": "full",
        "like": None,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "parameters": 105_953,
        "training_flops": 1.26e15,
        "residues": 2_000_000,
        "device_hours": 0.25,
        "pretraining": f"{name}-1a2b3c4d",
    }
    found = {BY_TITLE[title]: figure for title, figure in (figures or {}).items()}
    return ConfigurationResult(name=name, values=found, **{**values, **changes})


def make_results(*lines: ConfigurationResult, **changes: Any) -> SweepResults:
    values: dict[str, Any] = {
        "name": "made_up",
        "paper": (),
        "columns": tuple(column for column in COLUMNS if any(column in line.values for line in lines)),
        "unranked": (),
        "device": "core",
        "notes": ("P@L/5: pairs with j - i >= 6 & more",),
        "paper_notes": (),
    }
    return SweepResults(lines=lines, **{**values, **changes})


def small_results() -> SweepResults:
    """Two configurations, one that failed, a baseline, and the paper's line of the first."""
    small = make_line("hidden-64-layer-2-head-2", like="hidden-512-layer-32-head-8")
    figures = {"P@L/5": Cell(0.2512, 0.0104, 3), "SS Q3": Cell(0.6, None, 1), "valid loss": Cell(2.5, None, 1)}
    better = {"P@L/5": Cell(0.3, 0.02, 3), "SS Q3": Cell(0.6, None, 1), "valid loss": Cell(2.6, None, 1)}
    failed = {"state": "failed", "training_flops": None, "residues": None, "device_hours": None}
    baseline = {"mode": "baseline", "is_baseline": True, "pretraining": "", "parameters": 0, "hidden_size": 0}
    paper = make_line("hidden-512-layer-32-head-8", {"P@L/5": Cell(0.503, None, 1)}, parameters=0, pretraining="")
    return make_results(
        make_line(small.name, figures, like=small.like),
        make_line("hidden-96-layer-2-head-2", better),
        make_line("hidden-128-layer-2-head-2", remarks=(f"pretraining failed at step 3: {HOSTILE}",), **failed),
        make_line("one-hot window", {"SS Q3": Cell(0.55, None, 1)}, **failed | baseline | {"state": "finished"}),
        paper=(paper,),
        paper_notes=("P@L/5: every pair counts twice",),
    )

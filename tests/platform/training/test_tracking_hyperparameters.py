"""TensorBoard's HParams tab, as its own code reads the event files: all runs of a folder with settings and figures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG, SESSION_START_INFO_TAG

from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.training.evaluation import Scores
from proteinlm.platform.training.job import Run, Worker
from proteinlm.platform.training.loop import Outcome
from proteinlm.platform.training.run_job import finish, make_model
from proteinlm.platform.training.tracking import Tracker, log_result
from tests.made.jobs import job
from tests.made.small_corpus import write_small_corpus

STATUSES = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]


class Tab:
    """What the tab lists of the runs under a folder."""

    def __init__(self, folder: Path) -> None:
        runs = EventMultiplexer().AddRunsFromDirectory(str(folder))
        runs.Reload()
        context = Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(folder)), logdir=str(folder)))
        asked = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=STATUSES)
        listed = list_session_groups.Handler(RequestContext(), context, "", asked).run()
        every = api_pb2.GetExperimentRequest()
        self.columns = get_experiment.Handler(RequestContext(), context, "", every).run()
        self.rows = {group.name: group for group in listed.session_groups}

    def settings(self, run: str) -> dict[str, Any]:
        found = self.rows[run].hparams.items()
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in found}

    def figures(self, run: str) -> dict[str, float]:
        return {figure.name.tag: round(figure.value, 4) for figure in self.rows[run].metric_values}

    def status(self, run: str) -> int:
        return int(self.rows[run].sessions[0].status)


def track(run: Path, settings: dict[str, Any], first_step: int = 0) -> None:
    with Tracker(run, first_step, active=True, settings=settings) as tracker:
        tracker.log(first_step + 1, {"loss": 2.5, "valid/loss": 2.25})


def test_one_table_lists_runs_of_different_settings_and_figures(tmp_path: Path) -> None:
    plain = {"mode": "pretrain", "seed": 0, "model.activation_checkpointing": True, "optimizer.learning_rate": 0.5}
    track(tmp_path / "one", plain | {"optimizer.betas": [0.9, 0.98], "training.epochs": None})
    track(tmp_path / "two", {"mode": "full", "seed": 1, "lora.rank": 8})
    log_result(tmp_path / "two", 1, {"test/accuracy": 0.75})
    tab = Tab(tmp_path)
    one, two = "one/tensorboard", "two/tensorboard"
    assert tab.settings(one) == plain | {"optimizer.betas": "[0.9, 0.98]"}
    assert tab.settings(one)["model.activation_checkpointing"] is True
    assert tab.settings(two) == {"mode": "full", "seed": 1, "lora.rank": 8}
    assert tab.figures(one) == {"train/loss": 2.5, "valid/loss": 2.25}
    assert tab.figures(two) == tab.figures(one) | {"final/test/accuracy": 0.75}
    assert (tab.status(one), tab.status(two)) == (api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS)
    assert {column.name for column in tab.columns.hparam_infos} == {*tab.settings(one), *tab.settings(two)}
    assert [column.name.tag for column in tab.columns.metric_infos] == [
        "final/test/accuracy",
        "train/loss",
        "valid/loss",
    ]


def times_written(run: Path, tag: str) -> int:
    return sum(path.read_bytes().count(tag.encode()) for path in (run / "tensorboard").iterdir())


def test_a_run_that_goes_on_says_its_settings_once(tmp_path: Path) -> None:
    for first_step in (0, 0, 3):  # the second launch found no checkpoint yet
        track(tmp_path, {"seed": 0}, first_step)
    for _ in range(2):  # killed after its figures were written, before it was marked as finished
        log_result(tmp_path, 4, {"valid/loss": 2.0})
    assert [times_written(tmp_path, tag) for tag in (SESSION_START_INFO_TAG, SESSION_END_INFO_TAG)] == [1, 1]
    assert times_written(tmp_path, "final/valid/loss") == 1
    assert Tab(tmp_path).settings("tensorboard") == {"seed": 0}


def test_the_settings_of_a_job_are_numbers_truth_values_and_text(tmp_path: Path) -> None:
    found = job(task_options={"head": "tape"}).hyperparameters()
    assert found["model.hidden_size"] == 16
    assert found["optimizer.betas"] == [0.9, 0.98]
    wanted = {"task": "secondary_structure_q3", "mode": "full", "seed": 0, "task_options.head": "tape"}
    assert wanted.items() <= found.items()
    assert not {"name", "directory", "data", "code_version", "training.pause_at"} & found.keys()
    track(tmp_path, found)
    assert Tab(tmp_path).settings("tensorboard").keys() == {name for name in found if found[name] is not None}


def test_a_finished_run_adds_the_main_figures_of_its_rows(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path / "corpus")
    pretraining = job(
        verb="pretrain", mode="pretrain", task="masked_language_modeling", directory=tmp_path / "run", data=tmp_path
    )
    run = Run(pretraining, manifest, pretraining.build_task(manifest), Worker(0, 1, torch.device("cpu")))
    track(tmp_path / "run", pretraining.hyperparameters())
    columns = {name: np.array([3.0, 5.0]) for name in ("loss", "scored", "masked_loss", "masked", "correct")}
    scores = {split: Scores(columns, (0, 1)) for split in ("valid", "holdout")}
    finish(run, make_model(pretraining, run.task), scores, outcome=Outcome(1, 9, None), chosen=None)
    figures = Tab(tmp_path / "run").figures("tensorboard")
    rows = [row for row in gather_rows([tmp_path / "run"]) if row.is_main]
    assert {(row.split, row.metric) for row in rows} >= {("valid", "loss"), ("holdout", "perplexity")}
    assert {name: value for name, value in figures.items() if name.startswith("final/")} == {
        f"final/{row.split}/{row.metric}": round(row.value, 4) for row in rows
    }

"""What determines a run's result: every setting, but for those that are marked, and each of them on purpose."""

import pytest
from pydantic import BaseModel, Field

from proteinlm.platform.settings.config import CorpusConfig, FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.reference import settings_of
from proteinlm.platform.settings.sections import (
    BatchSection,
    NoResult,
    Section,
    determines_result,
    of_result,
    settings_of_result,
)
from proteinlm.platform.training.job import TrainingJob
from tests.made.jobs import job

CLUSTER = {
    *("cluster.address", "cluster.num_workers", "cluster.resize_minutes", "cluster.cpus_per_worker"),
    *("cluster.threads_per_worker", "cluster.use_gpu", "cluster.in_process", "cluster.max_failures"),
    *("cluster.autoscaling", "cluster.node_minutes", "cluster.dashboard"),
}
TRAINING = {
    *("training.checkpoint_every", "training.checkpoint_minutes", "training.keep_checkpoints"),
    *("training.max_skipped_steps", "training.log_every", "training.pause_at", "training.compile"),
}
RUN = {"name", "configuration", "storage"}
JOB = {"name", "configuration", "directory", "threads_per_worker", "code_version", "keep_model"}
WORK = {"work.address", "work.max_tasks", "work.chunk_bytes", "work.bucket_bytes"}


@pytest.mark.parametrize(
    ("model", "marked"),
    [
        (PretrainConfig, RUN | CLUSTER | TRAINING),
        (FinetuneConfig, RUN | CLUSTER | TRAINING | {"with_baselines", "seeds", "modes", "keep_model"}),
        (CorpusConfig, WORK),
        (TrainingJob, JOB | TRAINING),
    ],
)
def test_these_settings_change_no_result_and_all_others_do(model: type[BaseModel], marked: set[str]) -> None:
    """A new setting that changes no result is marked in its section and named here."""
    assert {each.name for each in settings_of(model) if not determines_result(model, each.name)} == marked


class Inner(Section):
    new: int = 1
    logged: NoResult[int | None] = None


class Outer(Section):
    added: str = "x"
    options: dict[str, int] = Field(default_factory=dict)
    inner: Inner | None = Inner()
    hidden: NoResult[Inner] = Inner()


def test_what_nobody_marked_counts() -> None:
    assert settings_of_result(Outer(options={"head": 2})) == {"added": "x", "options.head": 2, "inner.new": 1}
    assert settings_of_result(Outer(inner=None)) == {"added": "x", "inner": None}


def test_a_setting_of_an_older_version_counts() -> None:
    values = {"added": "y", "inner": {"gone": 3, "logged": 4}, "hidden": {"new": 5}}
    assert of_result(Outer, values) == {"added": "y", "inner.gone": 3}


def test_hyperparameters_are_what_determines_the_result_beside_the_data() -> None:
    found = job(task_options={"head": "tape"}).hyperparameters()
    assert {"task", "task_options.head", "mode", "seed", "total_steps", "model.hidden_size"} <= found.keys()
    assert not {"name", "directory", "data", "training.log_every", "training.pause_at"} & found.keys()


def test_a_draw_by_length_is_written_as_before_there_was_another() -> None:
    """Hashes of trials and settings of runs from earlier versions are made without it, and stay the same."""
    assert set(BatchSection().model_dump(mode="json")) == {"micro_batch_residues", "lanes", "max_length", "crop"}
    assert "batches.draw" not in settings_of_result(job())
    drawn = BatchSection(draw="random")
    assert BatchSection.model_validate(drawn.model_dump(mode="json")) == drawn
    assert settings_of_result(job(batches=drawn))["batches.draw"] == "random"
    assert {"batches.draw"} <= {each.name for each in settings_of(PretrainConfig)}

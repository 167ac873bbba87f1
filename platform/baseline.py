"""`proteinlm finetune ... mode=baseline`: what is reached without a language model, as rows of the same table."""

from pathlib import Path

from proteinlm.platform.config import FinetuneConfig
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.data.task_shards import read_split
from proteinlm.platform.results.measure import Measured, measure
from proteinlm.platform.results.store import append_rows
from proteinlm.platform.training.finish import mark_finished
from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.catalog import build_task


def run_baseline(config: FinetuneConfig, data: Path, manifest: Manifest, code_version: str) -> None:
    """Fit the task's baselines on the shards in `data`, score valid and test splits, write rows into the run."""
    task = build_task(config.task).on_splits(manifest.splits)
    train, valid = (read_split(data, manifest, split) for split in (task.train_split, task.valid_splits[0]))
    splits = {split: read_split(data, manifest, split) for split in (*task.valid_splits, *task.test_splits)}
    for baseline in fit_baselines(task, train, valid, config.seed):
        scores = {split: baseline.score(table) for split, table in splits.items()}
        who = Measured(
            run=config.name,
            kind="baseline",
            model=baseline.name,
            mode="-",
            seed=config.seed,
            code_version=code_version,
            settings={"description": baseline.description},
        )
        append_rows(config.directory, measure(who, task, manifest, scores))
    mark_finished(config.directory, steps=0)

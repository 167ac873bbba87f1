"""`proteinlm finetune ... mode=baseline` and `mode=probe`: what is reached without training a network, as rows of the
same table: without a language model, and from its attention maps alone.
"""

from pathlib import Path

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.config import FinetuneConfig
from proteinlm.platform.data.manifest import Manifest
from proteinlm.platform.data.task_shards import read_split
from proteinlm.platform.results.measure import Measured, measure
from proteinlm.platform.results.store import append_rows
from proteinlm.platform.training.finish import mark_finished, shape_name
from proteinlm.tasks.baselines import fit_baselines
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.contact_probe import fit_contact_probe


def run_baseline(config: FinetuneConfig, data: Path, manifest: Manifest, code_version: str) -> None:
    """Fit the task's baselines on the shards in `data`, score valid and test splits, write rows into the run."""
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
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


def run_probe(config: FinetuneConfig, data: Path, manifest: Manifest, code_version: str) -> None:
    """Fit the contact probe on the pretrained encoder's attention maps, score valid and test splits, write rows."""
    assert config.pretrained is not None
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
    encoder = load_pretrained(config.pretrained).encoder.eval()
    train, alphabet = read_split(data, manifest, task.train_split), get_alphabet(encoder.config.alphabet)
    probe = fit_contact_probe(encoder, train, alphabet, seed=config.seed)
    splits = (*task.valid_splits, *task.test_splits)
    scores = {split: probe.score(encoder, read_split(data, manifest, split)) for split in splits}
    who = Measured(
        run=config.name,
        kind="finetune",
        model=shape_name(encoder.config),
        mode=config.mode,
        seed=config.seed,
        code_version=code_version,
        settings={"description": probe.description},
    )
    append_rows(config.directory, measure(who, task, manifest, scores))
    mark_finished(config.directory, steps=0)

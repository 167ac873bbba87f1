"""What one run costs, counted before it runs: optimizer steps, residues, model FLOPs, memory, and what is computed.

    PretrainConfig -> pretraining_cost -> Cost, and pretraining_work -> Work        FinetuneConfig -> finetuning_work

They read the data set's manifest, and the lengths in the first shard of each split; no model is made. Memory is counted
by models/cost.py; what computing takes stands in models/work.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, num_parameters
from proteinlm.models.cost import memory_bytes
from proteinlm.models.pretrained import read_config
from proteinlm.models.work import TRAINING, Work, forward_work, training_passes
from proteinlm.platform.data.manifest import Manifest, read_manifest, read_shard
from proteinlm.platform.finetune import task_data
from proteinlm.platform.plan import setup_of
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig
from proteinlm.platform.training.job import batch_plan, longest_scored, total_steps
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.masked_language_modeling import NAME as MLM
from proteinlm.tasks.task import Task


@dataclass(frozen=True)
class Cost:
    """What one pretraining run costs."""

    parameters: int
    """Of encoder and language model head."""
    steps: int
    residues: float
    flops_per_residue: float
    """Model FLOPs of training, a mean over the corpus."""
    memory: float
    """Bytes of one worker: weights, gradients, optimizer state and activations."""

    @property
    def training_flops(self) -> float:
        """Model FLOPs of the whole pretraining."""
        return self.residues * self.flops_per_residue


def pretraining_cost(config: PretrainConfig) -> Cost:
    """Count what pretraining with `config` costs on its corpus; FileNotFoundError or ValueError where there is none."""
    manifest = read_manifest(config.corpus)
    steps = total_steps(config, manifest)
    return Cost(
        parameters=num_parameters(config.model),
        steps=steps,
        residues=steps * residues_per_step(config, manifest),
        flops_per_residue=flops_per_residue(config),
        memory=memory_bytes(config.model, setup_of(config, is_cpu=config.cluster.use_gpu is False)),
    )


def steps_of_flops(config: PretrainConfig, flops: float) -> int:
    """Return how many optimizer steps spend `flops` model FLOPs, at least one."""
    return max(1, round(flops / (flops_per_residue(config) * residues_per_step(config, read_manifest(config.corpus)))))


def residues_per_step(config: PretrainConfig | FinetuneConfig, manifest: Manifest) -> float:
    """Residues of a global batch, a mean over the data set; what `batches.max_length` cuts off is not counted."""
    train = manifest.split("train")
    return _cropped(config, manifest) * train.residues / batch_plan(config, train).steps_per_epoch


def flops_per_residue(config: PretrainConfig) -> float:
    """Model FLOPs of training on one residue: a mean over the first shard, which is a random sample of the corpus."""
    return TRAINING * _training_pass(config).flops


def pretraining_work(config: PretrainConfig, cost: Cost) -> Work:
    """What pretraining computes, all workers together: training and validation."""
    manifest = read_manifest(config.corpus)
    task = build_task(MLM).on_splits(manifest.splits)
    masked = config.objective.mask_fraction
    passes = [
        _forward(config.model, config.corpus, split, longest_scored(config.model), masked)
        for split in task.valid_splits
    ]
    return _training_pass(config) * (training_passes(config.model) * cost.residues) + _validation(
        config, cost.steps, manifest, task, passes
    )


def finetuning_work(config: FinetuneConfig, model: ModelConfig | None) -> Work:
    """What a finetuning trial computes: its training, and the scoring of valid and test splits; nothing for baselines.

    `model` is the one that will be there; None: `config` says it. Reads the task's records. Left out: the head, and
    what the baselines compute.
    """
    if not MODES[config.mode].is_trained:
        return Work()
    data = task_data(config)
    manifest = read_manifest(data)
    if model is None:
        model = read_config(config.pretrained) if config.pretrained else config.model
    assert model is not None
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
    steps, longest = total_steps(config, manifest), longest_scored(model)
    train = _forward(model, data, task.train_split, config.batches.max_length)
    valid, test = (
        [_forward(model, data, split, longest) for split in splits] for splits in (task.valid_splits, task.test_splits)
    )
    trained = steps * residues_per_step(config, manifest) * training_passes(model)
    if not MODES[config.mode].trains_encoder:  # embeddings are computed once
        trained, steps = float(manifest.split(task.train_split).residues), 1
    work = train * trained + _validation(config, steps, manifest, task, valid)
    for split, one in zip(task.test_splits, test, strict=True):
        work += one * manifest.split(split).residues
    return work


def _validation(
    config: PretrainConfig | FinetuneConfig, steps: int, manifest: Manifest, task: Task, passes: Sequence[Work]
) -> Work:
    """Scoring the validation splits during training and at its end; `passes`: work of a residue of each of them."""
    section = config.training
    times, work = math.ceil(steps / section.validate_every), Work()
    for split, one in zip(task.valid_splits, passes, strict=True):
        work += one * (times * min(section.validation_residues, manifest.split(split).residues))
    return work


def _training_pass(config: PretrainConfig) -> Work:
    objective = config.objective
    masked = objective.training_mask_fraction or objective.mask_fraction
    return _forward(config.model, config.corpus, "train", config.batches.max_length, masked)


def _forward(model: ModelConfig, data: Path, split: str, longest: int, masked: float = 0.0) -> Work:
    """The pass forward over one residue: a mean over the first shard of the split, whose proteins are cropped.

    `masked`: share of the residues that go through the language model head.
    """
    residues = [min(length, longest) for length in _lengths(data, split)]
    specials = get_alphabet(model.alphabet).specials_per_protein
    tokens = [length + specials for length in residues]
    return forward_work(model, tokens, round(masked * sum(residues))) * (1 / max(1, sum(residues)))


def _cropped(config: PretrainConfig | FinetuneConfig, manifest: Manifest) -> float:
    """Share of the training residues that `batches.max_length` leaves."""
    data = config.corpus if isinstance(config, PretrainConfig) else task_data(config)
    lengths = _lengths(data, "train")
    return sum(min(length, config.batches.max_length) for length in lengths) / sum(lengths)


@cache
def _lengths(data: Path, split: str) -> tuple[int, ...]:
    """Residues of each protein of the split's first shard [B]."""
    shards = read_manifest(data).split(split).shards
    return tuple(read_shard(data, shards[0], ["length"]).column("length").to_pylist()) if shards else ()

"""What one run costs, counted before it runs: optimizer steps, residues, model FLOPs, memory.

    PretrainConfig -> pretraining_cost -> Cost        FinetuneConfig -> finetuning_flops

Both read the data set's manifest, and pretraining the lengths in its first shard; no model is made. Memory is counted
by models/cost.py.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, forward_flops, num_parameters, training_flops
from proteinlm.models.cost import memory_bytes
from proteinlm.models.pretrained import read_config
from proteinlm.platform.batches.order import BatchPlan
from proteinlm.platform.data.manifest import Manifest, read_manifest, read_shard
from proteinlm.platform.finetune import task_data
from proteinlm.platform.plan import setup_of
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig
from proteinlm.tasks.catalog import build_task


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
    steps_per_epoch = _plan(config, manifest).steps_per_epoch
    steps = config.training.steps or max(1, round((config.training.epochs or 1) * steps_per_epoch))
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


def residues_per_step(config: PretrainConfig, manifest: Manifest) -> float:
    """Residues of a global batch, a mean over the corpus; what `batches.max_length` cuts off is not counted."""
    kept = [min(length, config.batches.max_length) for length in _lengths(config.corpus)]
    share = sum(kept) / sum(_lengths(config.corpus))
    return share * manifest.split("train").residues / _plan(config, manifest).steps_per_epoch


def flops_per_residue(config: PretrainConfig) -> float:
    """Model FLOPs of training on one residue: a mean over the first shard, which is a random sample of the corpus."""
    residues = [min(length, config.batches.max_length) for length in _lengths(config.corpus)]
    objective = config.objective
    scored = (objective.training_mask_fraction or objective.mask_fraction) * sum(residues)
    specials = get_alphabet(config.model.alphabet).specials_per_protein
    tokens = [length + specials for length in residues]
    return training_flops(config.model, tokens, round(scored)) / sum(residues)


def _plan(config: PretrainConfig, manifest: Manifest) -> BatchPlan:
    batches = config.batches
    return BatchPlan(manifest.split("train"), config.seed, batches.lanes, batches.micro_batch_residues)


def finetuning_flops(config: FinetuneConfig, model: ModelConfig | None) -> float:
    """Model FLOPs of a finetuning trial: its training, and the scoring of valid and test splits; 0 for baselines.

    `model` is the one that will be there; None: `config` says it. Reads the task's records.
    """
    manifest = read_manifest(task_data(config))
    if not MODES[config.mode].is_trained:
        return 0.0
    if model is None:
        model = read_config(config.pretrained) if config.pretrained else config.model
    assert model is not None
    task = build_task(config.task, **config.options).on_splits(manifest.splits)
    trained = _training_residues(config, manifest)
    scored = {split: manifest.split(split).residues for split in (*task.valid_splits, *task.test_splits)}
    of_training = 3 if MODES[config.mode].trains_encoder else 0
    return of_training * trained * _per_residue(model, manifest, task.train_split) + sum(
        residues * _per_residue(model, manifest, split) for split, residues in scored.items()
    )


def _training_residues(config: FinetuneConfig, manifest: Manifest) -> float:
    training, batches = config.training, config.batches
    if training.steps is None:
        return (training.epochs or 1) * manifest.split("train").residues
    return float(training.steps * batches.lanes * batches.micro_batch_residues)


def _per_residue(model: ModelConfig, manifest: Manifest, split: str) -> float:
    """Forward FLOPs of the encoder, at the split's mean length."""
    examples = manifest.split(split)
    if not examples.rows:
        return 0.0
    length = max(1, round(examples.residues / examples.rows))
    return forward_flops(model, [length + get_alphabet(model.alphabet).specials_per_protein]) / length


@cache
def _lengths(corpus: Path) -> tuple[int, ...]:
    """Residues of each protein of the first training shard [B]."""
    table = read_shard(corpus, read_manifest(corpus).split("train").shards[0], ["length"])
    return tuple(table.column("length").to_pylist())

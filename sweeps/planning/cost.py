"""What pretraining costs, counted before it runs: steps, residues, model FLOPs, memory.

Sources: models/cost.py for FLOPs; Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 3.1) for the 16 bytes of
weights, gradients and Adam's two moments in fp32, and section 5 for what a stage shares; Korthikanti et al. 2022
(arXiv 2205.05198, equation 2) for activations.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.cost import num_parameters, training_flops
from proteinlm.platform.batches.order import BatchPlan
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.settings.config import PretrainConfig

ADAM_BYTES = 16
"""Of one parameter: weight, gradient and two moments, fp32."""
ACTIVATION_BYTES = 34
"""Of one token, layer and hidden unit in 16 bits, the attention matrix not kept."""


@dataclass(frozen=True)
class Cost:
    """Of one pretraining trial."""

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
    """What `config` costs on its corpus; FileNotFoundError or ValueError where there is none."""
    manifest = read_manifest(config.corpus)
    steps_per_epoch = _plan(config, manifest).steps_per_epoch
    steps = config.training.steps or max(1, round((config.training.epochs or 1) * steps_per_epoch))
    return Cost(
        parameters=num_parameters(config.model),
        steps=steps,
        residues=steps * residues_per_step(config, manifest),
        flops_per_residue=flops_per_residue(config),
        memory=_memory(config),
    )


def steps_of_flops(config: PretrainConfig, flops: float) -> int:
    """Optimizer steps that spend `flops` model FLOPs, at least one."""
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


@cache
def _lengths(corpus: Path) -> tuple[int, ...]:
    """Residues of each protein of the first training shard [B]."""
    shard = corpus / read_manifest(corpus).split("train").shards[0].file
    return tuple(pq.read_table(shard, columns=["length"]).column("length").to_pylist())


def _memory(config: PretrainConfig) -> float:
    model, training = config.model, config.training
    workers = config.cluster.fewest_workers
    weights, gradients, moments = 4, 4, ADAM_BYTES - 8
    stage = training.zero_stage if training.engine == "deepspeed" else 0
    shared = [0, moments, moments + gradients, moments + gradients + weights][stage]
    of_state = num_parameters(model) * (ADAM_BYTES - shared + shared / workers)
    layers = 1 if model.activation_checkpointing else model.num_hidden_layers
    width = 2 if training.precision == "fp32" else 1
    return of_state + width * ACTIVATION_BYTES * layers * model.hidden_size * config.batches.micro_batch_residues

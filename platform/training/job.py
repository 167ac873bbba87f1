"""What a training worker is told: one plain value that travels, made from a verb's settings and read by the worker.

PretrainConfig or FinetuneConfig, manifest -> TrainingJob.of_... -> plain dict -> worker -> Run
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.platform.batches.order import BatchPlan
from proteinlm.platform.batches.windows import ReadOptions
from proteinlm.platform.data.manifest import Manifest, Split
from proteinlm.platform.places.places import PlacePath
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig, RunConfig
from proteinlm.platform.settings.sections import (
    BatchSection,
    LoraSection,
    NoResult,
    OptimizerSection,
    ProbeSection,
    Section,
    TrainingSection,
    settings_of_result,
)
from proteinlm.platform.storage.run_directory import code_version
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Task

LANGUAGE_MODELING = "masked_language_modeling"
"""The task of pretraining."""


class TrainingJob(Section):
    """Everything that determines a training run's result, and where it goes."""

    verb: Literal["pretrain", "finetune"]
    name: NoResult[str]
    configuration: NoResult[str | None] = None
    """Name that runs share which differ in their seed alone; None: the run's own."""
    directory: NoResult[PlacePath]
    """Run directory, as every node sees it."""
    task: str
    task_options: dict[str, Any]
    data: PlacePath
    """Directory of shards with a manifest."""
    model: ModelConfig
    pretrained: PlacePath | None
    """Where the encoder's weights come from; None: random ones."""
    mode: str
    """pretrain, or FinetuneConfig.mode."""
    lora: LoraSection | None = None
    """Adapters that are trained in place of the encoder's own weights."""
    keep_model: NoResult[bool] = True
    """Whether a finetuned model is saved in the run directory; a pretrained one always is."""
    probe: ProbeSection | None = None
    """What is probed at each validation of a pretraining; its `data` are shards."""
    seed: int
    batches: BatchSection
    optimizer: OptimizerSection
    training: TrainingSection
    total_steps: int
    threads_per_worker: NoResult[int | None]
    """PyTorch threads; None: the node's cores shared by its workers."""
    code_version: NoResult[str]

    @classmethod
    def of_pretraining(cls, config: PretrainConfig, manifest: Manifest, probe: ProbeSection | None) -> Self:
        """Make the job of a pretraining on the corpus of `manifest`; the `data` of `probe` are shards."""
        return cls(
            verb="pretrain",
            mode="pretrain",
            task=LANGUAGE_MODELING,
            task_options=config.objective.task_options,
            data=config.corpus.resolve(),
            model=config.model,
            pretrained=config.pretrained.resolve() if config.pretrained else None,
            probe=probe,
            name=config.name,
            configuration=config.configuration,
            directory=config.directory.resolve(),
            seed=config.seed,
            batches=config.batches,
            optimizer=config.optimizer,
            training=config.training,
            total_steps=total_steps(config, manifest),
            threads_per_worker=config.cluster.threads_per_worker,
            code_version=code_version(),
        )

    @classmethod
    def of_finetuning(cls, config: FinetuneConfig, manifest: Manifest, data: Path, model: ModelConfig) -> Self:
        """Make the job of a finetuning of an encoder of architecture `model` on the shards in `data`."""
        is_pretrained = config.pretrained is not None and MODES[config.mode].is_pretrained
        return cls(
            verb="finetune",
            mode=config.mode,
            task=config.task,
            task_options=config.options,
            data=data.resolve(),
            model=model,
            pretrained=config.pretrained.resolve() if config.pretrained and is_pretrained else None,
            lora=config.lora if config.mode == "lora" else None,
            keep_model=config.keep_model,
            name=config.name,
            configuration=config.configuration,
            directory=config.directory.resolve(),
            seed=config.seed,
            batches=config.batches,
            optimizer=config.optimizer,
            training=config.training,
            total_steps=total_steps(config, manifest),
            threads_per_worker=config.cluster.threads_per_worker,
            code_version=code_version(),
        )

    @property
    def is_cnn(self) -> bool:
        """Whether a small convolutional encoder takes the place of the transformer."""
        return self.verb == "finetune" and MODES[self.mode].encoder == "cnn"

    def build_task(self, manifest: Manifest) -> Task:
        """Build the job's task for the splits of `manifest`."""
        return build_task(self.task, **self.task_options).on_splits(manifest.splits)

    def reading(self, split: Split, *, seed: int, is_training: bool) -> ReadOptions:
        """How the rows of `split` are read: cropped in training; for scoring, whole as far as the model allows."""
        return ReadOptions(
            directory=str(self.data),
            split=split,
            alphabet=self.model.alphabet,
            task=self.task,
            task_options=self.task_options,
            seed=seed,
            max_length=self.batches.max_length if is_training else longest_scored(self.model),
            # A frozen encoder's embeddings are computed once: a random crop would be another embedding in every epoch.
            crop="start" if self.mode == "frozen" and self.batches.crop == "random" else self.batches.crop,
        )

    def hyperparameters(self) -> dict[str, Any]:
        """Dotted name -> value of all that determines the result beside the data."""
        return {name: value for name, value in settings_of_result(self).items() if name not in ("data", "probe.data")}


@dataclass(frozen=True)
class Worker:
    """One process of a run's worker group, and the device it computes on."""

    rank: int
    """0 to world_size - 1."""
    world_size: int
    """Workers of the run."""
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what is written once."""
        return self.rank == 0


@dataclass(frozen=True)
class Run:
    """A job as one of its workers runs it; the parts of the training all take it."""

    job: TrainingJob
    """Its precision is settled for the worker's device."""
    manifest: Manifest
    task: Task
    worker: Worker


def batch_plan(config: RunConfig | TrainingJob, split: Split) -> BatchPlan:
    """The order of the global batches of a run that trains on `split`."""
    section = config.batches
    return BatchPlan(split, config.seed, section.lanes, section.micro_batch_residues, section.draw, section.max_length)


def total_steps(config: RunConfig, manifest: Manifest) -> int:
    """Optimizer steps of a run: as given, or `training.epochs` passes over the training split, at least one step."""
    if config.training.steps is not None:
        return config.training.steps
    steps_per_epoch = batch_plan(config, manifest.split("train")).steps_per_epoch
    return max(1, round((config.training.epochs or 1) * steps_per_epoch))


def longest_scored(model: ModelConfig) -> int:
    """Residues of a protein that a model can score: all with rotary positions, else what its position table holds."""
    if model.position == "rotary":
        return 2**30
    return model.max_positions - get_alphabet(model.alphabet).specials_per_protein


def check_length(model: ModelConfig, batches: BatchSection) -> None:
    """ValueError where the longest crop does not fit the model's position table."""
    num_specials = get_alphabet(model.alphabet).specials_per_protein
    if model.position == "learned" and batches.max_length + num_specials > model.max_positions:
        raise ValueError(
            f"batches.max_length: {batches.max_length} residues and {num_specials} special tokens do not fit "
            f"model.max_positions ({model.max_positions})"
        )


def check_crop(batches: BatchSection, train: Split) -> None:
    """ValueError where nothing may be cropped and the train split has a protein that would be."""
    if batches.crop == "refuse" and train.longest > batches.max_length:
        raise ValueError(
            f"batches.max_length is {batches.max_length} and the longest training protein has {train.longest:,} "
            f"residues; accepted with batches.crop refuse: {train.longest} or more; or crop: random, start"
        )


def crop_notice(batches: BatchSection, train: Split) -> str | None:
    """What is done to the train split's proteins that are too long, in words; None where none is."""
    if train.longest <= batches.max_length:
        return None
    kept = {"random": "another random stretch of each in every epoch", "start": "the start of each"}[batches.crop]
    return (
        f"the longest training protein has {train.longest:,} residues: of those above batches.max_length "
        f"({batches.max_length:,}) training sees {kept} (batches.crop: {batches.crop})"
    )


def scored_notices(model: ModelConfig, manifest: Manifest, splits: Iterable[str]) -> list[str]:
    """What scoring cuts off, a sentence for each of `splits` that has a protein too long for the model."""
    longest = longest_scored(model)
    return [
        f"{split} has proteins of up to {manifest.split(split).longest:,} residues: of each the first {longest:,} are "
        "scored (model.max_positions)"
        for split in splits
        if split in manifest.splits and manifest.split(split).longest > longest
    ]

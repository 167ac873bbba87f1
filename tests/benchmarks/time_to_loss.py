"""Time to loss: the valid loss that recipes of pretraining reach in the same time on this machine.

    python -m tests.benchmarks.time_to_loss --corpus data/pfam --minutes 7

One process, the plain engine, bf16 autocast, and the batches that pretraining reads, in its order. Time is told by
measured steps, so that a busy machine does no recipe wrong:
(a) seconds of a step, reading included, for every recipe in turns, medians; they give the steps that fit into the time;
(b) each recipe is trained for so many steps, its learning rate ending there;
(c) the best one once more for half of its steps: what it reaches in half the time.
The loss is that of the whole valid split, masked as in validation (15 %), whatever share a recipe masks in training.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.masking import context_free_floor
from proteinlm.platform.batches.order import BatchPlan, WindowSlice
from proteinlm.platform.batches.windows import ReadOptions, is_empty, read_window, to_batch
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.settings.sections import (
    BatchSection,
    ObjectiveSection,
    OptimizerSection,
    TrainingSection,
)
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.evaluation import score_split
from proteinlm.platform.training.optim import learning_rate
from proteinlm.platform.training.run_job import make_engine
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.masked_language_modeling import NAME
from proteinlm.tasks.task import Batch, TaskModel
from tests.made.batches import steps_of_one_worker
from tests.made.measuring import in_turns, report

TRAINING = TrainingSection(steps=1, engine="plain", precision="bf16")
LANES = 2


@dataclass(frozen=True)
class Recipe:
    """What a pretraining configuration says, as far as it decides the loss after some minutes."""

    residues: int
    """Residues of an optimizer step, in two micro batches."""
    model: dict[str, Any]
    optimizer: dict[str, Any]
    mask_fraction: float = 0.15
    """Share of residues that are scored in training."""


def _adamw(rate: float, **others: Any) -> dict[str, Any]:
    return {"learning_rate": rate, "warmup_steps": 60, **others}


FOUR_LAYERS = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
TWO_LAYERS = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.05}
LEARNED = {**FOUR_LAYERS, "position": "learned"}

RECIPES: dict[str, Recipe] = {
    "8k adamw": Recipe(8192, FOUR_LAYERS, _adamw(1.5e-3)),
    "8k adamw, learned": Recipe(8192, LEARNED, _adamw(1.5e-3)),
    "8k muon": Recipe(8192, FOUR_LAYERS, _adamw(3e-3, name="muon")),
    "4k adamw": Recipe(4096, FOUR_LAYERS, _adamw(1e-3)),
    "2k adamw": Recipe(2048, FOUR_LAYERS, _adamw(1e-3)),
    "4k adamw, 30 %": Recipe(4096, FOUR_LAYERS, _adamw(1e-3), mask_fraction=0.3),
    "4k adamw, 30 %, 2 layers": Recipe(4096, TWO_LAYERS, _adamw(1e-3), mask_fraction=0.3),
    "4k muon, 30 %, 2 layers": Recipe(4096, TWO_LAYERS, _adamw(2e-3, name="muon"), mask_fraction=0.3),
}
"""Residues a step, optimizer, share masked in training, shape (256-4-4 unless said; two layers: 256-2-4); positions are
rotary unless said. The first is what the CPU preset was before these were compared."""


class Trial:
    """One recipe on its way: model, engine and the endless stream of its steps."""

    def __init__(self, recipe: Recipe, corpus: Path, manifest: Manifest) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.optimizer = OptimizerSection(**recipe.optimizer)
        model = ModelConfig.model_validate(recipe.model)
        objective = ObjectiveSection(mask_fraction=recipe.mask_fraction).task_options
        self.engine: Engine = make_engine(
            TaskModel(build_task(NAME, **objective), ProteinEncoder(model)),
            TRAINING,
            self.optimizer,
            device=torch.device("cpu"),
            micro_batches=LANES,
        )
        batches = BatchSection(micro_batch_residues=recipe.residues // LANES, lanes=LANES, max_length=1024)
        split = manifest.split("train")
        self.plan = BatchPlan(split, seed=0, lanes=LANES, micro_batch_residues=batches.micro_batch_residues)
        self.reading = ReadOptions(str(corpus), split, model.alphabet, NAME, objective, 0, batches.max_length)
        self.residues = 0

    def steps(self) -> Iterator[list[Batch]]:
        """The micro batches of every step, without end."""
        return steps_of_one_worker(self.reading, self.plan)

    def train(self, steps: int) -> None:
        """Train for `steps` optimizer steps, with the learning rate's schedule over them."""
        for step, batches in zip(range(steps), self.steps(), strict=False):
            self.engine.train_step(batches, learning_rate(self.optimizer, step, steps), seed=step)
            self.residues += sum(batch.num_residues for batch in batches)

    def valid_loss(self, batches: Sequence[Batch]) -> float:
        """Nats per scored residue, pooled."""
        columns = score_split(self.engine, batches, len(batches)).columns
        return float(columns["loss"].sum() / columns["scored"].sum())


def valid_split(corpus: Path, manifest: Manifest) -> list[Batch]:
    """The whole valid split, masked as validation masks it; proteins whole."""
    split, task = manifest.split("valid"), build_task(NAME)
    reading = ReadOptions(str(corpus), split, "esm", NAME, {}, split.mask_seed, max_length=2**30)
    windows = [
        read_window(reading, WindowSlice.of(split, number, max(1, shard.residues // 8192), False))
        for number, shard in enumerate(split.shards)
    ]
    places = [(window, number) for window in windows for number in range(window.num_rows)]
    return [to_batch(*place, task, get_alphabet("esm")) for place in places if not is_empty(*place)]


def seconds_of_a_step(trials: dict[str, Trial], rounds: int) -> dict[str, float]:
    """Median seconds of an optimizer step of every trial, its share of reading a window included."""
    streams = {name: trial.steps() for name, trial in trials.items()}
    turn = {name: max(1, 16384 // trial.recipe.residues) for name, trial in trials.items()}

    def take_steps(name: str) -> None:
        for _ in range(turn[name]):
            trials[name].engine.train_step(next(streams[name]), 1e-6, seed=0)

    def read(name: str) -> None:
        next(trials[name].steps())  # the first step of a stream reads a window for every lane

    in_turns({name: partial(take_steps, name) for name in trials}, 1)
    stepping = in_turns({name: partial(take_steps, name) for name in trials}, rounds)
    reading = in_turns({name: partial(read, name) for name in trials}, rounds)
    return {
        name: statistics.median(stepping[name]) / turn[name]
        + statistics.median(reading[name]) / trial.plan.micro_batches
        for name, trial in trials.items()
    }


def main() -> None:
    """Compare recipes; see the module's docstring."""
    options = _options()
    if options.list:
        print("\n".join(f"{name}: {recipe}" for name, recipe in RECIPES.items()))
        return
    if not (options.corpus / "manifest.json").is_file():
        print(f"skipped: no corpus at {options.corpus}; make one with `proteinlm corpus build`, or say --corpus")
        return
    torch.set_num_threads(options.threads)
    manifest = read_manifest(options.corpus)
    recipes = {name: RECIPES[name] for name in options.recipes}
    make = partial(Trial, corpus=options.corpus, manifest=manifest)
    seconds = seconds_of_a_step({name: make(recipe) for name, recipe in recipes.items()}, options.rounds)
    valid = valid_split(options.corpus, manifest)
    found = {}
    for name, recipe in recipes.items():
        found[name] = _measured(make(recipe), round(60 * options.minutes / seconds[name]), valid)
        _say(f"{name}: {found[name]}")
    best = min(found, key=lambda name: float(found[name]["valid_loss"]))
    half = _measured(make(recipes[best]), max(1, int(found[best]["steps"]) // 2), valid)
    floor = context_free_floor(manifest.split("valid").residue_counts).training_mix
    rows = [(name, f"{seconds[name]:.3f}", *_row(figures)) for name, figures in found.items()]
    rows.append((f"{best}, in half the time", f"{seconds[best]:.3f}", *_row(half)))
    report(
        f"Valid loss after {options.minutes:g} minutes (context-free floor {floor:.3f})",
        ("recipe", "s per step", "steps", "residues", "valid loss"),
        rows,
        {
            "minutes": options.minutes,
            "floor": floor,
            "seconds_per_step": seconds,
            "recipes": found,
            "best": best,
            "half": half,
        },
    )


def _measured(trial: Trial, steps: int, valid: Sequence[Batch]) -> dict[str, float]:
    trial.train(steps)
    return {"steps": steps, "residues": trial.residues, "valid_loss": trial.valid_loss(valid)}


def _row(figures: dict[str, float]) -> tuple[str, str, str]:
    return f"{figures['steps']}", f"{figures['residues']:,}", f"{figures['valid_loss']:.4f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=Path("data/pfam"), help="a corpus that `corpus build` made")
    parser.add_argument("--minutes", type=float, default=1.0, help="training time of each recipe")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5, help="turns of the calibration")
    parser.add_argument("--list", action="store_true", help="say what the recipes are, and stop")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Which step is chosen on valid: the best one, kept through a kill, and an end when nothing better comes."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.loop import Hooks, Schedule, train
from proteinlm.platform.training.selection import Chosen, Selection
from proteinlm.platform.training.telemetry import Meter
from tests.made.stub_engine import Decided, StubEngine, StubWriter, batch


class Weights(StubEngine):
    """An engine whose weights are the number of steps it took, over a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"head": nn.Linear(1, 1, bias=False), "encoder": nn.Linear(1, 1)})
        self.model["encoder"].requires_grad_(False)

    @property
    def steps(self) -> float:
        return self.model["head"].weight.item()

    @steps.setter
    def steps(self, value: float) -> None:
        nn.init.constant_(self.model["head"].weight, value)

    @contextmanager
    def module(self, writes: bool = False) -> Iterator[Any]:
        yield self.model


def select(folder: Path, engine: Weights, *, first_step: int = 0, larger: bool = True, patience: int | None = None):
    return Selection(
        folder,
        "valid/figure",
        larger_is_better=larger,
        patience=patience,
        first_step=first_step,
        engine=engine,
        is_first_worker=True,
    )


def note(selection: Selection, engine: Weights, figures: Mapping[int, float]) -> None:
    for step, figure in figures.items():
        engine.steps = step
        selection.note(step, {"valid/figure": figure, "test/figure": -figure})


@pytest.mark.parametrize(("larger", "best"), [(True, 20), (False, 30)])
def test_the_best_step_comes_back_and_the_first_of_equals_counts(tmp_path: Path, larger: bool, best: int) -> None:
    engine = Weights()
    selection = select(tmp_path, engine, larger=larger)
    note(selection, engine, {10: 0.5, 20: 0.7, 30: 0.1, 40: 0.7, 50: 0.1, 60: float("nan")})
    assert selection.load_best()
    assert engine.steps == best
    assert selection.chosen(60) == Chosen(best, 60, "valid/figure", 0.7 if larger else 0.1)
    (kept,) = tmp_path.glob("step_*")
    assert kept.name == f"step_{best:08d}.pt"
    assert list(torch.load(kept, weights_only=True)) == ["head.weight"], "what is frozen is not kept again"


@pytest.mark.parametrize("text", ["", "[[1, 0.", "{}", "[1]", '[["x", 1]]', "[[1, 2, 3]]", "[" * 5000, "null"])
def test_a_memory_that_is_torn_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "selection.json").write_text(text)
    with pytest.raises(ValueError, match=r"selection\.json is damaged: .*accepted: a list of \[step, value\]"):
        select(tmp_path, Weights())


def test_weights_that_are_there_already_are_not_loaded(tmp_path: Path) -> None:
    engine = Weights()
    selection = select(tmp_path, engine)
    note(selection, engine, {10: 0.5, 20: 0.7})
    assert not selection.load_best()


def test_a_resumed_run_chooses_as_one_that_never_stopped(tmp_path: Path) -> None:
    """Killed after step 40 with a checkpoint of step 20: the best of what it goes on from is 10, not 30."""
    killed = Weights()
    before = select(tmp_path, killed)
    note(before, killed, {10: 0.6, 20: 0.5})
    before.checkpointed()
    note(before, killed, {30: 0.9, 40: 0.2})
    engine = Weights()
    again = select(tmp_path, engine, first_step=20)
    assert again.best_step() == 10
    note(again, engine, {30: 0.4, 40: 0.2})  # as on a machine whose sums are not reproducible
    assert again.load_best()
    assert engine.steps == 10


def test_patience_counts_validations_without_a_better_one(tmp_path: Path) -> None:
    engine = Weights()
    selection = select(tmp_path, engine, patience=2)
    note(selection, engine, {10: 0.5, 20: 0.4})
    assert not selection.is_exhausted()
    note(selection, engine, {30: 0.6, 40: 0.6})
    assert not selection.is_exhausted()
    note(selection, engine, {50: 0.1})
    assert selection.is_exhausted()


def test_the_loop_ends_early_with_a_checkpoint(tmp_path: Path) -> None:
    engine, writer = Weights(), StubWriter()
    figures = iter([0.5, 0.6, 0.3, 0.2, 0.9])
    outcome = train(
        engine,
        [[batch(0)]] * 100,
        Schedule(0, 100, 0, TrainingSection(steps=100, validate_every=10, checkpoint_every=100), OptimizerSection()),
        Hooks(
            validate=lambda: {"valid/figure": next(figures)},
            writer=writer,
            tracker=engine,
            meter=Meter(first_residues=0),
            interrupts=Decided({}),
            selection=select(tmp_path, engine, patience=2),
        ),
    )
    assert (outcome.step, outcome.stopped) == (40, None)
    assert [(one["step"], one["wait"]) for one in writer.saved] == [(40, True)]
    # Resumed from that checkpoint, there is nothing left to train.
    exhausted = select(tmp_path, engine, first_step=40, patience=2)
    assert exhausted.is_exhausted()


def test_every_flipped_bit_of_the_best_weights_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    engine = Weights()
    note(select(tmp_path, engine), engine, {10: 0.7, 20: 0.5})
    file, generator, noticed = tmp_path / "step_00000010.pt", random.Random(0), 0
    honest = file.read_bytes()
    for _ in range(100):
        place, bit = generator.randrange(len(honest)), 1 << generator.randrange(8)
        file.write_bytes(honest[:place] + bytes([honest[place] ^ bit]) + honest[place + 1 :])
        engine.steps = 20
        try:
            select(tmp_path, engine, first_step=20).load_best()
        except ValueError as error:
            assert file.name in str(error)  # noqa: PT017  (no error is right too)
            noticed += 1
        else:
            assert engine.steps == 10
    assert noticed > 20


def test_best_weights_of_another_model_are_named(tmp_path: Path) -> None:
    engine = Weights()
    note(select(tmp_path, engine), engine, {10: 0.7, 20: 0.5})
    for state in ({}, {"head.weight": torch.zeros(2, 2)}, {"other": torch.zeros(1)}):
        torch.save(state, tmp_path / "step_00000010.pt")
        with pytest.raises(ValueError, match=r"step_00000010\.pt does not fit this model"):
            select(tmp_path, engine, first_step=20).load_best()

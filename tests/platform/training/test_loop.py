"""The loop alone, with an engine that computes nothing: cadences, counts, saving and stopping out of turn."""

from collections.abc import Mapping
from typing import Any

import pytest

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.loop import AS_ASKED, Decision, Hooks, Outcome, Schedule, train
from proteinlm.platform.training.telemetry import Meter
from tests.made.stub_engine import Decided, StubEngine, StubWriter, batch


def trained(
    engine: StubEngine, section: TrainingSection, decisions: Mapping[int, Decision] | None = None, first_step: int = 0
) -> tuple[Outcome, list[dict[str, Any]]]:
    """Train to the section's last step on batches of four residues; what was saved, in order."""
    writer = StubWriter()
    assert section.steps is not None
    outcome = train(
        engine,
        [[batch(0, 1)]] * (section.steps - first_step),
        Schedule(first_step, section.steps, 0, section, OptimizerSection(learning_rate=1.0, warmup_steps=10)),
        Hooks(
            validate=lambda: {"valid/loss": 1.0},
            writer=writer,
            tracker=engine,
            meter=Meter(first_residues=100),
            interrupts=Decided(decisions or {}, first_step),
        ),
    )
    return outcome, writer.saved


def test_steps_are_counted_from_the_checkpoint_and_cadences_kept() -> None:
    engine = StubEngine()
    section = TrainingSection(steps=10, validate_every=4, checkpoint_every=3, log_every=5)
    outcome, saved = trained(engine, section, first_step=2)
    assert [step for step, figures in engine.logged if "loss" in figures] == [3, 5, 10]
    assert [step for step, figures in engine.logged if "valid/loss" in figures] == [4, 8, 10]
    assert [one["step"] for one in saved] == [3, 6, 9, 10]
    assert saved[0] == {"step": 3, "residues": 104, "skipped_steps": 0, "metrics": {}, "wait": False}
    assert saved[-1]["residues"] == 132
    assert saved[-1]["metrics"] == {"valid/loss": 1.0}
    assert saved[-1]["wait"], "the last checkpoint is in its place when training ends"
    assert outcome == Outcome(10, 132, None)
    assert engine.rates == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_a_step_is_read_where_it_is_logged_or_saved() -> None:
    """In between nobody waits for the device: steps 3, 6 and 9 are saved."""
    engine = StubEngine()
    trained(engine, TrainingSection(steps=10, validate_every=4, checkpoint_every=3, log_every=5))
    assert [step for step, report in enumerate(engine.reports, start=1) if report.reads] == [1, 3, 5, 6, 9, 10]


def test_each_step_has_a_seed_of_its_own_that_a_resumed_run_has_too() -> None:
    section = TrainingSection(steps=10, validate_every=4, checkpoint_every=3)
    whole, resumed = StubEngine(), StubEngine()
    trained(whole, section)
    trained(resumed, section, first_step=4)
    assert len(set(whole.seeds)) == 10
    assert resumed.seeds == whole.seeds[4:]


def test_a_checkpoint_out_of_turn_and_an_end_as_asked() -> None:
    section = TrainingSection(steps=10, validate_every=10, checkpoint_every=10)
    outcome, saved = trained(StubEngine(), section, {2: Decision(save=True, stop=False), 5: Decision(True, True)})
    assert [(one["step"], one["wait"]) for one in saved] == [(2, True), (5, True)]
    assert outcome == Outcome(5, 120, AS_ASKED)


def test_a_stop_at_the_last_step_is_an_end_like_any_other() -> None:
    section = TrainingSection(steps=3, validate_every=3, checkpoint_every=3)
    assert trained(StubEngine(), section, {3: Decision(True, True)})[0].stopped is None


def test_skipped_steps_are_counted_and_no_checkpoint_is_made_of_one() -> None:
    engine = StubEngine(not_finite=[3, 4])
    section = TrainingSection(steps=6, validate_every=6, checkpoint_every=3, log_every=1)
    outcome, saved = trained(engine, section)
    assert [(one["step"], one["skipped_steps"]) for one in saved] == [(5, 2), (6, 2)]
    assert [figures.get("skipped_steps") for _, figures in engine.logged if "loss" in figures] == [
        None,
        None,
        1.0,
        2.0,
        2.0,
        2.0,
    ]
    assert outcome.stopped is None


def test_a_run_that_diverges_is_stopped_with_what_it_had() -> None:
    section = TrainingSection(steps=50, checkpoint_every=4, max_skipped_steps=3)
    outcome, saved = trained(StubEngine(not_finite=range(7, 60)), section)
    assert (outcome.step, [one["step"] for one in saved]) == (9, [4])
    assert outcome.stopped is not None
    for words in ("training.max_skipped_steps", "3 optimizer steps after step 6", "checkpoint of step 4", "lear"):
        assert words in outcome.stopped

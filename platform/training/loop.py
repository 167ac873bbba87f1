"""The loop: steps, validation, checkpoints. It knows neither Ray nor DeepSpeed; both come in as arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.device import SkippedSteps
from proteinlm.platform.training.engine import Engine, StepReport
from proteinlm.platform.training.interrupts import Decision
from proteinlm.platform.training.optim import learning_rate
from proteinlm.platform.training.telemetry import Meter
from proteinlm.tasks.task import Batch


class StepLog(Protocol):
    """Where figures of a step go."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep `figures` of `step` (optimizer steps done)."""


class OutOfTurn(Protocol):
    """Whether to save or stop after a step; see interrupts.py."""

    def decide(self) -> Decision:
        """What to do after this step: the same on every worker, so each calls it once a step."""

    def saved(self) -> None:
        """Note that a checkpoint was made."""


class Save(Protocol):
    """Makes a checkpoint after `step`; with `wait` it is in its place on return."""

    def __call__(
        self, step: int, *, residues: int, skipped_steps: int, figures: Mapping[str, float], wait: bool
    ) -> None:
        """`residues` and `skipped_steps` since the run began, `figures` of the last validation."""


class Choice(Protocol):
    """Which validated step's weights are kept, and whether that has come to an end; see selection.py."""

    def note(self, step: int, figures: Mapping[str, float]) -> None:
        """Take a validation's figures into account."""

    def checkpointed(self) -> None:
        """Note that a checkpoint was made."""

    def is_exhausted(self) -> bool:
        """Whether to stop training for want of anything better."""


@dataclass(frozen=True)
class Schedule:
    """Everything about a run's length and cadence that the loop needs."""

    first_step: int
    """Steps done before this launch: those of the checkpoint."""
    total_steps: int
    seed: int
    training: TrainingSection
    optimizer: OptimizerSection
    skipped_steps: int = 0
    """Of the steps done: how many were not finite."""


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    step: int
    residues: int
    """Residues seen since the run began, over all workers."""
    stopped: str | None
    """Why it ended before its last step; None: it did not."""


AS_ASKED = "as asked"
"""`Outcome.stopped` of a run that was told to end: it goes on when it is run again."""
PAUSED = "paused"
"""`Outcome.stopped` of a run that came to `training.pause_at`: it goes on when it is run without."""


def train(
    engine: Engine,
    steps: Iterable[Sequence[Batch]],
    schedule: Schedule,
    *,
    validate: Callable[[], Mapping[str, float]],
    save: Save,
    tracker: StepLog,
    meter: Meter,
    interrupts: OutOfTurn,
    selection: Choice | None = None,
) -> Outcome:
    """Train from `first_step` to `total_steps`; validate and save at their cadences, and both at the end.

    A step is counted when it is done: after the first one `step` is 1, and a run that resumes from there continues with
    batch number `step`. A checkpoint that falls on a skipped step waits for the next good one.
    """
    figures: dict[str, float] = {}
    section, last_saved, due = schedule.training, schedule.first_step, False
    skipped = SkippedSteps(section, schedule.skipped_steps)
    if selection and selection.is_exhausted():  # resumed from the checkpoint that was the last one
        return Outcome(schedule.first_step, meter.total(), None)
    for step, batches in enumerate(meter.awaited(steps), start=schedule.first_step + 1):
        rate = learning_rate(schedule.optimizer, step - 1, schedule.total_steps)
        report = engine.train_step(batches, rate, seed=schedule.seed * 1_000_000_007 + step)
        meter.add(batches)
        skipped.note(step, report.is_skipped)
        is_last = step == schedule.total_steps
        if step % section.log_every == 0 or is_last or step == schedule.first_step + 1:
            tracker.log(step, _row(report, rate, section, skipped.total) | meter.read())
        diverged = skipped.reason_to_stop(last_saved)
        if diverged:
            return Outcome(step, meter.total(), diverged)
        is_pause = step == section.pause_at and not is_last
        if step % section.validate_every == 0 or is_last or is_pause:
            with meter.paused():
                figures = dict(validate())
            tracker.log(step, figures)
            if selection:
                selection.note(step, figures)
                is_last = is_last or selection.is_exhausted()
        decision = interrupts.decide()
        due = due or decision.save or step % section.checkpoint_every == 0 or is_last or is_pause
        if due and not report.is_skipped:
            residues = meter.total()
            with meter.saving():
                wait = decision.save or is_last or is_pause
                save(step, residues=residues, skipped_steps=skipped.total, figures=figures, wait=wait)
            interrupts.saved()
            if selection:
                selection.checkpointed()
            last_saved, due = step, False
        if is_last:
            return Outcome(step, meter.total(), None)
        if decision.stop or is_pause:
            return Outcome(step, meter.total(), AS_ASKED if decision.stop else PAUSED)
    return Outcome(schedule.total_steps, meter.total(), None)


def _row(report: StepReport, rate: float, section: TrainingSection, skipped_steps: int) -> dict[str, float]:
    row = {"loss": report.loss, "learning_rate": rate, "gradient_norm": report.gradient_norm}
    if section.precision == "fp16":
        row["loss_scale"] = report.loss_scale
    return row | ({"skipped_steps": float(skipped_steps)} if skipped_steps else {})

"""The loop: steps, validation, checkpoints. It knows neither Ray nor DeepSpeed; both come in as arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.checkpoint import CheckpointWriter
from proteinlm.platform.training.device import SkippedSteps
from proteinlm.platform.training.engine import Engine, StepReport
from proteinlm.platform.training.interrupts import Interrupts
from proteinlm.platform.training.optim import learning_rate
from proteinlm.platform.training.selection import Selection
from proteinlm.platform.training.telemetry import Meter
from proteinlm.platform.training.tracking import Tracker
from proteinlm.tasks.task import Batch


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


@dataclass(frozen=True)
class Hooks:
    """What the loop calls beside the engine."""

    validate: Callable[[], Mapping[str, float]]
    """Scores the validation splits with the engine: `<split>/<metric>`. All workers call it."""
    writer: CheckpointWriter
    tracker: Tracker
    meter: Meter
    interrupts: Interrupts
    selection: Selection | None = None
    """Keeps the best validated step's weights and may end training; None: the last step counts."""


def train(engine: Engine, steps: Iterable[Sequence[Batch]], schedule: Schedule, hooks: Hooks) -> Outcome:
    """Train from `first_step` to `total_steps`; validate and save at their cadences, and both at the end.

    A step is counted when it is done: after the first one `step` is 1, and a run that resumes from there continues with
    batch number `step`. A checkpoint that falls on a skipped step waits for the next good one.
    """
    meter, selection = hooks.meter, hooks.selection
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
            hooks.tracker.log(step, _row(report, rate, section, skipped.total) | meter.read())
        diverged = skipped.reason_to_stop(last_saved)
        if diverged:
            return Outcome(step, meter.total(), diverged)
        is_pause = step == section.pause_at and not is_last
        if step % section.validate_every == 0 or is_last or is_pause:
            with meter.paused():
                figures = dict(hooks.validate())
            hooks.tracker.log(step, figures)
            if selection:
                selection.note(step, figures)
                is_last = is_last or selection.is_exhausted()
        decision = hooks.interrupts.decide()
        due = due or decision.save or step % section.checkpoint_every == 0 or is_last or is_pause
        if due and not report.is_skipped:
            residues = meter.total()
            with meter.saving():
                wait = decision.save or is_last or is_pause
                hooks.writer.save(step, residues=residues, skipped_steps=skipped.total, figures=figures, wait=wait)
            hooks.interrupts.saved()
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

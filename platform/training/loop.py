"""The loop: steps, validation, checkpoints; and the interrupts that save or end a run between its cadences.

It knows neither Ray nor DeepSpeed; both come in as arguments. Between two logged steps nothing is read back from the
device, so that the host prepares steps ahead of it. After every step all workers agree (`Interrupts`):

    the driver was asked to end (SIGTERM)       it writes stop.json into the run directory; the run saves and ends
    a node will be taken away                   Ray's preemption notice: the run saves in time, and resumes elsewhere
    the newest checkpoint is n minutes old      the run saves

One worker may see a notice a step before the others do. Only what all of them agreed on may lead to a checkpoint, which
every worker takes part in. What the first one saw after a step is sent while the next one runs, and done after that.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed as dist

from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.storage.run_directory import is_stop_requested
from proteinlm.platform.training.checkpoint import CheckpointWriter
from proteinlm.platform.training.device import SkippedSteps
from proteinlm.platform.training.engine import Engine, StepFigures
from proteinlm.platform.training.optim import learning_rate
from proteinlm.platform.training.selection import Selection
from proteinlm.platform.training.telemetry import Meter
from proteinlm.platform.training.tracking import Tracker
from proteinlm.tasks.task import Batch


@dataclass(frozen=True)
class Schedule:
    """Length and cadences of a run."""

    first_step: int
    """Optimizer steps done before this launch: those of the checkpoint."""
    total_steps: int
    seed: int
    training: TrainingSection
    optimizer: OptimizerSection
    skipped_steps: int = 0
    """How many of the steps done were skipped."""


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    step: int
    residues: int
    """Residues seen since the run began, over all workers."""
    stopped: str | None
    """Why training ended before its last step; None: it did not."""


AS_ASKED = "as asked"
"""`Outcome.stopped` of a run that was asked to end; the same command resumes it."""
PAUSED = "paused"
"""`Outcome.stopped` of a run that came to `training.pause_at`; it resumes with a later `pause_at`, or none."""


POLL_SECONDS = 1.0
"""Time between two looks at files and notices: a notice takes a barrier of Ray's, a file a visit to shared storage."""


@dataclass(frozen=True)
class Decision:
    """What all workers do after a step."""

    save: bool
    stop: bool


class Interrupts:
    """Looks at the clock, the run directory and Ray's notices, and makes all workers decide alike."""

    def __init__(
        self,
        run_directory: Path,
        checkpoint_minutes: float | None,
        is_first_worker: bool,
        preemption_notice: Callable[[], str | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`preemption_notice` is called by all workers together; it gives a notice's name, the same on all of them."""
        self._directory, self._minutes, self._first = run_directory, checkpoint_minutes, is_first_worker
        self._preemption_notice, self._clock = preemption_notice, clock
        self._answered: str | None = None
        self._polled = self._saved = clock()
        self._sent = torch.zeros(3, dtype=torch.int32)
        self._sending: dist.Work | None = None
        self._saved_since_sent = False

    def decide(self) -> Decision:
        """Return what to do after this step, the same on all workers, by what the first one saw after the step before.

        Each worker calls it once a step. It waits for no device: the message goes from host to host (gloo).
        """
        if self._sending is not None:
            self._sending.wait()
        polls, stops, is_due = self._sent.bool().tolist()
        saves = is_due and not self._saved_since_sent
        self._send()
        if polls:
            notice = self._preemption_notice()
            saves = saves or (notice is not None and notice != self._answered)
            self._answered = notice or self._answered
        return Decision(save=saves or stops, stop=stops)

    def _send(self) -> None:
        """Send all workers what the first one sees: whether to ask for notices, to stop, to save."""
        now = self._clock()
        poll = self._first and now - self._polled >= POLL_SECONDS
        if poll:
            self._polled = now
        stop = poll and is_stop_requested(self._directory)
        is_due = self._first and self._minutes is not None and now - self._saved >= 60 * self._minutes
        self._sent = torch.tensor([poll, stop, is_due], dtype=torch.int32)
        self._saved_since_sent = False
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._sending = dist.broadcast(self._sent, src=0, async_op=True)

    def saved(self) -> None:
        """Note that a checkpoint was made."""
        self._saved = self._clock()
        self._saved_since_sent = True


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

    `steps` yields this worker's micro batches of each step. Steps are counted when they are done: after the first one
    `step` is 1, and a run that resumes from there continues with batch number `step`. A checkpoint due at a skipped
    step is made after the next good one. The device is waited for where a step is logged, validated or saved.
    """
    meter, selection = hooks.meter, hooks.selection
    metrics: dict[str, float] = {}
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
        is_pause = step == section.pause_at and not is_last
        is_logged = step % section.log_every == 0 or is_last or step == schedule.first_step + 1
        is_validated = step % section.validate_every == 0 or is_last or is_pause
        if is_logged:
            hooks.tracker.log(step, _row(report.read(), rate, section, skipped.total()) | meter.read())
        diverged = skipped.reason_to_stop(last_saved) if is_logged or is_validated else None
        if diverged:
            return Outcome(step, meter.total(), diverged)
        if is_validated:
            with meter.paused():
                metrics = dict(hooks.validate())
            hooks.tracker.log(step, metrics)
            if selection:
                selection.note(step, metrics)
                is_last = is_last or selection.is_exhausted()
        decision = hooks.interrupts.decide()
        due = due or decision.save or step % section.checkpoint_every == 0 or is_last or is_pause
        diverged = skipped.reason_to_stop(last_saved) if due else None
        if diverged:
            return Outcome(step, meter.total(), diverged)
        if due and not report.read().is_skipped:
            residues, skipped_steps = meter.total(), skipped.total()
            with meter.saving():
                wait = decision.save or is_last or is_pause
                hooks.writer.save(step, residues=residues, skipped_steps=skipped_steps, metrics=metrics, wait=wait)
            hooks.interrupts.saved()
            if selection:
                selection.checkpointed()
            last_saved, due = step, False
        if is_last:
            return Outcome(step, meter.total(), None)
        if decision.stop or is_pause:
            return Outcome(step, meter.total(), AS_ASKED if decision.stop else PAUSED)
    return Outcome(schedule.total_steps, meter.total(), None)


def _row(step: StepFigures, rate: float, section: TrainingSection, skipped_steps: int) -> dict[str, float]:
    row = {"loss": step.loss, "learning_rate": rate, "gradient_norm": step.gradient_norm}
    if section.precision == "fp16":
        row["loss_scale"] = step.loss_scale
    return row | ({"skipped_steps": float(skipped_steps)} if skipped_steps else {})

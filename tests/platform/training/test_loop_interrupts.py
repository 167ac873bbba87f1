"""Saving and stopping out of turn: by the clock, by a request in the run directory, by Ray's preemption notice."""

from collections.abc import Iterator
from pathlib import Path

from proteinlm.platform.storage.run_directory import request_stop, withdraw_stop
from proteinlm.platform.training.loop import Decision, Interrupts

NOTHING = Decision(save=False, stop=False)
SAVE = Decision(save=True, stop=False)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def interrupts(
    folder: Path, clock: Clock, minutes: float | None = None, notices: Iterator[str | None] | None = None
) -> Interrupts:
    coming = notices or iter(())
    return Interrupts(folder, minutes, True, lambda: next(coming, None), clock)


def test_a_checkpoint_is_due_minutes_after_the_last_one(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock, minutes=5)
    clock.now = 299.0
    assert asked.decide() == NOTHING
    clock.now = 300.0
    assert asked.decide() == SAVE
    asked.saved()
    assert asked.decide() == NOTHING
    clock.now = 600.0
    assert asked.decide() == SAVE


def test_a_stop_is_asked_for_by_a_file(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock)
    request_stop(tmp_path)
    assert asked.decide() == NOTHING, "the directory is not visited after every step"
    clock.now = 1.0
    assert asked.decide() == Decision(save=True, stop=True)
    withdraw_stop(tmp_path)
    clock.now = 2.0
    assert asked.decide() == NOTHING


def test_a_preemption_notice_is_answered_once(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock, notices=iter([None, "node 1", "node 1", "node 2", None]))
    found = []
    for second in range(1, 6):
        clock.now = float(second)
        found.append(asked.decide())
    assert found == [NOTHING, SAVE, NOTHING, SAVE, NOTHING]

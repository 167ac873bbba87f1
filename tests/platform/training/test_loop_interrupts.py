"""Saving and stopping out of turn: by the clock, by a request in the run directory, by Ray's preemption notice.

What is seen after a step is sent to all workers and done after the next one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from proteinlm.platform.storage.run_directory import request_stop, withdraw_stop
from proteinlm.platform.training import loop
from proteinlm.platform.training.loop import Decision, Interrupts

NOTHING = Decision(save=False, stop=False)
SAVE = Decision(save=True, stop=False)
STOP = Decision(save=True, stop=True)


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def interrupts(
    folder: Path,
    clock: Clock,
    minutes: float | None = None,
    notices: Iterator[str | None] | None = None,
    is_first: bool = True,
) -> Interrupts:
    coming = notices or iter(())
    return Interrupts(folder, minutes, is_first, lambda: next(coming, None), clock)


def test_a_checkpoint_is_due_minutes_after_the_last_one(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock, minutes=5)
    clock.now = 299.0
    assert [asked.decide(), asked.decide()] == [NOTHING, NOTHING]
    clock.now = 300.0
    assert [asked.decide(), asked.decide()] == [NOTHING, SAVE]
    assert asked.decide() == SAVE, "until it is made"
    asked.saved()
    assert [asked.decide(), asked.decide()] == [NOTHING, NOTHING], "what was sent before is answered"
    clock.now = 600.0
    assert [asked.decide(), asked.decide()] == [NOTHING, SAVE]


def test_a_stop_is_asked_for_by_a_file(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock)
    request_stop(tmp_path)
    assert [asked.decide(), asked.decide()] == [NOTHING, NOTHING], "the directory is not visited after every step"
    clock.now = 1.0
    assert [asked.decide(), asked.decide()] == [NOTHING, STOP]
    withdraw_stop(tmp_path)
    clock.now = 2.0
    assert [asked.decide(), asked.decide()] == [NOTHING, NOTHING]


def test_a_preemption_notice_is_answered_once(tmp_path: Path) -> None:
    clock = Clock()
    asked = interrupts(tmp_path, clock, notices=iter([None, "node 1", "node 1", "node 2", None]))
    found = []
    for second in range(1, 7):
        clock.now = float(second)
        found.append(asked.decide())
    assert found == [NOTHING, NOTHING, SAVE, NOTHING, SAVE, NOTHING]


class Group:
    """A process group of two: what the first worker sends, the second has when it has waited for it."""

    def __init__(self) -> None:
        self.rank, self.sent = 0, list[torch.Tensor]()
        self.calls: list[str] = []

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def broadcast(self, tensor: torch.Tensor, src: int, async_op: bool) -> "Sending":
        assert async_op, "nobody waits in the step in which it is sent"
        self.calls.append("sent")
        if self.rank == src:
            self.sent.append(tensor)
            return Sending(self, lambda: None)
        source = self.sent[-1]
        return Sending(self, lambda: tensor.copy_(source))


class Sending:
    def __init__(self, group: Group, arrives: Any) -> None:
        self._group, self._arrives = group, arrives

    def wait(self) -> None:
        self._group.calls.append("waited")
        self._arrives()


def test_all_workers_decide_what_the_first_one_saw_one_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, clock = Group(), Clock()
    monkeypatch.setattr(loop, "dist", group)
    workers = [interrupts(tmp_path, clock, minutes=1, is_first=first) for first in (True, False)]
    found = []
    for second in (0, 61, 62, 63, 64, 65):
        clock.now = float(second)
        if second == 64:
            request_stop(tmp_path)
        made = []
        for group.rank in (0, 1):
            made.append(workers[group.rank].decide())
        assert made[0] == made[1]
        found.append(made[0])
        if made[0].save:
            for worker in workers:
                worker.saved()
    assert found == [NOTHING, NOTHING, SAVE, NOTHING, NOTHING, STOP]
    assert group.calls[:6] == ["sent", "sent", "waited", "sent", "waited", "sent"]

"""Signals ask a run to save and end, never more than that the first time; how its end is said."""

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.platform.storage.run_directory import Stopped, is_stop_requested, mark_stopped
from proteinlm.platform.training.loop import AS_ASKED, PAUSED
from proteinlm.platform.training.stopping import PausedError, StoppedError, asking_on_signals, raise_if_stopped
from tests.made.terminal import signals_of_a_terminal


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@contextmanager
def handled(number: signal.Signals, handler: object) -> Iterator[None]:
    before = signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.fixture(autouse=True)
def in_a_terminal() -> Iterator[None]:
    with signals_of_a_terminal():
        yield


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_asks_the_workers_to_save_and_says_so(number: signal.Signals, tmp_path: Path) -> None:
    text = io.StringIO()
    with asking_on_signals(tmp_path, Console(file=text)) as signals:
        send(number)
    assert is_stop_requested(tmp_path)
    assert "the run saves a checkpoint and ends" in text.getvalue()
    assert signals.is_interrupted == (number == signal.SIGINT)


def test_a_second_ctrl_c_ends_at_once_and_a_second_notice_does_not(tmp_path: Path) -> None:
    with asking_on_signals(tmp_path):
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP, signal.SIGINT):
            send(number)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), asking_on_signals(tmp_path):
        send(signal.SIGHUP)
    assert not is_stop_requested(tmp_path)


def test_an_end_is_said_by_its_reason(tmp_path: Path) -> None:
    raise_if_stopped(tmp_path, is_interrupted=True)
    for why, is_interrupted, error, words in (
        (AS_ASKED, False, StoppedError, "stopped after step 7, as asked; the same command resumes"),
        (AS_ASKED, True, KeyboardInterrupt, "stopped after step 7, as asked; the same command resumes"),
        (PAUSED, True, PausedError, "paused after step 7"),
        ("not finite", True, StoppedError, "not finite"),
    ):
        mark_stopped(tmp_path, Stopped(7, why))
        with pytest.raises(error, match=words):
            raise_if_stopped(tmp_path, is_interrupted)
        raise_if_stopped(tmp_path, is_interrupted)

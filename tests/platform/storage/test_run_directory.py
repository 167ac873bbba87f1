"""The marks of a run directory: what is written is read back, under names that other versions know too."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from proteinlm.platform.storage.run_directory import (
    Failure,
    RunFile,
    Stopped,
    forget_outcome,
    is_finished,
    is_stop_requested,
    mark_failed,
    mark_finished,
    mark_halted,
    mark_stopped,
    read_failed,
    read_halted,
    read_run_file,
    request_stop,
    take_stopped,
    withdraw_stop,
    write_run_file,
)
from proteinlm.platform.training.stopping import PausedError


def content(path: Path) -> dict[str, object]:
    values = json.loads(path.read_text())
    assert isinstance(values, dict)
    return values


def test_a_run_is_described_and_finished(tmp_path: Path) -> None:
    assert read_run_file(tmp_path) is None
    about = {"task": "stability", "total_steps": 7, "code_version": "1", "data_hash": "ab"}
    write_run_file(tmp_path, {"seed": 3}, **about, inputs={"data": "ab"})
    assert read_run_file(tmp_path) == RunFile({"seed": 3}, "stability", 7, {"data": "ab"}, "ab")
    packages = content(tmp_path / "run.json")["packages"]
    assert isinstance(packages, dict)
    assert set(packages) >= {"proteinlm", "torch", "ray"}
    assert not is_finished(tmp_path)
    mark_finished(tmp_path, 7)
    assert is_finished(tmp_path)
    assert content(tmp_path / "finished.json") == {"steps": 7}


def test_an_early_end_is_read_once(tmp_path: Path) -> None:
    assert take_stopped(tmp_path) is None
    mark_stopped(tmp_path, Stopped(5, "paused"))
    assert content(tmp_path / "stopped.json") == {"step": 5, "why": "paused"}
    assert take_stopped(tmp_path) == Stopped(5, "paused")
    assert take_stopped(tmp_path) is None


def test_a_stop_is_requested_and_withdrawn(tmp_path: Path) -> None:
    withdraw_stop(tmp_path)
    assert not is_stop_requested(tmp_path)
    request_stop(tmp_path)
    assert (tmp_path / "stop.json").is_file()
    assert is_stop_requested(tmp_path)
    withdraw_stop(tmp_path)
    assert not is_stop_requested(tmp_path)


def test_how_a_trial_ended_is_read_until_it_runs_again(tmp_path: Path) -> None:
    run = tmp_path / "not" / "there"
    assert (read_failed(run), read_halted(run)) == (None, None)
    mark_failed(run, Failure("out of memory", 30, "Traceback ..."))
    mark_halted(run, Stopped(12, "worse"))
    assert content(run / "failed.json") == {"why": "out of memory", "step": 30, "traceback": "Traceback ..."}
    assert content(run / "halted.json") == {"step": 12, "why": "worse"}
    assert read_failed(run) == Failure("out of memory", 30, "Traceback ...")
    assert read_halted(run) == Stopped(12, "worse")
    forget_outcome(run)
    assert (read_failed(run), read_halted(run)) == (None, None)


@pytest.mark.parametrize("text", ["", "[1]", '{"why": ', "{}", '{"why": "x", "when": 3}'])
def test_a_mark_that_does_not_say_what_it_must_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "failed.json").write_text(text)
    with pytest.raises(ValueError, match=r"failed\.json is damaged: "):
        read_failed(tmp_path)


def test_a_pause_crosses_processes_with_its_step() -> None:
    pause = pickle.loads(pickle.dumps(PausedError("paused after step 4", 4)))
    assert (pause.step, str(pause)) == (4, "paused after step 4")


TORN = (
    *(b"", b"{", b"{}", b"[]", b"null", b'{"settings": 1}', b'{"steps": "x"}', b"\xff\xfe", b"[" * 5000, b"9" * 5000),
    *(b'{"\\u001b]0;x\\u0007": 1}', b'{"' + b"x" * 9000 + b'": 1}', b" " * (17 << 20)),
)


@pytest.mark.parametrize("torn", TORN, ids=range(len(TORN)))
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("run.json", read_run_file),
        ("finished.json", is_finished),
        ("stopped.json", take_stopped),
        ("failed.json", read_failed),
        ("halted.json", read_halted),
    ],
)
def test_a_torn_file_is_named(name: str, read: Callable[[Path], object], torn: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(torn)
    with pytest.raises(ValueError, match=rf"{re.escape(str(tmp_path / name))} is damaged: \S") as refused:
        read(tmp_path)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500

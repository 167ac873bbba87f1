"""A lock has one holder at a time, says who that is, and does not outlive its process."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from proteinlm.platform.storage.lock import LEFT_OVER_AFTER, InUseError, held

SPAWN = multiprocessing.get_context("spawn")


def hold(lock: str, seconds: float) -> None:
    with held(Path(lock), "the folder"):
        Path(lock).with_name("held").touch()
        time.sleep(seconds)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_who_comes_second_is_told_who_is_there_and_takes_over_from_a_killed_one(lock: Path) -> None:
    holder = SPAWN.Process(target=hold, args=(str(lock), 60.0))
    holder.start()
    while not lock.with_name("held").exists():
        time.sleep(0.01)
    message = rf"the folder is in use by process {holder.pid} on \S+ since 20\S+; .* remove {lock}"
    with pytest.raises(InUseError, match=message), held(lock, "the folder", patience=0.3):
        pass
    holder.kill()  # and it is not waited for yet: a zombie holds nothing
    with held(lock, "the folder", patience=30.0):
        assert json.loads(lock.read_text())["process"] == os.getpid()
    holder.join()
    assert sorted(path.name for path in lock.parent.iterdir()) == ["held"]


def test_its_holder_may_take_it_again(lock: Path) -> None:
    with held(lock, "the folder"):
        with held(lock, "the folder"):
            pass
        assert lock.exists()
    assert not lock.exists()


def test_a_lock_of_another_host_is_taken_over_when_it_was_not_touched_for_long(lock: Path) -> None:
    lock.write_text(json.dumps({"host": "elsewhere", "process": 7, "started": "1", "since": "2026-01-01"}))
    with pytest.raises(InUseError, match="process 7 on elsewhere since 2026-01-01"), held(lock, "the folder"):
        pass
    before = time.time() - LEFT_OVER_AFTER - 5
    os.utime(lock, (before, before))
    with held(lock, "the folder"):
        pass


@pytest.mark.parametrize("content", ["", "{", "{}"])
def test_a_torn_lock_is_somebody_s_until_it_is_old(content: str, lock: Path) -> None:
    lock.write_text(content)
    with pytest.raises(InUseError, match="on an unknown host"), held(lock, "the folder"):
        pass
    os.utime(lock, (1.0, 1.0))
    with held(lock, "the folder"):
        pass


def test_a_process_number_that_is_used_again_is_no_holder(lock: Path) -> None:
    with held(lock, "the folder"):
        mine = json.loads(lock.read_text())
    lock.write_text(json.dumps(mine | {"started": "1"}))
    with held(lock, "the folder"):
        pass


def count(lock: str, counter: str, times: int) -> None:
    for _ in range(times):
        with held(Path(lock), "the counter", patience=60.0):
            value = int(Path(counter).read_text())
            time.sleep(0.001)
            Path(counter).write_text(str(value + 1))


def test_many_processes_never_hold_it_together(lock: Path) -> None:
    counter = lock.with_name("counter")
    counter.write_text("0")
    processes = [SPAWN.Process(target=count, args=(str(lock), str(counter), 10)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert counter.read_text() == "40"

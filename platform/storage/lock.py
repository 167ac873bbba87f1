"""One process at a time in a directory: a lock file that says which host and process works there, and since when.

It works on storage that hosts share, where locks of the operating system often do not: the file is made in one step,
which fails where it exists (in an object store by the last of several puts: `_make_in_store`). A lock is left over
where its process was killed. On the same host that is seen at once, from another one when the file was not touched for
a while, as its holder does every few seconds; then it is taken over.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from proteinlm.platform.places.places import is_remote
from proteinlm.platform.storage.atomic import move_aside
from proteinlm.platform.storage.run_directory import read_as

TOUCHED_EVERY = 10.0
"""Seconds between two signs of life of a holder."""
LEFT_OVER_AFTER = 120.0
"""Seconds without a sign of life after which the lock of another host is taken over."""
SETTLED_AFTER = 1.0
"""Seconds after which puts into an object store that were made at once are over."""
LOOK_EVERY = 0.2
"""Seconds between two looks of a process that waits."""


class InUseError(OSError):
    """Another process works there; the message says which, and what to do if it is gone."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    process: int
    started: str
    """When the process was started, as its system counts it: process numbers are used again. "" where it is unknown."""
    since: str
    """When it took the lock, ISO 8601."""


@contextmanager
def held(file: Path, what: str, patience: float = 0.0) -> Iterator[None]:
    """Run the body while no other process holds the lock `file`, whose folder exists.

    InUseError where another one still has it after `patience` seconds; the message calls it `what`. A process that
    holds the lock already may take it again.
    """
    mine = _this_process()
    end = time.monotonic() + patience
    while not _make(file, mine):
        holder = _holder(file)
        if holder is None:
            continue  # given back just now
        if (holder.host, holder.process, holder.started) == (mine.host, mine.process, mine.started):
            yield
            return
        if _is_left_over(file, holder):
            _remove(file, holder)
        elif time.monotonic() >= end:
            raise InUseError(
                f"{what} is in use by process {holder.process} on {holder.host} since {holder.since}; wait until it "
                f"has ended. If it is gone (a crash), the same command takes over {LEFT_OVER_AFTER:.0f} s after its "
                f"last sign of life, or at once when you remove {file}"
            )
        else:
            time.sleep(LOOK_EVERY)
    ended = threading.Event()
    beat = threading.Thread(target=_touch_until, args=(file, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        _remove(file, mine)


def _this_process() -> Holder:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(socket.gethostname(), os.getpid(), _start_of(os.getpid()), now)


def _start_of(process: int) -> str:
    """When a process of this host was started, in the kernel's count; "" where it has ended or there is no /proc."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()  # from the third on; the second, the command, may hold anything
    return "" if fields[0] in "ZX" else fields[19]  # an ended process whose parent has not asked for it yet


def _make(file: Path, mine: Holder) -> bool:
    """Make the lock for `mine`; False where there is one already."""
    if is_remote(file):
        return _make_in_store(file, mine)
    staging = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    staging.write_text(json.dumps(asdict(mine)))
    try:
        os.link(staging, file)  # whole from its first moment on, and only where there is none
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with file.open("x") as made:
                made.write(staging.read_text())
        except FileExistsError:
            return False
    finally:
        staging.unlink(missing_ok=True)
    return True


def _make_in_store(file: Path, mine: Holder) -> bool:
    """As `_make`, without a step that fails where the object is there: of several puts at once the last one stays.

    All who put it wait, and look who is in it. A process that looked, and then slept for longer than that before its
    put, takes the lock from its holder, who does not notice: two of them then work in the directory.
    """
    if file.is_file():
        return False
    file.write_text(json.dumps(asdict(mine)))
    time.sleep(SETTLED_AFTER)
    return _holder(file) == mine


def _holder(file: Path) -> Holder | None:
    """Who holds the lock; None where it was given back."""
    try:
        return read_as(Holder, file)
    except FileNotFoundError:
        return None
    except ValueError:  # it is just being written, or of an earlier version, which wrote nothing
        return Holder("an unknown host", 0, "", "an unknown time")


def _is_left_over(file: Path, holder: Holder) -> bool:
    if holder.host == socket.gethostname():
        return not _is_alive(holder)
    try:
        return _now_at(file.parent) - file.stat().st_mtime > LEFT_OVER_AFTER
    except FileNotFoundError:
        return True


def _is_alive(holder: Holder) -> bool:
    try:
        os.kill(holder.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return _start_of(holder.process) == holder.started


def _now_at(folder: Path) -> float:
    """The time by the clock that stamps files in `folder`: that of a file server may differ from this host's."""
    probe = folder / f".time.{uuid.uuid4().hex[:8]}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _remove(file: Path, holder: Holder) -> None:
    """Remove the lock where `holder` still has it: it is moved aside first, and back where it is another's by now."""
    if is_remote(file):
        if _holder(file) == holder:
            file.unlink(missing_ok=True)
        return
    try:
        aside = move_aside(file)
    except FileNotFoundError:
        return
    try:
        if _holder(aside) != holder:
            os.link(aside, file)
    except OSError:
        pass  # a third process has it by now
    finally:
        aside.unlink(missing_ok=True)


def _touch_until(file: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_EVERY):
        try:
            file.touch() if is_remote(file) else os.utime(file)
        except OSError:
            return

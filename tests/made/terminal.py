"""Signals and environment as a process in a terminal has them, whatever started the tests: `nohup` and `&` let some
signals be ignored, and a cluster may be named by RAY_ADDRESS.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_of_a_terminal() -> Iterator[None]:
    """Inside the body, SIGINT, SIGTERM, SIGHUP and SIGUSR1 do what they do by default, here and in new processes."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment_without_cluster() -> dict[str, str]:
    """The environment of a command that starts a Ray of its own."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}

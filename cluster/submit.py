"""Send a verb to a cluster as a Ray job, follow it, and leave it running.

    with reached(job_server(address)) as jobs:
        name = jobs.submit(packed, variables)
        exit_code = jobs.follow(name, print)

What is sent is packed (packing.py). Nothing here starts a cluster or connects to one as a driver: it is HTTP to the
head's dashboard alone.
"""

import asyncio
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from proteinlm.cluster.packing import PACKAGE, Packed

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

API_SERVER = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for where jobs are sent; Ray lets it win over an address that is given."""

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
DEFAULT_TOKEN = Path("~/.ray/auth_token")

STOP_SECONDS = 120
"""Between asking a job to stop and ending it: its workers save a checkpoint. Ray's default is 3."""
AGENT_SECONDS = 60
"""A head's dashboard is up before the agent that starts jobs is."""
RETRY_SECONDS = 2.0
"""Between two attempts to follow a job whose connection broke."""
LOST_SECONDS = 60
"""Without an answer of the head, after which following ends."""


def job_server(address: str | None, variables: Mapping[str, str] = os.environ) -> str:
    """The address that jobs are sent to: `address`, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS; ValueError."""
    source = "--address"
    for name in (API_SERVER, "RAY_ADDRESS"):
        if not address:
            address, source = variables.get(name), name
    mend = "jobs go to the head's dashboard, such as http://127.0.0.1:8265 at the laptop's end of a tunnel"
    if not address:
        raise ValueError(f"--address: found none, nor {API_SERVER} or RAY_ADDRESS; {mend}")
    scheme, slashes, _ = address.partition("://")
    if slashes and scheme in ("http", "https"):
        if not urlsplit(address).hostname:
            raise ValueError(f"{source}: found {address}; accepted: http://HOST:PORT")
        return address.rstrip("/")
    if scheme == "ray" and slashes:
        meaning = "the port of Ray's client, which runs a driver on this machine that ends with it"
    elif address in ("auto", "local"):
        meaning = "a Ray on this machine, which verbs find without `submit`"
    else:
        meaning = "the address at which nodes and drivers join a cluster from inside its network"
    raise ValueError(f"{source}: found {address}: {meaning}; accepted: http://HOST:PORT; {mend}")


def set_token_mode() -> None:
    """Let Ray send the token where there is one and nobody said otherwise; it reads this once, at its first use."""
    has_token = any(os.environ.get(name) for name in TOKEN_VARIABLES) or DEFAULT_TOKEN.expanduser().is_file()
    if has_token:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def token_in_clear(address: str) -> bool:
    """Whether a token that is sent to `address` can be read on the way."""
    parts = urlsplit(address)
    is_own = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    return parts.scheme == "http" and not is_own and os.environ.get("RAY_AUTH_MODE") == "token"


def environment(assignments: Sequence[str], variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables of a job from NAME=VALUE, or NAME for this machine's own value; ValueError for one that is not set."""
    made = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not name.isidentifier():
            raise ValueError(
                f"--env: found {assignment!r}; accepted: NAME=VALUE, or NAME for its value on this machine"
            )
        if not equals and name not in variables:
            raise ValueError(f"--env: {name} is not set on this machine; accepted: {name}=VALUE")
        made[name] = value if equals else variables[name]
    return made


@contextmanager
def reached(address: str) -> Iterator["Jobs"]:
    """The jobs of the cluster at `address`; OSError, with what to do, where it does not answer or wants a token."""
    set_token_mode()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    before = os.environ.get(API_SERVER)
    os.environ[API_SERVER] = address  # it wins over what the client is given
    try:
        yield Jobs(JobSubmissionClient(address), address)
    except AuthenticationError as error:
        raise PermissionError(_refused(address, 403 if "Forbidden" in str(error) else 401)) from error
    except ConnectionError as error:
        mend = "is the cluster up, and the tunnel to it open (`ray dashboard CLUSTER.yaml`)?"
        raise ConnectionError(f"--address: no cluster answered at {address}; {mend}") from error
    finally:
        if before is None:
            del os.environ[API_SERVER]
        else:
            os.environ[API_SERVER] = before


def _refused(address: str, status: int) -> str:
    """What a user reads where the cluster answered 401 or 403."""
    given = [name for name in TOKEN_VARIABLES if os.environ.get(name)]
    has_default = DEFAULT_TOKEN.expanduser().is_file()
    if os.environ.get("RAY_AUTH_MODE", "disabled") != "token" or not (given or has_default):
        sent = "no token was sent"
    else:
        sent = f"the token of {given[0] if given else DEFAULT_TOKEN} is not the cluster's"
    return (
        f"{address} refused: {sent} ({status}). Put the cluster's token into {DEFAULT_TOKEN} or RAY_AUTH_TOKEN_PATH, "
        "set RAY_AUTH_MODE=token; on the head `ray get-auth-token` prints it"
    )


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, client: "JobSubmissionClient", address: str) -> None:
        self.client = client
        self.address = address

    def submit(self, packed: Packed, variables: Mapping[str, str], name: str | None = None) -> str:
        """Start the packed verb as a job and return its name; RuntimeError, the cluster's own words."""
        options: dict[str, Any] = {
            "entrypoint": shlex.join(["python", "-m", PACKAGE, *packed.words]),
            "runtime_env": {"working_dir": str(packed.folder), "env_vars": dict(variables)},
            "submission_id": name,
        }
        until = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                return self.client.submit_job(**options)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(1)

    def stop(self, name: str) -> bool:
        """Ask a job to stop, which saves a checkpoint first; False where it had ended."""
        return self.client.stop_job(name)

    def status(self, name: str) -> tuple[str, str]:
        """A job's state (PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED), and the first line of Ray's message."""
        details = self.client.get_job_info(name)
        lines = (details.message or "").splitlines()
        return details.status.value, lines[0] if lines else ""

    def logs(self, name: str) -> str:
        """All that a job has printed."""
        return self.client.get_job_logs(name)

    def exit_code(self, name: str) -> int | None:
        """The exit code of a job's command: 0 where it succeeded, 1 where Ray knows none; None while it runs."""
        details = self.client.get_job_info(name)
        if not details.status.is_terminal():
            return None
        code = details.driver_exit_code
        return 0 if details.status.value == "SUCCEEDED" else code if code and 0 < code < 256 else 1

    def follow(self, name: str, show: Callable[[str], object]) -> int:
        """Show what the job prints until it ends, and return its exit code.

        A connection that breaks is made again, and nothing is shown twice; the error, where the head is silent for
        LOST_SECONDS.
        """
        output, answered = _Output(show), time.monotonic()
        while True:
            try:
                asyncio.run(self._tail(name, output))
                code = self.exit_code(name)
                answered = time.monotonic()
            except (OSError, RuntimeError) as error:
                if not _is_broken(error) or time.monotonic() - answered > LOST_SECONDS:
                    raise
                code = None
            if code is not None:
                return code
            time.sleep(RETRY_SECONDS)

    async def _tail(self, name: str, output: "_Output") -> None:
        output.come = 0
        async for text in self.client.tail_job_logs(name):
            output.add(text)


class _Output:
    """What a job printed, which each connection sends from its beginning, shown once."""

    def __init__(self, show: Callable[[str], object]) -> None:
        self.show = show
        self.come = 0
        """Letters that this connection has sent."""
        self.shown = 0

    def add(self, text: str) -> None:
        self.come += len(text)
        if self.come > self.shown:
            self.show(text[self.shown - self.come :])
            self.shown = self.come


def _is_broken(error: Exception) -> bool:
    """Whether a connection broke, which may mend by itself."""
    return isinstance(error, OSError) or "WebSocket" in str(error)

"""Send a verb to a cluster as a Ray job, follow it, and leave it running.

    with reached(job_server(address)) as jobs:
        name = jobs.submit(working_directory, ["pretrain", "run.yaml"], variables)
        exit_code = jobs.follow(name, print)

What is sent is `pack`ed: the package's own files and the configuration files that are named, whatever else lies in the
folder. Nothing here starts a cluster or connects to one as a driver: it is HTTP to the head's dashboard alone.
"""

import asyncio
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

API_SERVER = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable for where jobs are sent; Ray lets it win over an address that is given."""

PACKAGE = "proteinlm"
PACKAGE_FILES = ("*.py", "*.yaml", "*.schema.json", "*.jinja", "*.sh", "py.typed")
"""What a wheel of the package holds (pyproject.toml, package-data)."""
CONFIG_SUFFIXES = (".yaml", ".yml")
SENT_ALONG = "sent"
"""Folder in a job's working directory for configuration files from outside of the one it was sent from."""

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


IS_URI = re.compile(r"[a-z][a-z0-9+]+:/")


@dataclass(frozen=True)
class Packed:
    """What is sent: a folder, and the command's words with the paths that hold there."""

    folder: Path
    words: tuple[str, ...]
    sent: tuple[Path, ...]
    """Configuration files that came along from outside of the working directory."""


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


def pack(words: Sequence[str], target: Path, package: Path, here: Path) -> Packed:
    """Copy the `package`'s own files and the configuration files among `words` (paths from `here`) into `target`.

    A file inside of `here` keeps its path; another goes into a folder of its own, and its word is changed to match.
    FileNotFoundError for a relative path that is not there: the job would not find it either. An absolute path that is
    not on this machine stays, for it may be on the cluster.
    """
    # Rooms are symlinks in a clone: copied as what they point to, as a wheel has them.
    shutil.copytree(package, target / PACKAGE, ignore=_all_but_package_files)
    changed: list[str] = []
    sent: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        is_config = path.suffix in CONFIG_SUFFIXES and "=" not in word and not word.startswith("-")
        if not is_config or (path.is_absolute() and not path.exists()):
            changed.append(word)
            continue
        if not (here / path).is_file():
            raise FileNotFoundError(f"{word}: no such file in {here}; the job would not find it either")
        place = _place_of(here / path, here, {one.name for one in sent})
        if place.parts[0] == SENT_ALONG:
            sent.append(here / path)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / path, target / place)
        changed.append(str(place))
    return Packed(target, tuple(changed), tuple(sent))


def _place_of(file: Path, here: Path, taken: set[str]) -> PurePosixPath:
    """Where `file` lies in the job's working directory."""
    normal = Path(os.path.normpath(file))
    if normal.is_relative_to(here):
        return PurePosixPath(normal.relative_to(here).as_posix())
    if file.name in taken:
        raise ValueError(f"{file}: another configuration file from elsewhere has the same name; rename one")
    return PurePosixPath(SENT_ALONG, file.name)


def _all_but_package_files(folder: str, names: list[str]) -> set[str]:
    def is_ours(name: str) -> bool:
        path = Path(folder, name)
        if path.is_dir():
            return not name.startswith((".", "__"))
        return any(path.match(pattern) for pattern in PACKAGE_FILES)

    return {name for name in names if not is_ours(name)}


def unseen_places(places: Mapping[str, str]) -> list[str]:
    """A warning for each setting (dotted name -> path or URI) whose place the cluster's nodes will hardly see."""
    warnings = []
    for name, place in places.items():
        is_output = name.rpartition(".")[2] == "storage"
        mend = "name a directory that every node sees, or a URI such as s3://BUCKET/FOLDER"
        if IS_URI.match(place):
            if place.startswith("file:"):
                warnings.append(f"{name}={place}: each node's own file, unless it lies on a shared file system; {mend}")
        elif not Path(place).is_absolute():
            lost = "what is written there goes with the job" if is_output else "the job finds nothing there"
            warnings.append(f"{name}={place}: a folder of the job's own on the head, and {lost}; {mend}")
        elif Path(place).exists():
            warnings.append(f"{name}={place}: is on this machine; make sure that it is on every node too")
    return warnings


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

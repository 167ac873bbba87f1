"""The files of a run directory by name, with the code that writes and reads the small ones ("marks").

    run.json            resolved settings, code version, data hash, package versions: written when a run starts
    metrics.jsonl       metrics of each logged step (training/tracking.py)    tensorboard/  the same as event files
    rows.jsonl          result rows (results/rows.py)
    predictions/        what a finetuned model predicts (training/evaluation.py)
    model/              a pretrained model: config.json and model.safetensors (models/pretrained.py)
    checkpoints/        checkpoints of a run in one process; Ray Train keeps those of workers as step_*_by_*
    best/               weights of the best validated step (training/selection.py)
    finished.json       {"steps": 300}                  all results are in place: written last
    stopped.json        {"step": 120, "why": "..."}     the workers ended before the last step; the driver reads it
    stop.json           {}                              a request to save and end; the workers look for it
    phases.jsonl        what took how long, where it was asked for (phases.py)

A trial of a sweep adds (sweeps/trials/trial_state.py):

    failed.json         {"why": "...", "traceback": "...", "step": 30 or null}
    halted.json         {"step": 120, "why": "..."}     successive halving ended it after this step
    attempts.jsonl      when it held its devices        lock  held by the process that runs it
"""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from proteinlm.models.messages import printable
from proteinlm.platform.places.places import is_remote, probe
from proteinlm.platform.settings.yaml_text import shown
from proteinlm.platform.storage.atomic import write_atomically

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
ROWS_FILE = "rows.jsonl"
PREDICTIONS_FOLDER = "predictions"
MODEL_DIRECTORY = "model"
CHECKPOINTS_FOLDER = "checkpoints"
BEST_FOLDER = "best"
FINISHED_FILE = "finished.json"
STOPPED_FILE = "stopped.json"
STOP_FILE = "stop.json"
FAILED_FILE = "failed.json"
HALTED_FILE = "halted.json"
ATTEMPTS_FILE = "attempts.jsonl"
LOCK_FILE = "lock"

MOST_BYTES = 16 << 20
"""Of a file that is one JSON value: run.json, the longest, has some thousands."""

Mark = TypeVar("Mark", bound="DataclassInstance")

EMBEDDINGS_FOLDER = "embeddings"
"""Beside the run directories: embeddings of frozen encoders, shared by all runs of a storage."""
PACKAGES = ("proteinlm", "ray", "torch", "deepspeed", "pyarrow", "numpy")
"""Packages whose versions run.json records."""


def check_writable(run_directory: Path) -> None:
    """Create the run directory if needed; OSError, naming the setting `storage`, where it cannot be written."""
    if is_remote(run_directory):
        probe("storage", run_directory)
        return
    try:
        run_directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=run_directory):
            pass
    except OSError as error:
        raise OSError(
            f"storage: {run_directory} cannot be written ({error.strerror or error}); choose another storage"
        ) from None


def write_run_file(
    run_directory: Path,
    settings: Mapping[str, Any],
    *,
    task: str,
    total_steps: int,
    code_version: str,
    data_hash: str,
    inputs: Mapping[str, str],
) -> None:
    """Write run.json; `settings` are the resolved ones, nested and as JSON values; `inputs` as in `RunFile`."""
    described = {
        "settings": settings,
        "task": task,
        "total_steps": total_steps,
        "code_version": code_version,
        "data_hash": data_hash,
        "inputs": dict(inputs),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    write_atomically(run_directory / RUN_FILE, json.dumps(described, indent=1) + "\n")


@dataclass(frozen=True)
class RunFile:
    """What run.json holds of what later launches and tables ask for."""

    settings: dict[str, Any]
    task: str
    total_steps: int
    inputs: dict[str, str] = field(default_factory=dict)
    """Setting -> content hash of what it named: `corpus` or `data`, `pretrained`. Empty of an earlier version's run."""
    data_hash: str = ""
    """Content hash of the data set, in runs of earlier versions too."""


def read_run_file(run_directory: Path) -> RunFile | None:
    """Return what run.json holds; None where the run has not started yet. ValueError names a file that is torn."""
    path = run_directory / RUN_FILE
    if not path.is_file():
        return None
    return validated(RunFile, read_object(path), path)  # which takes no notice of what else stands there


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def code_version() -> str:
    """Return the version of proteinlm, with the git commit where the code lies in a git checkout."""
    from proteinlm import __version__

    root = Path(__file__).resolve().parents[2]
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{__version__}+{described.stdout.strip()}" if described.returncode == 0 else __version__


def is_finished(run_directory: Path) -> bool:
    """Whether the run in this directory ended with all its results written; ValueError where the mark is torn."""
    path = run_directory / FINISHED_FILE
    if not path.is_file():
        return False
    read_as(Finished, path)
    return True


@dataclass(frozen=True)
class Finished:
    """The end of a run, after so many optimizer steps."""

    steps: int


def mark_finished(run_directory: Path, steps: int) -> None:
    """Record that the run ended after `steps` optimizer steps; all its results must be in place."""
    _write_object(run_directory / FINISHED_FILE, asdict(Finished(steps)))


@dataclass(frozen=True)
class Stopped:
    """An end before the last step: after which optimizer step, and why."""

    step: int
    why: str


def mark_stopped(run_directory: Path, stopped: Stopped) -> None:
    """Record for the driver that the workers ended before the last step."""
    _write_object(run_directory / STOPPED_FILE, asdict(stopped))


def take_stopped(run_directory: Path) -> Stopped | None:
    """Read and delete the mark of `mark_stopped`; None where there is none."""
    path = run_directory / STOPPED_FILE
    if not path.is_file():
        return None
    stopped = read_as(Stopped, path)
    path.unlink()
    return stopped


def request_stop(run_directory: Path) -> None:
    """Ask the workers of this run to save a checkpoint and end."""
    _write_object(run_directory / STOP_FILE, {})


def is_stop_requested(run_directory: Path) -> bool:
    """Whether `request_stop` was called since the run was started."""
    return (run_directory / STOP_FILE).exists()


def withdraw_stop(run_directory: Path) -> None:
    """Withdraw a stop request, if there is one."""
    (run_directory / STOP_FILE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed."""

    why: str
    """In one line."""
    step: int | None = None
    """The last optimizer step that is known to have been done; None: the trial logged none."""
    traceback: str = ""


def mark_failed(run_directory: Path, failure: Failure) -> None:
    """Record that a trial failed; the run directory is made if needed."""
    run_directory.mkdir(parents=True, exist_ok=True)
    _write_object(run_directory / FAILED_FILE, asdict(failure))


def read_failed(run_directory: Path) -> Failure | None:
    """Return why the trial failed, None where it did not; ValueError for a file that does not say it."""
    path = run_directory / FAILED_FILE
    return read_as(Failure, path) if path.is_file() else None


def mark_halted(run_directory: Path, halted: Stopped) -> None:
    """Record that successive halving ended a trial; the run directory is made if needed."""
    run_directory.mkdir(parents=True, exist_ok=True)
    _write_object(run_directory / HALTED_FILE, asdict(halted))


def read_halted(run_directory: Path) -> Stopped | None:
    """Return where and why successive halving ended the trial, None where it did not."""
    path = run_directory / HALTED_FILE
    return read_as(Stopped, path) if path.is_file() else None


def forget_outcome(run_directory: Path) -> None:
    """Delete the marks of `mark_failed` and `mark_halted`: the trial runs again."""
    for name in (FAILED_FILE, HALTED_FILE):
        (run_directory / name).unlink(missing_ok=True)


def _write_object(path: Path, values: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(values) + "\n")


def read_as(kind: type[Mark], path: Path) -> Mark:
    """The JSON object in the file as a `kind` (a dataclass); ValueError, naming the file, for anything else."""
    values = read_object(path)
    names = {one.name for one in fields(kind)}
    if unknown := values.keys() - names:
        raise ValueError(f"{path} is damaged: it holds {shown(min(unknown))}; accepted: {', '.join(sorted(names))}")
    return validated(kind, values, path)


def validated(kind: type[Mark], values: Mapping[str, Any], path: Path) -> Mark:
    """`values`, which were read from `path`, as a `kind`; ValueError that names the file and the first fault."""
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {first_fault(error)}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file; ValueError, naming the file, for anything else."""
    values = read_json(path, "a JSON object")
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: found {shown(values)}; accepted: a JSON object")
    return values


def read_json(path: Path, accepted: str) -> Any:
    """The JSON value in the file; ValueError, with its name and what is `accepted`, where there is none or half."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES:,} bytes")
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; accepted: {accepted}") from None


def parse_json(text: bytes) -> Any:
    """The JSON value in `text`; ValueError where it is none, is nested too deeply, or has numbers too long to read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's faults in words: where it is, and what was expected."""
    first = error.errors(include_url=False)[0]
    where = printable(".".join(map(str, first["loc"])))  # it may have keys of the file
    return f"{where}{': ' if where else ''}{printable(first['msg'])}"

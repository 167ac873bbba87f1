"""Result rows: one measured value each, with everything that says how it was measured; `rows.jsonl` of a run.

    measure -> append_rows(run directory, rows) -> <storage>/<name>/rows.jsonl -> gather_rows(directories) -> tables

Many trials write at once, each into its own file, on local disk, S3 or GCS alike (pyarrow's file systems). A run that
is done again appends its rows again; of equal rows of one file `gather_rows` keeps the later ones.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from proteinlm.platform.places.places import place
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.storage.atomic import write_to_storage
from proteinlm.platform.storage.run_directory import ROWS_FILE, first_fault

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class ResultRow(BaseModel):
    """The value of one metric of one model on one split."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())

    run: str
    """The run that measured it: `<storage>/<name>` without the storage."""
    configuration: str = Field(default_factory=lambda row: str(row["run"]))
    """Name that runs share which differ in their seed alone; by default, as in rows of older versions, the run's."""
    kind: Literal["pretrain", "finetune", "baseline", "published"]
    model: str
    """Short name, such as "hidden-256-layer-4-head-4" or "one-hot window"."""
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    """Shape of the encoder; None of a baseline, a convolutional network, a published row, a row of an older version."""
    mode: str
    """"scratch", "full", "frozen" ..., or "-" where that says nothing."""
    task: str
    split: str
    metric: str
    definition: str
    """What is counted, over what, how pooled. Rows of different definitions are never ranked together."""
    value: float
    """Null in JSON where it is not finite, as in metrics.jsonl, and read back as NaN."""
    low: float | None = None
    high: float | None = None
    """95 % bootstrap interval over proteins."""
    deviation: float | None = None
    """Standard deviation over `num_seeds` seeds, of a row that is their mean: a published one."""
    num_seeds: int = 1
    larger_is_better: bool
    is_main: bool = True
    """Whether tables show it unasked."""
    floor: float | None = None
    """The same metric of a model that ignores all context."""
    num_proteins: int
    """0 of a published row whose source does not say."""
    num_scored: int
    unit: str
    """What `num_scored` counts, in words: "masked residues", "proteins" ..."""
    seed: int
    parameters: int | None = None
    steps: int | None = None
    """Optimizer steps of the training that the row ends."""
    residues: int | None = None
    """Residues seen in that training."""
    data_hash: str
    """Content hash of the split's data set; "-" of a published row."""
    split_rule: str
    """How the split was made, such as "whole clans and families held out"; of a published row, its source."""
    mask_seed: int | None = None
    is_simulated: bool = False
    """True where the proteins are made up."""
    code_version: str
    created: str
    """ISO 8601 time, with its zone."""
    settings: dict[str, object] | None = None
    """Small extras, such as the learning rate of the trial."""

    @field_validator("value", mode="before")
    @classmethod
    def _null_is_not_a_number(cls, value: object) -> object:
        return math.nan if value is None else value

    @field_validator("created")
    @classmethod
    def _is_iso_time(cls, created: str) -> str:
        if datetime.fromisoformat(created).tzinfo is None:
            raise ValueError("expected an ISO 8601 time with its zone, such as 2021-12-02T10:00:00+00:00")
        return created

    @property
    def key(self) -> tuple[str | int, ...]:
        """Identity of the value: of rows with equal keys, a later one replaces an earlier one."""
        return (self.run, self.model, self.mode, self.seed, self.task, self.split, self.metric)


def append_rows(directory: Path | str, rows: Sequence[ResultRow]) -> None:
    """Append `rows` to the `rows.jsonl` of the run at `directory` (path or URI): all, or none if the write is cut off.

    Only one process at a time may write the rows of a run. Raises OSError as the file system does.
    """
    filesystem, folder = _open(directory)
    if filesystem.type_name == "local":
        filesystem.create_dir(folder, recursive=True)
    target = f"{folder}/{ROWS_FILE}"
    before = _read(filesystem, target) if _is_file(filesystem, target) else b""
    if before and not before.endswith(b"\n"):
        before += b"\n"
    added = "".join(f"{row.model_dump_json()}\n" for row in rows)
    write_to_storage(filesystem, target, before + added.encode())


def gather_rows(paths: Sequence[Path | str]) -> list[ResultRow]:
    """The rows of all runs at or under `paths` (directories, `rows.jsonl` files or URIs), ordered by file and line.

    Of rows of one file with the same `key` the last is kept. Runs of one name in several directories stay apart: their
    `run` and `configuration` then begin with as much of the directory as tells them apart.
    Raises FileNotFoundError for a path that is not there and ValueError, with file and line, for a line that is no row.
    """
    found: dict[str, list[ResultRow]] = {}
    for path in paths:
        filesystem, location = _open(path)
        for file in _row_files(filesystem, location, path):
            found[f"{filesystem.type_name}:{file}"] = list(_rows(filesystem, file).values())
    twice = _equal_names(found)
    return [
        _beginning_with(_beginning(file, twice[row.configuration]), row) if row.configuration in twice else row
        for file, rows in found.items()
        for row in rows
    ]


def _beginning_with(storage: str, row: ResultRow) -> ResultRow:
    return row.model_copy(update={"run": storage + row.run, "configuration": storage + row.configuration})


def _equal_names(found: Mapping[str, Sequence[ResultRow]]) -> dict[str, list[str]]:
    """The configurations that have a run of one name in several files -> all files that have rows of them."""
    files: dict[str, dict[str, list[str]]] = {}
    for file, rows in found.items():
        for configuration, run in dict.fromkeys((row.configuration, row.run) for row in rows):
            files.setdefault(configuration, {}).setdefault(run, []).append(file)
    return {
        configuration: sorted({file for of_run in runs.values() for file in of_run})
        for configuration, runs in files.items()
        if any(len(of_run) > 1 for of_run in runs.values())
    }


def _beginning(file: str, files: Sequence[str]) -> str:
    """As many folders of a run's storage as tell `file` from the others of `files`: "lab/runs/".

    Where all lie in one storage (a run directory was copied), it is the run directory.
    """
    parts = [other.split("/")[:-2] for other in files]  # without run directory and rows.jsonl
    mine = file.split("/")[:-2]
    if all(other == mine for other in parts):
        return file.split("/")[-2] + "/"
    others = [other for other in parts if other != mine]
    depth = next((n for n in range(1, len(mine)) if all(other[-n:] != mine[-n:] for other in others)), len(mine))
    return "/".join(mine[-depth:]) + "/"


def _rows(filesystem: "FileSystem", file: str) -> dict[tuple[str | int, ...], ResultRow]:
    """The rows of `file` by key, a later one in place of an earlier one."""
    rows = {}
    for number, line in enumerate(_read(filesystem, file).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = ResultRow.model_validate_json(line)
        except ValidationError as error:
            raise ValueError(f"{file}, line {number} is not a result row: {first_fault(error)}") from None
        rows[row.key] = row
    return rows


def _row_files(filesystem: "FileSystem", location: str, path: Path | str) -> list[str]:
    """All `rows.jsonl` at or under `location`, sorted."""
    from pyarrow.fs import FileSelector, FileType

    info = filesystem.get_file_info(location)
    if info.type == FileType.NotFound:
        raise FileNotFoundError(f"no run at {path}: there is no such directory")
    if info.type == FileType.File:
        return [location]
    inside = filesystem.get_file_info(FileSelector(location, recursive=True))
    return sorted(found.path for found in inside if found.type == FileType.File and found.base_name == ROWS_FILE)


def _open(path: Path | str) -> "tuple[FileSystem, str]":
    """File system and path within it; a plain path is local, relative to the working directory."""
    from pyarrow.fs import LocalFileSystem

    path = place(path)
    if isinstance(path, RemotePath):
        return path.filesystem, path.key
    return LocalFileSystem(), str(Path(path).absolute())


def _is_file(filesystem: "FileSystem", location: str) -> bool:
    from pyarrow.fs import FileType

    return bool(filesystem.get_file_info(location).type == FileType.File)


def _read(filesystem: "FileSystem", location: str) -> bytes:
    with filesystem.open_input_stream(location) as stream:
        return bytes(stream.read())

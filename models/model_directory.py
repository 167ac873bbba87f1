"""A model as a directory: config.json and model.safetensors, there whole or not at all. Nothing in it is executed.

config.json says what the model is, the format with its version, and the digest of the weights file. What else stands in
it is for the format to say: pretrained.py (encoder and language model head), tasks/finetuned.py (a task's model).
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from torch import Tensor

from proteinlm.models.config import ModelConfig
from proteinlm.models.messages import printable, shown
from proteinlm.models.weights import MOST_NESTED, digest_of, refuse_pointer, write_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

MOST_FAULTS = 20
"""Of one configuration in one message."""
MOST_JSON_BYTES = 16 << 20
"""The index of ESM-2 of 15 billion parameters, the longest JSON beside published weights, has a hundredth of it."""


@dataclass(frozen=True)
class Format:
    """What config.json must say to be read as a certain kind of model."""

    name: str
    version: int
    """The version that is written."""
    readable: tuple[int, ...]

    def check(self, file: Path, description: Mapping[str, Any], otherwise: str = "") -> None:
        """ValueError unless `description`, read from `file`, is of this format; `otherwise` says what else is taken."""
        if description.get("format") != self.name:
            keys = ("format", "model_type")
            found = ", ".join(f"{key!r}: {shown(description[key])}" for key in keys if key in description) or "neither"
            raise ValueError(
                f"{file} does not describe a model of this program (found {found}; 'format': {self.name!r} is "
                f"accepted{otherwise})"
            )
        if description.get("format_version") not in self.readable:
            known = " and ".join(map(str, self.readable))
            raise ValueError(
                f"{file} has format version {shown(description.get('format_version'))}; this program reads {known}"
            )


def write_model(
    directory: str | Path, kind: Format, description: Mapping[str, object], state: Mapping[str, Tensor]
) -> None:
    """Write config.json (`description`, which must be JSON) and the tensors of `state`, in place of an older model.

    Tensors are written in fp32. Raises ValueError where `directory` holds something else than a model of this `kind`,
    OSError where it cannot be written.
    """
    target = Path(directory).absolute()
    if target.exists() and not _is_replaceable(target, kind):
        raise ValueError(f"{target} exists and is not a directory of the format {kind.name}; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.staging")
    staging.mkdir()
    try:
        write_weights(staging / WEIGHTS_FILE, state)
        about = {
            "format": kind.name,
            "format_version": kind.version,
            "weights_sha256": digest_of(staging / WEIGHTS_FILE),
        }
        text = json.dumps({**about, **description}, indent=2) + "\n"
        (staging / CONFIG_FILE).write_text(text, encoding="utf-8")
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_description(directory: Path) -> dict[str, Any]:
    """config.json of a model's directory; FileNotFoundError where there is none, ValueError as `read_json` does."""
    for needed in (directory, directory / CONFIG_FILE):
        if not needed.exists():
            raise FileNotFoundError(f"no such checkpoint: {directory} ({needed.name} not found)")
    return read_json(directory / CONFIG_FILE)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file that somebody else may have written; {} where it holds something else.

    Raises ValueError with the file's name where it is not JSON, says a key twice or a number that JSON does not have
    (NaN), is nested deeper than `MOST_NESTED` or longer than `MOST_JSON_BYTES`.
    """
    refuse_pointer(file)
    with file.open("rb") as content:
        text = content.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise ValueError(f"{file} is longer than {MOST_JSON_BYTES:,} bytes, which no description of a model is")
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_each_key_once, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"{file} is nested deeper than {MOST_NESTED} levels") from None
    except ValueError as error:  # of JSON, of UTF-8, of a number with thousands of digits
        raise ValueError(f"{file} is not JSON: {printable(str(error))}") from None
    level = [value]
    for _ in range(MOST_NESTED):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(f"{file} is nested deeper than {MOST_NESTED} levels")
    return value if isinstance(value, dict) else {}


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _inside(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_model_config(file: Path, values: object) -> ModelConfig:
    """The section 'model' of a config.json; ValueError with every fault and the file's name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} lacks the section 'model'")
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        faults = "; ".join(map(_fault, error.errors()[:MOST_FAULTS]))
        raise ValueError(f"{file}, section 'model': {faults}") from error


def _fault(fault: ErrorDetails) -> str:
    where = printable(".".join(map(str, fault["loc"])), 80) or "model"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}"


def check_digest(file: Path, description: Mapping[str, Any]) -> str:
    """The SHA-256 of the weights `file`; ValueError where `description` was written with another file."""
    digest = digest_of(file)
    if digest != description.get("weights_sha256"):
        raise ValueError(
            f"{file} is not the file that {CONFIG_FILE} was written with "
            f"(SHA-256 {digest[:12]}..., expected {shown(description.get('weights_sha256'))[1:13]}...)"
        )
    return digest


def _is_replaceable(target: Path, kind: Format) -> bool:
    """An empty directory, or a model of this kind."""
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        kind.check(target / CONFIG_FILE, read_description(target))
    except (OSError, ValueError):
        return False
    return True


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename; where an older model stands there it is moved aside first, so that a reader sees a whole one or none."""
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        target.rename(old)
        staging.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        staging.rename(target)

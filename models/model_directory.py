"""A model as a directory: config.json and model.safetensors, there whole or not at all. Nothing in it is executed.

config.json says what the model is, the format with its version, and the digest of the weights file. What else stands in
it is for the format to say: pretrained.py (encoder and language model head), tasks/finetuned.py (a task's model).
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from proteinlm.models.config import ModelConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


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
            found = ", ".join(f"{key!r}: {description[key]!r}" for key in keys if key in description) or "neither"
            raise ValueError(
                f"{file} does not describe a model of this program (found {found}; 'format': {self.name!r} is "
                f"accepted{otherwise})"
            )
        if description.get("format_version") not in self.readable:
            known = " and ".join(map(str, self.readable))
            raise ValueError(
                f"{file} has format version {description.get('format_version')!r}; this program reads {known}"
            )


def write_model(
    directory: str | Path, kind: Format, description: Mapping[str, object], state: Mapping[str, Tensor]
) -> None:
    """Write config.json (`description`, which must be JSON) and the tensors of `state`, in place of an older model.

    Tensors are written in fp32. Raises ValueError where `directory` holds something else than a model of this `kind`,
    OSError where it cannot be written.
    """
    from safetensors.torch import save_file

    target = Path(directory).absolute()
    if target.exists() and not _is_replaceable(target, kind):
        raise ValueError(f"{target} exists and is not a directory of the format {kind.name}; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.staging")
    staging.mkdir()
    try:
        tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in state.items()}
        save_file(tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
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
    """config.json of a model's directory; FileNotFoundError where there is none, ValueError where it is not JSON."""
    for needed in (directory, directory / CONFIG_FILE):
        if not needed.exists():
            raise FileNotFoundError(f"no such checkpoint: {directory} ({needed.name} not found)")
    file = directory / CONFIG_FILE
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    return description if isinstance(description, dict) else {}


def read_model_config(file: Path, values: object) -> ModelConfig:
    """The section 'model' of a config.json; ValueError with every fault and the file's name."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{file} lacks the section 'model'")
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'model'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise ValueError(f"{file}, section 'model': {faults}") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file by name, on the CPU; ValueError where it is not a whole one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file: {error}") from error


def check_digest(file: Path, description: Mapping[str, Any]) -> str:
    """The SHA-256 of the weights `file`; ValueError where `description` was written with another file."""
    digest = digest_of(file)
    if digest != description.get("weights_sha256"):
        raise ValueError(
            f"{file} is not the file that {CONFIG_FILE} was written with "
            f"(SHA-256 {digest[:12]}..., expected {str(description.get('weights_sha256'))[:12]}...)"
        )
    return digest


def check_weights(file: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError that names the first missing, surplus or misshapen tensor of `file`."""
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or surplus:
        faults = [f"{len(names)} {kind} (such as {min(names)})" for kind, names in
                  (("missing", missing), ("not known", surplus)) if names]  # fmt: skip
        raise ValueError(f"{file} does not hold the tensors that {CONFIG_FILE} describes: {', '.join(faults)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != torch.float32:
            raise ValueError(
                f"{file}: {name} is {found[name].dtype} {list(found[name].shape)}, "
                f"but {CONFIG_FILE} asks for torch.float32 {list(tensor.shape)}"
            )


def digest_of(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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

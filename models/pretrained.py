"""Pretrained directories: config.json and model.safetensors, what a pretraining run leaves and finetuning starts from.

config.json says what the model is, the format's version, a digest of the weights file and what the writer adds (corpus
hash, run name). The directory is written beside its place and renamed, so it is there whole or not at all.

A directory that transformers' EsmForMaskedLM or EsmModel saved is read as well (huggingface.py has the conversion).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import from_esm_state
from proteinlm.models.pretrained_config import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    check_format,
    is_esm,
    read_description,
    read_json,
)

TIED = "head.decoder_weight"
"""The head's name for the encoder's token table: left out of the file, tied again when loading. In the file only where
it is another matrix, as in models read from an ESM with token dropout."""


@dataclass(frozen=True)
class Pretrained:
    """A loaded pretrained directory, in fp32 on the CPU, in training mode as torch makes modules."""

    config: ModelConfig
    encoder: ProteinEncoder
    head: LanguageModelHead | None
    """None where the directory has none (an EsmModel's)."""
    extra: Mapping[str, object]
    """What the writer added."""
    content_hash: str
    """SHA-256 (hex) of model configuration and weights: the same for the same model wherever it lies."""


def save_pretrained(
    directory: str | Path,
    encoder: ProteinEncoder,
    language_model_head: LanguageModelHead,
    extra: Mapping[str, object],
) -> None:
    """Write a pretrained directory, in place of an older one if there is one.

    `extra` must be JSON. Raises ValueError where `directory` holds something else, OSError where it cannot be written.
    """
    from safetensors.torch import save_file

    target = Path(directory).absolute()
    if target.exists() and not _is_replaceable(target):
        raise ValueError(f"{target} exists and is not a pretrained directory; choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file(_state(encoder, language_model_head), aside / WEIGHTS_FILE, metadata={"format": "pt"})
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": encoder.config.model_dump(mode="json"),
            "weights_sha256": _digest(aside / WEIGHTS_FILE),
            "extra": dict(extra),
        }
        (aside / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        _put_in_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_pretrained(directory: str | Path) -> Pretrained:
    """Read a pretrained directory, or one of transformers' EsmForMaskedLM or EsmModel.

    Raises FileNotFoundError where there is none, ValueError that names the file and the fault where it is broken or
    holds a model that our encoder does not compute.
    """
    path = Path(directory)
    config, description = read_description(path)
    digest = _digest(path / WEIGHTS_FILE)
    state = _read_weights(path / WEIGHTS_FILE)
    if is_esm(description):
        state = _converted(path / WEIGHTS_FILE, config, state, description)
        digest += f" token_dropout {bool(description.get('token_dropout'))}"
    elif digest != description.get("weights_sha256"):
        raise ValueError(
            f"{path / WEIGHTS_FILE} is not the file that {CONFIG_FILE} was written with "
            f"(SHA-256 {digest[:12]}..., expected {str(description.get('weights_sha256'))[:12]}...)"
        )
    has_head = not is_esm(description) or any(name.startswith("head.") for name in state)
    encoder, head = _loaded(path / WEIGHTS_FILE, config, state, has_head)
    extra = description.get("extra")
    return Pretrained(
        config=config,
        encoder=encoder,
        head=head,
        extra=extra if isinstance(extra, dict) else {},
        content_hash=_content_hash(config, digest),
    )


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture of a pretrained directory, without reading its weights; raises as `load_pretrained` does."""
    return read_description(Path(directory))[0]


def _loaded(
    file: Path, config: ModelConfig, state: dict[str, Tensor], has_head: bool
) -> tuple[ProteinEncoder, LanguageModelHead | None]:
    """Modules that hold the tensors of `state`."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        encoder = ProteinEncoder(config)
        head = LanguageModelHead(config, encoder.token_embedding) if has_head else None
    _check_weights(file, state, _named(encoder, head, with_decoder=TIED in state))
    encoder.load_state_dict(_below(state, "encoder."), assign=True)
    if head is not None:
        tied = {"decoder_weight": encoder.token_embedding.weight}
        head.load_state_dict({**tied, **_below(state, "head.")}, assign=True)
    return encoder, head


def _named(encoder: ProteinEncoder, head: LanguageModelHead | None, *, with_decoder: bool) -> dict[str, Tensor]:
    """Tensors by their name in the file, the tied one once."""
    parts: tuple[tuple[str, nn.Module | None], ...] = (("encoder", encoder), ("head", head))
    named = {
        f"{part}.{name}": tensor for part, module in parts if module for name, tensor in module.state_dict().items()
    }
    if not with_decoder:
        named.pop(TIED, None)
    return named


def _state(encoder: ProteinEncoder, head: LanguageModelHead) -> dict[str, Tensor]:
    named = _named(encoder, head, with_decoder=head.decoder_weight is not encoder.token_embedding.weight)
    return {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in named.items()}


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _is_replaceable(target: Path) -> bool:
    """An empty directory, or one of ours."""
    if not target.is_dir():
        return False
    if not any(target.iterdir()):
        return True
    try:
        check_format(target / CONFIG_FILE, read_json(target / CONFIG_FILE))
    except (OSError, ValueError):
        return False
    return True


def _put_in_place(aside: Path, target: Path) -> None:
    if target.exists():
        old = target.with_name(f".{target.name}.old-{os.getpid()}")
        target.rename(old)
        aside.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        aside.rename(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted(
    file: Path, config: ModelConfig, state: Mapping[str, Tensor], description: Mapping[str, Any]
) -> dict[str, Tensor]:
    """ESM's tensors under the names of our file."""
    try:
        encoder, head = from_esm_state(config, state, token_dropout=bool(description.get("token_dropout")))
    except ValueError as error:
        raise ValueError(f"{file} {error}") from None
    named = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    return {**named, **{f"head.{name}": tensor for name, tensor in (head or {}).items()}}


def _content_hash(config: ModelConfig, weights_digest: str) -> str:
    # the preset's name, the start and the way of computing do not change what the model is
    unseen = {"preset", "activation_checkpointing", "dropout", "initial_deviation"}
    shape = config.model_dump(mode="json", exclude=unseen)
    return hashlib.sha256(f"{json.dumps(shape, sort_keys=True)}\n{weights_digest}".encode()).hexdigest()


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def _check_weights(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """ValueError that names the first missing, surplus or misshapen tensor."""
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or surplus:
        faults = [f"{len(names)} {kind} (such as {min(names)})" for kind, names in
                  (("missing", missing), ("not known", surplus)) if names]  # fmt: skip
        raise ValueError(f"{path} does not hold the tensors that {CONFIG_FILE} describes: {', '.join(faults)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape or found[name].dtype != torch.float32:
            raise ValueError(
                f"{path}: {name} is {found[name].dtype} {list(found[name].shape)}, "
                f"but {CONFIG_FILE} asks for torch.float32 {list(tensor.shape)}"
            )

"""A pretrained model, encoder and language model head, as a directory: what finetuning starts from.

Beside what every model's directory says (model_directory.py), config.json holds the section `model`, a `ModelConfig`,
and `extra`, what the writer adds (corpus hash, run name).

A directory that transformers' EsmForMaskedLM or EsmModel saved is read as well (huggingface.py has the conversion).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import MODEL_TYPE, from_esm_config, from_esm_state
from proteinlm.models.model_directory import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Format,
    check_digest,
    check_weights,
    digest_of,
    read_description,
    read_model_config,
    read_weights,
    write_model,
)

FORMAT = Format("proteinlm-pretrained", version=2, readable=(1, 2))
"""Version 1 calls the model's `initializer_range` by its earlier name (models/config.py)."""
VOCABULARY_FILE = "vocab.txt"
"""Where a tokenizer of transformers, if one was saved beside the model, keeps its tokens, a line each."""
NOT_WEIGHTS: Mapping[str, str] = {
    "pytorch_model.bin": "a pickle, which is not opened here; load it with transformers and save_pretrained() it again",
    "model.safetensors.index.json": "several files; save it again with save_pretrained(..., max_shard_size='100GB')",
}
"""Files in which other programs keep weights, and what to do about it."""
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
    named = _named(encoder, language_model_head, with_decoder=not is_tied(encoder, language_model_head))
    write_model(directory, FORMAT, {"model": encoder.config.model_dump(mode="json"), "extra": dict(extra)}, named)


def load_pretrained(directory: str | Path) -> Pretrained:
    """Read a pretrained directory, or one of transformers' EsmForMaskedLM or EsmModel.

    Raises FileNotFoundError where there is none, ValueError that names the file and the fault where it is broken or
    holds a model that our encoder does not compute.
    """
    path = Path(directory)
    config, description = _described(path)
    weights = path / WEIGHTS_FILE
    state = read_weights(weights)
    if is_esm(description):
        state = _converted(weights, config, state, description)
        digest = _esm_digest(weights, description)
    else:
        digest = check_digest(weights, description)
    has_head = not is_esm(description) or any(name.startswith("head.") for name in state)
    encoder, head = _loaded(weights, config, state, has_head)
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
    return _described(Path(directory))[0]


def content_hash_of(directory: str | Path) -> str:
    """The `content_hash` of a pretrained directory, without loading it; raises as `read_config` does.

    Of a directory of our own the weights are not read: config.json says their digest, and loading compares it.
    """
    path = Path(directory)
    config, description = _described(path)
    if is_esm(description):
        return _content_hash(config, _esm_digest(path / WEIGHTS_FILE, description))
    return _content_hash(config, str(description.get("weights_sha256")))


def _esm_digest(weights: Path, description: Mapping[str, Any]) -> str:
    return f"{digest_of(weights)} token_dropout {bool(description.get('token_dropout'))}"


def _loaded(
    file: Path, config: ModelConfig, state: dict[str, Tensor], has_head: bool
) -> tuple[ProteinEncoder, LanguageModelHead | None]:
    """Modules that hold the tensors of `state`."""
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
        encoder = ProteinEncoder(config)
        head = LanguageModelHead(config, encoder.token_embedding) if has_head else None
    check_weights(file, state, _named(encoder, head, with_decoder=TIED in state))
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


def is_tied(encoder: ProteinEncoder, head: LanguageModelHead) -> bool:
    """Whether the head scores tokens with the encoder's own token table."""
    return head.decoder_weight is encoder.token_embedding.weight


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


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
    unseen = {"preset", "activation_checkpointing", "dropout", "initializer_range"}
    shape = config.model_dump(mode="json", exclude=unseen)
    return hashlib.sha256(f"{json.dumps(shape, sort_keys=True)}\n{weights_digest}".encode()).hexdigest()


def is_esm(description: Mapping[str, Any]) -> bool:
    """Whether config.json is one of transformers' ESM classes."""
    return "format" not in description and description.get("model_type") == MODEL_TYPE


def _described(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a pretrained directory, and config.json as it is; raises as `load_pretrained` does."""
    description = read_description(path)
    _check_weights_file(path)
    if is_esm(description):
        try:
            values = from_esm_config(description)
            _check_vocabulary(path / VOCABULARY_FILE)
        except ValueError as error:
            raise ValueError(f"{path / CONFIG_FILE}, an ESM model of transformers: {error}") from None
        return read_model_config(path / CONFIG_FILE, values), description
    FORMAT.check(path / CONFIG_FILE, description, f", or 'model_type': '{MODEL_TYPE}' of transformers")
    return read_model_config(path / CONFIG_FILE, description.get("model")), description


def _check_weights_file(path: Path) -> None:
    if (path / WEIGHTS_FILE).exists():
        return
    for other, advice in NOT_WEIGHTS.items():
        if (path / other).exists():
            raise ValueError(f"{path} has its weights in {other}, {advice}")
    raise FileNotFoundError(f"no such checkpoint: {path} ({WEIGHTS_FILE} not found)")


def _check_vocabulary(path: Path) -> None:
    """ValueError where a tokenizer beside the model has other tokens, or another order, than ESM."""
    tokens = get_alphabet("esm").tokens
    if path.exists() and (found := tuple(path.read_text(encoding="utf-8").split())) != tokens:
        raise ValueError(f"{path.name} has the tokens {' '.join(found[:40])}; accepted: {' '.join(tokens)}")

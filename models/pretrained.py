"""A pretrained model, encoder and language model head, as a directory: what finetuning starts from.

Beside what every model's directory says (model_directory.py), config.json holds the section `model`, a `ModelConfig`,
and `extra`, what the writer adds (corpus hash, run name).

A directory that an ESM class of transformers saved is read as well (huggingface.py has the conversion): EsmForMaskedLM,
EsmModel, or a classifier, whose head is left out. Its weights may be safetensors or .bin, in one file or in shards.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import MODEL_TYPE, esm_layout, esm_name, from_esm_config, from_esm_state
from proteinlm.models.messages import shown
from proteinlm.models.model_directory import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Format,
    check_digest,
    read_description,
    read_json,
    read_model_config,
    write_model,
)
from proteinlm.models.weights import check_weights, digest_of, read_weights, refuse_pointer

FORMAT = Format("proteinlm-pretrained", version=2, readable=(1, 2))
"""Version 1 calls the model's `initializer_range` by its earlier name (models/config.py)."""
VOCABULARY_FILE = "vocab.txt"
"""Where a tokenizer of transformers, if one was saved beside the model, keeps its tokens, a line each."""
ESM_WEIGHTS = (WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where transformers keeps weights, in the order in which it looks; an index names the shards of its model."""
SHARD_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|bin)"
NOT_WEIGHTS: Mapping[str, str] = {"tf_model.h5": "TensorFlow", "flax_model.msgpack": "Flax"}
"""Files in which other programs keep weights."""
FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What an ESM model's tensors may be; all become fp32."""
TIED = "head.decoder_weight"
"""The head's name for the encoder's token table: left out of the file, tied again when loading. In the file only where
it is another matrix, as in models read from an ESM with token dropout."""


@dataclass(frozen=True)
class Pretrained:
    """A loaded pretrained directory, in fp32 on the CPU, in training mode as torch makes modules."""

    config: ModelConfig
    encoder: ProteinEncoder
    head: LanguageModelHead | None
    """None where the directory has none (an EsmModel's or a classifier's)."""
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
    """Read a pretrained directory, or one of transformers' ESM classes. No code in it is run.

    Raises FileNotFoundError where there is none, ValueError that names the file and the fault where it is broken or
    holds a model that our encoder does not compute.
    """
    path = Path(directory)
    config, description = _described(path)
    if is_esm(description):
        state = _converted(config, _esm_tensors(path, config))
        digest = _esm_digest(path)
        encoder, head = _without_memory(config, has_head=any(name.startswith("head.") for name in state))
    else:
        state = read_weights(path / WEIGHTS_FILE)
        digest = check_digest(path / WEIGHTS_FILE, description)
        encoder, head = _without_memory(config)
        check_weights(path / WEIGHTS_FILE, state, _named(encoder, head, with_decoder=TIED in state))
    encoder.load_state_dict(_below(state, "encoder."), assign=True)
    if head is not None:
        tied = {"decoder_weight": encoder.token_embedding.weight}
        head.load_state_dict({**tied, **_below(state, "head.")}, assign=True)
    extra = description.get("extra")
    return Pretrained(
        config=config,
        encoder=encoder,
        head=head,
        extra=extra if isinstance(extra, dict) else {},
        content_hash=_content_hash(config, digest),
    )


def check_pretrained(directory: str | Path) -> ModelConfig:
    """The architecture of a pretrained directory whose weights have its names, shapes and types.

    Takes milliseconds, also for large models: no value is read. What only values show (NaN, a digest) is left to
    `load_pretrained`; raises as that does.
    """
    path = Path(directory)
    config, description = _described(path)
    if is_esm(description):
        _esm_tensors(path, config, with_values=False)
    else:
        state = read_weights(path / WEIGHTS_FILE, with_values=False)
        expected = _named(*_without_memory(config), with_decoder=TIED in state)
        check_weights(path / WEIGHTS_FILE, state, expected, with_values=False)
    return config


def read_config(directory: str | Path) -> ModelConfig:
    """The architecture of a pretrained directory, without reading its weights; raises as `load_pretrained` does."""
    return _described(Path(directory))[0]


def content_hash_of(directory: str | Path) -> str:
    """The `content_hash` of a pretrained directory, without loading it; raises as `read_config` does.

    Of a directory of our own the weights are not read: config.json says their digest, and loading compares it.
    """
    path = Path(directory)
    config, description = _described(path)
    return _content_hash(config, _esm_digest(path) if is_esm(description) else str(description.get("weights_sha256")))


def _esm_digest(path: Path) -> str:
    # the words are from when token dropout was no field of the configuration: hashes from then stay what they were
    return f"{_digest(_esm_files(path))} token_dropout False"


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


def _esm_tensors(path: Path, config: ModelConfig, *, with_values: bool = True) -> dict[str, Tensor]:
    """The tensors of an ESM directory, checked, under ESM's names."""
    state: dict[str, Tensor] = {}
    files: dict[str, Path] = {}
    for file in _esm_files(path):
        for name, tensor in read_weights(file, with_values=with_values).items():
            plain = esm_name(name, config)
            if plain in files:
                raise ValueError(f"{file}: {shown(name)} is there a second time, first in {files[plain].name}")
            if plain is not None:
                state[plain], files[plain] = tensor, file
    expected = esm_layout(config, state)
    check_weights(path, state, expected, accepted=FLOATING, files=files, with_values=with_values)
    return state


def _converted(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ESM's tensors under the names of our file."""
    encoder, head = from_esm_state(config, state)
    named = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    return {**named, **{f"head.{name}": tensor for name, tensor in head.items()}}


def _without_memory(config: ModelConfig, *, has_head: bool = True) -> tuple[ProteinEncoder, LanguageModelHead | None]:
    """Modules on the device "meta": no memory and no random numbers for weights that are replaced at once."""
    with torch.device("meta"):
        encoder = ProteinEncoder(config)
        return encoder, LanguageModelHead(config, encoder.token_embedding) if has_head else None


def _esm_files(path: Path) -> list[Path]:
    """The files that hold an ESM model's weights; raises as `load_pretrained` does where there are none."""
    for name in ESM_WEIGHTS:
        if (path / name).exists():
            return _shards(path / name) if name.endswith(".json") else [path / name]
    for name, program in NOT_WEIGHTS.items():
        if (path / name).exists():
            raise ValueError(f"{path} has its weights in {name}, of {program}; accepted: {', '.join(ESM_WEIGHTS)}")
    raise FileNotFoundError(f"no such checkpoint: {path} ({WEIGHTS_FILE} not found)")


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{index} lacks 'weight_map', which says what file a tensor is in")
    for name, file in places.items():
        if not isinstance(file, str) or not re.fullmatch(SHARD_NAME, file):
            raise ValueError(f"{index}: {shown(name)} is in {shown(file)}; accepted: a .safetensors or .bin beside it")
        if not (index.parent / file).exists():
            raise FileNotFoundError(f"{index} names the file {file}, which is not there")
    return [index.parent / file for file in sorted(set(places.values()))]


def _digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) of one file; of several, that of their digests."""
    digests = [digest_of(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


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
    if is_esm(description):
        try:
            values = from_esm_config(description)
        except ValueError as error:
            raise ValueError(f"{path / CONFIG_FILE}, an ESM model of transformers: {error}") from None
        _check_vocabulary(path / VOCABULARY_FILE)
        for file in _esm_files(path):
            refuse_pointer(file)
        return read_model_config(path / CONFIG_FILE, values), description
    FORMAT.check(path / CONFIG_FILE, description, f", or 'model_type': '{MODEL_TYPE}' of transformers")
    if not (path / WEIGHTS_FILE).exists():
        raise FileNotFoundError(f"no such checkpoint: {path} ({WEIGHTS_FILE} not found)")
    return read_model_config(path / CONFIG_FILE, description.get("model")), description


def _check_vocabulary(file: Path) -> None:
    """ValueError where a tokenizer beside the model has other tokens, or another order, than ESM."""
    tokens = get_alphabet("esm").tokens
    if not file.exists():
        return
    refuse_pointer(file)
    with file.open("rb") as content:
        found = content.read(1000).decode("utf-8", "backslashreplace").split()  # ESM's has 93 bytes
    if tuple(found) != tokens:
        words = " ".join(token if token.isprintable() else ascii(token) for token in found)
        raise ValueError(f"{file} has the tokens {words[:200]}; accepted: {' '.join(tokens)}")

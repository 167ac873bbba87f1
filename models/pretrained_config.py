"""config.json of a pretrained directory: of our own format, or of transformers' ESM classes; what it says, checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.huggingface import MODEL_TYPE, from_esm_config

FORMAT = "proteinlm-pretrained"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "vocab.txt"
"""Where a tokenizer of transformers, if one was saved beside the model, keeps its tokens, a line each."""
NOT_WEIGHTS: Mapping[str, str] = {
    "pytorch_model.bin": "a pickle, which is not opened here; load it with transformers and save_pretrained() it again",
    "model.safetensors.index.json": "several files; save it again with save_pretrained(..., max_shard_size='100GB')",
}
"""Files in which other programs keep weights, and what to do about it."""


def read_description(path: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The model of a pretrained directory, and config.json as it is; raises as `load_pretrained` does."""
    for needed in (path, path / CONFIG_FILE):
        if not needed.exists():
            raise FileNotFoundError(f"no such checkpoint: {path} ({needed.name} not found)")
    description = read_json(path / CONFIG_FILE)
    _check_weights_file(path)
    if is_esm(description):
        try:
            values = from_esm_config(description)
            _check_vocabulary(path / VOCABULARY_FILE)
        except ValueError as error:
            raise ValueError(f"{path / CONFIG_FILE}, an ESM model of transformers: {error}") from None
        return _checked_config(path / CONFIG_FILE, values), description
    check_format(path / CONFIG_FILE, description)
    return _read_model_config(path / CONFIG_FILE, description.get("model")), description


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


def is_esm(description: Mapping[str, Any]) -> bool:
    """Whether config.json is one of transformers' ESM classes."""
    return "format" not in description and description.get("model_type") == MODEL_TYPE


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file says, {} where that is not an object; ValueError where it is not JSON."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return description if isinstance(description, dict) else {}


def check_format(path: Path, description: Mapping[str, Any]) -> None:
    """ValueError unless config.json is one of ours, in the version that this program reads."""
    if description.get("format") != FORMAT:
        found = f"'model_type': {description['model_type']!r}, " if "model_type" in description else ""
        raise ValueError(
            f"{path} does not describe a model of this program ({found}'format': '{FORMAT}' not found) "
            f"nor one of transformers' ESM ('model_type': '{MODEL_TYPE}')"
        )
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {description.get('format_version')!r}; this program reads {FORMAT_VERSION}"
        )


def _read_model_config(path: Path, values: object) -> ModelConfig:
    if not isinstance(values, dict):
        raise ValueError(f"{path} lacks the section 'model'")
    return _checked_config(path, values)


def _checked_config(path: Path, values: Mapping[str, Any]) -> ModelConfig:
    try:
        return ModelConfig(**values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'model'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise ValueError(f"{path}, section 'model': {faults}") from error

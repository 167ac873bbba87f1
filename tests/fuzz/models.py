"""Fuzzing of model directories, ours and transformers', in every wrapping: `python -m tests.fuzz.models --seconds 300`.

One file of a directory is damaged, bytes or values of its JSON, and the directory is loaded.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from proteinlm.models.pretrained import load_pretrained
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.finetuned import Finetuned, load_finetuned, save_finetuned
from tests.fuzz.damage import damaged
from tests.fuzz.runner import Target, main
from tests.made.small_models import SMALLEST_ESM, esm_as_bin, esm_model, saved_ours, tiny_model

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2.5, 1e308, 10**30, 10**400, float("nan"), "", "x", "0", "\x1b]0;x\x07", "a" * 10**5),
    *([], [1] * 1000, {}, {"a": {"b": [{}]}}, "../x", "/dev/zero"),
)
KEYS = ("\x1b]0;x\x07", "k" * 10**5, "preset", "alphabet", "token_dropout")


def _finetuned(directory: Path) -> None:
    model = tiny_model(build_task("stability"), hidden_size=16)
    save_finetuned(directory, model, Finetuned("stability", {}, "full", model.encoder.config))


KINDS: Mapping[str, Callable[[Path], object]] = {
    "ours": saved_ours,
    "finetuned": _finetuned,
    "safetensors": lambda directory: esm_model(**SMALLEST_ESM).save_pretrained(directory),
    "sharded": lambda directory: esm_model(**SMALLEST_ESM).save_pretrained(directory, max_shard_size="1KB"),
    "bin": esm_as_bin,
}
"""Kind of directory -> what writes one."""


def target(kind: str) -> Target:
    """The directory as honest files, and its reader."""
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind](Path(folder) / kind)
        honest = {file.name: file.read_bytes() for file in sorted((Path(folder) / kind).iterdir())}
    load = load_finetuned if kind == "finetuned" else load_pretrained
    return Target(f"model-{kind}", partial(_read, load, honest), honest, must_name=False, damage=_damage)


def _read(load: Callable[[Path], object], honest: Mapping[str, bytes], path: Path) -> None:
    """Load the honest directory with the damaged file `path` in it; a refusal must name the directory."""
    directory = path.with_name("model")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in honest.items():
        (directory / name).write_bytes(path.read_bytes() if path.name == name else content)
    try:
        load(directory)
    except (ValueError, OSError) as error:
        if str(directory) not in str(error):
            raise AssertionError(f"the directory is not named in {str(error)[:300]!r}") from error
        raise


def _damage(content: bytes, generator: random.Random) -> bytes:
    if content[:1] != b"{" or generator.random() < 0.2:
        return damaged(content, generator)
    values = json.loads(content)
    *way, last = generator.choice(list(_places(values)))
    inner = values
    for key in way:
        inner = inner[key]
    choice = generator.random()
    if choice < 0.1:
        del inner[last]
    elif choice < 0.2 and isinstance(inner, dict):
        inner[generator.choice(KEYS)] = generator.choice(VALUES)
    else:
        inner[last] = generator.choice(VALUES)
    return json.dumps(values).encode()


def _places(values: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values inside, keys and numbers."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, inner in pairs:
        yield (*way, key)
        yield from _places(inner, (*way, key))


if __name__ == "__main__":
    sys.exit(main([target(kind) for kind in KINDS]))

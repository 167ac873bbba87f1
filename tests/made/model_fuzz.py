"""Random damage to directories of models, ours and transformers': `python -m tests.made.model_fuzz TRIES [SEED]`."""

import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proteinlm.models.pretrained import load_pretrained
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.finetuned import Finetuned, load_finetuned, save_finetuned
from tests.made.small_models import SMALLEST_ESM, esm_as_bin, esm_model, saved_ours, tiny_model

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2.5, 1e308, 10**30, 10**400, float("nan"), "", "x", "0", "\x1b]0;x\x07", "a" * 10**5),
    *([], [1] * 1000, {}, {"a": {"b": [{}]}}, "../x", "/dev/zero"),
)
KEYS = ("\x1b]0;x\x07", "k" * 10**5, "preset", "alphabet", "token_dropout")
SLOW = 5.0
"""Seconds; a try takes some milliseconds."""
LONG = 1500
"""Characters of a message."""


def make_directories(root: Path) -> list[Path]:
    """Small models of every kind that is read, one a directory."""
    saved_ours(root / "ours")
    esm_as_bin(root / "bin")
    esm_model(**SMALLEST_ESM).save_pretrained(root / "safetensors")
    esm_model(**SMALLEST_ESM).save_pretrained(root / "sharded", max_shard_size="1KB")
    model = tiny_model(build_task("stability"), hidden_size=16)
    save_finetuned(root / "finetuned", model, Finetuned("stability", {}, "full", model.encoder.config))
    return sorted(root.iterdir())


def fuzz(root: Path, tries: int, seed: int) -> tuple[int, list[str]]:
    """Damage a file, load its directory, put the file back, `tries` times. Returns refusals, and what went wrong.

    Wrong is all but a model or a ValueError or OSError which names the directory, in short and without escapes.
    """
    generator = random.Random(seed)
    directories = make_directories(root)
    refused, wrong = 0, []
    for number in range(tries):
        directory = generator.choice(directories)
        file = generator.choice(sorted(directory.iterdir()))
        content = file.read_bytes()
        is_json = file.suffix == ".json" and generator.random() < 0.8
        file.write_bytes(_other_json(content, generator) if is_json else _other_bytes(content, generator))
        began = time.perf_counter()
        try:
            (load_finetuned if directory.name == "finetuned" else load_pretrained)(directory)
        except (ValueError, OSError) as error:
            refused += 1
            said = str(error)
            if str(directory) not in said or len(said) > LONG or "\x1b" in said:
                wrong.append(f"try {number}, {file}: {said[:LONG]!r}")
        except Exception:
            wrong.append(f"try {number}, {file}: {traceback.format_exc()[-600:]}")
        if time.perf_counter() - began > SLOW:
            wrong.append(f"try {number}, {file}: {time.perf_counter() - began:.1f} s")
        file.write_bytes(content)
    return refused, wrong


def _other_json(content: bytes, generator: random.Random) -> bytes:
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


def _other_bytes(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(min(len(content), 3000) if generator.random() < 0.7 else len(content))
    before, after = content[:place], content[place:]
    return generator.choice(
        (
            before + bytes([after[0] ^ 1 << generator.randrange(8)]) + after[1:],
            before,
            before + generator.randbytes(generator.randrange(1, 9)) + after,
            before + after[generator.randrange(1, 20) :],
            before + after + after,
        )
    )


if __name__ == "__main__":
    count, start = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        refusals, faults = fuzz(Path(folder), count, start)
    print(f"{count} tries, {refusals} refused, {len(faults)} wrong")
    print(*faults[:20], sep="\n")

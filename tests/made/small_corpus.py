"""A corpus small enough for a unit test, written without Ray: simulated letters in the shard form."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from proteinlm.platform.data.manifest import Manifest, split_of, write_manifest, write_shard

MOTIF = "MKVLAAGHWD"


def sequences(count: int, seed: int) -> list[str]:
    """Proteins of 30 to 80 residues that repeat one motif from a random place: what comes next is learnable."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        start, length = int(generator.integers(len(MOTIF))), int(generator.integers(30, 80))
        made.append((MOTIF * 12)[start : start + length])
    return made


def write_small_corpus(directory: Path, *, proteins: int = 400, shards: int = 4) -> Manifest:
    """Splits train, valid and holdout of motif proteins."""
    splits = {}
    for number, (name, count, parts) in enumerate([("train", proteins, shards), ("valid", 40, 1), ("holdout", 40, 1)]):
        made = sequences(count, seed=number)
        written = []
        for part in range(parts):
            rows = range(part * count // parts, (part + 1) * count // parts)
            texts = [made[row] for row in rows]
            table = pa.table(
                {
                    "id": [f"{name}{row}" for row in rows],
                    "sequence": texts,
                    "length": pa.array([len(text) for text in texts], pa.int32()),
                }
            )
            written.append(write_shard(directory, name, part, table))
        splits[name] = split_of(written)
    manifest = Manifest(kind="corpus", splits=splits, settings={"split_rule": "test"}, counts={}, is_simulated=True)
    write_manifest(directory, manifest)
    return manifest

"""A corpus small enough for a unit test, written without Ray: simulated letters in the shard form."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from proteinlm.platform.data.manifest import Manifest, Shard, Split, write_manifest

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
        (directory / name).mkdir(parents=True)
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
            file = f"{name}/shard-{part:05d}.parquet"
            pq.write_table(table, directory / file)
            digest = hashlib.sha256("".join(texts).encode()).hexdigest()
            written.append(Shard(file=file, rows=len(texts), residues=sum(map(len, texts)), digest=digest))
        counts = Counter("".join(made))
        splits[name] = Split(shards=tuple(written), residue_counts=dict(counts), longest=max(map(len, made)))
    manifest = Manifest(kind="corpus", splits=splits, settings={"split_rule": "test"}, counts={}, is_simulated=True)
    write_manifest(directory, manifest)
    return manifest

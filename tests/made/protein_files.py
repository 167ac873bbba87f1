"""Source files of the kinds a corpus is built from, and a runner of its tasks without Ray."""

import bz2
import gzip
import json
import lzma
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa

from proteinlm.platform.corpus.chunks import Chunk, stream_parts
from proteinlm.platform.data.manifest import Manifest, read_shard
from proteinlm.platform.data.sources import Source
from proteinlm.platform.settings.config import CorpusConfig
from proteinlm.platform.settings.loading import validate

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


def random_proteins(count: int, seed: int = 0) -> list[tuple[str, str, str | None]]:
    """(id, sequence, family): a third of them without a family, the others in 20 families."""
    generator = np.random.default_rng(seed)
    return [
        (
            f"P{number:05d}",
            "".join(generator.choice(LETTERS, int(generator.integers(5, 60)))),
            f"PF{number % 20 + 1:05d}" if number % 3 else None,
        )
        for number in range(count)
    ]


def fasta_text(proteins: Sequence[tuple[str, str, str | None]], width: int = 30) -> bytes:
    lines = []
    for name, sequence, family in proteins:
        lines.append(f">{name} {name} {family}.7;Name;" if family else f">{name} some protein")
        lines += [sequence[start : start + width] for start in range(0, len(sequence), width)]
    return ("\n".join(lines) + "\n").encode()


def json_text(proteins: Sequence[tuple[str, str, str | None]]) -> bytes:
    return "".join(
        json.dumps({"id": name, "primary": sequence, "family": 7, "family_id": family}) + "\n"
        for name, sequence, family in proteins
    ).encode()


def write_file(path: Path, content: bytes) -> Path:
    path.write_bytes(compressed(content, path.suffix))
    return path


def compressed(content: bytes, ending: str) -> bytes:
    """`content` as the ending of a compressed file asks for; as it is for any other ending."""
    if ending == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(content)
        return bytes(sink.getvalue().to_pybytes())
    made = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return made.get(ending, bytes)(content)


def write_lmdb(path: Path, values: Sequence[Any], length: int | None = None) -> Path:
    """A TAPE LMDB; bytes are stored as they are, everything else is pickled."""
    with (
        lmdb.open(str(path), map_size=1 << 24) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"num_examples", pickle.dumps(len(values) if length is None else length))
        for number, value in enumerate(values):
            transaction.put(str(number).encode(), value if isinstance(value, bytes) else pickle.dumps(value))
    return path


def corpus_rows(directory: Path, manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """All rows of each split, in order."""
    return {
        name: [row for shard in split.shards for row in read_shard(directory, shard).to_pylist()]
        for name, split in manifest.splits.items()
    }


class SerialRunner:
    """Runs tasks here, one after another and last first, so that nothing may lean on their order."""

    def __init__(self, chunk_bytes: int, max_record_bytes: int, max_tasks: int | None = None) -> None:
        self.chunk_bytes, self.max_record_bytes = chunk_bytes, max_record_bytes

    def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        return map(function, reversed(items))

    def map_streams(self, function: Callable[[Chunk], Any], sources: Sequence[tuple[int, Source]]) -> Iterator[Any]:
        for number, source in sources:
            parts = stream_parts(source, self.chunk_bytes, self.max_record_bytes)
            chunks = [Chunk(number, place, part=part) for place, part in enumerate(parts)]
            yield from map(function, reversed(chunks))


WORK = {"chunk_bytes", "bucket_bytes", "max_tasks"}


def corpus_config(sources: Sequence[Path], out: Path, **settings: Any) -> CorpusConfig:
    """The settings of a corpus build; those of its work are given beside the others."""
    work = {name: value for name, value in settings.items() if name in WORK}
    rest = {name: value for name, value in settings.items() if name not in WORK}
    return validate(CorpusConfig, {"sources": list(sources), "out": out, "work": work, **rest}, "test")

"""Fuzzing of sequence files: FASTA, JSON lines, tables, and each of them compressed.

python -m tests.fuzz.sequences --seconds 300 [TARGET ...]
"""

import sys
from collections import Counter
from pathlib import Path

from proteinlm.models.sequences import Composition
from proteinlm.platform.corpus.chunks import Chunk, stream_parts
from proteinlm.platform.corpus.cleaning import Protein
from proteinlm.platform.corpus.passes import read_chunk
from proteinlm.platform.corpus.scratch import Recipe
from proteinlm.platform.data.sources import inspect_sources
from proteinlm.platform.labelled.files import read_records
from tests.fuzz.runner import Target, main
from tests.made.protein_files import compressed, corpus_config, fasta_text, json_text, random_proteins

PROTEINS = random_proteins(40)
CHUNK_BYTES = 2000
FASTA_WORDS = (b">", b"\n>", b">x mol:na\n", b"*", b"-", b"PF00001.1;", b"J")
JSON_WORDS = (b'"id"', b'"primary"', b'"sequence"', b'{"id": "a", "primary": "ACD"}\n', b"\\u0000", b"[" * 2000)


def read_corpus_source(path: Path) -> None:
    """All of a source as a corpus build reads it, in ranges or as a stream; every record must have been counted."""
    (source,) = inspect_sources([path])
    config = corpus_config([path], path.with_name("out"), max_length=2000)
    recipe = Recipe("", (source,), ("a",), {}, 1, config)
    if source.compression:
        parts = stream_parts(source, CHUNK_BYTES, config.max_record_bytes)
        chunks = [Chunk(0, number, part=part) for number, part in enumerate(parts)]
    else:
        starts = range(0, source.size, CHUNK_BYTES)
        chunks = [Chunk(0, number, start, start + CHUNK_BYTES) for number, start in enumerate(starts)]
    counts: Counter[str] = Counter()
    composition = Composition()
    for chunk in chunks:
        _, entries, part = read_chunk(chunk, recipe)
        composition.update(part)
        for entry in entries:
            counts[type(entry).__name__] += 1
            if isinstance(entry, Protein):
                assert entry.id.encode()
                assert entry.sequence.isalpha()
                assert (entry.family or "").encode() is not None
            else:
                assert len(entry.reason) < 1000
    composition.verdict()


def read_table(path: Path) -> None:
    """All records of a labelled file."""
    for record in read_records(path):
        assert isinstance(record.values, dict)


def honest(name: str, content: bytes) -> dict[str, bytes]:
    """`content` plain and in all compressions, the last one under a name that says another."""
    made = {f"{name}{ending}": compressed(content, ending) for ending in ("", ".gz", ".bz2", ".xz", ".zst")}
    return {**made, f"b{name}.gz": compressed(content, ".xz")}


TABLE = "id,sequence,target\n" + "".join(f"{name},{sequence},{len(sequence) / 7}\n" for name, sequence, _ in PROTEINS)
TARGETS = [
    Target("fasta", read_corpus_source, honest("a.fasta", fasta_text(PROTEINS)), FASTA_WORDS),
    Target("jsonl", read_corpus_source, honest("a.jsonl", json_text(PROTEINS)), JSON_WORDS),
    Target("csv", read_table, honest("a.csv", TABLE.encode()), (b",", b'"', b"\n", b",set", b"id,", b"[1, 2]")),
]

if __name__ == "__main__":
    sys.exit(main(TARGETS))

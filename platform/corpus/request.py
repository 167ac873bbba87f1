"""What a corpus build is asked for, checked before any task starts: arguments, sources, a corpus already there."""

import gzip
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proteinlm.platform.corpus.scratch import MAX_SOURCES
from proteinlm.platform.data.sources import ACCEPTED, Source, inspect_source, lmdb_length, lmdb_records

RULES_VERSION = 1
"""Of cleaning, order and splitting: part of the settings, so that a corpus of older rules is not taken for this one."""
_PEEK_BYTES = 1 << 20


@dataclass(frozen=True)
class CorpusRequest:
    """The arguments of a build that determine the corpus."""

    sources: tuple[Path, ...]
    clans: Path | None
    seed: int
    valid_fraction: float
    holdout_fraction: float
    holdout_clans: tuple[str, ...]
    holdout_families: tuple[str, ...]
    shard_rows: int
    min_length: int
    is_simulated: bool

    def settings(self) -> dict[str, object]:
        """All that determines the content, for the manifest; sources by name, size and a digest of their ends."""
        return {
            "rules_version": RULES_VERSION,
            "sources": [fingerprint(path) for path in self.sources],
            "clans": fingerprint(self.clans) if self.clans else None,
            "seed": self.seed,
            "valid_fraction": self.valid_fraction,
            "holdout_fraction": self.holdout_fraction,
            "holdout_clans": list(self.holdout_clans),
            "holdout_families": list(self.holdout_families),
            "shard_rows": self.shard_rows,
            "min_length": self.min_length,
            "is_simulated": self.is_simulated,
            "split_rule": self.split_rule,
        }

    @property
    def split_rule(self) -> str:
        """The rule in words, as result rows carry it."""
        return (
            f"whole clans and families held out, about {self.holdout_fraction:.0%}; "
            f"{self.valid_fraction:.0%} of the rest valid at random"
        )


def fingerprint(path: Path) -> dict[str, object]:
    """Name, bytes and a digest of the first and last megabyte: tells files apart without reading them through."""
    file_path = path / "data.mdb" if path.is_dir() else path
    size = file_path.stat().st_size
    with file_path.open("rb") as file:
        ends = file.read(_PEEK_BYTES)
        file.seek(max(0, size - _PEEK_BYTES))
        ends += file.read(_PEEK_BYTES)
    return {"name": path.name, "bytes": size, "digest": hashlib.sha256(ends).hexdigest()[:16]}


def check_request(request: CorpusRequest) -> tuple[Source, ...]:
    """The sources of `request`. ValueError or FileNotFoundError name the argument or file, and what is accepted."""
    for name, value in (("valid_fraction", request.valid_fraction), ("holdout_fraction", request.holdout_fraction)):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name} is {value}; accepted: 0 or more, and less than 1")
    for name, number in (("shard_rows", request.shard_rows), ("min_length", request.min_length)):
        if number < 1:
            raise ValueError(f"{name} is {number}; accepted: 1 or more")
    return _inspected(request.sources)


def _inspected(paths: Sequence[Path]) -> tuple[Source, ...]:
    """The sources at `paths`, each looked into; ValueError or FileNotFoundError name what is wrong."""
    if not paths:
        raise ValueError(f"no source is given; accepted: {ACCEPTED}")
    if len(paths) > MAX_SOURCES:
        raise ValueError(f"{len(paths)} sources are given; accepted: up to {MAX_SOURCES}")
    repeated = [str(path) for path, count in Counter(map(Path.resolve, paths)).items() if count > 1]
    if repeated:
        raise ValueError(f"given more than once: {', '.join(repeated)}")
    sources = tuple(inspect_source(path) for path in paths)
    for source in sources:
        _check_first_record(source)
    return sources


def _check_first_record(source: Source) -> None:
    """Read a little of the source, so that what is no protein file at all is refused at once."""
    if source.kind == "json":
        raise ValueError(f"{source.path} is JSON in one piece; a corpus is built from {ACCEPTED}")
    if source.kind == "lmdb":
        if lmdb_length(source) == 0:
            raise ValueError(f"{source.path} holds no record")
        next(lmdb_records(source, 0, 1))
        return
    try:
        with gzip.open(source.path) if source.is_gzip else open(source.path, "rb") as file:
            begin = file.read(_PEEK_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{source.path} is a truncated or damaged gzip file: {error}") from None
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and len(begin) < _PEEK_BYTES:
        raise ValueError(f"{source.path} is empty: it holds no record")
    if source.kind == "fasta" and text and text[:1] != b">":
        found = text[:40].split(b"\n")[0].decode("utf-8", "replace")
        raise ValueError(f"{source.path} is not FASTA: it begins with {found!r}, where a '>' is expected")


def check_place(out: Path) -> None:
    """OSError where a directory `out` cannot be made."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OSError(f"{out} cannot be made: {parent} is not a directory that can be written to")

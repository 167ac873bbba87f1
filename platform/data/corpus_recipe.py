"""What travels to the tasks of a corpus build: the part of a source to read, and what all tasks know."""

from dataclasses import dataclass
from pathlib import Path

from proteinlm.platform.data.sources import Source


@dataclass(frozen=True)
class Chunk:
    """A part of a source that one task reads: the text itself (gzip), or a range of bytes (plain) or records (LMDB)."""

    source: int
    number: int
    start: int = 0
    stop: int = 0
    text: bytes | None = None


@dataclass(frozen=True)
class Recipe:
    """What all tasks of a build know."""

    work: str
    """The directory aside that becomes the corpus; its `scratch` goes before."""
    sources: tuple[Source, ...]
    labels: tuple[str, ...]
    """Per source: what records without an id are called after."""
    clan_of: dict[str, str]
    seed: int
    min_length: int
    valid_fraction: float
    buckets: int

    def scratch(self, *names: str) -> Path:
        """A path under the scratch directory."""
        return Path(self.work, "scratch", *names)

"""The rejects of a corpus build: one JSON line each, with file, line, id, reason; and the threshold that fails it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from proteinlm.platform.data.corpus_passes import Scattered
from proteinlm.platform.data.corpus_recipe import Recipe
from proteinlm.platform.data.corpus_scratch import unplaced


class LineNumbers:
    """Turns a place into a line of its file (from 1), or a record of its LMDB (from 0), once all chunks are counted."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._lines: dict[tuple[int, int], int] = {}
        self._first: dict[tuple[int, int], int] = {}

    def add(self, scattered: Scattered) -> None:
        """Count the lines of a chunk; chunks may come in any order."""
        self._lines[scattered.source, scattered.chunk] = scattered.lines

    def finish(self) -> None:
        """Sum up where each chunk begins."""
        line, last_source = 0, -1
        for source, chunk in sorted(self._lines):
            if source != last_source:
                line, last_source = (0 if self._recipe.sources[source].kind == "lmdb" else 1), source
            self._first[source, chunk] = line
            line += self._lines[source, chunk]

    def locate(self, place: int) -> tuple[str, int]:
        """(path, line or record) of a place."""
        source, chunk, line = unplaced(place)
        return self._recipe.sources[source].path, self._first[source, chunk] + line


def list_rejects(path: Path, recipe: Recipe, lines: LineNumbers) -> None:
    """Gather the rejects of all tasks into `path`: first those no protein, as given, then repeated ids, by id hash."""
    with path.open("w") as file:
        for reject in _rejects(recipe, lines):
            file.write(json.dumps(reject) + "\n")


def _rejects(recipe: Recipe, lines: LineNumbers) -> Iterator[dict[str, Any]]:
    for place, name, reason in _entries(recipe.scratch("rejects")):
        source, line = lines.locate(place)
        yield {"source": source, "line": line, "id": name, "reason": reason}
    for place, name, original in _entries(recipe.scratch("repeated-rejects")):
        source, line = lines.locate(place)
        first_source, first_line = lines.locate(original)
        reason = f"id stands for another sequence at {first_source} line {first_line}"
        yield {"source": source, "line": line, "id": name, "reason": reason}


def _entries(folder: Path) -> Iterator[list[Any]]:
    for path in sorted(folder.glob("*.jsonl")):
        with path.open() as file:
            yield from map(json.loads, file)


def refuse_too_many(counts: Mapping[str, int], max_fraction: float, listed: Path, beside: Path) -> None:
    """ValueError where more than `max_fraction` of the records were rejected; then `listed` is copied to `beside`."""
    if counts["rejected"] <= max_fraction * counts["read"]:
        return
    shutil.copyfile(listed, beside)
    with listed.open() as file:
        first = [json.loads(line) for line in islice(file, 3)]
    examples = "; ".join(f"{Path(item['source']).name} line {item['line']}: {item['reason']}" for item in first)
    raise ValueError(
        f"{counts['rejected']} of {counts['read']} records were rejected, more than the accepted share of "
        f"{max_fraction:g} (raise it with --max-reject-fraction). The first: {examples}. All are in {beside}"
    )

"""What a corpus holds: counts, lengths, what padding would cost, context-free floors, and leakage between splits.

Read shard by shard, only the columns needed; kept over all shards are counts per length, family and clan, and 8 bytes
per protein of the splits other than train.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.data.manifest import MANIFEST_FILE, Manifest, read_manifest, read_shard
from proteinlm.platform.places.places import place

if TYPE_CHECKING:
    from rich.console import RenderableType

BATCH_SIZES = (8, 32, 128)
SORTED_WINDOW = 4096
"""Proteins among which those of near length are put together, for the padding factor of length-sorted batches."""
HISTOGRAM_EDGES = (1, 32, 64, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 2048)


class Padding:
    """Slots that padded batches take, added up as lengths come."""

    def __init__(self, batch_size: int, window: int) -> None:
        self.batch_size, self.window, self.slots = batch_size, window, 0
        self._waiting: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Take further proteins; whole windows are sorted and cut into batches."""
        waiting = np.concatenate([self._waiting, lengths])
        whole = len(waiting) // self.window * self.window
        self._count(waiting[:whole])
        self._waiting = waiting[whole:]

    def finish(self) -> int:
        """Slots of all batches, the last and smaller ones included."""
        self._count(self._waiting)
        self._waiting = self._waiting[:0]
        return self.slots

    def _count(self, lengths: NDArray[np.int64]) -> None:
        for start in range(0, len(lengths), self.window):
            window = lengths[start : start + self.window]
            if self.window > self.batch_size:
                window = np.sort(window)
            starts = np.arange(0, len(window), self.batch_size)
            sizes = np.diff(starts, append=len(window))
            self.slots += int((np.maximum.reduceat(window, starts) * sizes).sum())


@dataclass
class Tally:
    """What is kept of a split while its shards go by."""

    by_length: NDArray[np.int64]
    """[longest + 1] proteins of each length."""
    families: set[str] = field(default_factory=set)
    clans: set[str] = field(default_factory=set)
    random: dict[int, Padding] = field(default_factory=lambda: {size: Padding(size, size) for size in BATCH_SIZES})
    sorted: dict[int, Padding] = field(
        default_factory=lambda: {size: Padding(size, SORTED_WINDOW) for size in BATCH_SIZES}
    )


def tally_split(directory: Path, manifest: Manifest, split: str) -> Tally:
    """Read the lengths, families and clans of a split."""
    tally = Tally(np.zeros(manifest.splits[split].longest + 1, np.int64))
    for table in read_shards(directory, manifest, split, ["length", "family", "clan"]):
        lengths = table.column("length").to_numpy().astype(np.int64)
        if lengths.max(initial=0) >= len(tally.by_length):
            raise ValueError(f"{directory / MANIFEST_FILE}: {split} has a protein longer than its longest")
        tally.by_length += np.bincount(lengths, minlength=len(tally.by_length))
        for padding in (*tally.random.values(), *tally.sorted.values()):
            padding.add(lengths)
        for column, names in (("family", tally.families), ("clan", tally.clans)):
            if column in table.column_names:
                names.update(name for name in table.column(column).unique().to_pylist() if name is not None)
    return tally


def read_shards(directory: Path, manifest: Manifest, split: str, columns: list[str]) -> Iterator[Any]:
    """The split's shards one after another, with those of `columns` that they have."""
    for shard in manifest.splits[split].shards:
        yield read_shard(directory, shard, columns)


def quantile(ends: NDArray[np.int64], share: float) -> int:
    """The smallest length that at least `share` of the proteins do not exceed."""
    return int(np.searchsorted(ends, share * ends[-1]))


def histogram(by_length: NDArray[np.int64]) -> tuple[tuple[int, int, int], ...]:
    """(shortest, longest, proteins) of each bar, for `by_length` [longest + 1]."""
    edges = [edge for edge in HISTOGRAM_EDGES if edge < len(by_length)] + [len(by_length)]
    return tuple((first, last - 1, int(by_length[first:last].sum())) for first, last in pairwise(edges))


@dataclass(frozen=True)
class SplitStats:
    """Figures of one split. Lengths in residues, floors in nats."""

    proteins: int
    residues: int
    families: int
    clans: int
    mean_length: float
    median_length: float
    percentile_99_length: float
    longest: int
    histogram: tuple[tuple[int, int, int], ...]
    """(shortest, longest, proteins) of each bar."""
    padding_random: dict[int, float]
    """Batch size -> slots per residue, where batches of consecutive (so random) proteins are padded to the longest."""
    padding_sorted: dict[int, float]
    """The same where each window of `SORTED_WINDOW` proteins is sorted by length first."""
    floor_training_mix: float
    floor_masked: float


@dataclass(frozen=True)
class Leakage:
    """What of the held-out clans and families, or of one split's sequences, is found where it must not be."""

    held_out_families: tuple[str, ...]
    """Held-out families that occur in train or valid. Must be empty."""
    held_out_clans: tuple[str, ...]
    """Held-out clans that occur in train or valid. Must be empty."""
    shared_sequences: dict[str, int]
    """"train and valid" -> exact sequences that are in both. Must be 0 in a corpus that was built here."""

    @property
    def is_clean(self) -> bool:
        """True where nothing leaks."""
        return not self.held_out_families and not self.held_out_clans and not any(self.shared_sequences.values())


@dataclass(frozen=True)
class CorpusStats:
    """Figures of a corpus."""

    directory: str
    content_hash: str
    counts: dict[str, int]
    is_simulated: bool
    splits: dict[str, SplitStats]
    leakage: Leakage


def corpus_stats(directory: Path | str) -> CorpusStats:
    """Read the corpus at `directory`. FileNotFoundError or ValueError say what is wrong with it."""
    directory = place(directory)
    manifest = read_manifest(directory)
    tallies = {split: tally_split(directory, manifest, split) for split in manifest.splits}
    return CorpusStats(
        str(directory),
        manifest.content_hash,
        manifest.counts,
        manifest.is_simulated,
        {split: _split_stats(tally, manifest.splits[split].residue_counts) for split, tally in tallies.items()},
        _leakage(directory, manifest, tallies),
    )


def _split_stats(tally: Tally, residue_counts: Mapping[str, int]) -> SplitStats:
    from proteinlm.models.masking import context_free_floor

    ends = np.cumsum(tally.by_length)
    proteins = int(ends[-1])
    residues = int(tally.by_length @ np.arange(len(tally.by_length)))
    floor = context_free_floor(residue_counts)
    return SplitStats(
        proteins,
        residues,
        len(tally.families),
        len(tally.clans),
        residues / proteins,
        float(quantile(ends, 0.5)),
        float(quantile(ends, 0.99)),
        len(tally.by_length) - 1,
        histogram(tally.by_length),
        {size: padding.finish() / residues for size, padding in tally.random.items()},
        {size: padding.finish() / residues for size, padding in tally.sorted.items()},
        floor.training_mix,
        floor.masked,
    )


def _leakage(directory: Path, manifest: Manifest, tallies: Mapping[str, Tally]) -> Leakage:
    """Held-out names are those the manifest lists, and every family of the split holdout."""
    listed = manifest.settings.get("held_out")
    held: Mapping[str, Any] = listed if isinstance(listed, dict) else {}
    learned = [tallies[split] for split in ("train", "valid") if split in tallies]
    families = set[str]().union(*(tally.families for tally in learned))
    clans = set[str]().union(*(tally.clans for tally in learned))
    # A family held out by name, as TAPE does it, may have relatives of its clan in train: so not every clan of holdout.
    held_families = set(held.get("families", ())) | (tallies["holdout"].families if "holdout" in tallies else set())
    return Leakage(
        tuple(sorted(held_families & families)),
        tuple(sorted(set(held.get("clans", ())) & clans)),
        _shared_sequences(directory, manifest),
    )


def _shared_sequences(directory: Path, manifest: Manifest) -> dict[str, int]:
    """Exact sequences that two splits share, by 8-byte hashes; the largest split is streamed past the others."""
    names = sorted(manifest.splits, key=lambda split: manifest.splits[split].rows)
    shared: dict[str, int] = {}
    known: dict[str, NDArray[np.uint64]] = {}
    for name in names:
        shared.update({f"{other} and {name}": 0 for other in known})
        hashes = []
        for table in read_shards(directory, manifest, name, ["sequence"]):
            of_shard = np.unique(_hashes(table.column("sequence").to_pylist()))
            for other, others in known.items():
                places = np.minimum(np.searchsorted(others, of_shard), len(others) - 1)
                shared[f"{other} and {name}"] += int((others[places] == of_shard).sum())
            if name != names[-1]:
                hashes.append(of_shard)
        if hashes:
            known[name] = np.unique(np.concatenate(hashes))
    return shared


def _hashes(sequences: list[str]) -> NDArray[np.uint64]:
    joined = b"".join(hashlib.blake2b(sequence.encode(), digest_size=8).digest() for sequence in sequences)
    return np.frombuffer(joined, np.uint64)


def render(stats: CorpusStats) -> "RenderableType":
    """The figures as tables for a terminal."""
    from rich.console import Group
    from rich.text import Text

    kind = "simulated proteins" if stats.is_simulated else "proteins"
    counts = ", ".join(f"{count:,} {name}" for name, count in stats.counts.items())
    heading = Text(f"{stats.directory}: {kind}, corpus {stats.content_hash}\n{counts}", overflow="fold")
    histograms = (_histogram_table(name, split) for name, split in stats.splits.items())
    return Group(heading, _splits_table(stats.splits), *histograms, _leakage_text(stats.leakage))


def _splits_table(splits: Mapping[str, SplitStats]) -> "RenderableType":
    from rich.table import Table

    table = Table(title="Splits", title_justify="left")
    table.add_column("figure")
    for name in splits:
        table.add_column(name, justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("proteins", [f"{split.proteins:,}" for split in splits.values()]),
        ("residues", [f"{split.residues:,}" for split in splits.values()]),
        ("families", [f"{split.families:,}" for split in splits.values()]),
        ("clans", [f"{split.clans:,}" for split in splits.values()]),
        ("length: mean", [f"{split.mean_length:.1f}" for split in splits.values()]),
        ("length: median", [f"{split.median_length:.0f}" for split in splits.values()]),
        ("length: 99th percentile", [f"{split.percentile_99_length:.0f}" for split in splits.values()]),
        ("length: longest", [f"{split.longest:,}" for split in splits.values()]),
    ]
    for size in BATCH_SIZES:
        text = f"slots per residue: random batches of {size}, padded to the longest"
        rows.append((text, [f"{split.padding_random[size]:.3f}" for split in splits.values()]))
    for size in BATCH_SIZES:
        text = f"slots per residue: batches of {size} from sorted windows of {SORTED_WINDOW:,}"
        rows.append((text, [f"{split.padding_sorted[size]:.3f}" for split in splits.values()]))
    rows.append(
        ("context-free floor, training mix (nats)", [f"{split.floor_training_mix:.4f}" for split in splits.values()])
    )
    rows.append(("context-free floor, masked alone (nats)", [f"{split.floor_masked:.4f}" for split in splits.values()]))
    for text, values in rows:
        table.add_row(text, *values)
    return table


def _histogram_table(name: str, split: SplitStats) -> "RenderableType":
    from rich.table import Table

    table = Table(title=f"Lengths of {name} (residues)", title_justify="left", show_header=False, box=None)
    most = max(count for _, _, count in split.histogram)
    for first, last, count in split.histogram:
        table.add_row(f"{first}-{last}", "\u2588" * round(40 * count / most), f"{count:,}")
    return table


def _leakage_text(leakage: Leakage) -> "RenderableType":
    from rich.text import Text

    lines = [
        f"{len(names)} held-out {what} occur in train or valid" + (f": {', '.join(names[:10])}" if names else "")
        for what, names in (("families", leakage.held_out_families), ("clans", leakage.held_out_clans))
    ]
    lines += [f"{count} exact sequences are in both {pair}" for pair, count in leakage.shared_sequences.items()]
    verdict = "Leakage: none" if leakage.is_clean else "LEAKAGE FOUND"
    return Text("\n".join([verdict, *lines]), style="" if leakage.is_clean else "bold red")

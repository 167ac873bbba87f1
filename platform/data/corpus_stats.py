"""What a corpus holds: counts, lengths, what padding would cost, context-free floors, and leakage between splits.

Read shard by shard, only the columns needed; kept over all shards are counts per length, family and clan, and 8 bytes
per protein of the splits other than train.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.data.corpus_tally import (
    BATCH_SIZES,
    SORTED_WINDOW,
    Tally,
    histogram,
    quantile,
    read_shards,
    tally_split,
)
from proteinlm.platform.data.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from rich.console import RenderableType


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
    directory = Path(directory)
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
    from proteinlm.models.objectives import context_free_floor

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


# ----------------------------------------------------------------------------------------------------------- leakage


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


# --------------------------------------------------------------------------------------------------------- on screen


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

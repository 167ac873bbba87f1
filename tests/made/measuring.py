"""What all benchmarks share: real lengths, measuring in turns, a table, and one JSON line at the end.

A figure is a ratio between things measured in turns in one run, the median of several: this machine may be shared.
"""

import gzip
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("PROTEINLM_REAL_DATA", ROOT.parent / "shared" / "data"))


def proteins(count: int, longest: int = 1022, seed: int = 0) -> tuple[list[str], str]:
    """`count` random proteins of at most `longest` residues, and what they are: real Pfam domains, or made-up ones."""
    source = REAL_DATA / "pfam" / "pfam_domains.fasta.gz"
    if source.is_file():
        with gzip.open(source, "rt") as lines:
            records = lines.read().split(">")[1:]
        found = ["".join(record.split("\n")[1:]) for record in records]
        picked = np.random.default_rng(seed).choice(len(found), size=count, replace=count > len(found))
        return [found[i][:longest] for i in picked], "Pfam domains"
    generator = np.random.default_rng(seed)
    lengths = np.clip(generator.lognormal(5.0, 0.6, size=count).astype(int), 20, longest)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    return ["".join(letters[generator.integers(20, size=length)]) for length in lengths], "random letters"


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call, `rounds` of each, one after the other in turns; what they return is dropped."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of above / below: what a disturbed round does to both cancels."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=140, markup=False).print(table)


def report(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], figures: Mapping[str, Any]) -> None:
    """Print a table, and last one JSON line of `figures` and the machine."""
    print_table(title, columns, rows)
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    print(json.dumps({"benchmark": title, **figures, "machine": machine}))

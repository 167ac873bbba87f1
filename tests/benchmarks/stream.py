"""The stream alone: read Parquet, tokenise, mask, cut and pack, through Ray Data, as a training worker would get it.

    python -m tests.benchmarks.stream [--corpus DIR] [--epochs 6] [--consumers 1 2]

Each consumer is a process that takes micro batches as fast as they come and does nothing with them. `read_window` is
the work of one reading task, in one process without Ray. A round is the time from one set of windows to the next; an
epoch's end shows as a round that lasts longer. Figures per CPU second (of the process, all its threads) are what other
work on the machine disturbs least. Memory is given at the first batch and after every epoch.
"""

import argparse
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
import torch

from proteinlm.cluster.connect import connected
from proteinlm.models.packed import NOT_SCORED
from proteinlm.platform.batches.order import BatchPlan
from proteinlm.platform.batches.stream import training_steps
from proteinlm.platform.batches.windows import ReadOptions, read_window
from proteinlm.platform.corpus.build import build_corpus
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.settings.config import CorpusConfig
from proteinlm.platform.simulated.proteins import simulate
from tests.made.measuring import REAL_DATA, report

STRETCHES_PER_EPOCH = 4


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description="The stream alone.")
    asked.add_argument("--corpus", type=Path, default=os.environ.get("PROTEINLM_CORPUS"), help="a built corpus")
    asked.add_argument("--epochs", type=int, default=6)
    asked.add_argument("--consumers", type=int, nargs="+", default=[1, 2], help="how many at once, one run for each")
    asked.add_argument("--micro-batch-residues", type=int, default=4096)
    asked.add_argument("--lanes", type=int, default=2)
    options = asked.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as stack, connected(num_cpus=max(2, os.cpu_count() or 2)) as size:
        corpus = options.corpus or built_corpus(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        reading, plan = prepared(corpus, options.lanes, options.micro_batch_residues)
        figures: dict[str, Any] = {
            "corpus": "simulated" if read_manifest(corpus).is_simulated else "real proteins",
            "epoch_residues": plan.split.residues,
            "windows_per_epoch": len(plan.split.shards),
            **read_window_speed(reading, plan),
        }
        for count in options.consumers:
            figures[f"consumers_{count}"] = consume(reading, plan, count, options.epochs, size.cpus)
    rows = [(name, str(value)) for name, value in figures.items() if name.startswith("read_window")]
    for count in options.consumers:
        rows += [(f"{count} consumer(s): {name}", str(value)) for name, value in figures[f"consumers_{count}"].items()]
    report("stream", ("what", "measured"), rows, figures)


def built_corpus(folder: Path) -> Path:
    """A corpus for this benchmark: real Pfam domains where they are, else simulated proteins."""
    source = REAL_DATA / "pfam" / "pfam_domains.fasta.gz"
    is_simulated = not source.is_file()
    if is_simulated:
        source = simulate(folder / "simulated", num_families=400, proteins_per_family=100, seed=0).fasta
    build_corpus(CorpusConfig(sources=(source,), out=folder / "corpus", is_simulated=is_simulated))
    return folder / "corpus"


def prepared(corpus: Path, lanes: int, micro_batch_residues: int) -> tuple[ReadOptions, BatchPlan]:
    """How the train split of `corpus` is read, and in what order."""
    split = read_manifest(corpus).split("train")
    reading = ReadOptions(str(corpus), split, "esm", "masked_language_modeling", {}, seed=0, max_length=1024)
    return reading, BatchPlan(split, 0, lanes, micro_batch_residues)


def read_window_speed(reading: ReadOptions, plan: BatchPlan, rounds: int = 12) -> dict[str, int]:
    """Residues/s and residues per CPU second of the reading work of one task: medians, the first window left out."""
    speeds, cpu_speeds = [], []
    for number in range(rounds + 1):
        start, cpu_start = time.perf_counter(), time.process_time()
        table = read_window(reading, plan.window(number))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        residues = sum(table.column("num_residues").to_pylist())
        speeds.append(residues / seconds)
        cpu_speeds.append(residues / cpu_seconds)
    return {
        "read_window_residues_per_s": round(statistics.median(speeds[1:])),
        "read_window_residues_per_cpu_s": round(statistics.median(cpu_speeds[1:])),
    }


@ray.remote
class Consumer:
    """A process that takes the micro batches of one worker."""

    def warm_up(self, reading: ReadOptions, plan: BatchPlan, rank: int, world_size: int) -> None:
        """Import everything and have Ray start its processes: what a run does before it asks for its first batch."""
        torch.set_num_threads(1)
        for _ in training_steps(reading, plan, rank=rank, world_size=world_size, first_step=0, last_step=1):
            pass

    def run(self, reading: ReadOptions, plan: BatchPlan, rank: int, world_size: int, epochs: int) -> dict[str, Any]:
        """Take `epochs` epochs; seconds waited for every step, residues of every step, memory after every epoch."""
        steps_per_epoch = round(plan.steps_per_epoch)
        last_step = epochs * steps_per_epoch
        waited, residues, memory, scored = [], [], [], 0
        before, cpu_start = time.perf_counter(), time.process_time()
        for step, batches in enumerate(
            training_steps(reading, plan, rank=rank, world_size=world_size, first_step=0, last_step=last_step)
        ):
            now = time.perf_counter()
            waited.append(now - before)
            residues.append(sum(batch.num_residues for batch in batches))
            if step % steps_per_epoch in (0, steps_per_epoch - 1):
                memory.append(memory_of_this_process())
            if step % 100 == 0:
                scored += sum(int((batch.labels != NOT_SCORED).sum()) for batch in batches)
            before = time.perf_counter()
        assert scored
        cpu_seconds = time.process_time() - cpu_start
        memory = [memory[0], *memory[1::2]]
        return {"waited": waited, "residues": residues, "cpu_seconds": cpu_seconds, "memory": memory}


def memory_of_this_process() -> tuple[int, int]:
    """Bytes of this process's own memory, and its part of the object store's (Linux's proportional set size)."""
    fields = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    shared = 1024 * int(fields["Pss_Shmem:"])
    return 1024 * int(fields["Pss:"]) - shared, shared


def consume(reading: ReadOptions, plan: BatchPlan, count: int, epochs: int, cpus: float) -> dict[str, Any]:
    """Figures of `count` consumers at once, the slowest one's; they leave one CPU to the reading tasks."""
    consumers = [Consumer.options(num_cpus=min(1.0, (cpus - 1) / count)).remote() for _ in range(count)]
    ray.get([consumer.warm_up.remote(reading, plan, rank, count) for rank, consumer in enumerate(consumers)])
    runs = [consumer.run.remote(reading, plan, rank, count, epochs) for rank, consumer in enumerate(consumers)]
    measured = [figures_of(run, plan, epochs) for run in ray.get(runs)]
    for consumer in consumers:
        ray.kill(consumer)
    return min(measured, key=lambda figures: figures["residues_per_s"])


def figures_of(run: dict[str, Any], plan: BatchPlan, epochs: int) -> dict[str, Any]:
    """What one consumer's waiting times say. The first round is left out: it holds the start."""
    waited, residues, per_round = run["waited"], run["residues"], plan.micro_batches
    stretch = max(1, len(waited) // (epochs * STRETCHES_PER_EPOCH))
    starts = range(stretch, len(waited) - stretch + 1, stretch)
    speeds = [sum(residues[i : i + stretch]) / sum(waited[i : i + stretch]) for i in starts]
    rounds = {i: sum(waited[i * per_round : (i + 1) * per_round]) for i in range(1, len(waited) // per_round)}
    of_new_epochs = [i for i in rounds if begins_an_epoch(plan, i)]
    usual = [seconds for i, seconds in rounds.items() if i not in of_new_epochs]
    return {
        "residues_per_s": round(statistics.median(speeds)),
        "slowest_stretch_residues_per_s": round(min(speeds)),
        "residues_per_cpu_s": round(sum(residues) / run["cpu_seconds"]),
        "first_batch_s": round(waited[0], 3),
        "longest_wait_ms": round(1000 * max(waited[per_round:]), 1),
        "round_ms": round(1000 * statistics.median(usual), 1),
        "round_at_epoch_end_ms": round(1000 * statistics.median(rounds[i] for i in of_new_epochs), 1),
        "wait_at_epoch_end_ms": round(1000 * statistics.median(waited[i * per_round] for i in of_new_epochs), 1),
        "memory_mib": [round(own / 2**20) for own, _ in run["memory"]],
        "object_store_mib": [round(shared / 2**20) for _, shared in run["memory"]],
    }


def begins_an_epoch(plan: BatchPlan, round_: int) -> bool:
    """Whether a window of round `round_` is the first one of its epoch."""
    num_windows = len(plan.split.shards)
    return any(window % num_windows == 0 for window in range(round_ * plan.lanes, (round_ + 1) * plan.lanes))


if __name__ == "__main__":
    main()

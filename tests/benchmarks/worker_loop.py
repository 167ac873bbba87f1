"""The worker loop (Ray Train, DeepSpeed ZeRO 1, the stream) against the plain PyTorch loop, one worker, same threads.

    python -m tests.benchmarks.worker_loop [--corpus DIR] [--steps 8] [--rounds 2] [--checkpoints 3] [--threads 2]

Both train the same model on the same micro batches of a corpus, step by step. The plain loop has them all in memory:
forward, backward, clipping, fused AdamW, no Ray, no DeepSpeed, nothing logged. They run in turns, each in a process of
its own, so a ratio is between the same step of two runs that followed each other. The first steps of a run are left
out. Residues are real ones. On a machine that others use too, compare the CPU seconds of the two training processes
(with --threads 1: threads that wait for each other burn them).

The cost of a checkpoint (weights and optimizer state) is measured in one more run of the worker loop: the seconds in
which training stands still for it, and how much longer the next step takes while it is being written.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch

from proteinlm.models.config import num_parameters
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.training.optim import make_optimizer
from proteinlm.platform.training.tracking import MetricsTail, read_metrics
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import TaskModel
from tests.benchmarks.stream import built_corpus
from tests.made.batches import micro_batches
from tests.made.measuring import ROOT, median_ratio, report

TASK = "masked_language_modeling"
LEFT_OUT = 2
"""Steps at a run's start that are not measured: kernels are chosen, memory is taken."""

CHECKPOINT_EVERY_S = 300
SEED = 0


def main() -> None:
    """Measure and print; with `--plain` be the plain loop of one turn."""
    asked = argparse.ArgumentParser(description="The worker loop against the plain PyTorch loop.")
    asked.add_argument("--corpus", type=Path, default=os.environ.get("PROTEINLM_CORPUS"), help="a built corpus")
    asked.add_argument("--steps", type=int, default=8, help="optimizer steps of one turn")
    asked.add_argument("--rounds", type=int, default=2, help="turns of each loop")
    asked.add_argument("--checkpoints", type=int, default=3, help="0: do not measure them")
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--shape", type=int, nargs=3, default=(512, 8, 8), metavar=("HIDDEN", "LAYERS", "HEADS"))
    asked.add_argument("--micro-batch-residues", type=int, default=4096)
    asked.add_argument("--lanes", type=int, default=2, help="micro batches of one optimizer step")
    asked.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    asked.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.steps < LEFT_OUT + 2:
        asked.error(f"--steps is {options.steps}; accepted: at least {LEFT_OUT + 2}, the first {LEFT_OUT} are left out")
    if options.plain:
        print(json.dumps(plain_loop(configured(options, Path(options.corpus), Path("unused"), options.steps))))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        corpus = options.corpus or built_corpus(folder)
        figures = compare(options, Path(corpus), folder)
        if options.checkpoints:
            figures |= checkpoint_cost(options, Path(corpus), folder)
    rows = [(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else str(value))
            for name, value in figures.items()]  # fmt: skip
    report("worker loop", ("what", "measured"), rows, figures)


def configured(options: argparse.Namespace, corpus: Path, storage: Path, steps: int, **training: Any) -> PretrainConfig:
    """One run of either loop."""
    hidden, layers, heads = options.shape
    return PretrainConfig.model_validate(
        {
            "name": "run",
            "corpus": corpus,
            "storage": storage,
            "seed": SEED,
            "model": {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads},
            "batches": {"micro_batch_residues": options.micro_batch_residues, "lanes": options.lanes},
            "training": {
                "steps": steps,
                "zero_stage": 1,
                "precision": options.precision,
                "log_every": 1,
                "validate_every": steps,
                "validation_residues": 1,
                "checkpoint_every": steps,
                **training,
            },
            "cluster": {"num_workers": 1, "threads_per_worker": options.threads},
        }
    )


def compare(options: argparse.Namespace, corpus: Path, folder: Path) -> dict[str, Any]:
    """Both loops in turns on the same micro batches."""
    ratios: list[float] = []
    stalls: list[float] = []
    speeds: dict[str, list[float]] = {"plain": [], "worker": []}
    cpu: dict[str, list[float]] = {"plain": [], "worker": []}
    rows: list[dict[str, Any]] = []
    for turn in range(options.rounds):
        plain = plain_loop_apart(corpus)
        config = configured(options, corpus, folder / f"turn-{turn}", options.steps)
        with CpuWatch(config.directory) as watch:
            rows = worker_loop(config)
        worker = seconds_of_steps(rows)
        for step in range(LEFT_OUT + 1, options.steps + 1):
            residues = rows[step - 1]["residues"] - rows[step - 2]["residues"]
            ratios.append(plain[step - 1]["seconds"] / worker[step])
            speeds["plain"].append(residues / plain[step - 1]["seconds"])
            speeds["worker"].append(residues / worker[step])
        cpu["plain"].append(sum(step["cpu_seconds"] for step in plain[LEFT_OUT:]))
        cpu["worker"].append(watch.seconds[options.steps] - watch.seconds[LEFT_OUT])
        stalls.append(rows[-1]["data_stall_share"])
    return {
        "parameters": num_parameters(configured(options, corpus, folder, 1).model),
        "corpus": "simulated" if read_manifest(corpus).is_simulated else "real proteins",
        "plain_residues_per_s": statistics.median(speeds["plain"]),
        "worker_loop_residues_per_s": statistics.median(speeds["worker"]),
        "share_of_plain_loop": statistics.median(ratios),
        "share_of_plain_loop_quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "share_of_plain_loop_in_cpu_seconds": median_ratio(cpu["plain"], cpu["worker"]),
        "plain_cpu_seconds": [round(seconds, 2) for seconds in cpu["plain"]],
        "worker_loop_cpu_seconds": [round(seconds, 2) for seconds in cpu["worker"]],
        "measured_steps": len(ratios),
        "data_stall_share": statistics.median(stalls),
        "padding_share": statistics.median(row["padding_share"] for row in rows),
        "worker_loop_peak_share": statistics.median(row["peak_share"] for row in rows[LEFT_OUT:]),
    }


def checkpoint_cost(options: argparse.Namespace, corpus: Path, folder: Path) -> dict[str, Any]:
    """Seconds of training that a checkpoint takes; one every other step, so that each is written before the next."""
    count = options.checkpoints
    config = configured(options, corpus, folder / "checkpoints", 2 * count + 2, checkpoint_every=2, log_every=1)
    rows = worker_loop(config)
    seconds, saved = seconds_of_steps(rows), saving_seconds(rows)
    stalls = [saved[2 * i + 1] - saved[2 * i] for i in range(1, count + 1)]
    speed = {row["step"]: row["residues_per_s"] for row in rows}
    slower = [seconds[2 * i + 1] * (1 - speed[2 * i + 1] / speed[2 * i + 2]) for i in range(1, count + 1)]
    stall = statistics.median(stalls)
    return {
        "checkpoint_stall_s": stall,
        "checkpoint_stalls_s": [round(stall, 3) for stall in stalls],
        "next_step_longer_by_s": statistics.median(slower),
        f"checkpoint_stall_share_at_one_per_{CHECKPOINT_EVERY_S}_s": stall / (CHECKPOINT_EVERY_S + stall),
    }


def worker_loop(config: PretrainConfig) -> list[dict[str, Any]]:
    """What `proteinlm pretrain` does; the rows of its steps."""
    pretrain(config)
    return [row for row in read_metrics(config.directory) if "loss" in row]


def seconds_of_steps(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Seconds of each step but the first, waiting for data included, checkpoints not."""
    return {
        row["step"]: (row["residues"] - before["residues"]) / row["residues_per_s"] for before, row in pairwise(rows)
    }


def saving_seconds(rows: list[dict[str, Any]]) -> dict[int, float]:
    """Seconds in which checkpoints kept training from going on, up to each step but the first."""
    trained, saved = 0.0, {}
    for step, seconds in seconds_of_steps(rows).items():
        trained += seconds
        share = rows[step - 1]["checkpoint_stall_share"]
        saved[step] = trained * share / (1 - share)
    return saved


class CpuWatch:
    """Follows a run of this process's Ray and notes the CPU seconds of its training worker when each step is logged."""

    def __init__(self, run_directory: Path) -> None:
        self.seconds: dict[int, float] = {}
        self._tail = MetricsTail(run_directory)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CpuWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        worker = None
        while not self._done.wait(0.02):
            rows, _ = self._tail.read()
            steps = [row["step"] for row in rows if "loss" in row]
            if steps and worker is None:
                processes = psutil.Process().children(recursive=True)
                worker = next(p for p in processes if " ".join(p.cmdline()).startswith("ray::RayTrainWorker"))
            if steps and worker is not None and worker.is_running():
                times = worker.cpu_times()
                self.seconds |= dict.fromkeys(steps, times.user + times.system)


def plain_loop_apart(corpus: Path) -> list[dict[str, float]]:
    """The plain loop in a process of its own, asked for what this one was asked for."""
    command = [sys.executable, "-m", "tests.benchmarks.worker_loop", *sys.argv[1:], "--corpus", str(corpus), "--plain"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the plain loop failed:\n{done.stderr}")
    steps: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return steps


def plain_loop(config: PretrainConfig) -> list[dict[str, float]]:
    """Train in plain PyTorch on micro batches prepared in memory; seconds of every step."""
    torch.set_num_threads(config.cluster.threads_per_worker or 1)
    torch.manual_seed(SEED)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = TaskModel(build_task(TASK), ProteinEncoder(config.model)).to(device).train()
    optimizer = make_optimizer(model, config.optimizer)
    steps = []
    for batches in list(micro_batches(config)):  # all in memory before the first clock starts
        start, start_cpu = time.perf_counter(), time.process_time()
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16"):
                columns = model(batch.to(device))
                loss = columns["loss"].sum() / columns["scored"].sum() / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(loss)  # a GPU is done by now
        now, now_cpu = time.perf_counter(), time.process_time()
        steps.append({"seconds": now - start, "cpu_seconds": now_cpu - start_cpu})
    return steps


if __name__ == "__main__":
    main()

"""A training step (forward, backward, fused AdamW) against transformers' EsmForMaskedLM of the same sizes.

    python -m tests.benchmarks.throughput [--rounds 3] [--threads 2] [--shape 512 8 8] [--precisions bf16 fp32]
    python -m tests.benchmarks.throughput --device cuda        133M parameters, and the memory of 650M

Ours takes micro batches by a budget of residues, cut from one window of proteins as in training; the reference takes
shuffled batches of 32, padded to their longest, with whichever of its own attentions is faster here. Both: rotary
positions, no dropout, 15 % of the residues masked, proteins cropped at 1022 residues, the same precision, threads and
optimizer; batches are made before the clock starts, and every step has another one.

They run in turns in one process, each turn between two measurements of the matrix product peak; ratios are medians over
the rounds. FLOPs are the model's (models/config.py): neither padding nor recomputation counts. Figures per CPU second
hold on a machine that others use too, best with `--threads 1` (threads that wait for each other burn CPU time).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EsmForMaskedLM

from proteinlm.models.config import ModelConfig, num_parameters
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.huggingface import esm_config
from proteinlm.platform.settings.sections import OptimizerSection
from proteinlm.platform.training.optim import make_optimizer
from proteinlm.platform.training.telemetry import attention_slots, batch_flops
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, TaskModel
from tests.made.batches import SPECIALS, Padded, packed_batches, padded_batches
from tests.made.measuring import median_ratio, proteins, report

ESM_BATCH = 32
BATCHES_ON_DEVICE = 64
"""Different batches that each side goes through."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
DATA_SHEET_PEAK = {"H100": 989e12, "H200": 989e12}
"""Dense bf16 FLOP/s of NVIDIA's data sheets, SXM boards."""

SHAPE = {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8}
SHAPE_133M = {"hidden_size": 768, "num_hidden_layers": 24, "num_attention_heads": 12, "intermediate_size": 2048}
SHAPE_650M = {"hidden_size": 1280, "num_hidden_layers": 33, "num_attention_heads": 20}
PEAK_PRODUCTS = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (4096, 512, 2048), (4096, 2048, 512)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 4096, 4096)),
}


Turn = Callable[[], tuple[int, float]]
"""Does something once; gives the real residues and the model FLOPs that were in it."""


@dataclass(frozen=True)
class Spent:
    """What one turn took, and what it was worth."""

    seconds: float
    cpu_seconds: float
    """Of all threads of this process."""
    residues: int
    flops: float


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description="A training step against EsmForMaskedLM.")
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    asked.add_argument("--shape", type=int, nargs=3, metavar=("HIDDEN", "LAYERS", "HEADS"))
    asked.add_argument("--precisions", choices=tuple(DTYPES), nargs="+")
    asked.add_argument("--micro-batch-residues", type=int, help="16384; on a GPU 65536")
    asked.add_argument("--proteins", type=int, default=8192, help="size of the window")
    asked.add_argument("--compile", action="store_true", help="ours once more, its layers through torch.compile")
    options = asked.parse_args()
    is_gpu = options.device == "cuda"
    if is_gpu and not torch.cuda.is_available():
        asked.error("--device cuda: this machine has no GPU that torch can use")
    torch.set_num_threads(options.threads)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # as in a worker
    options.precisions = options.precisions or (["bf16"] if is_gpu else ["bf16", "fp32"])
    options.micro_batch_residues = options.micro_batch_residues or (65536 if is_gpu else 16384)
    config = ModelConfig.model_validate(SHAPE_133M if is_gpu else SHAPE)
    if options.shape:
        hidden, layers, heads = options.shape
        config = ModelConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads)
    sequences, what = proteins(options.proteins)
    ours, theirs = packed_batches(sequences, options.micro_batch_residues), padded_batches(sequences, ESM_BATCH)
    masks = [batch["attention_mask"] for batch in theirs]
    padding = 1 - sum(b.packed.num_tokens for b in ours) / sum(attention_slots(b.packed) for b in ours)
    figures: dict[str, Any] = {
        "proteins": what,
        "parameters": num_parameters(config),
        "micro_batch_residues": round(statistics.mean(batch.num_residues for batch in ours)),
        "padding_share": 0.0 if is_gpu else padding,  # flash attention pads nothing
        "esm_padding_share": 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks),
    }
    for precision in options.precisions:
        figures[precision] = compare(config, ours, theirs, precision, options)
    if is_gpu:
        figures["memory_650m"] = memory_of_650m(ours)
    rows = [(name, str(value)) for name, value in figures.items() if not isinstance(value, dict)]
    for part, values in figures.items():
        if isinstance(values, dict):
            shown = {
                name: f"{value:,.4g}" if isinstance(value, float) else str(value) for name, value in values.items()
            }
            rows += [(f"{part}: {name}", value) for name, value in shown.items()]
    report("throughput", ("what", "measured"), rows, figures)


def our_turn(config: ModelConfig, batches: Sequence[Batch], precision: str, device: str, is_compiled: bool) -> Turn:
    """Training steps of our model on its micro batches."""
    torch.manual_seed(0)
    model = TaskModel(build_task("masked_language_modeling"), ProteinEncoder(config)).to(device)
    for layer in model.encoder.layers if is_compiled else ():
        # attention's groups differ in every micro batch, so it stays as it is
        layer.attention.forward = torch.compiler.disable(layer.attention.forward)
        layer.compile(dynamic=True)

    def mean_loss(batch: Batch) -> Tensor:
        columns: dict[str, Tensor] = model(batch)
        return columns["loss"].sum() / columns["scored"].sum()

    moved = [
        (batch.to(torch.device(device)), batch.num_residues, batch_flops(config, batch, is_language_model=True))
        for batch in batches[:BATCHES_ON_DEVICE]
    ]
    return training_turn(model, mean_loss, moved, precision, device)


def esm_turn(config: ModelConfig, batches: Sequence[Padded], precision: str, device: str, attention: str) -> Turn:
    """Training steps of the reference on its batches; its FLOPs are not counted."""
    torch.manual_seed(0)
    model = EsmForMaskedLM._from_config(esm_config(config), attn_implementation=attention).to(device).train()
    model.esm.contact_head.requires_grad_(False)  # masked language modelling does not train it
    moved = [
        (
            {name: tensor.to(device) for name, tensor in batch.items()},
            int(batch["attention_mask"].sum()) - SPECIALS * len(batch["labels"]),
            0,
        )
        for batch in batches[:BATCHES_ON_DEVICE]
    ]
    return training_turn(model, lambda batch: model(**batch).loss, moved, precision, device)


def training_turn(
    model: nn.Module,
    mean_loss: Callable[[Any], Tensor],
    batches: Sequence[tuple[Any, int, int]],
    precision: str,
    device: str,
) -> Turn:
    """One optimizer step on the next of `batches`, each with its residues and FLOPs."""
    optimizer = make_optimizer(model, OptimizerSection())
    endless = cycle(batches)

    def step() -> tuple[int, float]:
        batch, residues, flops = next(endless)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = mean_loss(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return residues, float(flops)

    return step


def measured(turn: Turn, device: str, repeats: int = 1) -> Spent:
    """Run it `repeats` times."""
    if device == "cuda":
        torch.cuda.synchronize()
    start, cpu_start = time.perf_counter(), time.process_time()
    done = [turn() for _ in range(repeats)]
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return Spent(seconds, cpu_seconds, sum(residues for residues, _ in done), sum(flops for _, flops in done))


def peak(dtype: torch.dtype, device: str) -> tuple[float, float]:
    """FLOP/s and FLOP per CPU second of the fastest of several large matrix products."""
    rates = []
    for rows, inner, columns in PEAK_PRODUCTS[device]:
        left = torch.full((rows, inner), 0.5, device=device, dtype=dtype)
        right = torch.full((inner, columns), 0.5, device=device, dtype=dtype)
        for _ in range(4):
            spent = measured(lambda a=left, b=right: (len(torch.mm(a, b)), 0.0), device, repeats=3)
            flops = 3 * 2.0 * rows * inner * columns
            rates.append((flops / spent.seconds, flops / spent.cpu_seconds))
    return max(rate for rate, _ in rates), max(rate for _, rate in rates)


def compare(
    config: ModelConfig, ours: Sequence[Batch], theirs: Sequence[Padded], precision: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Both in turns, in one precision."""
    device, repeats = options.device, 20 if options.device == "cuda" else 1
    turns = {"ours": our_turn(config, ours, precision, device, is_compiled=False)}
    if options.compile:
        turns["compiled"] = our_turn(config, ours, precision, device, is_compiled=True)
    rivals = {name: esm_turn(config, theirs, precision, device, name) for name in ("sdpa", "eager")}
    for turn in (*turns.values(), *rivals.values()):
        measured(turn, device, repeats)  # kernels are chosen, memory is taken
    tried = {name: measured(turn, device, repeats) for name, turn in rivals.items()}
    attention = min(tried, key=lambda name: tried[name].cpu_seconds / tried[name].residues)
    turns["esm"] = rivals[attention]

    spent: dict[str, list[Spent]] = {name: [] for name in turns}
    peaks = [peak(DTYPES[precision], device)]
    for _ in range(options.rounds):
        for name, turn in turns.items():
            spent[name].append(measured(turn, device, repeats))
            if name == "ours":
                peaks.append(peak(DTYPES[precision], device))
    best, best_per_cpu_second = (max(rates) for rates in zip(*peaks, strict=True))
    speed = statistics.median(one.flops / one.seconds for one in spent["ours"])
    speed_per_cpu_second = statistics.median(one.flops / one.cpu_seconds for one in spent["ours"])
    found = {
        "esm_attention": attention,
        "matmul_peak_tflops": best / 1e12,
        "share_of_peak": speed / best,
        "share_of_peak_in_cpu_seconds": speed_per_cpu_second / best_per_cpu_second,
    }
    for name, rounds in spent.items():
        found[f"{name}_residues_per_s"] = statistics.median(one.residues / one.seconds for one in rounds)
        found[f"{name}_residues_per_cpu_s"] = statistics.median(one.residues / one.cpu_seconds for one in rounds)
        if name != "ours":
            found[f"ours_over_{name}"] = ratio(spent["ours"], rounds, "seconds")
            found[f"ours_over_{name}_in_cpu_seconds"] = ratio(spent["ours"], rounds, "cpu_seconds")
    if device == "cuda" and precision == "bf16":
        board = torch.cuda.get_device_name()
        sheet = next((flops for name, flops in DATA_SHEET_PEAK.items() if name in board), None)
        found["share_of_data_sheet_peak"] = speed / sheet if sheet else None
    return found


def ratio(above: list[Spent], below: list[Spent], unit: str) -> float:
    """Residues per `unit`, one over the other, the median over the rounds."""
    return median_ratio(*([one.residues / getattr(one, unit) for one in rounds] for rounds in (above, below)))


def memory_of_650m(batches: list[Batch]) -> dict[str, Any]:
    """Peak GPU memory of training steps with activation checkpointing (one worker: ZeRO 1 shards nothing)."""
    config = ModelConfig.model_validate({**SHAPE_650M, "activation_checkpointing": True})
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step = our_turn(config, batches, "bf16", "cuda", is_compiled=False)
    measured(step, "cuda", 2)
    taken = measured(step, "cuda", 5)
    return {
        "parameters": num_parameters(config),
        "peak_gibibytes": torch.cuda.max_memory_allocated() / 2**30,
        "residues_per_s": taken.residues / taken.seconds,
    }


if __name__ == "__main__":
    main()

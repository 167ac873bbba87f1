"""A training step (forward, backward, fused AdamW) against transformers' EsmForMaskedLM of the same sizes.

    python -m tests.benchmarks.throughput [--rounds 3] [--threads 2] [--shape 512 8 8] [--precisions bf16 fp32]
    python -m tests.benchmarks.throughput --device cuda [--model 133m]

Ours takes micro batches by a budget of residues, cut from one window of proteins as in training, and once more with its
layers compiled (`--compiled`). There are two references, and the figure is ours over the better one:

    esm_by_length   batches of similar lengths, padded; of several sizes (and, on a CPU, of its own attentions) the one
                    that is fastest here
    esm_packed      our own micro batches, each as one row that an attention function registered with transformers
                    keeps apart (tests/made/esm_reference.py)

esm_batches_of_32 is for comparison with what is often measured: shuffled batches of 32, padded to their longest.
All: rotary positions, no dropout, 15 % of the residues masked, proteins cropped at 1022 residues, the same precision,
threads and optimizer; batches are made before the clock starts, and every step has another one.

On a CPU they run in turns, each turn of ours between two measurements of the matrix product peak, since other work on
the machine then disturbs all alike. On a GPU one model after the other is on the device, with the memory that it took.
Ratios are medians over the rounds. FLOPs are the model's: neither padding nor recomputation counts. Figures per CPU
second hold on a machine that others use too, best with `--threads 1` (threads that wait for each other burn CPU time).
"""

import argparse
import gc
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from proteinlm.models.config import ModelConfig, num_parameters
from proteinlm.platform.training.telemetry import attention_slots
from proteinlm.tasks.task import Batch
from tests.made.batches import batches_by_length, packed_batches, padded_batches
from tests.made.esm_reference import PACKED, esm, packed_on, padded_on, trained
from tests.made.measuring import median_ratio, proteins, report
from tests.made.training_turns import (
    COMPILED_FORMS,
    DTYPES,
    FLOPS_FORMULA,
    FLOPS_LEGEND,
    MODELS,
    TERA,
    Spent,
    Turn,
    board_name,
    data_sheet_peak,
    measured,
    our_turn,
    peak,
    peak_memory,
    residues_per_second,
    share_of,
)

BATCHES_ON_DEVICE = 64
"""Different batches that each side goes through."""
ESM_BATCH = 32
ESM_ATTENTIONS = {"cpu": ("sdpa", "eager"), "cuda": ("sdpa",)}
"""Those of its own that a reference may take; on a GPU eager attention keeps all weights of a batch in memory."""
ESM_SIZES = (0.125, 0.25, 0.5, 1.0)
"""Padded tokens of a batch by length, as shares of our micro batch's residues, of which the fastest is taken."""
REFERENCES = ("esm_by_length", "esm_packed")

SHAPE = (512, 8, 8)


@dataclass(frozen=True)
class Made:
    """Something to measure, on the device."""

    turn: Turn
    said: Mapping[str, Any]
    """What was chosen for it."""


def main() -> None:
    """Measure and print."""
    options = asked()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")  # as in a worker
    is_gpu = options.device == "cuda"
    config = MODELS[options.model].config if options.model else shaped(options.shape or SHAPE)
    sequences, what = proteins(options.proteins)
    ours = packed_batches(sequences, options.micro_batch_residues)[:BATCHES_ON_DEVICE]
    padding = 1 - sum(b.packed.num_tokens for b in ours) / sum(attention_slots(b.packed) for b in ours)
    figures: dict[str, Any] = {
        "proteins": what,
        "parameters": num_parameters(config),
        "micro_batch_residues": round(statistics.mean(batch.num_residues for batch in ours)),
        "padding_share": 0.0 if is_gpu else padding,  # flash attention pads nothing
        "flops_of_a_step": f"{FLOPS_FORMULA}; {FLOPS_LEGEND}",
    }
    for precision in options.precisions:
        contestants = made_by(config, ours, sequences, precision, options)
        figures[precision] = compare(contestants, precision, options)
    rows = [(name, str(value)) for name, value in figures.items() if not isinstance(value, dict)]
    for part, values in figures.items():
        if isinstance(values, dict):
            rows += [(f"{part}: {name}", shown(value)) for name, value in values.items()]
    report("throughput", ("what", "measured"), rows, figures)


def asked() -> argparse.Namespace:
    """The options, with what depends on the device filled in."""
    parser = argparse.ArgumentParser(description="A training step against EsmForMaskedLM.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=tuple(MODELS), help="one that GPUs are measured with; there: 133m")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("HIDDEN", "LAYERS", "HEADS"), help="any other one")
    parser.add_argument("--precisions", choices=tuple(DTYPES), nargs="+", help="bf16, and on a CPU fp32 too")
    parser.add_argument("--micro-batch-residues", type=int, help="16384; on a GPU what the model is measured with")
    parser.add_argument("--proteins", type=int, default=8192, help="size of the window")
    parser.add_argument("--compiled", nargs="*", choices=COMPILED_FORMS, help="ours too; on a GPU the first form")
    parser.add_argument(
        "--one-at-a-time", action=argparse.BooleanOptionalAction, help="never two models in memory; so on a GPU"
    )
    options = parser.parse_args()
    is_gpu = options.device == "cuda"
    if is_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that torch can use")
    if options.model and options.shape:
        parser.error("--model and --shape: two models; accepted: one of them")
    if is_gpu and not options.shape:
        options.model = options.model or "133m"
    options.precisions = options.precisions or (["bf16"] if is_gpu else ["bf16", "fp32"])
    of_model = MODELS[options.model].micro_batch_residues if options.model else None
    options.micro_batch_residues = options.micro_batch_residues or of_model or (65_536 if is_gpu else 16_384)
    if options.compiled is None:
        options.compiled = COMPILED_FORMS[:1] if is_gpu else ()
    options.one_at_a_time = is_gpu if options.one_at_a_time is None else options.one_at_a_time
    return options


def shaped(shape: Sequence[int]) -> ModelConfig:
    """A model of (hidden_size, num_hidden_layers, num_attention_heads)."""
    hidden, layers, heads = shape
    return ModelConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads)


def shown(value: object) -> str:
    """A figure of the table."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def made_by(
    config: ModelConfig, ours: list[Batch], sequences: list[str], precision: str, options: argparse.Namespace
) -> dict[str, Callable[[], Made]]:
    """What makes each contestant, by name."""
    device = options.device
    made: dict[str, Callable[[], Made]] = {"ours": lambda: Made(our_turn(config, ours, precision, device), {})}
    for form in options.compiled:
        made[form] = lambda form=form: Made(our_turn(config, ours, precision, device, form), {})
    made["esm_by_length"] = lambda: by_length(config, sequences, precision, options)
    if device == "cpu" or precision != "fp32":  # a GPU's variable-length attention is for 16 bits

        def packed() -> Made:
            model = esm(config, device, PACKED)
            return Made(trained(model, precision, device).on(packed_on(ours, device)), {})

        made["esm_packed"] = packed
    made["esm_batches_of_32"] = lambda: batches_of_32(config, sequences, precision, device)
    return made


def by_length(config: ModelConfig, sequences: list[str], precision: str, options: argparse.Namespace) -> Made:
    """The reference on batches of similar lengths, of the size and with the attention that are fastest here."""
    device, repeats = options.device, repeats_on(options.device)
    model = esm(config, device, "sdpa")
    training = trained(model, precision, device)
    tried: dict[tuple[str, int], float] = {}
    turns: dict[int, Turn] = {}
    for slots in sorted({max(1024, round(share * options.micro_batch_residues)) for share in ESM_SIZES}):
        turns[slots] = training.on(padded_on(batches_by_length(sequences, slots)[:BATCHES_ON_DEVICE], device))
        for attention in ESM_ATTENTIONS[device]:
            model.set_attn_implementation(attention)
            try:
                measured(turns[slots], device, repeats)  # kernels are chosen, memory is taken
                spent = measured(turns[slots], device, repeats)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                continue
            tried[attention, slots] = spent.residues / (spent.seconds if device == "cuda" else spent.cpu_seconds)
    attention, slots = max(tried, key=lambda choice: tried[choice])
    model.set_attn_implementation(attention)
    unit = "s" if device == "cuda" else "cpu_s"
    said = {f"{name}_{size}": rate for (name, size), rate in tried.items()}
    return Made(turns[slots], {"attention": attention, "padded_tokens": slots, f"tried_residues_per_{unit}": said})


def batches_of_32(config: ModelConfig, sequences: list[str], precision: str, device: str) -> Made:
    """The reference on shuffled batches, and how much of them is padding."""
    batches = padded_batches(sequences, ESM_BATCH)[:BATCHES_ON_DEVICE]
    masks = [batch["attention_mask"] for batch in batches]
    padding = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    turn = trained(esm(config, device, "sdpa"), precision, device).on(padded_on(batches, device))
    return Made(turn, {"padding_share": padding})


def repeats_on(device: str) -> int:
    """Steps of one turn."""
    return 20 if device == "cuda" else 1


def compare(
    contestants: Mapping[str, Callable[[], Made]], precision: str, options: argparse.Namespace
) -> dict[str, Any]:
    """All of them in one precision: in turns, or one after the other."""
    device, repeats = options.device, repeats_on(options.device)
    groups = [[name] for name in contestants] if options.one_at_a_time else [list(contestants)]
    spent: dict[str, list[Spent]] = {name: [] for name in contestants}
    peaks = [peak(DTYPES[precision], device)]
    found: dict[str, Any] = {}
    for group in groups:
        with peak_memory(device) as most:
            made = {name: contestants[name]() for name in group}
            for name in group:
                measured(made[name].turn, device, repeats)
            for _ in range(options.rounds):
                for name in group:
                    spent[name].append(measured(made[name].turn, device, repeats))
                    if name == "ours":
                        peaks.append(peak(DTYPES[precision], device))
            for name in group:
                found |= {f"{name}_{what}": value for what, value in made[name].said.items()}
                if (gibibytes := most()) is not None:
                    found[f"{name}_peak_gibibytes"] = gibibytes
            made.clear()
            gc.collect()  # models hold themselves
    return shares(spent["ours"], peaks, precision, device) | speeds(spent) | found


def shares(ours: list[Spent], peaks: list[tuple[float, float]], precision: str, device: str) -> dict[str, Any]:
    """Our share of the peaks, each beside its divisor."""
    best, best_per_cpu_second = (max(rates) for rates in zip(*peaks, strict=True))
    speed = statistics.median(one.flops / one.seconds for one in ours)
    speed_per_cpu_second = statistics.median(one.flops / one.cpu_seconds for one in ours)
    found: dict[str, Any] = {
        "matmul_peak_tflops": best / TERA,
        "share_of_peak": speed / best,
        "share_of_peak_is": f"model FLOPs / s: {share_of(speed, best)}, the fastest matrix product here",
        "share_of_peak_in_cpu_seconds": speed_per_cpu_second / best_per_cpu_second,
    }
    sheet = data_sheet_peak(board_name(device))
    if precision == "bf16" and sheet:
        found["share_of_data_sheet"] = speed / sheet
        found["share_of_data_sheet_is"] = f"model FLOPs / s: {share_of(speed, sheet)}, dense bf16 of the data sheet"
    return found


def speeds(spent: Mapping[str, list[Spent]]) -> dict[str, Any]:
    """Residues per second of each, ours over each, and over the better reference."""
    found: dict[str, Any] = {}
    for name, rounds in spent.items():
        found[f"{name}_residues_per_s"] = residues_per_second(rounds)
        found[f"{name}_residues_per_cpu_s"] = statistics.median(one.residues / one.cpu_seconds for one in rounds)
        if name != "ours":
            found[f"ours_over_{name}"] = ratio(spent["ours"], rounds, "seconds")
            found[f"ours_over_{name}_in_cpu_seconds"] = ratio(spent["ours"], rounds, "cpu_seconds")
    references = [name for name in REFERENCES if name in spent]
    better = max(references, key=lambda name: float(found[f"{name}_residues_per_s"]))
    found["better_reference"] = better
    for ours in ("ours", *COMPILED_FORMS):
        if ours in spent:
            found[f"{ours}_over_better_reference"] = ratio(spent[ours], spent[better], "seconds")
            found[f"{ours}_over_better_reference_in_cpu_seconds"] = ratio(spent[ours], spent[better], "cpu_seconds")
    return found


def ratio(above: list[Spent], below: list[Spent], unit: str) -> float:
    """Residues per `unit`, one over the other, the median over the rounds."""
    return median_ratio(*([one.residues / getattr(one, unit) for one in rounds] for rounds in (above, below)))


if __name__ == "__main__":
    main()

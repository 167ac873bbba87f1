"""A training step of the paper's contact head and its loss, forward and backward, against the naive head.

    python -m tests.benchmarks.contact_head [--length 1000] [--hidden-size 1024] [--threads 2] [--rounds 3]
                                            [--naive-length 250]

The naive head holds (h_j, h_i) of all pairs [L, L, 2D] as the paper's code does, and torch's own dropout. Both: fp32,
dropout 0.1, all residues resolved, the same weights. Peak memory is the growth of a fresh process's resident set over
one step, each in a process of its own, one after the other; times are medians over rounds in turns at `--naive-length`,
where the naive head fits into memory, and of ours alone at `--length`.

Shapes: L residues, D hidden.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from proteinlm.tasks.contact_heads import ConcatenationHead
from tests.made.measuring import in_turns, median_ratio, report

SEPARATION = 6
CONTACT_SHARE = 0.03


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description="The contact head against the naive one.")
    asked.add_argument("--length", type=int, default=1000)
    asked.add_argument("--hidden-size", type=int, default=1024)
    asked.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked.add_argument("--rounds", type=int, default=3)
    asked.add_argument("--naive-length", type=int, default=250, help="the naive one holds some 30 kB a pair")
    asked.add_argument("--peak-of", choices=("ours", "naive"), help=argparse.SUPPRESS)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        print(peak_growth(options.peak_of, options.length, options.hidden_size))
        return
    sizes = [("ours", options.length), ("ours", options.naive_length), ("naive", options.naive_length)]
    peaks = {size: peak_in_fresh_process(*size, options) for size in sizes}
    steps = {name: step(name, options.naive_length, options.hidden_size) for name in ("ours", "naive")}
    steps["ours"]()  # kernels are chosen, memory is taken
    seconds = in_turns(steps, options.rounds)
    long = in_turns({"ours": step("ours", options.length, options.hidden_size)}, options.rounds)["ours"]
    times = {size: statistics.median(long if size == sizes[0] else seconds[size[0]]) for size in sizes}
    faster = median_ratio(seconds["naive"], seconds["ours"])
    rows = [
        (f"{name}, L = {length}", f"{peaks[name, length] / 2**20:,.0f}", f"{times[name, length]:,.2f}")
        for name, length in sizes
    ]
    rows.append((f"naive over ours, L = {options.naive_length}", "", f"{faster:.1f}"))
    figures = {
        "hidden_size": options.hidden_size,
        "length": options.length,
        "peak_bytes": peaks[sizes[0]],
        "seconds": times[sizes[0]],
        "naive_length": options.naive_length,
        "peak_bytes_at_naive_length": peaks[sizes[1]],
        "naive_peak_bytes": peaks[sizes[2]],
        "naive_over_ours": faster,
        "naive_over_ours_rounds": [n / o for n, o in zip(seconds["naive"], seconds["ours"], strict=True)],
    }
    report("contact head", ("training step", "peak memory, MiB", "seconds"), rows, figures)


def step(name: str, length: int, hidden_size: int) -> Callable[[], None]:
    """One forward and backward pass of the head `name` over a protein of random states."""
    torch.manual_seed(0)
    head = ConcatenationHead(hidden_size)
    hidden = torch.randn(length, hidden_size, requires_grad=True)
    is_contact = torch.rand(length, length) < CONTACT_SHARE
    is_scored = torch.ones(length, length, dtype=torch.bool).triu(SEPARATION)
    truth = is_contact[is_scored]

    def run() -> None:
        if name == "ours":
            found = head(hidden, [length])[0][is_scored]
            loss = functional.binary_cross_entropy_with_logits(found, truth.float(), reduction="sum")
        else:
            loss = functional.cross_entropy(naive_logits(head, hidden)[is_scored], truth.long(), reduction="sum")
        loss.backward()
        for parameter in (hidden, *head.parameters()):
            parameter.grad = None

    return run


def naive_logits(head: ConcatenationHead, hidden: Tensor) -> Tensor:
    """Logits [L, L, 2] by way of the tensor of all pairs, as megatron/model does."""
    length, hidden_size = hidden.shape
    of_column = hidden.expand(length, length, hidden_size)
    of_row = hidden[:, None].expand(length, length, hidden_size)
    pairs = torch.tanh(functional.linear(torch.cat([of_column, of_row], dim=2), head.dense_weight, head.dense_bias))
    logits = functional.linear(functional.dropout(pairs, head.dropout), head.classifier_weight, head.classifier_bias)
    return (logits + logits.transpose(0, 1)) / 2


def peak_growth(name: str, length: int, hidden_size: int) -> int:
    """Bytes by which one step raises the highest resident set of this process."""
    step(name, 16, hidden_size)()  # what torch takes once
    run = step(name, length, hidden_size)
    before = resident_bytes("VmRSS")
    run()
    return resident_bytes("VmHWM") - before


def resident_bytes(field: str) -> int:
    """The resident set of this process now ("VmRSS") or at its highest ("VmHWM"), by Linux's own account."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def peak_in_fresh_process(name: str, length: int, options: argparse.Namespace) -> int:
    """`peak_growth` measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.contact_head", "--peak-of", name, "--length", str(length)]
    command += ["--hidden-size", str(options.hidden_size), "--threads", str(options.threads)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(found.stdout.split()[-1])


if __name__ == "__main__":
    main()

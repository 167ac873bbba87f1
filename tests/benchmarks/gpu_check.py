"""All that is to be known of one GPU, in at most four minutes: tests, speed, a profile, the verb, a kill and a resume.

    python -m tests.benchmarks.gpu_check [--device cuda] [--seconds 230] [--parts tests corpus ...] [--folder DIR]
    python -m tests.benchmarks.gpu_check --device cpu     the same code on tiny shapes

    tests                 the test files that ask for a GPU
    corpus                simulated proteins, and the corpus built of them
    resume                the verb `pretrain`, killed and resumed
    throughput-MODEL      training steps of a bare loop: residues/s, shares of the peaks, memory
    profile               the ten largest kernels of a training step
    pretrain-bf16-zero1   the verb `pretrain`, from the command to its end; also -fp16-zero1 (a CPU has to refuse it),
                          -bf16-zero3 and, if there is time, -large: another model

The first three run side by side, for nobody takes their time; then the others, one after the other (on a CPU, whose
times are nobody's figures, some of them beside each other). Each is a process with a time limit of its own
(tests/made/timed_parts.py): one that fails or hangs is reported, and the others go on. What is found is printed as
tables and, last, as one JSON line; the exit code is 1 where a part failed. With `--folder` the logs are kept there.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from proteinlm.models.config import num_parameters
from tests.made.gpu_parts import PRECISION, SCALES, Scale, Work, corpus, gpu_tests, one_profile, resume, verb
from tests.made.gpu_parts import throughput as throughput_of
from tests.made.measuring import print_table, report
from tests.made.timed_parts import Part, PartOutcome, Parts
from tests.made.training_turns import COMPILED_FORMS, EAGER, FLOPS_FORMULA, FLOPS_LEGEND, MODELS

SECONDS = {"cuda": 230.0, "cpu": 3600.0}
"""For all parts together; the rest of four minutes is the start, the end and the tables."""
FORMS = (EAGER, *COMPILED_FORMS)

LIMITS = {"tests": 90.0, "corpus": 60.0, "resume": 110.0, "throughput": 75.0, "profile": 45.0, "pretrain": 75.0}
"""Seconds of a part on a GPU, by the first word of its name."""
CPU_PATIENCE = 10.0
"""Limits are so many times as long on a CPU, which others may use too."""


def works(scale: Scale) -> dict[str, Callable[[Work], None]]:
    """Part -> its work; those of the last stage run in this order."""
    made: dict[str, Callable[[Work], None]] = {"tests": gpu_tests, "corpus": corpus, "resume": resume}
    first, *others = (f"throughput-{name}" for name in scale.throughput)
    trained = {
        "pretrain-bf16-zero1": partial(verb, name="bf16-zero1", model=scale.trained),
        "pretrain-bf16-zero3": partial(verb, name="bf16-zero3", model=scale.trained, zero_stage=3),
        "pretrain-fp16-zero1": partial(verb, name="fp16-zero1", model=scale.trained, precision="fp16"),
    }
    throughputs = {f"throughput-{name}": partial(throughput_of, name=name) for name in scale.throughput}
    made |= {first: throughputs[first], "pretrain-bf16-zero1": trained["pretrain-bf16-zero1"]}
    made |= {name: throughputs[name] for name in others} | {"profile": one_profile} | trained
    if scale.trained_last:
        made["pretrain-large"] = partial(verb, name="large", model=scale.trained_last)
    return made


Stage = list[list[str]]
"""Chains of parts: the parts of a chain run one after the other, the chains of a stage side by side."""


def stages(device: str) -> list[Stage]:
    """All parts in the order in which they run: on a GPU, what is timed runs alone."""
    beside: Stage = [["tests"], ["corpus", "resume"]] if device == "cuda" else [["tests"], ["corpus"]]
    # what a CPU takes for the reduced form is nobody's figure
    then: Stage = [] if device == "cuda" else [["resume", "pretrain-fp16-zero1"]]
    begun = {name for chain in (*beside, *then) for name in chain}
    return [beside, [*then, [name for name in works(SCALES[device]) if name not in begun]]]


def main() -> None:
    """Run the parts and print what they found; with `--part` be one of them."""
    options = asked()
    if options.part:
        work = Work(options.device, options.folder, tuple(options.compiled))
        works(work.scale)[options.part](work)
        return
    with kept_or_not(options.folder) as folder:
        parts = Parts(folder, options.seconds, environment(options.device))
        made = parts_of(options, folder)
        for stage in stages(options.device):
            parts.run_side_by_side([[made[name] for name in chain if name in options.parts] for chain in stage])
    print_all(parts.outcomes, options.device)
    sys.exit(any(outcome.status != "ok" for outcome in parts.outcomes.values()))


def asked() -> argparse.Namespace:
    """The options, with what depends on the device filled in."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description="All that is to be known of one GPU.")
    parser.add_argument("--device", choices=tuple(SCALES), default=device)
    parser.add_argument("--seconds", type=float, help="for all parts together; 230, on a CPU 3600")
    parser.add_argument("--parts", nargs="+", metavar="PART", help="some of them alone")
    parser.add_argument("--folder", type=Path, help="where logs, corpus and runs are kept; else they are removed")
    parser.add_argument("--compiled", nargs="*", choices=COMPILED_FORMS, help="forms; on a GPU the first one")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no GPU that torch can use")
    names = tuple(works(SCALES[options.device]))
    options.parts = options.parts or names
    if unknown := set(options.parts) - set(names):
        parser.error(f"--parts: there is no {', '.join(sorted(unknown))}; accepted: {', '.join(names)}")
    options.seconds = options.seconds or SECONDS[options.device]
    if options.compiled is None:
        options.compiled = COMPILED_FORMS[:1] if options.device == "cuda" else ()
    return options


@contextmanager
def kept_or_not(folder: Path | None) -> Iterator[Path]:
    """The folder that was asked for, or one that is removed after the body."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # a killed process may still write
        yield Path(name)


def environment(device: str) -> dict[str, str]:
    """Of the parts: DeepSpeed and Ray see the GPU, or none."""
    values = {"PYTHONUNBUFFERED": "1", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", **os.environ}
    if device == "cpu":
        return values | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return {name: value for name, value in values.items() if name != "DS_ACCELERATOR"}


def parts_of(options: argparse.Namespace, folder: Path) -> dict[str, Part]:
    """The parts by name, in the order in which they run."""
    patience = 1.0 if options.device == "cuda" else CPU_PATIENCE
    command = (sys.executable, "-m", "tests.benchmarks.gpu_check", "--device", options.device, "--folder", str(folder))
    command += ("--compiled", *options.compiled, "--part")
    return {
        name: Part(name, (*command, name), patience * LIMITS[name.partition("-")[0]])
        for name in works(SCALES[options.device])
    }


def print_all(outcomes: Mapping[str, PartOutcome], device: str) -> None:
    """Tables of speed, kernels and runs, what became of the parts, and the JSON line."""
    print_rows("bare loop", LOOP_COLUMNS, loop_rows(outcomes), LOOP_CAPTION)
    notes = outcomes["profile"].notes if "profile" in outcomes else {}
    if "largest" in notes:
        print_rows(f"profile of {notes['model']}, {notes['form']}", *profile_rows(notes))
    print_rows("the verb pretrain", RUN_COLUMNS, run_rows(outcomes), RUN_CAPTION)
    print_rows(
        "its phases", ("run", "process", "phase", "begins at s", "takes s"), phase_rows(outcomes), PHASES_CAPTION
    )
    rows = [(name, one.status, f"{one.seconds:.1f}", one.why or "") for name, one in outcomes.items()]
    figures = {
        name: {"status": one.status, "seconds": round(one.seconds, 1), "why": one.why, **one.notes}
        for name, one in outcomes.items()
    }
    report("gpu_check", ("part", "status", "s", "why"), rows, {"device": device, "flops": FLOPS, "parts": figures})


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
    """A table and what its figures are, where there are any."""
    if rows:
        print_table(title, columns, rows)
        print(f"{caption}\n")


FLOPS = f"{FLOPS_FORMULA}; {FLOPS_LEGEND}"

LOOP_COLUMNS = ("model", "parameters", "residues a batch", "residues/s", "of data sheet", "of matmul peak", "GiB")
LOOP_CAPTION = f"""{PRECISION} autocast, fused AdamW; real residues; the most memory that was allocated.
Share: model FLOPs / s over the divisor beside it, which is the dense bf16 of NVIDIA's data sheet, or the fastest matrix
product of random numbers measured here. Model FLOPs of a step: {FLOPS_FORMULA},
{FLOPS_LEGEND}."""


def loop_rows(outcomes: Mapping[str, PartOutcome]) -> list[tuple[str, ...]]:
    """The bare loop: one row for each model and form."""
    rows = []
    for name, outcome in outcomes.items():
        word, _, model = name.partition("-")
        for form in FORMS if word == "throughput" else ():
            if found := outcome.notes.get(form):
                rows.append(
                    (
                        f"{model}, {form}",
                        f"{num_parameters(MODELS[model].config) / 1e6:.1f} M",
                        f"{outcome.notes['micro_batch_residues']:,}",
                        f"{found['residues_per_s']:,.0f}",
                        found["share_of_data_sheet_is"],
                        found["share_of_matmul_peak_is"],
                        shown(found["peak_gibibytes"], "{:.1f}"),
                    )
                )
    return rows


def profile_rows(notes: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
    """The largest kernels: columns, rows, and what the shares are of."""
    rows = [(one["kernel"][:90], f"{one['ms']:.2f}", f"{one['share']:.1%}") for one in notes["largest"]]
    caption = f"Share: of the {notes['kernels_ms']:,.2f} ms of all kernels in {notes['steps']} steps, which are "
    caption += f"{notes['kernels_share_of_time']:.0%} of the steps' time under the profiler."
    return ("kernel", "ms", "share"), rows, caption


RUN_COLUMNS = ("run", "model", "start s", "training s", "end s", "residues/s", *(f"of {form} loop" for form in FORMS))
RUN_CAPTION = """Start: from the command to the first step; end: from the last step to the end of the process.
Share: residues/s over those of the bare loop of the same model on the same micro batches, which stand beside it."""


def run_rows(outcomes: Mapping[str, PartOutcome]) -> list[tuple[str, ...]]:
    """The verb's runs beside the bare loop of the same model."""
    rows = []
    for name, outcome in outcomes.items():
        notes = outcome.notes
        if "refused" in notes:
            rows.append((name, notes["model"], "refused", "", "", "", "", ""))
        elif name.startswith("pretrain-") and "start_s" in notes:
            bare = outcomes.get(f"throughput-{notes['model']}", PartOutcome("not begun")).notes
            times = [f"{notes[part]:.1f}" for part in ("start_s", "training_s", "end_s")]
            speed = notes["residues_per_s"]
            shares = [of_loop(speed, bare.get(form)) for form in FORMS]
            rows.append((name, notes["model"], *times, shown(speed, "{:,.0f}"), *shares))
    return rows


PHASES_CAPTION = "Phases may lie inside each other; seconds are counted from the first one of a run."


def phase_rows(outcomes: Mapping[str, PartOutcome]) -> list[tuple[str, ...]]:
    """The phases of the first run that wrote any."""
    name, phases = next(
        ((name, one.notes["phases"]) for name, one in outcomes.items() if one.notes.get("phases")), ("", [])
    )
    return [(name, one["where"], one["name"], f"{one['start']:.2f}", f"{one['seconds']:.2f}") for one in phases]


def of_loop(speed: float | None, bare: Mapping[str, Any] | None) -> str:
    """The verb's speed as a share of a bare loop's."""
    if speed is None or bare is None:
        return ""
    return f"{speed / bare['residues_per_s']:.1%} of {bare['residues_per_s']:,.0f}"


def shown(value: float | None, form: str) -> str:
    """A figure, or nothing."""
    return "" if value is None else form.format(value)


if __name__ == "__main__":
    main()

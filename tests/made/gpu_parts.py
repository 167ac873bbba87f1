"""What benchmarks/gpu_check.py is made of: tests that ask for a GPU, a corpus, training steps, one profile, the verb.

Each function is the work of one process. It notes what it finds (timed_parts.py) as it goes, and raises where it fails.
The same code runs on a GPU and, with tiny shapes and few steps (`REDUCED`), on a CPU.
"""

import gc
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from proteinlm.platform.corpus.build import build_corpus
from proteinlm.platform.data.manifest import MANIFEST_FILE
from proteinlm.platform.settings.config import CorpusConfig, PretrainConfig
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.tasks.task import Batch
from tests.made.batches import micro_batches, packed_batches
from tests.made.measuring import ROOT, proteins
from tests.made.timed_parts import note
from tests.made.training_turns import (
    DTYPES,
    EAGER,
    MODELS,
    PEAK_PRODUCTS,
    TERA,
    Measured,
    Products,
    Spent,
    board_name,
    data_sheet_peak,
    measured,
    our_turn,
    peak,
    peak_memory,
    residues_per_second,
    share_of,
)
from tests.made.verb_runs import VerbRun, kill_and_resume, run_verb

PRECISION = "bf16"
ASKS_FOR_GPU = "torch.cuda.is_available()"
"""What stands in a test file with tests that skip where there is no GPU."""
LARGEST_KERNELS = 10
PROFILED_STEPS = 3
MOST_LOSS_DIFFERENCE = {"cpu": 0.0, "cuda": 0.05}
"""Nats between a step's loss before a kill and after: a GPU adds up in another order each time."""


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    throughput: tuple[str, ...]
    """Names in `MODELS`, in the order in which they are measured."""
    profiled: str
    trained: str
    """What the verb trains."""
    trained_last: str | None
    """A second one, if there is time."""
    warming: int
    """Steps before a clock starts."""
    repeats: int
    """Steps of a turn."""
    rounds: int
    products: Products
    """Matrix products that the measured peak is the fastest of."""
    families: int
    proteins_per_family: int
    longest: int
    """Residues of a simulated protein."""
    steps: int
    """Of a run of the verb."""
    log_every: int
    resumed_steps: int
    """Of the run that is killed."""
    checkpoint_every: int
    """In that run."""


CARD = Scale(
    throughput=("35m", "650m", "133m", "150m"), profiled="133m", trained="35m", trained_last="650m",
    warming=6, repeats=6, rounds=3, products=PEAK_PRODUCTS["cuda"], families=300, proteins_per_family=40, longest=600,
    steps=60, log_every=10, resumed_steps=60, checkpoint_every=15,
)  # fmt: skip
REDUCED = Scale(
    throughput=("tiny", "tiny-deep"), profiled="tiny-deep", trained="tiny", trained_last=None,
    warming=2, repeats=2, rounds=2, products=((512, 512, 512),), families=30, proteins_per_family=20, longest=160,
    steps=8, log_every=1, resumed_steps=120, checkpoint_every=20,
)  # fmt: skip
SCALES = {"cuda": CARD, "cpu": REDUCED}


@dataclass(frozen=True)
class Work:
    """Where and how a part works."""

    device: str
    folder: Path
    compiled: tuple[str, ...]
    """Forms in which layers are measured compiled, too; the first is profiled."""

    @property
    def scale(self) -> Scale:
        """How much is done on this device."""
        return SCALES[self.device]

    @property
    def corpus(self) -> Path:
        """Folder of the simulated corpus."""
        return self.folder / "corpus"


def gpu_tests(work: Work) -> None:
    """Run the test files that ask for a GPU."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if ASKS_FOR_GPU in path.read_text()]
    results = work.folder / "tests.xml"
    code = pytest.main(["-q", "-p", "no:cacheprovider", f"--junitxml={results}", *map(str, files)])
    counted = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(results).iter("testsuite"):
        counted = {name: count + int(suite.get(name, 0)) for name, count in counted.items()}
    note(files=[path.relative_to(ROOT).as_posix() for path in files], **counted)
    if code:
        raise RuntimeError(f"{counted['failures']} tests failed and {counted['errors']} could not run")


def corpus(work: Work) -> None:
    """Simulate proteins and build a corpus of them."""
    scale = work.scale
    made = simulate(
        work.folder / "simulated",
        num_families=scale.families,
        proteins_per_family=scale.proteins_per_family,
        seed=0,
        longest=scale.longest,
    )
    config = CorpusConfig(sources=(made.fasta,), out=work.corpus, shard_rows=1024, is_simulated=True)
    train = build_corpus(config).split("train")
    note(train_proteins=train.rows, train_residues=train.residues)


def throughput(work: Work, name: str) -> None:
    """Training steps of a bare loop, as they are and compiled: speed, shares of the peaks, memory."""
    model, device, scale = MODELS[name], work.device, work.scale
    batches, what = batches_for(work, model)
    best, _ = peak(DTYPES[PRECISION], device, scale.products)
    note(proteins=what, micro_batch_residues=round(statistics.mean(batch.num_residues for batch in batches)))
    for form in (EAGER, *work.compiled):
        with peak_memory(device) as most:
            turn = our_turn(model.config, batches, PRECISION, device, form)
            warming = measured(turn, device, scale.warming)
            rounds = [measured(turn, device, scale.repeats) for _ in range(scale.rounds)]
            found = {"warming_s": warming.seconds, "peak_gibibytes": most(), **speed(rounds, best, device)}
            note(**{form: found})
        del turn
        gc.collect()  # models hold themselves


def speed(rounds: Sequence[Spent], best: float, device: str) -> dict[str, Any]:
    """Residues and FLOP per second, and shares of the peaks, each with its divisor."""
    flops = statistics.median(one.flops / one.seconds for one in rounds)
    sheet = data_sheet_peak(board_name(device))
    return {
        "residues_per_s": residues_per_second(rounds),
        "tflops": flops / TERA,
        "share_of_data_sheet": flops / sheet if sheet else None,
        "share_of_data_sheet_is": share_of(flops, sheet),
        "share_of_matmul_peak": flops / best,
        "share_of_matmul_peak_is": share_of(flops, best),
    }


def batches_for(work: Work, model: Measured) -> tuple[list[Batch], str]:
    """Micro batches of the corpus, the first ones that the verb trains on; where there is none, of other proteins."""
    count = work.scale.warming + work.scale.repeats
    if (work.corpus / MANIFEST_FILE).is_file():
        steps = micro_batches(settings(work, "unused", model, steps=count))
        return [batch for (batch,) in islice(steps, count)], "simulated proteins of the corpus"
    sequences, what = proteins(4 * model.micro_batch_residues // 100)
    return packed_batches(sequences, model.micro_batch_residues)[:count], what


def one_profile(work: Work) -> None:
    """The kernels that a training step spends most time in."""
    model = MODELS[work.scale.profiled]
    batches, _ = batches_for(work, model)
    form = work.compiled[0] if work.compiled else EAGER
    turn = our_turn(model.config, batches, PRECISION, work.device, form)
    measured(turn, work.device, work.scale.warming)
    activity = ProfilerActivity.CUDA if work.device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as seen:
        spent = measured(turn, work.device, PROFILED_STEPS)
    note(
        model=work.scale.profiled,
        form=form,
        **largest_kernels(seen.key_averages(), work.device, spent.seconds),
    )


def largest_kernels(events: Iterable[Any], device: str, seconds: float) -> dict[str, Any]:
    """The largest of a profiler's averages (on a CPU: operators) with their share of the time of all.

    `seconds` is what the steps took in all; what kernels do not fill of it, the device waited.
    """
    times = {}
    for event in events:
        if event.is_user_annotation:  # a span around kernels that stand for themselves
            continue
        if device == "cuda" and event.device_type == DeviceType.CUDA:
            times[event.key] = event.self_device_time_total
        if device == "cpu" and event.device_type == DeviceType.CPU:
            times[event.key] = event.self_cpu_time_total
    total = sum(times.values())
    names = sorted(times, key=lambda name: -times[name])[:LARGEST_KERNELS]
    return {
        "steps": PROFILED_STEPS,
        "kernels_ms": total / 1e3,
        "kernels_share_of_time": total / 1e6 / seconds,
        "largest": [{"kernel": name, "ms": times[name] / 1e3, "share": times[name] / total} for name in names],
    }


def settings(work: Work, name: str, model: Measured, **training: Any) -> PretrainConfig:
    """A pretraining on the corpus: one worker, a micro batch a step."""
    steps = training.get("steps", work.scale.steps)
    return PretrainConfig.model_validate(
        {
            "name": name,
            "corpus": work.corpus,
            "storage": work.folder / "runs",
            "model": dict(model.values),
            "batches": {"micro_batch_residues": model.micro_batch_residues, "lanes": 1, "max_length": 1022},
            "optimizer": {"learning_rate": 4e-4, "warmup_steps": min(10, steps // 2)},
            "training": {
                "steps": steps,
                "precision": PRECISION,
                "zero_stage": 1,
                "log_every": work.scale.log_every,
                "validate_every": steps,
                "checkpoint_every": steps,
                "validation_residues": 20_000,
                **training,
            },
            "cluster": {"num_workers": 1, "threads_per_worker": 1 if work.device == "cpu" else None},
        }
    )


def verb(work: Work, name: str, model: str, **training: Any) -> None:
    """The verb to its end, with the times of its start and end.

    fp16 on a CPU has to be refused by name. RuntimeError where the run does not end in good order.
    """
    note(model=model, **training)
    config = settings(work, name, MODELS[model], **training)
    run = run_verb(config, work.folder / f"{name}-verb.log")
    if training.get("precision") == "fp16" and work.device == "cpu":
        note(refused=refusal_of(run))
        return
    note(**run.figures())
    if run.code != 0:
        raise RuntimeError(f"exit code {run.code}: {run.said}")
    last = run.rows[-1]
    if last["step"] != config.training.steps or not math.isfinite(last["loss"]):
        raise RuntimeError(f"the last step that was logged is {last['step']}, its loss {last['loss']}")


def refusal_of(run: VerbRun) -> str:
    """What the verb said of fp16 on a CPU; RuntimeError where it did not refuse it."""
    said = next((line for line in run.said.splitlines() if "fp16 needs a GPU" in line), None)
    if run.code == 0 or said is None:
        raise RuntimeError(f"fp16 was to be refused on a CPU; exit code {run.code}: {run.said}")
    return said


def resume(work: Work) -> None:
    """Kill -9 of a run and its resumption from the newest checkpoint."""
    scale = work.scale
    training = {"steps": scale.resumed_steps, "checkpoint_every": scale.checkpoint_every, "log_every": 1}
    config = settings(work, "resume", MODELS[scale.trained], **training)
    found = kill_and_resume(config, work.folder / "resume-verb.log")
    note(**found)
    difference = found["largest_loss_difference"]
    if found["first_step_of_resumed"] != found["resumed_from_step"] + 1 or found["last_step"] != scale.resumed_steps:
        raise RuntimeError(f"the resumed run did not go on from its checkpoint to its end: {found}")
    if difference is None or difference > MOST_LOSS_DIFFERENCE[work.device]:
        raise RuntimeError(f"losses of repeated steps differ by {difference}")

"""gpu_check on a CPU, by the code that a GPU runs; its parts one by one; parts that fail, hang, or are not begun."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from torch.autograd import DeviceType

from tests.benchmarks.gpu_check import LIMITS, environment, loop_rows, profile_rows, run_rows, stages, works
from tests.made.gpu_parts import SCALES, largest_kernels, refusal_of, speed
from tests.made.measuring import ROOT
from tests.made.timed_parts import NOTES, Part, PartOutcome, Parts
from tests.made.training_turns import COMPILED_FORMS, Spent, data_sheet_peak
from tests.made.verb_runs import VerbRun

IN_THE_SUITE = ("corpus", "resume", "throughput-tiny", "profile", "pretrain-bf16-zero3", "pretrain-fp16-zero1")
"""Parts that the suite runs; the others differ in a shape or a stage, or are tests of the suite themselves."""


def script(text: str) -> tuple[str, ...]:
    return sys.executable, "-c", text


NOTE = f"import json, os; open(os.environ[{NOTES!r}], 'w').write(json.dumps({{'found': 7}}));"
FAILS = Part("fails", script(f"{NOTE} print('some lines'); raise SystemExit('no card in this machine')"), 60)
HANGS = Part(
    "hangs",
    script(
        f"{NOTE} import subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, flush=True); time.sleep(600)"
    ),
    8,
)
WORKS = Part("works", script(NOTE), 60)


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 600, os.environ)
    parts.run_side_by_side([[FAILS], [HANGS, WORKS]])
    fails, hangs, works_ = (parts.outcomes[part.name] for part in (FAILS, HANGS, WORKS))
    assert (fails.status, fails.why, fails.notes) == ("failed", "no card in this machine", {"found": 7})
    assert (hangs.status, hangs.why, hangs.notes) == ("out of time", "ended after 8 s", {"found": 7})
    assert (works_.status, works_.why, works_.notes) == ("ok", None, {"found": 7})
    child = int((tmp_path / "hangs.log").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_no_part_begins_when_the_time_for_all_is_over(tmp_path: Path) -> None:
    parts = Parts(tmp_path, 0, os.environ)
    parts.run([WORKS])
    assert parts.outcomes["works"].status == "not begun"
    assert not list(tmp_path.iterdir())


def gpu_check(folder: Path, *options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.benchmarks.gpu_check", "--device", "cpu", "--folder", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("ray_cluster")
def test_all_that_a_gpu_does_runs_on_a_cpu(tmp_path: Path) -> None:
    import ray

    address = ray.get_runtime_context().gcs_address  # a Ray of its own for each run would be most of the time
    done = gpu_check(tmp_path, "--parts", *IN_THE_SUITE, RAY_ADDRESS=address)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    found = json.loads(done.stdout.splitlines()[-1])
    parts = found["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(IN_THE_SUITE, "ok")
    assert parts["throughput-tiny"]["proteins"] == "simulated proteins of the corpus"
    assert parts["throughput-tiny"]["eager"]["residues_per_s"] > 0
    assert len(parts["profile"]["largest"]) == 10
    assert 0 < parts["profile"]["kernels_share_of_time"] <= 1
    assert "training.precision: fp16 needs a GPU" in parts["pretrain-fp16-zero1"]["refused"]
    resumed = parts["resume"]
    assert resumed["steps_repeated"] > 0
    assert resumed["largest_loss_difference"] == 0, "on a CPU, bit for bit"
    assert resumed["last_step"] == SCALES["cpu"].resumed_steps
    run = parts["pretrain-bf16-zero3"]
    assert run["last_step"] == SCALES["cpu"].steps
    assert min(run[part] for part in ("start_s", "training_s", "end_s")) > 0
    assert f"of {parts['throughput-tiny']['eager']['residues_per_s']:,.0f}" in done.stdout, "a share and its divisor"


def test_a_part_that_fails_is_said_and_is_the_exit_code(tmp_path: Path) -> None:
    """Without the corpus, the verb refuses."""
    done = gpu_check(tmp_path, "--parts", "pretrain-bf16-zero1")
    assert done.returncode == 1
    part = json.loads(done.stdout.splitlines()[-1])["parts"]["pretrain-bf16-zero1"]
    assert part["status"] == "failed"
    assert f"{tmp_path}/corpus" in done.stdout


def test_parts_that_there_are_not_are_refused_by_name(tmp_path: Path) -> None:
    done = gpu_check(tmp_path, "--parts", "tests", "throughput-9b")
    assert done.returncode == 2
    assert "there is no throughput-9b; accepted: tests, corpus, resume, throughput-tiny" in done.stderr


@pytest.mark.parametrize("device", SCALES)
def test_every_part_runs_once_and_has_a_limit(device: str) -> None:
    names = list(works(SCALES[device]))
    assert {name.partition("-")[0] for name in names} == LIMITS.keys()
    assert sorted(name for stage in stages(device) for chain in stage for name in chain) == sorted(names)


def test_on_a_gpu_what_is_timed_runs_alone_and_first_what_matters_most() -> None:
    (tests, others), (timed,) = stages("cuda")
    assert (tests, others) == (["tests"], ["corpus", "resume"])
    assert timed == [
        "throughput-35m", "pretrain-bf16-zero1", "throughput-650m", "throughput-133m", "throughput-150m", "profile",
        "pretrain-bf16-zero3", "pretrain-fp16-zero1", "pretrain-large",
    ]  # fmt: skip


def test_parts_see_the_gpu_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert "DS_ACCELERATOR" not in environment("cuda")
    assert (environment("cpu")["CUDA_VISIBLE_DEVICES"], environment("cpu")["DS_ACCELERATOR"]) == ("", "cpu")


def event(name: str, device: DeviceType, milliseconds: float, is_user_annotation: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        key=name,
        device_type=device,
        is_user_annotation=is_user_annotation,
        self_device_time_total=1e3 * milliseconds if device == DeviceType.CUDA else 99.0,
        self_cpu_time_total=1e3 * milliseconds if device == DeviceType.CPU else 0.0,
    )


def test_kernels_are_counted_once() -> None:
    """On a GPU an operator has the time of its kernels, and an optimizer's step that of all kernels in it."""
    events = [
        event("aten::mm", DeviceType.CPU, 5.0),
        event("aten::add", DeviceType.CPU, 3.0),
        event("gemm", DeviceType.CUDA, 6.0),
        event("norm", DeviceType.CUDA, 2.0),
        event("AdamW.step", DeviceType.CUDA, 8.0, is_user_annotation=True),
    ]
    on_gpu = largest_kernels(events, "cuda", seconds=0.010)
    assert on_gpu["largest"] == [
        {"kernel": "gemm", "ms": 6.0, "share": 0.75},
        {"kernel": "norm", "ms": 2.0, "share": 0.25},
    ]
    assert on_gpu["kernels_share_of_time"] == pytest.approx(0.8)
    assert [one["kernel"] for one in largest_kernels(events, "cpu", 0.010)["largest"]] == ["aten::mm", "aten::add"]


def test_only_a_refusal_by_name_counts_as_one() -> None:
    def run(code: int, said: str) -> VerbRun:
        return VerbRun(code, said, 0.0, 0.0, 0.0, [])

    said = "error: training.precision: fp16 needs a GPU; accepted on this CPU: auto"
    assert refusal_of(run(2, f"starting\n{said}\n")) == said
    for wrong in (run(0, said), run(1, "Segmentation fault")):
        with pytest.raises(RuntimeError, match=f"exit code {wrong.code}: {wrong.said}"):
            refusal_of(wrong)


def test_shares_stand_beside_their_divisors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.made.gpu_parts.board_name", lambda device: "NVIDIA H100 80GB HBM3")
    rounds = [Spent(seconds, 0.0, 1_000_000, 200e12) for seconds in (0.5, 1.0, 4.0)]
    found = speed(rounds, 800e12, "cuda")
    assert found["residues_per_s"] == 1_000_000
    assert found["share_of_data_sheet"] == pytest.approx(200 / 989)
    assert (found["share_of_data_sheet_is"], found["share_of_matmul_peak_is"]) == (
        "20.2% of 989 TFLOP/s",
        "25.0% of 800 TFLOP/s",
    )
    loop: dict[str, Any] = {"micro_batch_residues": 65_000, "eager": found | {"peak_gibibytes": 13.99}}
    verb = {"model": "35m", "start_s": 1.0, "training_s": 2.0, "end_s": 3.0, "residues_per_s": 950_000.0}
    outcomes = {"throughput-35m": PartOutcome("ok", notes=loop), "pretrain-bf16-zero1": PartOutcome("ok", notes=verb)}
    assert loop_rows(outcomes) == [
        ("35m, eager", "33.5 M", "65,000", "1,000,000", "20.2% of 989 TFLOP/s", "25.0% of 800 TFLOP/s", "14.0")
    ]
    assert run_rows(outcomes) == [
        (
            "pretrain-bf16-zero1",
            "35m",
            "1.0",
            "2.0",
            "3.0",
            "950,000",
            "95.0% of 1,000,000",
            *[""] * len(COMPILED_FORMS),
        )
    ]
    notes = largest_kernels([event("gemm", DeviceType.CUDA, 6.0)], "cuda", 0.012)
    assert profile_rows(notes)[1:] == (
        [("gemm", "6.00", "100.0%")],
        "Share: of the 6.00 ms of all kernels in 3 steps, which are 50% of the steps' time under the profiler.",
    )


@pytest.mark.parametrize(
    ("board", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA GeForce RTX 4090", None),
        (None, None),
    ],
)
def test_a_board_has_the_peak_of_its_data_sheet_or_none(board: str | None, teraflops: float | None) -> None:
    assert data_sheet_peak(board) == (None if teraflops is None else teraflops * 1e12)

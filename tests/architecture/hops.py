"""Which files a setting's value passes on its way from the command line to where it is used: a run is watched.

A tiny pretraining is started as a user types it, in the checkout that is measured, with a learning rate that occurs
nowhere else. A profiler in the driver and in Ray's workers (Python imports `sitecustomize` at start) looks at the
arguments of each call of ours: a call whose arguments hold the number, as a number or in text, inside of containers
and sections too, is a hop. Files are listed in the order of their first hop. Pydantic and Ray in between do not count.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.architecture.source import ROOMS

LEARNING_RATE = 0.00123457
SETTINGS = """
name: traced
corpus: {folder}/corpus
storage: {folder}
model: {{preset: cpu-tiny}}
batches: {{micro_batch_residues: 2048, lanes: 1, max_length: 256}}
training: {{steps: 2, engine: plain, precision: fp32, validation_residues: 2000}}
"""
TRACER = """
import os, sys, threading, time
out, root, rate = os.environ["HOPS_OUT"], os.environ["HOPS_ROOT"], float(os.environ["HOPS_RATE"])
rooms = tuple(os.path.join(root, room) + os.sep for room in os.environ["HOPS_ROOMS"].split(","))
seen = set()

def holds(value, depth=0):
    if isinstance(value, float):
        return value == rate
    if isinstance(value, str):
        return len(value) < 100_000 and (str(rate) in value)
    if depth > 5:
        return False
    if isinstance(value, dict):
        return len(value) < 300 and any(holds(inner, depth + 1) for inner in list(value.values()))
    if isinstance(value, (list, tuple)):
        return len(value) < 300 and any(holds(inner, depth + 1) for inner in value)
    module = type(value).__module__ or ""
    if module.startswith("proteinlm") and hasattr(value, "__dict__"):
        return any(holds(inner, depth + 1) for inner in list(vars(value).values()))
    return False

def watch(frame, event, argument):
    if event != "call":
        return
    file = os.path.realpath(frame.f_code.co_filename)
    if file in seen or not file.startswith(rooms):
        return
    if any(holds(value) for value in list(frame.f_locals.values())):
        seen.add(file)
        with open(out, "a") as hops:
            hops.write("%.9f\\t%s\\n" % (time.time(), os.path.relpath(file, root)))

command = " ".join(sys.orig_argv)
if "-m proteinlm" in command or "default_worker.py" in command:  # not Ray's own services, which must start in time
    sys.setprofile(watch)
    threading.setprofile(watch)
"""


def hops_of_the_learning_rate(root: Path) -> list[str]:
    """Files of the checkout at `root` that `optimizer.learning_rate` passes in `pretrain`, in order.

    Raises RuntimeError with the command's output where the pretraining fails.
    """
    with tempfile.TemporaryDirectory(prefix="hops-") as name:
        folder = Path(name)
        (folder / "proteins.fasta").write_text(_proteins())
        (folder / "run.yaml").write_text(SETTINGS.format(folder=folder))
        (folder / "traced").mkdir()
        (folder / "sitecustomize.py").write_text(TRACER)
        build = ["corpus", "build", str(folder / "proteins.fasta"), "--out", str(folder / "corpus")]
        _run(root, build, {})
        traced = {
            "PYTHONPATH": f"{folder}{os.pathsep}{root}",
            "HOPS_OUT": str(folder / "hops.txt"),
            "HOPS_ROOT": str(root),
            "HOPS_RATE": json.dumps(LEARNING_RATE),
            "HOPS_ROOMS": ",".join((*ROOMS, "proteinlm")),
        }
        _run(root, ["pretrain", str(folder / "run.yaml"), f"optimizer.learning_rate={LEARNING_RATE}"], traced)
        lines = sorted((folder / "hops.txt").read_text().splitlines())
    return list(dict.fromkeys(line.split("\t")[1] for line in lines))


def _run(root: Path, arguments: list[str], environment: dict[str, str]) -> None:
    plain = {"PYTHONPATH": str(root), "DS_ACCELERATOR": "cpu", "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "proteinlm", *arguments]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **plain, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _proteins() -> str:
    """400 made-up proteins as FASTA, enough for a corpus with all of its splits."""
    letters = "ACDEFGHIKLMNPQRSTVWY"
    sequences = ["".join(letters[(7 * i + 3 * j * j + i * j) % 20] for j in range(60 + i % 40)) for i in range(400)]
    return "".join(f">made{i}\n{sequence}\n" for i, sequence in enumerate(sequences))

"""Fuzzing of settings: YAML files of three verbs, and overrides.

python -m tests.fuzz.settings --seconds 300
"""

import sys
from pathlib import Path

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import load_settings
from proteinlm.sweeps.planning.config import SweepConfig
from tests.fuzz.runner import Target, main

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    *(
        b" #",
        b"#",
        b"&a ",
        b"*a",
        b"[*a, *a]",
        b"!!int ",
        b"!!set ",
        b"!!timestamp ",
        b"!!bool ",
        b"---\n",
        b"...",
        b"~",
    ),
    *(
        b"<<: *a",
        b"? ",
        b"- ",
        b"|\n",
        b">",
        b".inf",
        b".nan",
        b"yes",
        b"[",
        b"{a: ",
        b"9" * 40,
        b"=",
        b".",
    ),
)
OVERRIDES = (
    *(
        "seed=3",
        "name=a b",
        "storage=x #3",
        "optimizer.betas=[0.9, 0.98]",
        "training={steps: 3}",
        "model.preset=cpu-tiny",
    ),
    *(
        "training.epochs=.inf",
        "corpus=~/x",
        "cluster.num_workers=[1, 2]",
        "training.steps=1e3",
        "a.b.c=1",
        "probe=null",
    ),
)


def read_pretrain(path: Path) -> None:
    """A file of `pretrain`."""
    load_settings(PretrainConfig, path)


def read_finetune(path: Path) -> None:
    """A file of `finetune`."""
    load_settings(FinetuneConfig, path)


def read_sweep(path: Path) -> None:
    """A file of `sweep`, its own sections."""
    load_settings(SweepConfig, path)


def read_override(path: Path) -> None:
    """One `key=value` beside what a run needs."""
    typed = path.read_bytes()[:100_000].decode("utf-8", "replace")  # as much as a system takes for one word
    load_settings(PretrainConfig, None, ["name=a", "corpus=c", "model.preset=cpu-tiny", "training.steps=200", typed])


def shipped(folder: str, pattern: str) -> dict[str, bytes]:
    """Settings files of this repository."""
    return {path.name: path.read_bytes() for path in sorted((ROOT / folder).glob(pattern))}


TARGETS = [
    Target("pretrain yaml", read_pretrain, shipped("platform/configs", "pretrain-*.yaml"), WORDS),
    Target("finetune yaml", read_finetune, shipped("platform/configs", "finetune-*.yaml"), WORDS),
    Target("sweep yaml", read_sweep, shipped("sweeps", "*.yaml"), WORDS),
    Target(
        "override",
        read_override,
        {f"{n}.txt": text.encode() for n, text in enumerate(OVERRIDES)},
        WORDS,
        must_name=False,
    ),
]

if __name__ == "__main__":
    sys.exit(main(TARGETS))

"""Hostile inputs for all that reads labelled records, pickles, LMDBs and settings, drawn from a seed without end.

    python -m tests.fuzz.records_settings [--seconds 60] [--seed 0] [TARGET ...]

Each input is an honest one with a few damages: bits, bytes, slices and words that such files choke on. Targets read it
under a limit of memory; what is right is a value, or one message (ValueError, OSError) that names the file and can be
printed, within two seconds. Everything else is written down with the number that makes it again.
"""

import argparse
import json
import pickle
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import lmdb
import numpy as np

from proteinlm.platform.data.unpickle import load_plain
from proteinlm.platform.labelled.files import FileReading, checked_rows
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import load_settings
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.tasks.catalog import build_task
from tests.made.tape_records import tape_record

SECONDS, MEMORY, LONGEST_MESSAGE = 2.0, 3 << 30, 4000
ROOT = Path(__file__).resolve().parents[2]
WORDS: tuple[bytes, ...] = (
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\r\n", b'"', b"'", b",", b";", b"[", b"]", b"{", b"}", b":"),
    *(b"\\ud800", b"\\u0000", b"NaN", b"Infinity", b"-1", b"1e999", b"1_0", b"null", b"true", b"9" * 400, b"A" * 5000),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 500, b"]]", b"},{", b"#", b" #", b"&a ", b"*a", b"!!int ", b"!!set ", b"~"),
    *(
        b"---\n",
        b"...",
        b"<<: *a",
        b"? ",
        b"- ",
        b"|\n",
        b">",
        b"\t",
        b"\x1b]0;x\x07",
        "\u202e".encode(),
        b"%s",
        b"[/x]",
    ),
    *(
        b".inf",
        b"0x10",
        b"yes",
        b"set",
        b"train",
        b"[ID]\n",
        b"[MASK]\n",
        b"+-",
        b"\x80\x05",
        b"(",
        b"l",
        b"R",
        b"\x94",
    ),
    *(b"r\xff\xff\xff\x0b", b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00", b"\x96\xff\xff\xff\xff\xff\x00\x00\x00", b"h\x00"),
    *(b"\x85" * 300, b"cbuiltins\neval\n", b"cos\nsystem\n", b"\x93", b"\x8f", b"\x90", b"e", b"a", b"s", b"u", b"b"),
)


@dataclass(frozen=True)
class Target:
    """One kind of input and who reads it."""

    make: Callable[[random.Random, Path], Path]
    """Writes an input into a folder."""
    read: Callable[[Path], None]
    is_named: bool = True
    """Whether a refusal must name the file."""


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` with one to five damages."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(changed) + 1)
        end = min(len(changed), place + draw.choice([1, 2, 8, 64, 512]))
        match draw.randrange(6):
            case 0 if place < len(changed):
                changed[place] ^= 1 << draw.randrange(8)
            case 1:
                del changed[place:end]
            case 2:
                changed[place:place] = changed[place:end] * draw.choice([1, 2, 50])
            case 3:
                del changed[place:]
            case _:
                word = draw.choice(WORDS)
                changed[place : end if draw.random() < 0.3 else place] = word
    return bytes(changed)


def text_of(name: str, content: bytes) -> Callable[[random.Random, Path], Path]:
    """A maker of damaged copies of `content`."""

    def make(draw: random.Random, folder: Path) -> Path:
        (folder / name).write_bytes(damaged(content, draw))
        return folder / name

    return make


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value.tolist() if isinstance(value, np.ndarray) else value


RECORDS = [tape_record("secondary_structure", number) for number in range(4)]
TEXTS = [json.dumps({key: _plain(value) for key, value in record.items()}).encode() for record in RECORDS]
TABLE = b"id,primary,ss3,valid_mask,set\n" + b"".join(
    f'{number},MKTV,"[0, 1, 2, {number % 3}]",[1 0 1 1],{"train" if number % 2 else ""}\n'.encode()
    for number in range(9)
)
PROTEINNET = (
    b"[ID]\n1ABC\n[PRIMARY]\nMKT\n[TERTIARY]\n" + b"1.\t100.\t2.\t1.\t-250.5\t2.\t1.\t0\t2.\n" * 3 + b"[MASK]\n++-\n"
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


def _pickled(draw: random.Random, folder: Path) -> Path:
    value = {**draw.choice(RECORDS), "numbers": [1, 2.5, None, True, 2**70, (1, 2), {3}]}
    (folder / "record.pkl").write_bytes(damaged(pickle.dumps(value, draw.randrange(6)), draw))
    return folder / "record.pkl"


def _lmdb(draw: random.Random, folder: Path) -> Path:
    path = folder / f"{draw.randrange(10**9)}.lmdb"
    with (
        lmdb.open(str(path), map_size=1 << 24, subdir=False, lock=False) as environment,
        environment.begin(write=True) as put,
    ):
        put.put(b"num_examples", pickle.dumps(draw.choice([30, 30, 30, 29, 31, 10**12, -1, "30"])))
        for number in range(30):
            content = pickle.dumps(draw.choice(RECORDS))
            put.put(str(number).encode(), damaged(content, draw) if draw.random() < 0.05 else content)
    content = bytearray(path.read_bytes())
    for _ in range(draw.randrange(4)):
        page = 4096 * draw.randrange(len(content) // 4096)
        content[page + draw.choice([draw.randrange(40), draw.randrange(200), draw.randrange(4096)])] ^= (
            1 << draw.randrange(8)
        )
    path.write_bytes(content[: draw.choice([len(content)] * 9 + [draw.randrange(len(content))])])
    return path


def _overrides(draw: random.Random, folder: Path) -> Path:
    typed = [
        damaged(draw.choice(OVERRIDES).encode(), draw).decode("utf-8", "replace") for _ in range(draw.randint(1, 3))
    ]
    (folder / "overrides").write_text("\0".join(typed), encoding="utf-8", newline="")
    return folder / "overrides"


def _read_records(path: Path) -> None:
    schema = build_task("contact_prediction" if path.suffix == ".txt" else "secondary_structure_q3").records
    assert schema is not None
    reading = FileReading(path, ["train"])
    for _ in checked_rows(schema, reading):
        pass
    if reading.faults:
        raise ValueError("\n".join(fault[:500] for fault in reading.faults[:5]))


def _read_overrides(path: Path) -> None:
    typed = path.read_text(encoding="utf-8").split("\0")
    load_settings(PretrainConfig, None, ["name=a", "corpus=c", "model.preset=cpu-tiny", "training.steps=200", *typed])


def _shipped(folder: str, name: str) -> bytes:
    return (ROOT / folder / name).read_bytes()


TARGETS: dict[str, Target] = {
    "json-lines": Target(text_of("a.jsonl", b"\n".join(TEXTS)), _read_records),
    "json-list": Target(text_of("a.json", b"[" + b",\n".join(TEXTS) + b"]"), _read_records),
    "csv": Target(text_of("a.csv", TABLE), _read_records),
    "proteinnet": Target(text_of("a.txt", PROTEINNET * 3), _read_records),
    "lmdb": Target(_lmdb, _read_records),
    "pickle": Target(_pickled, lambda path: load_plain(path.read_bytes()), is_named=False),
    "pretrain-yaml": Target(
        text_of("pretrain.yaml", _shipped("platform/configs", "pretrain-cpu.yaml")),
        lambda path: load_settings(PretrainConfig, path) and None,
    ),
    "finetune-yaml": Target(
        text_of("finetune.yaml", _shipped("platform/configs", "finetune-cpu.yaml")),
        lambda path: load_settings(FinetuneConfig, path) and None,
    ),
    "sweep-yaml": Target(
        text_of("sweep.yaml", _shipped("sweeps", "table7-mini.yaml")),
        lambda path: load_settings(SweepConfig, path) and None,
    ),
    "overrides": Target(_overrides, _read_overrides, is_named=False),
}


class _TooSlow(BaseException):
    """An input that took too long."""


@contextmanager
def _time_limit() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGVTALRM, ring)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # its own seconds: a busy machine is no fault
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def outcome(target: Target, path: Path) -> str:
    """What reading `path` came to: "read", "refused", or what is wrong."""
    try:
        with _time_limit():
            target.read(path)
    except (ValueError, OSError) as error:
        said = str(error)
        if target.is_named and path.name not in said:
            return f"unnamed: {said[:200]!r}"
        if not said or not said.replace("\n", "").isprintable():
            return f"not printable: {said[:200]!r}"
        return f"a message of {len(said)} characters" if len(said) > LONGEST_MESSAGE else "refused"
    except _TooSlow:
        return "took too long"
    except BaseException as error:
        return f"crash: {type(error).__name__}: {str(error)[:200]!r}"
    return "read"


def fuzz(name: str, seed: int, seconds: float) -> Counter[str]:
    """Outcomes of as many inputs of a target as fit into `seconds`; a wrong one says the number that makes it again."""
    found: Counter[str] = Counter()
    started = time.monotonic()
    number = seed * 1_000_000
    while time.monotonic() - started < seconds:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            path = TARGETS[name].make(random.Random(number), Path(folder))
            came_to = outcome(TARGETS[name], path)
        found["tries"] += 1
        found[came_to if came_to in ("read", "refused") else f"{name} {number}: {came_to}"] += 1
        number += 1
    return found


def main() -> int:
    """Print what the targets came to; 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    wrong = 0
    for name in chosen.targets:
        found = fuzz(name, chosen.seed, chosen.seconds)
        faults = [text for text in found if text not in ("tries", "read", "refused")]
        wrong += len(faults)
        print(
            f"{name:<14} {found['tries']:>8,} tries {found['read']:>8,} read {found['refused']:>8,} refused",
            *faults,
            sep="\n  ",
            flush=True,
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

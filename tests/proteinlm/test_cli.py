"""The command line: help at once, wrong inputs answered by one message and exit code 2 before any worker starts."""

import gc
import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from proteinlm.cli import app, importing
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.settings.config import CorpusConfig
from tests.conftest import ROOT
from tests.made.archive_server import packed, serve
from tests.made.small_corpus import write_small_corpus

VERBS = (
    ["tasks", "fetch"],
    ["tasks", "check"],
    ["plot", "contacts"],
    ["corpus", "build"],
    ["corpus", "stats"],
    ["settings"],
    ["plan"],
    ["pretrain"],
    ["finetune"],
    ["sweep"],
    ["table"],
    ["demo"],
    ["submit"],
    ["doctor"],
)

PRETRAIN = """
name: run
storage: {storage}
corpus: {corpus}
model: {{preset: cpu-tiny}}
batches: {{micro_batch_residues: 600, max_length: 100}}
training: {{steps: 4, engine: plain, precision: fp32}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a corpus and a pretraining file."""
    (tmp_path / "corpus").mkdir()
    write_small_corpus(tmp_path / "corpus")
    text = PRETRAIN.format(storage=tmp_path / "runs", corpus=tmp_path / "corpus")
    (tmp_path / "pretrain.yaml").write_text(text)
    return tmp_path


def truncated_gzip(place: Path) -> list[str]:
    (place / "cut.fasta.gz").write_bytes(gzip.compress(b">a\nMKV\n" * 999)[:40])
    return ["corpus", "build", str(place / "cut.fasta.gz"), "--out", str(place / "out")]


def empty_fasta(place: Path) -> list[str]:
    (place / "empty.fasta").write_text("")
    return ["corpus", "build", str(place / "empty.fasta"), "--out", str(place / "out")]


class Hostile:
    """A pickle that would write a file when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def hostile_lmdb(place: Path) -> list[str]:
    import lmdb

    environment = lmdb.open(str(place / "hostile.lmdb"), map_size=1 << 20)
    with environment.begin(write=True) as transaction:
        transaction.put(b"num_examples", pickle.dumps(1))
        transaction.put(b"0", pickle.dumps(Hostile(place / "executed")))
    environment.close()
    return ["corpus", "build", str(place / "hostile.lmdb"), "--out", str(place / "out")]


def nucleotides(place: Path) -> list[str]:
    path = place / "corpus" / "manifest.json"
    values = json.loads(path.read_text())
    for split in values["splits"].values():
        residues = sum(shard["residues"] for shard in split["shards"])
        quarter = residues // 4
        split["residue_counts"] = {"A": residues - 3 * quarter - 1, "C": quarter, "G": quarter, "T": quarter, "R": 1}
    path.write_text(json.dumps(values))
    return ["pretrain", str(place / "pretrain.yaml")]


def broken_records(place: Path) -> list[str]:
    lines = ['{"primary": "MKT", "stability_score": 1}', '{"primary": "MKJ", "stability_score": 1}']
    (place / "stability_train.jsonl").write_text("\n".join(lines))
    return ["tasks", "check", str(place)]


def changed(*settings: str) -> Callable[[Path], list[str]]:
    return lambda place: ["pretrain", str(place / "pretrain.yaml"), *settings]


def finetune(text: str) -> Callable[[Path], list[str]]:
    def made(place: Path) -> list[str]:
        common = f"name: f\ndata: {place}\ntraining: {{steps: 1}}\n"
        (place / "finetune.yaml").write_text(common + text.format(place=place))
        return ["finetune", str(place / "finetune.yaml")]

    return made


def unwritable(place: Path) -> list[str]:
    (place / "file").write_text("")
    return ["pretrain", str(place / "pretrain.yaml"), f"storage={place}/file/runs"]


WRONG: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "bad key": (changed("optimizer.learning_rat=1e-3"), ["optimizer.learning_rat", "learning_rate"]),
    "bad type": (changed("training.steps=many"), ["training.steps", "many"]),
    "bad range": (changed("objective.mask_fraction=1.5"), ["objective.mask_fraction", "1.5"]),
    "missing file": (lambda place: ["pretrain", str(place / "none.yaml")], ["none.yaml"]),
    "missing corpus": (changed("corpus=nowhere"), ["nowhere", "manifest.json"]),
    "empty FASTA": (empty_fasta, ["empty.fasta", "no record"]),
    "truncated gzip": (truncated_gzip, ["cut.fasta.gz", "truncated"]),
    "hostile pickle": (hostile_lmdb, ["hostile.lmdb", "system"]),
    "heads": (changed("model.num_attention_heads=5"), ["num_attention_heads", "5", "64"]),
    "unknown task": (
        finetune("task: secondary_structur_q3\nmode: baseline"),
        ["secondary_structur_q3", "secondary_structure_q3"],
    ),
    "unwritable storage": (unwritable, ["storage", "file/runs"]),
    "no such checkpoint": (
        finetune("task: secondary_structure_q3\npretrained: {place}/no/model"),
        ["no such checkpoint", "no/model"],
    ),
    "another alphabet": (nucleotides, ["corpus", "nucleotides"]),
    "workers and lanes": (changed("cluster.num_workers=4", "batches.lanes=3"), ["num_workers", "lanes", "3"]),
    "fewest and most workers": (changed("cluster.num_workers=[3,2]"), ["num_workers", "[3, 2]", "fewest"]),
    "Muon on parts of matrices": (
        changed("optimizer.name=muon", "training.engine=deepspeed"),
        ["optimizer.name", "zero_stage 1", "zero_stage=0"],
    ),
    "nothing may be cropped": (
        changed("batches.crop=refuse", "batches.max_length=20"),
        ["batches.max_length", "20", "refuse"],
    ),
    "broken records": (broken_records, ["stability_train.jsonl line 2", "primary", "'J' at residue 3"]),
    "a folder without tasks": (lambda place: ["tasks", "check", str(place)], ["no file of a task", "fluorescence"]),
    "unknown archive": (lambda place: ["tasks", "fetch", "protein", "--out", str(place / "out")], ["protein", "pfam"]),
    "unknown flavour": (
        lambda place: ["tasks", "fetch", "--flavour", "hdf5", "--out", str(place / "out")],
        ["hdf5", "lmdb", "json"],
    ),
    "table of nothing": (lambda place: ["table", str(place / "nowhere")], ["nowhere"]),
    "unknown table format": (lambda place: ["table", str(place), "--format", "xls"], ["xls", "markdown"]),
    "corpus with faults": (
        lambda place: ["corpus", "build", "a.fasta", "out=x", "--valid-fractoin", "0.1", "shard_rows=0"],
        ["valid_fractoin", "did you mean valid_fraction", "shard_rows", "found 0"],
    ),
    "corpus without a source": (lambda place: ["corpus", "build", "out=x"], ["sources", "not given"]),
    "two corpus files": (lambda place: ["corpus", "build", "a.yaml", "b.yml"], ["a.yaml, b.yml", "accepted: one"]),
    "an option without a value": (
        lambda place: ["corpus", "build", "a.fasta", "--shard-rows"],
        ["--shard-rows", "accepted: --shard-rows VALUE"],
    ),
    "settings of nothing": (lambda place: ["settings", "pretrian"], ["pretrian", "pretrain"]),
    "sweep with faults": (
        lambda place: ["sweep", str(ROOT / "sweeps/tiny.yaml"), "pretrain.modle=1", "finetune.mode=half"],
        ["modle", "mode"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_one_message_and_exit_code_2(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started before the input was refused")

    monkeypatch.setattr(ray, "init", started)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    make, expected = WRONG[name]
    result = CliRunner().invoke(app, make(place))
    assert result.exit_code == 2, result.output
    for words in expected:
        assert words in result.output
    assert "Traceback" not in result.output
    assert not (place / "executed").exists()
    assert not (place / "out").exists()


def test_records_that_are_right_are_a_table_and_exit_code_0(place: Path) -> None:
    (place / "stability_mine.csv").write_text("sequence,target\nMKT,1\nMKV,2\n")
    result = CliRunner().invoke(app, ["tasks", "check", str(place)])
    assert result.exit_code == 0, result.output
    assert "mine" in result.output


def test_an_archive_is_fetched_from_the_mirror_that_is_named(place: Path) -> None:
    content = packed({"proteinnet/proteinnet_train.json": b"[]"})
    with serve({"/data_raw_pytorch/proteinnet.tar.gz": content}) as mirror:
        words = ["tasks", "fetch", "contact_prediction", "--flavour", "json", "--mirror", mirror.address]
        result = CliRunner().invoke(app, [*words, "--out", str(place / "tape")])
    assert result.exit_code == 0, result.output
    assert (place / "tape" / "proteinnet" / "proteinnet_train.json").read_text() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(verb: list[str]) -> None:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: proteinlm {' '.join(verb)}" in " ".join(result.output.split())


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from proteinlm.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = ('torch', 'ray', 'deepspeed', 'pyarrow', 'numpy', 'pydantic')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_corpus_is_built_from_a_file_flags_and_settings_alike(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shorthands of `corpus build` are settings under other names; a setting on the command line wins."""
    from proteinlm.platform.corpus import build

    asked: list[CorpusConfig] = []
    manifest = read_manifest(place / "corpus")
    monkeypatch.setattr(build, "build_corpus", lambda config: asked.append(config) or manifest)
    (place / "c.yaml").write_text("sources: [a.fasta]\nout: made\nseed: 7\nshard_rows: 5\n")
    for arguments in (
        ["a.fasta", "--out", "made", "--seed", "7", "--shard-rows", "5", "--simulated"],
        ["out=made", "a.fasta", "seed=7", "--shard-rows=5", "is_simulated=true"],
        [str(place / "c.yaml"), "is_simulated=true"],
        [str(place / "c.yaml"), "--seed", "8", "seed=7", "--simulated"],
    ):
        done = CliRunner().invoke(app, ["corpus", "build", *arguments])
        assert done.exit_code == 0, done.output
    expected = CorpusConfig(sources=(Path("a.fasta"),), out=Path("made"), seed=7, shard_rows=5, is_simulated=True)
    assert asked == [expected] * 4


def test_a_name_with_brackets_is_printed_as_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich would read `[v2]` as a style, `[/x]` as a fault and `:dna:` as a picture."""
    from proteinlm.platform.corpus import build

    manifest = read_manifest(place / "corpus")
    monkeypatch.setattr(build, "build_corpus", lambda config: manifest)
    for name in ("c[v2]", "c[v2][/x]", "c:dna:"):
        done = CliRunner().invoke(app, ["corpus", "build", "a.fasta", "--out", name])
        assert done.exit_code == 0, done.output
        assert f"{name}: corpus" in done.output


def test_garbage_is_looked_for_again_after_imports() -> None:
    seen = [gc.isenabled()]

    def fail() -> None:
        with importing():
            seen.append(gc.isenabled())
            raise ImportError

    with pytest.raises(ImportError):
        fail()
    assert [*seen, gc.isenabled()] == [True, False, True]

"""A corpus built in an S3 server from sources there: the corpus of a disk; half of one is taken for none."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.corpus import build as corpus_build
from proteinlm.platform.corpus.build import build_corpus
from proteinlm.platform.corpus.stats import corpus_stats
from proteinlm.platform.data.manifest import Manifest, read_manifest
from proteinlm.platform.places.places import place, put
from proteinlm.platform.storage import lock
from proteinlm.platform.storage.atomic import is_unfinished
from tests.made.object_store import BUCKET, object_store, refuse_strangers
from tests.made.protein_files import (
    SerialRunner,
    corpus_config,
    corpus_rows,
    fasta_text,
    json_text,
    random_proteins,
    write_file,
    write_lmdb,
)

PROTEINS = random_proteins(120)


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    with object_store() as address:
        yield address


@pytest.fixture(autouse=True)
def _without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lock, "SETTLED_AFTER", 0.01)
    monkeypatch.setattr(corpus_build, "RayDataRunner", SerialRunner)
    monkeypatch.setattr(corpus_build, "quiet_data", lambda *_: nullcontext())
    monkeypatch.setattr(corpus_build, "connected", lambda *_, **__: nullcontext())


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    return place(f"s3://{BUCKET}/{request.node.name}")


def build(sources: list[Path], out: Path, **changes: Any) -> Manifest:
    settings: dict[str, Any] = {"shard_rows": 64, "holdout_fraction": 0.1, "chunk_bytes": 9000, "bucket_bytes": 9000}
    return build_corpus(corpus_config(sources, out, **{**settings, **changes}))


def below(folder: Path) -> list[str]:
    return sorted(str(path)[len(str(folder)) + 1 :] for path in folder.rglob("*") if path.is_file())


def fasta(folder: Path) -> Path:
    (folder / "a.fasta").write_bytes(fasta_text(PROTEINS))
    return folder / "a.fasta"


def test_sources_and_corpus_in_a_store_make_the_corpus_of_a_disk(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parts = [PROTEINS[:40], PROTEINS[30:60], PROTEINS[60:90], PROTEINS[90:]]
    sources = [
        write_file(tmp_path / "in" / "a.fasta.gz", fasta_text(parts[0])),
        write_file(tmp_path / "in" / "b.fasta", fasta_text(parts[1])),
        write_file(tmp_path / "in" / "c.jsonl.zst", json_text(parts[2])),
        write_lmdb(tmp_path / "in" / "d.lmdb", [{"id": i, "primary": s, "family_id": f} for i, s, f in parts[3]]),
    ]
    clans = write_file(tmp_path / "in" / "clans.tsv", b"PF00001\tCL0001\nPF00002\tCL0001\n")
    there = {path: folder / "in" / path.name for path in (*sources, clans)}
    for path, remote in there.items():
        put(path, remote)
    local = build(sources, tmp_path / "out", clans=clans)
    remote = build([there[path] for path in sources], folder / "out", clans=there[clans])
    assert remote == local == read_manifest(folder / "out")
    assert corpus_rows(folder / "out", remote) == corpus_rows(tmp_path / "out", local)
    assert below(folder / "out") == below(tmp_path / "out")
    assert [path.name for path in folder.iterdir()] == ["in", "out"]
    assert replace(corpus_stats(folder / "out"), directory="") == replace(corpus_stats(tmp_path / "out"), directory="")
    assert build([there[path] for path in sources], folder / "out", clans=there[clans]) == local  # it stands there


@pytest.mark.parametrize("stage", ["check_ids", "cut_shard", "write_manifest"])
def test_a_build_that_was_killed_is_begun_anew(folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    """By what stands in the store after a kill: a build there cleans up after nothing that is raised."""
    with monkeypatch.context() as patch:
        patch.setattr(corpus_build, stage, killed_after(getattr(corpus_build, stage)))
        with pytest.raises(KeyboardInterrupt):
            build([fasta(folder)], folder / "out", shard_rows=17)
    assert is_unfinished(folder / "out")
    assert any(below(folder / "out"))
    (folder / "out" / "train" / "shard-99999.parquet").write_bytes(b"of the build that was killed")
    if stage == "write_manifest":
        read_manifest(folder / "out")
        return
    with pytest.raises(FileNotFoundError, match=r"manifest.json is missing"):
        read_manifest(folder / "out")
    manifest = build([fasta(folder)], folder / "out")
    listed = [shard.file for split in manifest.splits.values() for shard in split.shards]
    assert below(folder / "out") == sorted(["manifest.json", "rejects.jsonl", *listed])
    assert sum(map(len, corpus_rows(folder / "out", manifest).values())) == len(PROTEINS)
    assert [path.name for path in folder.iterdir()] == ["a.fasta", "out"]


def killed_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        raise KeyboardInterrupt

    return call


def test_what_somebody_else_put_is_left_alone(folder: Path) -> None:
    (folder / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"out exists and holds no finished build"):
        build([fasta(folder)], folder / "out")
    assert below(folder) == ["a.fasta", "out/thesis.tex"]
    with pytest.raises(ValueError, match=r"out: found the bucket s3://empty-bucket; .*s3://empty-bucket/corpus"):
        build([fasta(folder)], place("s3://empty-bucket"))


def test_too_many_rejects_lie_beside(folder: Path) -> None:
    (folder / "bad.fasta").write_bytes(fasta_text(PROTEINS[:5]) + b">x\nAC!DE\n")
    with pytest.raises(
        ValueError, match=rf"1 of 6 records were rejected.*All are in s3://{BUCKET}/.*out.rejects.jsonl"
    ):
        build([folder / "bad.fasta"], folder / "out")
    assert "AC!DE" not in (folder / "out.rejects.jsonl").read_text()
    assert '"id": "x"' in (folder / "out.rejects.jsonl").read_text()
    assert build([folder / "bad.fasta"], folder / "out", max_reject_fraction=0.5).counts["rejected"] == 1


def test_what_the_store_refuses_is_named_by_its_setting(address: str, tmp_path: Path) -> None:
    here, there = fasta(tmp_path), place(f"s3://{BUCKET}/x")
    refuse_strangers(address)
    try:
        for setting, sources, out, clans in (
            ("sources", [there], tmp_path / "out", None),
            ("out", [here], there, None),
            ("clans", [here], tmp_path / "out", there),
        ):
            with pytest.raises(OSError, match=rf"^{setting}: s3://{BUCKET}/x: .*AWS_ACCESS_KEY_ID"):
                build(sources, out, clans=clans)
    finally:
        refuse_strangers(address, after="inf")

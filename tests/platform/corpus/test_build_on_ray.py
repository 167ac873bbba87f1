"""Ray Data makes the corpus that the passes make one after another, and says what is wrong in plain words."""

import errno
import gzip
import os
import pickle
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from ray.data import DataContext

from proteinlm.platform.corpus import build as corpus_build
from proteinlm.platform.corpus.build import build_corpus
from proteinlm.platform.corpus.stats import corpus_stats
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

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_number_of_tasks_never_changes_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proteins = random_proteins(2000)
    parts = [proteins[:600], proteins[500:1000], proteins[1000:1500], proteins[1500:]]
    sources = [
        write_file(tmp_path / "a.fasta.gz", fasta_text(parts[0])),
        write_file(tmp_path / "b.fasta", fasta_text(parts[1])),
        write_file(tmp_path / "c.jsonl.gz", json_text(parts[2])),
        write_lmdb(tmp_path / "d.lmdb", [{"id": i, "primary": s, "family_id": f} for i, s, f in parts[3]]),
    ]
    context = DataContext.get_current()
    before = (context.enable_progress_bars, context.target_max_block_size, context.execution_options)
    one = build_corpus(
        corpus_config(sources, tmp_path / "one", shard_rows=256, chunk_bytes=30_000, bucket_bytes=50_000, max_tasks=1)
    )
    three = build_corpus(
        corpus_config(sources, tmp_path / "three", shard_rows=256, chunk_bytes=9_000, bucket_bytes=20_000, max_tasks=3)
    )
    after = DataContext.get_current()
    assert after is context
    assert before == (after.enable_progress_bars, after.target_max_block_size, after.execution_options)
    monkeypatch.setattr(corpus_build, "RayDataRunner", SerialRunner)
    monkeypatch.setattr(corpus_build, "quiet_data", lambda *_: nullcontext())
    serial = build_corpus(corpus_config(sources, tmp_path / "serial", shard_rows=256))
    assert one == three == serial
    assert one.counts == {**one.counts, "read": 2100, "kept": 2000, "duplicates": 100, "rejected": 0}
    assert corpus_rows(tmp_path / "one", one) == corpus_rows(tmp_path / "three", three)


def test_what_a_task_finds_wrong_reaches_the_user_as_it_is(tmp_path: Path) -> None:
    cut = tmp_path / "cut.fasta.gz"
    cut.write_bytes(gzip.compress(fasta_text(random_proteins(40000)))[:-2000])
    with pytest.raises(ValueError, match=r"^\S*cut\.fasta\.gz is a truncated or damaged gzip file"):
        build_corpus(corpus_config([cut], tmp_path / "out", chunk_bytes=1 << 18))
    bad = write_lmdb(tmp_path / "bad.lmdb", [{"primary": "ACD"}, pickle.dumps({"primary": print})])
    with pytest.raises(ValueError, match=r"^1 of 2 records were rejected.*the record: refused to load builtins\.print"):
        build_corpus(corpus_config([bad], tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.lmdb", "cut.fasta.gz", "out.rejects.jsonl"]


def test_a_disk_that_fills_up_in_a_task_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_build, "cut_shard", full)
    source = write_file(tmp_path / "a.fasta", fasta_text(random_proteins(50)))
    with pytest.raises(OSError, match=r"the disk is full: no space left to build .*out; nothing was kept"):
        build_corpus(corpus_config([source], tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.fasta"]


def test_the_real_domains(tmp_path: Path, real_data: Path) -> None:
    pfam = real_data / "pfam"
    out = tmp_path / "out"
    counts = build_corpus(
        corpus_config([pfam / "pfam_domains.fasta.gz"], out, clans=pfam / "Pfam-A.clans.tsv.gz")
    ).counts
    assert counts["read"] == 107_102 == counts["kept"] + counts["rejected"] + counts["duplicates"]
    stats = corpus_stats(out)
    assert stats.leakage.is_clean
    assert 0.015 * counts["read"] < stats.splits["holdout"].proteins <= 0.02 * counts["read"]
    assert stats.splits["train"].families > 2000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {os.strerror(errno.EPERM)}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path) -> None:
    source = write_file(tmp_path / "a.fasta", fasta_text(random_proteins(40000)))
    with pytest.raises(OSError, match=r"the disk is full: no space left to build"):
        build_corpus(corpus_config([source], small_disk / "out"))
    assert not list(small_disk.iterdir())

"""What a build makes of its sources: nothing lost, nothing twice, nothing in two splits, nothing half-written.

Run task after task without Ray; test_build_on_ray.py holds that Ray Data makes the same corpus.
"""

import errno
import gzip
import json
import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.corpus import build as corpus_build
from proteinlm.platform.corpus.build import Progress, build_corpus
from proteinlm.platform.corpus.cleaning import HeldOut, sequence_key
from proteinlm.platform.corpus.passes import Gathered
from proteinlm.platform.corpus.scratch import Recipe, reject_reasons
from proteinlm.platform.data.manifest import Manifest, read_manifest
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

PROTEINS = random_proteins(400)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_build, "RayDataRunner", SerialRunner)
    monkeypatch.setattr(corpus_build, "quiet_data", lambda *_: nullcontext())
    monkeypatch.setattr(corpus_build, "connected", lambda *_, **__: nullcontext())


def build(
    tmp_path: Path, *sources: Path, out: str = "out", on_progress: Progress | None = None, **changes: Any
) -> Manifest:
    settings: dict[str, Any] = {"shard_rows": 64, "holdout_fraction": 0.1, "chunk_bytes": 3000, "bucket_bytes": 4000}
    return build_corpus(corpus_config(sources, tmp_path / out, **{**settings, **changes}), on_progress)


def left_over(tmp_path: Path, *expected: str) -> bool:
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)


def fasta(tmp_path: Path, text: bytes | None = None, name: str = "a.fasta") -> Path:
    return write_file(tmp_path / name, fasta_text(PROTEINS) if text is None else text)


def test_every_protein_is_in_one_split_with_its_columns(tmp_path: Path) -> None:
    manifest = build(tmp_path, fasta(tmp_path))
    rows = corpus_rows(tmp_path / "out", manifest)
    assert read_manifest(tmp_path / "out") == manifest
    assert set(rows) == {"train", "valid", "holdout"}
    found = sorted((row["id"], row["sequence"], row["family"]) for split in rows.values() for row in split)
    assert found == sorted(PROTEINS)
    assert all(row["length"] == len(row["sequence"]) for split in rows.values() for row in split)
    for name, split in manifest.splits.items():
        assert split.rows == len(rows[name]) == manifest.counts[name]
        assert split.residues == sum(row["length"] for row in rows[name])
        assert split.longest == max(row["length"] for row in rows[name])
        assert split.residue_counts["A"] == sum(row["sequence"].count("A") for row in rows[name])
        sizes = {shard.rows for shard in split.shards}
        assert max(sizes) - min(sizes) <= 1
    assert left_over(tmp_path, "a.fasta", "out")
    assert left_over(tmp_path / "out", "manifest.json", "rejects.jsonl", *rows)


def test_held_out_families_are_in_no_other_split(tmp_path: Path) -> None:
    manifest = build(tmp_path, fasta(tmp_path), holdout_families=["PF00003"])
    rows = corpus_rows(tmp_path / "out", manifest)
    families = {name: {row["family"] for row in split} for name, split in rows.items()}
    assert "PF00003" in families["holdout"]
    assert None not in families["holdout"]
    assert not families["holdout"] & (families["train"] | families["valid"])
    assert 0.08 <= len(rows["holdout"]) / len(PROTEINS) <= 0.1
    assert 0.01 <= len(rows["valid"]) / len(PROTEINS) <= 0.1


def test_clans_are_held_out_whole(tmp_path: Path) -> None:
    clans = "".join(f"PF{number:05d}\tCL{number % 5:04d}\n" for number in range(1, 11)).encode()
    manifest = build(
        tmp_path, fasta(tmp_path), clans=write_file(tmp_path / "c.tsv", clans), holdout_clans=["CL0002"], seed=3
    )
    rows = corpus_rows(tmp_path / "out", manifest)
    by_clan = {name: {row["clan"] for row in split} - {None} for name, split in rows.items()}
    assert "CL0002" in by_clan["holdout"]
    assert not by_clan["holdout"] & (by_clan["train"] | by_clan["valid"])


def test_order_is_a_shuffle_that_chunks_buckets_and_kinds_of_file_do_not_change(tmp_path: Path) -> None:
    plain = fasta(tmp_path)
    whole = build(tmp_path, plain, chunk_bytes=1 << 20, bucket_bytes=1 << 20)
    ids = [row["id"] for row in corpus_rows(tmp_path / "out", whole)["train"]]
    assert ids != sorted(ids)
    others = [
        build(tmp_path, plain, out="o1", chunk_bytes=900, bucket_bytes=2500),
        build(tmp_path, fasta(tmp_path, name="a.fasta.gz"), out="o2", chunk_bytes=5000),
        build(tmp_path, write_file(tmp_path / "a.jsonl", json_text(PROTEINS)), out="o3"),
        build(
            tmp_path,
            write_lmdb(tmp_path / "a.lmdb", [{"id": i, "primary": s, "family_id": f} for i, s, f in PROTEINS]),
            out="o4",
        ),
    ]
    assert [other.content_hash for other in others] == [whole.content_hash] * 4
    assert build(tmp_path, plain, out="o5", seed=1).content_hash != whole.content_hash


def test_valid_is_the_share_asked_for(tmp_path: Path) -> None:
    big = {"chunk_bytes": 1 << 20, "bucket_bytes": 1 << 20}
    counts = build(tmp_path, fasta(tmp_path, fasta_text(random_proteins(3000))), valid_fraction=0.2, **big).counts
    assert 0.17 <= counts["valid"] / (counts["valid"] + counts["train"]) <= 0.23
    assert "valid" not in build(tmp_path, tmp_path / "a.fasta", valid_fraction=0.0, out="none", **big).splits


def test_valid_is_drawn_by_the_half_of_the_key_that_does_not_order(tmp_path: Path) -> None:
    """Else valid would be the first proteins of the shuffle, and no bucket but the first would have any."""
    fraction = 0.2
    big = {"chunk_bytes": 1 << 20, "bucket_bytes": 1 << 20, "seed": 5}
    source = fasta(tmp_path, fasta_text(random_proteins(1500)))
    rows = corpus_rows(tmp_path / "out", build(tmp_path, source, valid_fraction=fraction, **big))
    keys = {split: [sequence_key(row["sequence"].encode(), 5) for row in found] for split, found in rows.items()}
    draw = {split: [int.from_bytes(key[8:]) / 2**64 for key in found] for split, found in keys.items()}
    place = {split: [int.from_bytes(key[:8]) / 2**64 for key in found] for split, found in keys.items()}
    assert max(draw["valid"]) < fraction <= min(draw["train"])
    assert 0.4 < sum(place["valid"]) / len(place["valid"]) < 0.6
    assert all(found == sorted(found) for found in place.values())


def test_nothing_is_lost_unseen(tmp_path: Path) -> None:
    """Duplicates and rejects of all sorts, over two sources: read = kept + rejected + duplicates."""
    name, sequence, family = PROTEINS[301]
    second = [
        ("other", sequence, family),  # another id, same sequence: a duplicate
        (name, sequence.lower(), family),  # the same once more: a duplicate
        (name, "ACDEFG", family),  # the id of another sequence: rejected
        ("bad", "ACJ", None),
        ("stop", "A*C", None),
        ("fresh", "WWWWW", None),
        ("fresh", "WWWWWW", None),
    ]
    first = fasta(tmp_path)
    extra = write_file(tmp_path / "b.fasta", fasta_text(second))
    manifest = build(tmp_path, first, extra, max_reject_fraction=0.05)
    counts = manifest.counts
    assert counts == {**counts, "read": 407, "kept": 401, "rejected": 4, "duplicates": 2}
    assert counts["kept"] == counts["train"] + counts["valid"] + counts["holdout"]
    rows = {row["id"]: row for split in corpus_rows(tmp_path / "out", manifest).values() for row in split}
    assert rows[name]["sequence"] == sequence
    assert rows["fresh"]["sequence"] == "WWWWW"
    assert not {"other", "bad", "stop"} & set(rows)
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    place = {reject["line"]: reject for reject in rejects}
    lines = extra.read_text().splitlines()
    for reject in rejects:
        assert reject["source"] == str(extra)
        assert lines[reject["line"] - 1].startswith(f">{reject['id']} ")
    assert len(place) == 4
    line = first.read_text().splitlines().index(f">{name} {name} {family}.7;Name;") + 1
    assert f"id stands for another sequence at {first} line {line}" in [reject["reason"] for reject in rejects]


def test_many_random_repeats_never_break_the_sum(tmp_path: Path) -> None:
    generator = random.Random(5)
    pool = [sequence for _, sequence, _ in PROTEINS[:60]] + ["ACJ", ""]
    made = [(f"P{generator.randrange(90)}", generator.choice(pool), None) for _ in range(600)]
    manifest = build(tmp_path, fasta(tmp_path, fasta_text(made)), max_reject_fraction=1.0, chunk_bytes=500)
    first: dict[str, str] = {}
    accepted = set()
    for name, sequence, _ in made:
        if sequence not in ("ACJ", "") and first.setdefault(name, sequence) == sequence:
            accepted.add(sequence)
    rows = [row for split in corpus_rows(tmp_path / "out", manifest).values() for row in split]
    assert sorted(row["sequence"] for row in rows) == sorted(accepted)
    counts = manifest.counts
    assert counts["read"] == 600 == counts["kept"] + counts["rejected"] + counts["duplicates"]


def test_a_sequence_of_a_held_out_family_is_not_in_train_under_another(tmp_path: Path) -> None:
    proteins = [("a", "ACDEFGHIKL", "PF00001"), ("b", "ACDEFGHIKL", "PF00002"), ("c", "WWWW", "PF00001")]
    manifest = build(
        tmp_path,
        fasta(tmp_path, fasta_text(proteins)),
        holdout_families=["PF00002"],
        holdout_fraction=0.0,
        valid_fraction=0.0,
    )
    rows = corpus_rows(tmp_path / "out", manifest)
    assert [row["id"] for row in rows["holdout"]] == ["b"]
    assert [row["id"] for row in rows["train"]] == ["c"]


def test_too_many_rejects_fail_and_are_listed(tmp_path: Path) -> None:
    source = fasta(tmp_path, fasta_text(PROTEINS) + b">bad\nACJ\n" * 10)
    with pytest.raises(ValueError, match=r"10 of 410 records were rejected.*0\.01.*unknown letter 'J'.*out\.rejects"):
        build(tmp_path, source)
    assert left_over(tmp_path, "a.fasta", "out.rejects.jsonl")
    assert len((tmp_path / "out.rejects.jsonl").read_text().splitlines()) == 10
    assert build(tmp_path, source, max_reject_fraction=0.03).counts["rejected"] == 10
    assert left_over(tmp_path, "a.fasta", "out")


def test_a_source_that_is_no_protein_stops_the_build_unless_it_is_insisted_on(tmp_path: Path) -> None:
    generator = random.Random(2)
    genes = [(f"g{number}", "".join(generator.choices("ACGT", k=90)), None) for number in range(40)]
    source = fasta(tmp_path, fasta_text(genes), "genes.fasta")
    message = r"genes\.fasta looks like nucleotides, not proteins \(40 of 40 records; 100\.0% .*accept_non_protein=true"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, fasta(tmp_path), source)
    assert left_over(tmp_path, "a.fasta", "genes.fasta")
    taken = build(tmp_path, source, accept_non_protein=True)
    assert taken.counts == {**taken.counts, "read": 40, "kept": 40, "rejected": 0}
    assert taken.settings["accept_non_protein"] is True


def test_nucleic_acids_among_proteins_are_rejects_of_their_own_reason(tmp_path: Path) -> None:
    chains = b">1000_X mol:na length:9  RNA (9-MER)\nAGAUCUACU\n>1001_Y mol:na length:19\nGTACTGCATCCTAGCCTGA\n"
    source = fasta(tmp_path, fasta_text(PROTEINS) + chains)
    message = (
        r"2 of 402 records were rejected.*max_reject_fraction\): 2 x nucleotides, not a protein \(accept_non_protein"
    )
    with pytest.raises(ValueError, match=message):
        build(tmp_path, source, max_reject_fraction=0.001)
    counts = build(tmp_path, source).counts
    assert counts == {**counts, "read": 402, "kept": 400, "rejected": 2}
    assert reject_reasons(tmp_path / "out" / "rejects.jsonl") == (
        "2 x nucleotides, not a protein (accept_non_protein takes it)"
    )


def test_a_record_of_megabytes_is_one_reject_with_its_line(tmp_path: Path) -> None:
    for name in ("a.fasta", "a.fasta.gz", "a.fasta.zst"):
        half = fasta_text(PROTEINS[:200])
        source = fasta(tmp_path, half + b">long\n" + b"A" * (3 << 20) + b"\n" + fasta_text(PROTEINS[200:]), name)
        out = name.replace(".", "-")
        counts = build(tmp_path, source, out=out, max_length=1000, chunk_bytes=50_000).counts
        assert counts == {**counts, "read": 401, "kept": 400, "rejected": 1}
        (reject,) = map(json.loads, (tmp_path / out / "rejects.jsonl").read_text().splitlines())
        assert (reject["id"], reject["line"]) == ("long", half.count(b"\n") + 1)
        assert reject["reason"].startswith("a record of 3,145,735 bytes; accepted: 1,112,576 (max_length 1,000")


@pytest.mark.parametrize("newline", [b"\r", b"\r\n"])
def test_line_ends_of_old_macs_and_of_windows_give_the_same_corpus(tmp_path: Path, newline: bytes) -> None:
    wanted = build(tmp_path, fasta(tmp_path), out="unix").content_hash
    text = fasta_text([*PROTEINS, ("bad", "ACJ", None)]).replace(b"\n", newline)
    for name, content in (("cr.fasta", text), ("cr.fasta.bz2", text), ("half.fasta", half_in_cr(text, newline))):
        out = name.replace(".", "-")
        made = build(tmp_path, fasta(tmp_path, content, name), out=out)
        assert made.content_hash == wanted
        (reject,) = map(json.loads, (tmp_path / out / "rejects.jsonl").read_text().splitlines())
        assert reject["line"] == text.replace(b"\r\n", b"\r").replace(b"\r", b"\n").count(b"\n") - 1


def half_in_cr(text: bytes, newline: bytes) -> bytes:
    """Every second line ends in LF."""
    lines = text.split(newline)
    return b"".join(line + (b"\n" if number % 2 else newline) for number, line in enumerate(lines[:-1]))


def test_counts_that_do_not_add_up_fail_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a second build removed a file of this one."""
    true_gather = corpus_build.gather

    def gather(bucket: int, recipe: Recipe, held_out: HeldOut) -> Gathered:
        found = true_gather(bucket, recipe, held_out)
        return replace(found, rows={**found.rows, "train": found.rows["train"] - 1})

    monkeypatch.setattr(corpus_build, "gather", gather)
    with pytest.raises(RuntimeError, match=r"out: the counts do not add up \(read 400, kept 39\d, rejected 0"):
        build(tmp_path, fasta(tmp_path))
    assert left_over(tmp_path, "a.fasta")


def test_a_source_that_changes_while_it_is_read_fails_the_build(tmp_path: Path) -> None:
    source = fasta(tmp_path)

    def change(what: str, done: int, total: int | None) -> None:
        source.write_bytes(fasta_text(random_proteins(400, seed=1)))

    with pytest.raises(ValueError, match=r"a\.fasta: changed while the corpus was built from it; build it again"):
        build(tmp_path, source, on_progress=change)
    assert left_over(tmp_path, "a.fasta")


def test_a_source_changed_in_place_is_another_source(tmp_path: Path) -> None:
    text = bytearray(fasta_text(random_proteins(60_000)))
    build(tmp_path, fasta(tmp_path, bytes(text)), chunk_bytes=1 << 20, bucket_bytes=1 << 20)
    middle = text.index(b"\n>", len(text) // 2)
    text[middle - 1] = ord("X")
    assert len(text) > 3 << 20
    with pytest.raises(ValueError, match=r"out holds another build \(sources: found"):
        build(tmp_path, fasta(tmp_path, bytes(text)))


def test_the_same_build_is_not_made_twice_and_no_other_is_overwritten(tmp_path: Path) -> None:
    source = fasta(tmp_path)
    manifest = build(tmp_path, source)
    stamp = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    said: list[str] = []
    assert build(tmp_path, source, on_progress=lambda what, done, total: said.append(what)) == manifest
    assert said == ["this very corpus is there already"]
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"out holds another build \(seed: found 0, wanted 1\)"):
        build(tmp_path, source, seed=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"mine exists and holds no finished build"):
        build(tmp_path, source, out="mine")


def test_what_a_killed_build_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out.staging" / "scratch").mkdir(parents=True)
    build(tmp_path, fasta(tmp_path))
    assert left_over(tmp_path, "a.fasta", "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.fasta", b"", r"a\.fasta is empty: it holds no record"),
        ("a.fasta", b"\n\n", r"a\.fasta is empty: it holds no record"),
        ("a.fasta.gz", b"", r"a\.fasta\.gz is empty: it holds no record"),
        ("a.fasta", b"ACD\n>x\nACD\n", r"a\.fasta is not FASTA: it begins with 'ACD'"),
        ("a.txt", b">x\nACD\n", r"a\.txt has the unknown ending '\.txt'; accepted: FASTA"),
        ("a.json", b"[]", r"a\.json is JSON in one piece"),
    ],
)
def test_what_is_no_source_is_refused_before_any_task(
    tmp_path: Path, name: str, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_file(tmp_path / name, content)
    monkeypatch.setattr(corpus_build, "connected", None)  # no Ray is asked for
    with pytest.raises(ValueError, match=message):
        build(tmp_path, source)
    assert left_over(tmp_path, name)


def test_a_long_blank_file_is_empty_too(tmp_path: Path) -> None:
    blank = fasta(tmp_path, b"\n" * (3 << 20), "blank.fasta")
    with pytest.raises(ValueError, match=r"blank\.fasta is empty: it holds no record"):
        build(tmp_path, fasta(tmp_path), blank, chunk_bytes=1 << 20)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    source = fasta(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.fasta"):
        build(tmp_path, source, tmp_path / "gone.fasta")
    with pytest.raises(ValueError, match=r"given more than once: .*a\.fasta"):
        build(tmp_path, source, source)
    with pytest.raises(ValueError, match=r"valid_fraction: found 1\.5, expected less than 1"):
        build(tmp_path, source, valid_fraction=1.5)
    with pytest.raises(ValueError, match=r"shard_rows: found 0, expected greater than or equal to 1"):
        build(tmp_path, source, shard_rows=0)
    for name, value in (("max_reject_fraction", -0.1), ("max_reject_fraction", float("nan")), ("seed", 2**63)):
        with pytest.raises(ValueError, match=rf"{name}: found .*, expected (less than|greater than|a finite number)"):
            build(tmp_path, source, **{name: value})
    with pytest.raises(ValueError, match=r"sources: .*at least 1 item"):
        build(tmp_path)
    with pytest.raises(OSError, match=r"cannot be made: .*a\.fasta is not a directory"):
        build_corpus(corpus_config([source], source / "out"))
    with pytest.raises(ValueError, match=r"no protein is left for the split train"):
        build(tmp_path, fasta(tmp_path, b">x\nACD\n", "b.fasta"), valid_fraction=0.9999999)


def test_a_gzip_cut_short_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "a.fasta.gz"
    source.write_bytes(gzip.compress(fasta_text(random_proteins(40000)))[:-2000])
    with pytest.raises(ValueError, match=r"a\.fasta\.gz is a truncated or damaged gzip file"):
        build(tmp_path, source, chunk_bytes=1 << 18)
    assert left_over(tmp_path, "a.fasta.gz")


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corpus_build, "write_manifest", full)
    with pytest.raises(OSError, match=r"the disk is full: no space left to build .*out; nothing was kept"):
        build(tmp_path, fasta(tmp_path))
    assert left_over(tmp_path, "a.fasta")

"""A sweep with storage, corpus and records in an S3 server, killed half-way: rows and table of the one on a disk."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.data.manifest import read_manifest, read_shard
from proteinlm.platform.places.places import fetched, place, put
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.storage.run_directory import read_run_file
from proteinlm.platform.training.tracking import read_metrics
from tests.made.killed_commands import kill_once, run_whole
from tests.made.object_store import BUCKET, object_store
from tests.made.small_sweep import TRIALS, small_sweep, write_sweep
from tests.made.terminal import environment_without_cluster

pytestmark = pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="three sweeps, each with a Ray of its own; PROTEINLM_CLUSTER_TESTS=1 runs it",
)


def losses(run_directory: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in read_metrics(run_directory) if "loss" in row]


def check_nothing_is_half(folder: Path) -> int:
    """Read all that marks and manifests below `folder` vouch for; how many there are."""
    vouched = 0
    for mark in [path for path in folder.rglob("*.json") if path.is_file()]:
        json.loads(mark.read_text())
        if mark.name == "manifest.json":
            manifest = read_manifest(mark.parent)
            for split in manifest.splits.values():
                for shard in split.shards:
                    read_shard(mark.parent, shard)
        elif mark.name == "finished.json":
            assert read_run_file(mark.parent) is not None
            assert gather_rows([mark.parent])
        elif mark.name == "config.json":
            with fetched(mark.parent) as local:
                load_pretrained(local)
        else:
            continue
        vouched += 1
    return vouched


def test_a_sweep_in_a_store_that_was_killed_ends_in_the_table_of_one_on_a_disk(tmp_path: Path) -> None:
    lab = f"s3://{BUCKET}/lab"
    values = small_sweep(tmp_path, "tiny", finetune={"keep_model": False})
    here = write_sweep(tmp_path, values)
    there = tmp_path / "there.yaml"
    there.write_text(here.read_text().replace(str(tmp_path), lab))
    directory, local = place(f"{lab}/runs/tiny"), tmp_path / "runs" / "tiny"
    # A short name, for Ray's sockets; with all that killed processes leave in it.
    with object_store(), TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as scratch:
        environment = environment_without_cluster() | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": scratch}
        for name in ("corpus", "records"):
            put(tmp_path / name, place(f"{lab}/{name}"))
        kill_once("sweep", there, environment, lambda: any(directory.glob("*/finished.json")))
        assert check_nothing_is_half(place(lab)) > 1
        assert not (directory / "results").exists()
        for file in (there, here):
            run_whole("sweep", file, environment)
        assert len(list(directory.glob("*/finished.json"))) == TRIALS
        check_nothing_is_half(place(lab))
        figures = [
            sorted(((*row.key, row.value, row.low, row.high, row.residues) for row in gather_rows([runs])), key=str)
            for runs in (directory, local)
        ]
        assert figures[0] == figures[1]
        tables = [json.loads((runs / "results" / "table.json").read_text())["lines"] for runs in (directory, local)]
        for line in (*tables[0], *tables[1]):
            line.pop("core_hours", None)  # of this machine, at that time
        assert tables[0] == tables[1]
        trials = [path.name for path in local.iterdir() if (path / "metrics.jsonl").is_file()]
        assert len(trials) == TRIALS - 1  # a baseline has none
        assert [losses(directory / name) for name in trials] == [losses(local / name) for name in trials]
        assert [path.name for path in (directory / "results").iterdir()] == sorted(os.listdir(local / "results"))
        assert not (directory / "tune").exists()

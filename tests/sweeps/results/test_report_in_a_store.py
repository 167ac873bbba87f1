"""The report of a sweep whose storage is an S3 server: the files of a local one, each whole, readable from there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.platform.places.places import place, put
from proteinlm.platform.storage.run_directory import Failure, mark_failed
from proteinlm.sweeps.results.report import write_report
from proteinlm.sweeps.sweep import show_report
from tests.made.object_store import BUCKET, object_store
from tests.sweeps.results.test_report import RESIDUES, finished_sweep


@pytest.fixture
def store() -> Iterator[Path]:
    with object_store():
        yield place(f"s3://{BUCKET}/runs")


def test_it_is_that_of_the_same_runs_on_a_disk(store: Path, tmp_path: Path) -> None:
    config, plan, costs = finished_sweep(tmp_path, RESIDUES[:1])
    lost = plan.trials[0].name
    mark_failed(config.directory / lost, Failure("out of memory", 3))
    put(config.directory, store / config.name)
    remote = config.model_copy(update={"storage": store})
    here, there = write_report(config, plan, costs), write_report(remote, plan, costs)
    assert there == store / "laws" / "results"
    names = [path.name for path in sorted(here.iterdir())]
    assert [path.name for path in there.iterdir()] == names
    assert {"table.md", "table.csv", "table.json", "table.tex", "loss.png", "findings.txt", "index.html"} <= set(names)
    assert [name for name in names if (there / name).read_bytes() != (here / name).read_bytes()] == []
    console = Console(record=True, width=200)
    show_report(there, console)
    assert f"table and plots: {there}/index.html" in console.export_text()
    for trial in plan.trials:
        (remote.directory / trial.name / "rows.jsonl").unlink()
    write_report(remote, plan, costs)
    assert not (there / "loss.png").exists()

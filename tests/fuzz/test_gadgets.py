"""Files that would run code when they are unpickled, in the place of every file that the product reads: nothing runs.

What is said names the file, or the figures are as before. DeepSpeed's checkpoints: tests/platform/training/test_engine.
"""

import io
import json
import pickle
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.corpus.stats import corpus_stats
from proteinlm.platform.finetune import finetune
from proteinlm.platform.labelled.task_check import check_tasks
from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.results.table_text import to_markdown
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.platform.training.stopping import PausedError
from proteinlm.sweeps.results.gather import gather_results, sweep_table
from proteinlm.tasks.finetuned import load_finetuned
from tests.fuzz.runs import SWEEP, write_sweep_runs
from tests.made.small_corpus import write_small_corpus
from tests.made.small_models import small_pretrained
from tests.made.tape_records import tape_record, write_as_tape

PAUSE, STEPS = 2, 4


class Gadget:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self._marker), "w")


def gadgets(marker: Path) -> dict[str, bytes]:
    """The same gadget as a pickle, and as torch.save writes it."""
    archive = io.BytesIO()
    torch.save({"model": Gadget(marker)}, archive)
    return {"pickle": pickle.dumps({"model": Gadget(marker)}), "archive": archive.getvalue()}


def in_each_file(folder: Path, use: Callable[[], object], *, check: Callable[[Path], None] | None = None) -> None:
    """Put a gadget in the place of each file below `folder`, one after the other, and `use` it each time.

    It is refused by name, or comes to the same value as before. `check` makes the directory believe the file.
    """
    marker = folder.with_name(f"{folder.name}-code-ran")
    honest = folder.with_name(f"{folder.name}-honest")
    shutil.copytree(folder, honest)
    before = use()
    for name in sorted(path.relative_to(honest) for path in honest.rglob("*") if path.is_file()):
        for form, content in gadgets(marker).items():
            shutil.rmtree(folder)
            shutil.copytree(honest, folder)
            (folder / name).write_bytes(content)
            if check:
                check(folder / name)
            try:
                assert use() == before, f"{name} ({form})"
            except (ValueError, OSError) as error:
                assert name.name in str(error), f"{name} ({form}): {error}"  # noqa: PT017  (the same value is right)
            assert not marker.exists(), f"{name} ({form}) ran code"


def test_the_gadget_would_run(tmp_path: Path) -> None:
    for form, content in gadgets(tmp_path / "code-ran").items():
        load = {"pickle": pickle.load, "archive": lambda file: torch.load(file, weights_only=False)}[form]
        load(io.BytesIO(content))
        assert (tmp_path / "code-ran").exists()
        (tmp_path / "code-ran").unlink()


def test_nothing_of_a_pretrained_directory_is_run(tmp_path: Path) -> None:
    small_pretrained(tmp_path / "model")
    in_each_file(tmp_path / "model", lambda: load_pretrained(tmp_path / "model").content_hash)


def test_nothing_of_a_corpus_is_run(tmp_path: Path) -> None:
    write_small_corpus(tmp_path / "corpus", proteins=20, shards=2)
    in_each_file(tmp_path / "corpus", lambda: corpus_stats(tmp_path / "corpus"))


def test_nothing_of_a_task_folder_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    simulate(folder, num_families=6, proteins_per_family=2, seed=0)
    for split in ("train", "valid"):
        records = [tape_record("stability", number) for number in range(3)]
        write_as_tape(folder / f"stability_{split}.lmdb", records)
        (folder / f"stability_{split}.lmdb" / "lock.mdb").unlink(missing_ok=True)

    def use() -> object:
        return [fault for check in check_tasks(folder) for fault in check.faults]

    in_each_file(folder, lambda: refused(use()))


def refused(faults: Any) -> None:
    """ValueError with the faults, if there are any."""
    if faults:
        raise ValueError("\n".join(faults))


@pytest.mark.parametrize("key", [b"0", b"num_examples"])
def test_no_value_of_an_lmdb_is_run(key: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    path = write_as_tape(folder / "stability_train.lmdb", [tape_record("stability", number) for number in range(3)])
    with lmdb.open(str(path), map_size=1 << 26) as environment, environment.begin(write=True) as put:
        put.put(key, gadgets(tmp_path / "code-ran")["pickle"])
    with pytest.raises(ValueError, match=r"stability_train\.lmdb"):
        refused([fault for check in check_tasks(folder) for fault in check.faults])
    assert not (tmp_path / "code-ran").exists()


def test_nothing_of_a_sweeps_results_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    write_sweep_runs(folder)
    flops = {trial.name: 1e6 for trial in SWEEP}
    in_each_file(folder, lambda: to_markdown(sweep_table(gather_results(SWEEP, folder, flops))))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Records, a pretrained model, and a run on them that paused and one that is finished."""
    folder = tmp_path_factory.mktemp("runs")
    simulate(folder / "records", num_families=8, proteins_per_family=2, seed=0)
    small_pretrained(folder / "model")
    with pytest.raises(PausedError):
        finetune(config(folder, "paused", pause_at=PAUSE))
    finetune(config(folder, "finished"))
    return folder


def config(folder: Path, name: str, **training: Any) -> FinetuneConfig:
    values = {
        "name": name,
        "storage": str(folder / "runs"),
        "task": "secondary_structure_q3",
        "data": str(folder / "records"),
        "mode": "full",
        "pretrained": str(folder / "model"),
        "batches": {"micro_batch_residues": 1000, "lanes": 1, "max_length": 200},
        "training": {
            "steps": STEPS,
            "engine": "plain",
            "precision": "fp32",
            "checkpoint_every": PAUSE,
            "validate_every": PAUSE,
            **training,
        },
        "optimizer": {"learning_rate": 1e-12},  # of equal validations the first one is the best: its weights are loaded
        "with_baselines": False,
    }
    return validate(FinetuneConfig, values, "test")


def believe(file: Path) -> None:
    """Write the checksum of a checkpoint's file anew, as whoever exchanged it would."""
    listed = file.with_name("checksums-00000.json")
    if file.name != listed.name and listed.exists():
        content = file.read_bytes()
        listed.write_text(json.dumps(json.loads(listed.read_text()) | {file.name: [len(content), zlib.crc32(content)]}))


@pytest.mark.usefixtures("ray_cluster")
def test_nothing_of_a_paused_run_is_run_when_it_goes_on(runs: Path) -> None:
    """Its best weights are those of the first validation: they are loaded at the end."""
    run = config(runs, "paused")

    def use() -> object:
        finetune(run)
        return {(row.split, row.metric): row.value for row in gather_rows([run.directory])}

    in_each_file(run.directory, use, check=believe)


def test_nothing_of_a_finished_run_is_run(runs: Path) -> None:
    run = config(runs, "finished")

    def use() -> object:
        finetune(run)  # which says that it is finished
        _, about = load_finetuned(run.directory / "model")
        return to_markdown(*make_tables(gather_rows([run.directory]))), about.task

    in_each_file(run.directory, use)

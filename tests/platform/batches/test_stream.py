"""Windows become micro batches: rows, crops and masks do not depend on who reads them, and a run can start anywhere."""

from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from proteinlm.models.packed import NOT_SCORED
from proteinlm.platform.batches.order import BatchPlan, Draw
from proteinlm.platform.batches.stream import training_steps, validation_batches
from proteinlm.platform.batches.windows import ReadOptions
from proteinlm.platform.data.manifest import Manifest, read_manifest, read_shard
from proteinlm.platform.labelled.split_files import SplitOptions
from proteinlm.platform.labelled.task_data import build_task_shards
from proteinlm.platform.simulated.proteins import simulate
from proteinlm.tasks.task import Batch
from tests.made.small_corpus import write_small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    directory = tmp_path_factory.mktemp("corpus") / "made"
    directory.mkdir()
    return directory, write_small_corpus(directory)


def reading(corpus: tuple[Path, Manifest], split: str = "train", max_length: int = 64) -> ReadOptions:
    return ReadOptions(str(corpus[0]), corpus[1].split(split), "esm", "masked_language_modeling", {}, 0, max_length)


def plan(corpus: tuple[Path, Manifest], draw: Draw = "by_length") -> BatchPlan:
    return BatchPlan(corpus[1].split("train"), 0, 4, 600, draw, max_length=64)


def stream(
    corpus: tuple[Path, Manifest],
    first: int,
    last: int,
    rank: int = 0,
    world_size: int = 1,
    draw: Draw = "by_length",
) -> list[list[Batch]]:
    steps = training_steps(
        reading(corpus), plan(corpus, draw), rank=rank, world_size=world_size, first_step=first, last_step=last
    )
    return list(steps)


def content(batch: Batch) -> tuple[object, ...]:
    return batch.rows, batch.packed.tokens.tolist(), batch.labels.tolist()


@pytest.mark.usefixtures("ray_cluster")
def test_an_epoch_holds_every_row_once_and_crops_what_is_too_long(corpus: tuple[Path, Manifest]) -> None:
    steps = stream(corpus, 0, int(plan(corpus).steps_per_epoch))
    rows = sorted(row for step in steps for batch in step for row in batch.rows)
    assert rows == list(range(400))
    assert max(length for step in steps for batch in step for length in batch.packed.lengths) == 64 + 2
    assert all(len(step) == 4 for step in steps)
    sizes = np.array([batch.num_residues for step in steps for batch in step])
    assert np.abs(sizes / sizes.mean() - 1).max() < 0.15


@pytest.mark.usefixtures("ray_cluster")
def test_global_batches_know_neither_the_workers_nor_where_a_run_began(corpus: tuple[Path, Manifest]) -> None:
    whole = stream(corpus, 0, 15)
    assert [[content(b) for b in step] for step in stream(corpus, 6, 15)] == [
        [content(b) for b in s] for s in whole[6:]
    ]
    for world_size in (2, 3, 4):
        workers = [stream(corpus, 0, 15, rank, world_size) for rank in range(world_size)]
        for step, shares in enumerate(zip(*workers, strict=True)):
            assert {len(share) for share in shares} == {-(-4 // world_size)}, "workers must run equally many batches"
            together = sorted(content(batch) for share in shares for batch in share if batch.rows)
            assert together == sorted(content(batch) for batch in whole[step])


@pytest.mark.usefixtures("ray_cluster")
def test_a_random_draw_passes_through_ray_and_a_run_can_start_in_the_middle_of_a_window(
    corpus: tuple[Path, Manifest],
) -> None:
    order = plan(corpus, "random")
    whole = stream(corpus, 0, 15, draw="random")
    assert order.place_of(6)[1] > 0
    assert [[content(b) for b in step] for step in stream(corpus, 6, 15, draw="random")] == [
        [content(b) for b in step] for step in whole[6:]
    ]
    for lane, batch in enumerate(whole[0]):
        window = order.lane_window(lane, 0)
        residues = read_shard(corpus[0], window.source, ["length"]).column("length").to_numpy()
        first = window.cut(np.minimum(residues, 64) + 2, seed=0)[0]
        assert batch.rows == tuple((window.first_row + first).tolist())
    assert max(batch.packed.num_tokens for step in whole for batch in step) <= order.most_tokens(2)
    assert max(len(batch.rows) for step in whole for batch in step) <= order.most_proteins


def test_more_workers_than_lanes_are_refused_at_once(corpus: tuple[Path, Manifest]) -> None:
    with pytest.raises(ValueError, match=r"batches.lanes is 4 and there are 5 workers; accepted: cluster.num_workers"):
        training_steps(reading(corpus), plan(corpus), rank=0, world_size=5, first_step=0, last_step=1)


@pytest.mark.usefixtures("ray_cluster")
def test_neither_tasks_nor_blocks_nor_pipelines_show(
    corpus: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that share a task, come in parts of a block, or belong to the next pipeline give the same steps."""
    usual = [[content(batch) for batch in step] for step in stream(corpus, 2, 20)]
    from ray.data import DataContext

    monkeypatch.setattr("proteinlm.platform.batches.stream.RESIDUES_PER_TASK", 15_000)  # three windows
    monkeypatch.setattr("proteinlm.platform.batches.stream.MAX_TASKS", 2)
    monkeypatch.setattr(DataContext.get_current(), "target_max_block_size", 4_000)  # a third of a window
    assert [[content(batch) for batch in step] for step in stream(corpus, 2, 20)] == usual


@pytest.mark.usefixtures("ray_cluster")
def test_batches_come_where_workers_hold_every_cpu(corpus: tuple[Path, Manifest]) -> None:
    """As they do on nodes that an autoscaler may not add to: no task for reading waits for a CPU."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    usual = [[content(batch) for batch in step] for step in stream(corpus, 0, 5)]
    everything = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    found: list[list[tuple[object, ...]]] = []

    def read() -> None:
        found.extend([content(batch) for batch in step] for step in stream(corpus, 0, 5))

    worker = Thread(target=read, daemon=True)
    try:
        ray.get(everything.ready(), timeout=60)
        worker.start()
        worker.join(60)
        assert found == usual
    finally:
        remove_placement_group(everything)
        worker.join(60)


def test_few_records_of_a_task_are_read_here_and_give_the_same_steps(
    tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pipeline of Ray Data, which takes longer to start than a task's records take to read."""
    simulate(tmp_path / "records", num_families=12, proteins_per_family=4, seed=0)
    build_task_shards("secondary_structure_q3", tmp_path / "records", tmp_path / "shards", SplitOptions(seed=0))
    manifest = read_manifest(tmp_path / "shards")
    train = manifest.split("train")
    records = ReadOptions(str(tmp_path / "shards"), train, "esm", "secondary_structure_q3", {}, 0, 200)
    order = BatchPlan(train, seed=0, lanes=2, micro_batch_residues=600)

    def steps() -> list[list[tuple[object, ...]]]:
        found = training_steps(records, order, rank=0, world_size=1, first_step=1, last_step=6)
        return [[content(batch) for batch in step] for step in found]

    with monkeypatch.context() as patched:
        patched.setattr("proteinlm.platform.batches.stream._pipeline", None)
        here = steps()
    monkeypatch.setattr("proteinlm.platform.batches.stream.RESIDUES_PER_TASK", 1)
    assert steps() == here
    assert len(here) == 5


def test_a_run_that_is_over_reads_nothing(corpus: tuple[Path, Manifest]) -> None:
    assert stream(corpus, 7, 7) == []


@pytest.mark.usefixtures("ray_cluster")
def test_validation_scores_every_row_once_with_the_same_masks(corpus: tuple[Path, Manifest]) -> None:
    def batches(rank: int, world_size: int) -> tuple[list[Batch], int]:
        wanted = reading(corpus, "valid", max_length=1024)
        return validation_batches(wanted, rank=rank, world_size=world_size, micro_batch_residues=500, max_residues=None)

    alone, counted = batches(0, 1)
    assert counted == len(alone)
    assert sorted(row for batch in alone for row in batch.rows) == list(range(40))
    assert any((batch.labels != NOT_SCORED).any() for batch in alone)
    shared = [batches(rank, 3) for rank in range(3)]
    assert len({len(mine) for mine, _ in shared}) == 1, "workers must run the same number of forward passes"
    together = sorted(content(batch) for mine, counted in shared for batch in mine[:counted])
    assert together == sorted(content(batch) for batch in alone)


@pytest.mark.usefixtures("ray_cluster")
def test_a_shard_that_is_damaged_or_gone_is_named_in_one_line(tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path)
    file = tmp_path / manifest.split("train").shards[0].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for what in ("is damaged or was exchanged: its checksum is not that of manifest.json", "is missing; "):
        with pytest.raises(ValueError, match=what) as caught:
            stream((tmp_path, manifest), 0, int(plan((tmp_path, manifest)).steps_per_epoch))
        assert str(caught.value).startswith(f"{file} {what}")
        assert len(str(caught.value).splitlines()) == 1
        file.unlink(missing_ok=True)

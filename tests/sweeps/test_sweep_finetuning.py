"""All tasks from one configuration, on files in TAPE's own layout: every trial ends in rows of one table."""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.pretrained import save_pretrained
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.sweep import finetune_many
from proteinlm.tasks.catalog import TAPE_TASKS, build_task
from tests.made.tape_records import FILE_STEMS, tape_record, write_as_tape


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FinetuneConfig:
    folder = tmp_path_factory.mktemp("all")
    for task in set(TAPE_TASKS) - {"secondary_structure_q8"}:
        stem, declared = FILE_STEMS[task], build_task(task)
        (folder / "tape" / stem).mkdir(parents=True)
        for place, split in enumerate((declared.train_split, *declared.valid_splits, *declared.test_splits)):
            records = [tape_record(stem, 100 * place + number) for number in range(24)]
            write_as_tape(folder / "tape" / stem / f"{stem}_{split}.lmdb", records)
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
    save_pretrained(folder / "model", encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {})
    values: dict[str, Any] = {
        "name": "tape",
        "storage": str(folder / "runs"),
        "task": "all",
        "data": str(folder / "tape"),
        "pretrained": str(folder / "model"),
        "modes": ["lora", "probe"],
        "seeds": [0, 1],
        "batches": {"micro_batch_residues": 300, "lanes": 1, "max_length": 64},
        "training": {"steps": 2, "engine": "plain", "precision": "fp32", "validate_every": 1, "checkpoint_every": 2},
        "per_task": {"remote_homology": {"options.pool": "mean", "training.steps": 3}},
    }
    return validate(FinetuneConfig, values, "test")


@pytest.mark.usefixtures("ray_cluster")
def test_all_tasks_run_in_every_mode_with_baselines_into_one_table(config: FinetuneConfig) -> None:
    assert finetune_many(config) == []
    rows = gather_rows([config.directory])
    for name in TAPE_TASKS:
        task = build_task(name)
        of_task = [row for row in rows if row.task == name]
        trained = [row for row in of_task if row.mode == "lora" and row.metric == task.metrics[0].name]
        assert {(row.split, row.seed) for row in trained} == {
            (split, seed) for split in (*task.valid_splits, *task.test_splits) for seed in (0, 1)
        }
        assert any(row.kind == "baseline" for row in of_task), name
        steps = {row.settings["chosen"]["of_steps"] for row in trained if row.settings}  # type: ignore[index]
        assert steps == {3 if name == "remote_homology" else 2}
        predictions = pq.read_table(config.directory / f"{name}-lora-seed-1" / "predictions" / "valid.parquet")
        assert predictions.column("row").to_pylist() == list(range(24))
        assert {output.name for output in task.outputs} <= set(predictions.column_names)
    contacts = pq.read_table(config.directory / "contact_prediction-lora-seed-0" / "predictions" / "test.parquet")
    pairs = [len(values) for values in contacts.column("contact_probability").to_pylist()]
    assert pairs == [length * (length - 1) // 2 for length in contacts.column("length").to_pylist()]
    assert {row.task for row in rows if row.mode == "probe"} == {"contact_prediction"}
    assert all(row.definition and row.data_hash for row in rows)
    # Nothing that is finished runs again.
    stamps = {path: path.stat().st_mtime_ns for path in config.directory.rglob("finished.json")}
    assert len(stamps) == 2 * len(TAPE_TASKS) + 1 + len(TAPE_TASKS)
    assert finetune_many(config) == []
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

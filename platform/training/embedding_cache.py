"""A frozen encoder's embeddings, computed once and kept in the storage: finetuning with `mode: frozen` trains on them.

    <storage>/embeddings/<key>/<split>/values.npy   what `Task.pool` gave, protein after protein in the order of rows
                                       starts.npy   [B + 1] where each protein begins among the values
                                       checksums.json   file -> [bytes, CRC-32] of both; damaged ones are computed anew

The key is a hash of what they depend on: the encoder's weights, the proteins, their order and cropping, the task's
pooling and the precision. A run that finds its embeddings there never runs the encoder.

Shapes: B proteins of a split, D hidden, N tokens of a micro batch, V values: tokens of the split, or its proteins.
"""

import hashlib
import json
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proteinlm.models.pretrained import load_pretrained
from proteinlm.platform.batches.stream import validation_batches
from proteinlm.platform.batches.windows import ReadOptions
from proteinlm.platform.places.places import is_remote
from proteinlm.platform.storage.atomic import checksums_of, move_aside, staged_directory
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.run_directory import EMBEDDINGS_FOLDER, read_object
from proteinlm.platform.training.device import TORCH_DTYPES
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.job import Run, TrainingJob
from proteinlm.tasks.task import Batch, every_token

KEPT_AS: dict[str, type] = {"tokens": np.float16, "proteins": np.float32}
"""Type on disk. Tokens in half precision: LayerNorm's outputs are of size one, and fp32 would take gigabytes."""
VALUES_FILE, STARTS_FILE, CHECKSUMS_FILE = "values.npy", "starts.npy", "checksums.json"


@dataclass(frozen=True)
class _Stored:
    values: NDArray[Any]
    """[V, D], mapped from the file."""
    starts: NDArray[np.int64]


class EmbeddingStore:
    """The embeddings of all splits of one task under one encoder."""

    def __init__(self, splits: dict[str, _Stored], hidden_size: int, *, of_tokens: bool) -> None:
        self._splits, self._hidden_size, self._of_tokens = splits, hidden_size, of_tokens

    def complete(self, batch: Batch, split: str) -> Batch:
        """Return the micro batch with the embeddings of its tokens [N, D] or of its proteins [B, D]."""
        if not batch.rows:  # the blank micro batch that fills up a worker's step
            size = batch.packed.num_tokens if self._of_tokens else batch.packed.num_proteins
            return replace(batch, pooled=torch.zeros(size, self._hidden_size))
        stored = self._splits[split]
        parts = [stored.values[stored.starts[row] : stored.starts[row + 1]] for row in batch.rows]
        return replace(batch, pooled=torch.from_numpy(np.concatenate(parts).astype(np.float32)))


def embeddings_of(run: Run, engine: Engine) -> EmbeddingStore:
    """Return the embeddings of all splits for a frozen job on one worker: from disk, or computed now and kept."""
    job, task = run.job, run.task
    assert job.pretrained is not None
    encoder_hash = load_pretrained(kept_copy(job.pretrained)).content_hash
    of_tokens = task.pool is every_token
    splits = {}
    for split in (task.train_split, *task.valid_splits, *task.test_splits):
        reading = job.reading(run.manifest.split(split), seed=0, is_training=split == task.train_split)
        folder = job.directory.parent / EMBEDDINGS_FOLDER / _key(encoder_hash, job, reading) / split
        if not _is_whole(folder):
            _compute(folder, run, reading, engine, of_tokens=of_tokens)
        local = kept_copy(folder)
        splits[split] = _Stored(np.load(local / VALUES_FILE, mmap_mode="r"), np.load(local / STARTS_FILE))
    return EmbeddingStore(splits, job.model.hidden_size, of_tokens=of_tokens)


def _is_whole(folder: Path) -> bool:
    """Whether embeddings are there as they were written; those that are not are said and removed.

    In a store they stay until others take their place: another trial may be putting them just now, or reading them.
    """
    if not (folder / CHECKSUMS_FILE if is_remote(folder) else folder).exists():
        return False
    there = checksums_of(kept_copy(folder))
    there.pop(CHECKSUMS_FILE, None)
    with suppress(OSError, ValueError):  # an earlier version wrote no checksums
        if there == read_object(folder / CHECKSUMS_FILE):
            return True
    print(f"{folder} is damaged, or of an earlier version: these embeddings are computed anew", file=sys.stderr)
    if not is_remote(folder):
        with suppress(FileNotFoundError):  # another trial was faster
            shutil.rmtree(move_aside(folder), ignore_errors=True)
    return False


def _key(encoder_hash: str, job: TrainingJob, reading: ReadOptions) -> str:
    """Hash of all that the embeddings depend on: what says how rows are read counts, unless it is left out here."""
    read = {name: value for name, value in vars(reading).items() if name not in ("directory", "split", "seed")}
    known = [encoder_hash, reading.split.content_hash, read, job.training.precision]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _compute(folder: Path, run: Run, reading: ReadOptions, engine: Engine, *, of_tokens: bool) -> None:
    """Run the encoder over a whole split and write the folder, which is there whole or not at all."""
    kept: list[tuple[int, NDArray[Any]]] = []
    dtype = KEPT_AS["tokens" if of_tokens else "proteins"]
    batches, _ = validation_batches(
        reading, rank=0, world_size=1, micro_batch_residues=run.job.batches.micro_batch_residues, max_residues=None
    )
    for batch in batches:
        values: NDArray[Any] = _pooled(engine, run, batch).numpy().astype(dtype)
        lengths = batch.packed.lengths if of_tokens else (1,) * batch.packed.num_proteins
        kept += zip(batch.rows, np.split(values, np.cumsum(lengths)[:-1]), strict=True)
    kept.sort(key=lambda item: item[0])
    try:
        with staged_directory(folder) as staging:
            np.save(staging / VALUES_FILE, np.concatenate([values for _, values in kept]))
            np.save(staging / STARTS_FILE, np.cumsum([0, *(len(values) for _, values in kept)]))
            (staging / CHECKSUMS_FILE).write_text(json.dumps(checksums_of(staging)))
    except OSError:
        if not folder.is_dir():  # else another trial was faster
            raise


@torch.no_grad()
def _pooled(engine: Engine, run: Run, batch: Batch) -> Tensor:
    """What the task's head would read: [N, D] or [B, D], on the CPU in fp32."""
    precision = run.job.training.precision
    with engine.module() as model:
        model.eval()
        device = next(model.parameters()).device
        packed = batch.packed.to(device)
        with torch.autocast(device.type, dtype=TORCH_DTYPES[precision], enabled=precision != "fp32"):
            return run.task.pool(model.encoder(packed), packed).float().cpu()

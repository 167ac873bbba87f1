"""Run the DeepSpeed engine in two processes, without Ray: every ZeRO stage on the same global batches.

python -m tests.platform.two_workers RANK PORT OUT.json
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.objectives import mask_tokens
from proteinlm.models.packed import pack
from proteinlm.platform.config import OptimizerSection, TrainingSection
from proteinlm.platform.training.engine import Engine, make_engine
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, TaskModel
from tests.platform.small_corpus import sequences

LANES, STEPS = 4, 3
CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
OPTIMIZER = OptimizerSection(learning_rate=1e-2, warmup_steps=0)


def model() -> TaskModel:
    """The same random model everywhere."""
    torch.manual_seed(0)
    return TaskModel(build_task("masked_language_modeling"), ProteinEncoder(CONFIG))


def global_batches() -> list[list[Batch]]:
    """STEPS global batches of LANES micro batches that hold different numbers of proteins."""
    return [[_batch(3 + lane, seed=step * LANES + lane) for lane in range(LANES)] for step in range(STEPS)]


def _batch(count: int, seed: int) -> Batch:
    alphabet = get_alphabet("esm")
    tokens, lengths = alphabet.encode(sequences(count, seed))
    rows = np.arange(count)
    masked, labels = mask_tokens(tokens, lengths, rows, alphabet=alphabet, seed=seed, epoch=0)
    return Batch(pack(masked, lengths), torch.from_numpy(labels.astype(np.int64)), tuple(rows.tolist()))


def joined(step: list[Batch]) -> Batch:
    """The micro batches of a step as a single one."""
    tokens = np.concatenate([batch.packed.tokens.numpy() for batch in step])
    lengths = np.concatenate([np.array(batch.packed.lengths) for batch in step])
    rows = tuple(row for batch in step for row in batch.rows)
    return Batch(pack(tokens, lengths), torch.cat([batch.labels for batch in step]), rows)


def training(stage: int, engine: str = "deepspeed") -> TrainingSection:
    """fp32 at a ZeRO stage."""
    return TrainingSection.model_validate({"steps": STEPS, "zero_stage": stage, "precision": "fp32", "engine": engine})


def losses(engine: Engine, rank: int, world_size: int) -> list[list[float]]:
    """Loss and gradient norm of every step."""
    reports = [engine.train_step(step[rank::world_size], 1e-2, seed=0) for step in global_batches()]
    return [[report.loss, report.gradient_norm] for report in reports]


def main() -> None:
    """One of the two workers; the first one writes what every stage gave."""
    rank, port, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": str(rank), "LOCAL_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for stage in range(4):
        engine = make_engine(model(), training(stage), OPTIMIZER, device=torch.device("cpu"), micro_batches=LANES // 2)
        trained = losses(engine, rank, 2)
        with engine.module() as whole:
            weights = sum(float(parameter.double().abs().sum()) for parameter in whole.parameters())
        folder = [tempfile.mkdtemp()]
        dist.broadcast_object_list(folder)
        engine.save(Path(folder[0]))
        dist.barrier()
        before = losses(engine, rank, 2)
        engine.load(Path(folder[0]))
        found[stage] = {"trained": trained, "weights": weights, "before": before, "after": losses(engine, rank, 2)}
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

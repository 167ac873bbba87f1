"""Run the DeepSpeed engine in several processes, without Ray: every ZeRO stage on the same global batches.

One call goes through `CHAIN`: the workers of each link load what those of the link before saved, as a run does that
goes on with another number of workers.

python -m tests.made.engine_workers RANK WORLD_SIZE PORT FOLDER     one worker of one link
"""

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import ProteinEncoder
from proteinlm.models.masking import DEFAULT_MASKING, mask_tokens
from proteinlm.models.packed import pack
from proteinlm.platform.batches.order import lanes_of, micro_batches_per_step
from proteinlm.platform.batches.windows import blank_batch
from proteinlm.platform.settings.sections import OptimizerSection, TrainingSection
from proteinlm.platform.training.checkpoint import (
    Cursor,
    check_whole,
    loadable,
    loading,
    needs_conversion,
    read_cursor,
    save_checkpoint,
)
from proteinlm.platform.training.deepspeed_engine import STATE_DIRECTORY, convert_to_universal
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.run_job import make_engine
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.heads import scored_tokens
from proteinlm.tasks.task import Batch, TaskModel, known_labels
from tests.conftest import ROOT
from tests.made.host_reads import HostReads
from tests.made.small_corpus import sequences

CHAIN = (4, 2, 3, 1)
"""Workers of each link."""
STEPS = 3
"""Steps of each link."""
LANES = 4
CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
OPTIMIZER = OptimizerSection(learning_rate=1e-2, warmup_steps=0)
LINEAR = OptimizerSection(learning_rate=1.0, warmup_steps=0, epsilon=1.0, weight_decay=0, gradient_clip=1e6)
"""With so large an epsilon the first step of Adam is g / (|g| + 1): what moved says what the gradient was."""


def model() -> TaskModel:
    """The same random model everywhere."""
    torch.manual_seed(0)
    return TaskModel(build_task("masked_language_modeling"), ProteinEncoder(CONFIG))


def global_batches(first: int, last: int, cuts: int = 1) -> list[list[Batch]]:
    """Global batches [first, last) of LANES x `cuts` micro batches, the same proteins and masks for any `cuts`."""
    return [
        [batch for lane in range(LANES) for batch in _batches(4 + lane, cuts, seed=step * LANES + lane)]
        for step in range(first, last)
    ]


def _batches(count: int, cuts: int, seed: int) -> list[Batch]:
    alphabet = get_alphabet("esm")
    tokens, lengths = alphabet.encode(sequences(count, seed))
    masked, labels = mask_tokens(
        tokens, lengths, np.arange(count), DEFAULT_MASKING, alphabet=alphabet, seed=seed, epoch=0
    )
    ends = np.cumsum(lengths)
    made = []
    for rows in np.array_split(np.arange(count), cuts):
        part = slice(int(ends[rows[0]] - lengths[rows[0]]), int(ends[rows[-1]]))
        packed = pack(masked[part], lengths[rows], get_alphabet("esm"))
        scored = known_labels(labels[part], lengths[rows])
        batch = Batch(packed, torch.from_numpy(labels[part].astype(np.int64)), tuple(rows.tolist()), num_scored=scored)
        made.append(batch)
    return made


def mine(step: list[Batch], rank: int, world_size: int) -> list[Batch]:
    """The micro batches of one worker, filled up with blank ones."""
    own = [step[lane] for lane in lanes_of(rank, world_size, len(step))]
    blank = blank_batch(get_alphabet("esm"), build_task("masked_language_modeling"))
    return own + [blank] * (micro_batches_per_step(len(step), world_size) - len(own))


def training(stage: int, engine: str = "deepspeed") -> TrainingSection:
    """fp32 at a ZeRO stage."""
    return TrainingSection.model_validate({"steps": STEPS, "zero_stage": stage, "precision": "fp32", "engine": engine})


def plain_engine(optimizer: OptimizerSection = OPTIMIZER) -> Engine:
    """The reference: one process, no DeepSpeed."""
    return make_engine(model(), training(0, "plain"), optimizer, device=torch.device("cpu"), micro_batches=1)


def losses(engine: Engine, first: int, last: int, rank: int = 0, world_size: int = 1) -> list[list[float]]:
    """Loss and gradient norm of steps [first, last)."""
    steps = global_batches(first, last)
    reports = [engine.train_step(mine(step, rank, world_size), 1e-2, seed=0).read() for step in steps]
    return [[report.loss, report.gradient_norm] for report in reports]


def moved(engine: Engine, cuts: int, rank: int = 0, world_size: int = 1) -> list[float]:
    """What the first step of a `LINEAR` engine moved, all parameters in one row: the gradient, but for its sign."""
    (step,) = global_batches(0, 1, cuts)
    before = _weights(engine)
    engine.train_step(mine(step, rank, world_size), LINEAR.learning_rate, seed=0)
    return (_weights(engine) - before).tolist()


def _waits(engine: Engine, cuts: int, rank: int, world_size: int) -> dict[str, Any]:
    """What a GPU would be waited for in a step, and how many collectives it has."""
    from deepspeed.accelerator import get_accelerator

    steps = [looked_up(mine(step, rank, world_size)) for step in global_batches(0, 4, cuts)]
    for step in steps[:3]:  # DeepSpeed's timers would begin after two steps
        engine.train_step(step, 1e-2, seed=0)
    gc.collect()  # engines made before wait for the device when they are taken apart
    calls, original = [], type(get_accelerator()).synchronize
    type(get_accelerator()).synchronize = lambda *_: calls.append("synchronize")
    with HostReads() as reads:
        engine.train_step(steps[3], 1e-2, seed=0)
    type(get_accelerator()).synchronize = original
    return {"reads": reads.found, "synchronised": len(calls), "collectives": reads.collectives}


def looked_up(batches: list[Batch]) -> list[Batch]:
    """The micro batches as they come to a GPU: which tokens are scored is known."""
    return [replace(batch, scored=scored_tokens(batch.labels)) for batch in batches]


def _weights(engine: Engine) -> torch.Tensor:
    with engine.module() as whole:
        return torch.cat([parameter.detach().double().flatten() for parameter in whole.parameters()])


def main() -> None:
    """One worker; the first one writes what every stage gave."""
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[4])
    warnings.simplefilter("ignore")
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3], "LOCAL_RANK": str(rank)}
    # No LOCAL_SIZE, as under Ray Train: with it DeepSpeed reduces through files of 69 MB in /dev/shm, and leaves them.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    found = {stage: _stage(stage, rank, world_size, folder) for stage in range(4)}
    if rank == 0:
        (folder / f"found-{world_size}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def _stage(stage: int, rank: int, world_size: int, folder: Path) -> dict[str, Any]:
    place = {"rank": rank, "world_size": world_size}

    def engine(optimizer: OptimizerSection, lanes: int = LANES, **options: Any) -> Engine:
        count = micro_batches_per_step(lanes, world_size)
        cpu = torch.device("cpu")
        return make_engine(model(), training(stage), optimizer, device=cpu, micro_batches=count, **options)

    found: dict[str, Any] = {
        "moved": {cuts: moved(engine(LINEAR, LANES * cuts), cuts, **place) for cuts in (1, 3)},
        "not_finite": _poisoned(stage, rank, world_size),
        "waits": {cuts: _waits(engine(OPTIMIZER, LANES * cuts), cuts, **place) for cuts in (1, 3)},
    }
    link = CHAIN.index(world_size)
    trained, first = partial(engine, OPTIMIZER), link * STEPS
    if link == 0:
        whole = trained()
    else:
        checkpoint = folder / f"stage-{stage}-link-{link - 1}"
        is_foreign = needs_conversion(read_cursor(checkpoint), training(stage), world_size)
        whole = trained(loads_universal=is_foreign)
        with loadable(checkpoint, is_foreign, folder, rank == 0) as state:
            whole.load(state)
    found["losses"] = losses(whole, first, first + STEPS, **place)
    saved, own = folder / f"stage-{stage}-link-{link}", folder / f"stage-{stage}-link-{link}-of-{rank}"
    own.mkdir()
    save_checkpoint(own, whole, Cursor(first + STEPS, 0, world_size, {}), rank)
    shutil.copytree(own, saved, dirs_exist_ok=True)  # as Ray Train merges them
    dist.barrier()
    check_whole(saved)
    found["saved"] = sorted(path.name for path in saved.rglob("*") if path.is_file())
    found["on"] = losses(whole, first + STEPS, first + STEPS + 2, **place)
    whole.load(saved) if link == 0 else None
    found["poisoned"] = _gadgets(trained(), saved, folder, converts=stage == 1) if world_size == 1 else {}
    found["on_again"] = losses(whole, first + STEPS, first + STEPS + 2, **place) if link == 0 else found["on"]
    return found


def _gadgets(engine: Engine, checkpoint: Path, folder: Path, *, converts: bool) -> dict[str, str]:
    """What is said where a file of `checkpoint` holds a pickle that would run code: "load FILE" and "convert FILE"."""
    said = {}
    marker = folder / "code-ran"
    for file in sorted(checkpoint.rglob("*.pt")):
        honest = file.read_bytes()
        torch.save({"module": Gadget(f"touch {marker}")}, file)
        uses = {"load": lambda: engine.load(checkpoint)}
        if converts:
            uses["convert"] = lambda: convert_to_universal(checkpoint / STATE_DIRECTORY, folder / "gadget")
        for name, use in uses.items():
            try:
                with loading(checkpoint):
                    use()
            except (ValueError, RuntimeError) as error:
                said[f"{name} {file.name}"] = str(error)
        file.write_bytes(honest)
    assert not marker.exists(), "a checkpoint ran code"
    engine.load(checkpoint)
    return said


class Gadget:
    """Unpickled, it runs a command of the shell."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self._command,)


def _poisoned(stage: int, rank: int, world_size: int) -> dict[str, Any]:
    """A step whose loss is not finite in one micro batch of the last worker, between two good ones."""
    poisoned = model()
    poison = {"factor": 1.0}
    poisoned.register_forward_hook(lambda _, __, columns: columns | {"loss": columns["loss"] * poison["factor"]})
    count = micro_batches_per_step(LANES, world_size)
    cpu = torch.device("cpu")
    engine = make_engine(poisoned, training(stage), OPTIMIZER, device=cpu, micro_batches=count)
    first, bad, next_ = (mine(step, rank, world_size) for step in global_batches(0, 3))
    engine.train_step(first, 1e-2, seed=0)
    before = _weights(engine)
    poison["factor"] = float("nan") if rank == world_size - 1 else 1.0
    report = engine.train_step(bad, 1e-2, seed=0).read()
    poison["factor"] = 1.0
    kept = bool(torch.equal(_weights(engine), before))
    again = engine.train_step(next_, 1e-2, seed=0).read()
    return {"is_skipped": report.is_skipped, "kept": kept, "next": again.loss}


def run_chain() -> dict[int, Any]:
    """What the first worker of every link found, by number of workers and ZeRO stage."""
    with tempfile.TemporaryDirectory() as folder:
        for world_size in CHAIN:
            _run_link(world_size, folder)
        return {size: json.loads((Path(folder) / f"found-{size}.json").read_text()) for size in CHAIN}


def _run_link(world_size: int, folder: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    extensions = Path(folder) / "extensions"
    command = [sys.executable, "-m", "tests.made.engine_workers"]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), port, folder],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(extensions)},
        )
        for rank in range(world_size)
    ]
    texts = [worker.communicate(timeout=600)[0].decode() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), "\n".join(text[-3000:] for text in texts)
    assert list(Path("/dev/shm").glob(f"*_{port}_*")) == [], "shared memory that nobody frees"
    assert not extensions.exists(), "compiled, for a collective that training does not call"


if __name__ == "__main__":
    main()

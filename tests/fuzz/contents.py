"""Fuzzing of data sets, models and checkpoints: one file of a directory is damaged, and the directory is used.

python -m tests.fuzz.contents --seconds 300 [TARGET ...]

Where a checksum stands for the content, it comes out as it was or is refused.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.huggingface import MODEL_TYPE, to_esm_state
from proteinlm.models.pretrained import content_hash_of, load_pretrained, save_pretrained
from proteinlm.platform.corpus.stats import corpus_stats
from proteinlm.platform.data.manifest import Shard, read_manifest, read_shard
from proteinlm.platform.training.checkpoint import Cursor, loading, newest_whole, read_cursor, save_checkpoint
from proteinlm.platform.training.engine import Engine
from proteinlm.platform.training.selection import Selection
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.finetuned import Adapters, Finetuned, load_finetuned, make_task_model, save_finetuned
from tests.fuzz.runner import Target, directory_target, main
from tests.made.engine_workers import plain_engine
from tests.made.small_corpus import write_small_corpus
from tests.made.small_models import ESM_SHAPE

SMALL = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.05)
TORCH_WORDS = (
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"cposix\nsystem\n",
    b"\x85" * 2000,
    b"PK\x01\x02",
    b"PK\x05\x06",
)
TORCH_WORDS += (b"}q\x00", b"K\x01", b"N.", b"\x80\x02", b"F32", b"data_offsets", b'"shape":[1]', b'"dtype":"I8"')


# --------------------------------------------------------------------------------------------------------- data sets


def write_corpus(folder: Path) -> None:
    """A corpus of three shards."""
    write_small_corpus(folder, proteins=40, shards=2)


def read_data_set(folder: Path) -> None:
    """The manifest, and all that it says of splits and shards."""
    manifest = read_manifest(folder)
    assert len(manifest.content_hash) == 16
    for name, split in manifest.splits.items():
        assert manifest.split(name) is split
        assert split.mask_seed >= 0
        assert len(split.first_rows) == len(split.shards)
        for shard in split.shards:
            read_shard(folder, shard)
    corpus_stats(folder)


def read_same_shard(shard: Shard, honest: pa.Table, folder: Path) -> None:
    """The rows that were written, or none."""
    table = read_shard(folder, shard)
    assert table.select(honest.column_names).equals(honest)


# ------------------------------------------------------------------------------------------------------------ models


def new_model() -> tuple[ProteinEncoder, LanguageModelHead]:
    """A small encoder with random weights, and its head."""
    torch.manual_seed(0)
    encoder = ProteinEncoder(SMALL)
    return encoder, LanguageModelHead(SMALL, encoder.token_embedding)


def write_esm(folder: Path) -> None:
    """The same model as transformers keeps it, in a .bin."""
    folder.mkdir()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    about = {**ESM_SHAPE, **shape, "model_type": MODEL_TYPE, "token_dropout": False}
    (folder / "config.json").write_text(json.dumps(about))
    torch.save(to_esm_state(*new_model()), folder / "pytorch_model.bin")


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of its tensors."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def are_equal(found: Mapping[str, Tensor], honest: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are bit-equal; NaN equals nothing."""
    return found.keys() == honest.keys() and all(torch.equal(tensor, honest[name]) for name, tensor in found.items())


def read_pretrained(honest: Mapping[str, Tensor], folder: Path) -> None:
    """The weights that were written, under a hash that is known without them."""
    loaded = load_pretrained(folder)
    assert are_equal(weights_of(loaded.encoder), honest)
    assert loaded.content_hash == content_hash_of(folder)


def write_finetuned(folder: Path) -> dict[str, Tensor]:
    """A finetuned model with adapters; its weights."""
    torch.manual_seed(0)
    adapters = Adapters(rank=2, alpha=4, dropout=0.1, layers=("qkv", "output"))
    about = Finetuned("secondary_structure_q3", {}, "lora", SMALL, adapters, {"run": "made", "steps": 3})
    model = make_task_model(build_task(about.task), about)
    save_finetuned(folder, model, about)
    return weights_of(model)


def read_finetuned(honest: Mapping[str, Tensor], folder: Path) -> None:
    """The weights that were written, in a model that can be described."""
    model, about = load_finetuned(folder)
    assert are_equal(weights_of(model), honest)
    assert model.task.metrics
    dict(about.extra)


# ------------------------------------------------------------------------------------------------------- checkpoints

NAME = "step_00000003_by_1"
CURSOR = Cursor(3, 99, 1, {"valid/loss": 2.5}, 1)


def write_checkpoint(folder: Path, *, version: int = 2) -> dict[str, Tensor]:
    """A checkpoint of the plain engine; its weights."""
    folder.mkdir()
    engine = plain_engine()
    save_checkpoint(folder, engine, CURSOR, rank=0)
    if version == 1:
        (folder / "checksums-00000.json").unlink()
        about = json.loads((folder / "cursor.json").read_text())
        del about["format_version"]
        (folder / "cursor.json").write_text(json.dumps(about))
    with engine.module() as model:
        return weights_of(model)


@cache
def engine() -> Engine:
    """The engine that checkpoints are loaded into."""
    return plain_engine()


def read_checkpoint(honest: Mapping[str, Tensor], folder: Path) -> None:
    """As a run resumes; of an earlier version, whose cursor has no checksum, the weights alone are as they were."""
    chosen, _ = newest_whole([folder])
    assert chosen == folder
    is_checked = (folder / "checksums-00000.json").exists()
    assert read_cursor(folder) == CURSOR or not is_checked
    with loading(folder):
        engine().load(folder)
    with engine().module() as model:
        assert are_equal(weights_of(model), honest)


def selection(folder: Path) -> Selection:
    """Of the newest step, of which nothing is known but what is stored."""
    names: dict[str, Any] = {"larger_is_better": True, "patience": None, "is_first_worker": True}
    return Selection(folder, "valid/spearman", first_step=30, engine=engine(), **names)


def write_best(folder: Path) -> dict[str, Tensor]:
    """The best weights of a finetuning."""
    made = selection(folder)
    for step, value in ((10, 0.7), (20, 0.5)):
        made.note(step, {"valid/spearman": value})
    with engine().module() as model:
        return weights_of(model)


def read_best(honest: Mapping[str, Tensor], folder: Path) -> None:
    """The best weights, as a run ends with them."""
    chosen = selection(folder)
    if chosen.load_best():
        with engine().module() as model:
            assert are_equal(weights_of(model), honest)


# ----------------------------------------------------------------------------------------------------------- targets


@cache
def make_targets() -> Mapping[str, Target]:
    """Targets by name; makes the honest directories."""
    with tempfile.TemporaryDirectory() as folder:
        made = {name: Path(folder, name) for name in ("corpus", "model", "esm", "finetuned", "old", "best")}
        write_corpus(made["corpus"])
        shard = read_manifest(made["corpus"]).split("train").shards[0]
        unchecked = shard.model_copy(update={"checksum": None})
        rows = read_shard(made["corpus"], shard)
        save_pretrained(made["model"], *new_model(), {"run": "made"})
        weights = weights_of(load_pretrained(made["model"]).encoder)
        write_esm(made["esm"])
        finetuned = write_finetuned(made["finetuned"])
        checkpoint = write_checkpoint(Path(folder, NAME))
        write_checkpoint(made["old"], version=1)
        best = write_best(made["best"])
        model_files, parts = ("config.json", "model.safetensors"), ("cursor.json", "state.pt")
        found = [
            directory_target("manifest", read_data_set, made["corpus"], ("manifest.json",)),
            directory_target("shard", partial(read_same_shard, shard, rows), made["corpus"], (shard.file,)),
            directory_target("old-shard", partial(read_same_shard, unchecked, rows), made["corpus"], (shard.file,)),
            directory_target("pretrained", partial(read_pretrained, weights), made["model"], model_files),
            directory_target(
                "esm",
                partial(read_pretrained, weights),
                made["esm"],
                ("config.json", "pytorch_model.bin"),
                words=TORCH_WORDS,
            ),
            directory_target("finetuned", partial(read_finetuned, finetuned), made["finetuned"], model_files),
            directory_target(
                "checkpoint", partial(read_checkpoint, checkpoint), Path(folder, NAME), (*parts, "checksums-00000.json")
            ),
            directory_target(
                "old-checkpoint", partial(read_checkpoint, checkpoint), made["old"], parts, words=TORCH_WORDS
            ),
            directory_target(
                "best-weights", partial(read_best, best), made["best"], ("step_00000010.pt",), words=TORCH_WORDS
            ),
        ]
    return {one.name: one for one in found}


NAMES = (
    "manifest",
    "shard",
    "old-shard",
    "pretrained",
    "esm",
    "finetuned",
    "checkpoint",
    "old-checkpoint",
    "best-weights",
)

if __name__ == "__main__":
    sys.exit(main(list(make_targets().values())))

"""Windows and batches for the tests of tasks, and small models of transformers' ESM classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig, expand_preset
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.packed import Packed, pack
from proteinlm.models.pretrained import save_pretrained
from proteinlm.tasks.task import Batch, Task, TaskModel, Window

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ESM_SHAPE = {
    "vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "hidden_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 100, "max_position_embeddings": 42, "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False,
}  # fmt: skip
SMALLEST_ESM = {
    **ESM_SHAPE, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip

SEQUENCES = ("MKTAYIAKQR", "GAVLIX", "WWDEEKR")


def random_packed(lengths: Sequence[int], seed: int = 0) -> Packed:
    """Proteins of `lengths` tokens of the ESM alphabet, amino acids alone, drawn by `seed`."""
    tokens = np.random.default_rng(seed).integers(4, 24, size=sum(lengths)).astype(np.uint8)
    return pack(tokens, np.array(lengths), get_alphabet("esm"))


def tiny_model(task: Task, **model: object) -> TaskModel:
    torch.manual_seed(0)
    return TaskModel(task, ProteinEncoder(ModelConfig(**expand_preset({"preset": "cpu-tiny", **model}))))


def make_window(
    columns: pa.Table, alphabet: str = "esm", starts: Sequence[int] | None = None, longest: int = 99, epoch: int = 0
) -> Window:
    """A window of the rows of `columns`, cropped to `longest` residues from `starts`."""
    sequences = columns.column("sequence").to_pylist()
    first = starts or [0] * len(sequences)
    cropped = [sequence[start : start + longest] for sequence, start in zip(sequences, first, strict=True)]
    tokens, lengths = get_alphabet(alphabet).encode(cropped)
    rows = np.arange(len(sequences), dtype=np.int64)
    kept = np.array(first, np.int32)
    return Window(tokens, lengths, rows, kept, columns.drop_columns(["sequence"]), get_alphabet(alphabet), 7, epoch)


def make_batch(task: Task, window: Window) -> Batch:
    tokens, labels = task.prepare(window)
    scored = task.count(labels, window.lengths.astype(np.int64))
    return Batch(
        pack(tokens, window.lengths, window.alphabet),
        torch.from_numpy(labels),
        tuple(window.rows.tolist()),
        num_scored=scored,
    )


def secondary_structure_table() -> pa.Table:
    """Labels are the residue's place modulo 3; one masked residue and one of unknown class in the first protein."""
    labels = [[i % 3 for i in range(len(sequence))] for sequence in SEQUENCES]
    mask = [[True] * len(sequence) for sequence in SEQUENCES]
    labels[0][4], mask[0][2] = -1, False
    types = {"ss3": pa.list_(pa.int8()), "valid_mask": pa.list_(pa.bool_())}
    columns = {"ss3": pa.array(labels, types["ss3"]), "valid_mask": pa.array(mask, types["valid_mask"])}
    return pa.table({"sequence": list(SEQUENCES), **columns})


def esm_model(kind: str = "EsmForMaskedLM", **changes: object) -> "PreTrainedModel":
    """A small random model of transformers' class `kind`, in evaluation mode; no weight of it is one or zero."""
    import transformers

    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, kind)(transformers.EsmConfig(**{**ESM_SHAPE, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def saved_esm(directory: Path, kind: str = "EsmForMaskedLM", **changes: object) -> "PreTrainedModel":
    """`esm_model`, and written to `directory` as transformers writes it."""
    model = esm_model(kind, **changes)
    model.save_pretrained(directory)
    return model


def esm_as_bin(directory: Path) -> Path:
    """A small ESM directory with its weights in pytorch_model.bin, which is returned."""
    directory.mkdir(parents=True)
    model = esm_model(**SMALLEST_ESM)
    model.config.save_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return directory / "pytorch_model.bin"


def saved_ours(directory: Path) -> Path:
    """A small pretrained directory of this program; its weights file is returned."""
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    save_pretrained(directory, encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {})
    return directory / "model.safetensors"


def padded(tokens: np.ndarray, lengths: np.ndarray, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Proteins one after the other as transformers takes them: token ids and attention mask, [B, L] each."""
    rows = torch.full((len(lengths), int(lengths.max())), pad_id)
    for row, part in enumerate(np.split(tokens, np.cumsum(lengths)[:-1])):
        rows[row, : len(part)] = torch.from_numpy(part.astype(np.int64))
    return rows, (rows != pad_id).long()


def small_pretrained(directory: Path) -> None:
    """Write a pretrained directory of one layer, with random weights."""
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    save_pretrained(directory, encoder, LanguageModelHead(encoder.config, encoder.token_embedding), {"run": "made"})

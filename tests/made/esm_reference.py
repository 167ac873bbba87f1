"""transformers' EsmForMaskedLM as it is trained at its fastest: on padded batches of similar lengths, and packed.

Packed: all proteins of a micro batch in one row [1, N], with positions that begin at 0 in each protein and an attention
function of ours, registered with transformers, that keeps them apart by cumulative lengths: `varlen_attn` on a GPU, one
call of torch's attention for each protein on a CPU. Token dropout counts mask tokens over a whole row, and ESM's tables
of learned positions begin at 2, so the packed form is for rotary models without token dropout.

Shapes: N tokens of a micro batch, H heads, d size of a head, B proteins, L tokens of the longest.
"""

import inspect
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, EsmForMaskedLM

from proteinlm.models.config import ModelConfig
from proteinlm.models.huggingface import esm_config
from proteinlm.tasks.task import Batch
from tests.made.batches import SPECIALS, PackedRow, Padded, packed_row
from tests.made.training_turns import Fed, Trained

PACKED = "proteinlm_packed"
"""Name of the attention function among transformers'."""


def esm(config: ModelConfig, device: str, attention: str) -> EsmForMaskedLM:
    """The model of transformers that computes what ours of `config` does, with random weights.

    ValueError for packed attention in a model with token dropout or learned positions.
    """
    torch.manual_seed(0)
    if attention == PACKED:
        if config.token_dropout or config.position == "learned":
            raise ValueError("packed: accepted is a model with rotary positions and without token dropout")
        AttentionInterface.register(PACKED, packed_attention)
    with torch.device(device):
        model = EsmForMaskedLM._from_config(esm_config(config), attn_implementation=attention).train()
    model.esm.contact_head.requires_grad_(False)  # masked language modelling does not train it
    assert isinstance(model, EsmForMaskedLM)
    return model


def trained(model: EsmForMaskedLM, precision: str, device: str) -> Trained:
    """The model in training, on batches that `padded_on` or `packed_on` gave."""
    return Trained(model, lambda batch: model(**batch).loss, precision, device)


def padded_on(batches: Sequence[Padded], device: str) -> list[Fed]:
    """The rectangles on the device, with their real residues; FLOPs are not counted."""
    return [
        (
            {name: tensor.to(device) for name, tensor in batch.items()},
            int(batch["attention_mask"].sum()) - SPECIALS * len(batch["labels"]),
            0,
        )
        for batch in batches
    ]


def packed_on(batches: Sequence[Batch], device: str) -> list[Fed]:
    """Our micro batches as rows on the device, with their real residues; FLOPs are not counted."""
    rows: list[tuple[PackedRow, int]] = [(packed_row(batch), batch.num_residues) for batch in batches]
    return [
        ({name: value.to(device) if isinstance(value, Tensor) else value for name, value in row.items()}, residues, 0)
        for row, residues in rows
    ]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """[1, H, N, d] three times -> attended [1, N, H, d]; transformers' form of an attention function."""
    assert attention_mask is None, "each protein attends to all of itself"
    tokens_first = [part[0].transpose(0, 1) for part in (query, key, value)]  # [N, H, d]
    attend = _by_kernel if has_kernel(query.device) else _protein_by_protein
    return attend(tokens_first, cu_seq_lens_q, max_length_q, scaling)[None], None


def has_kernel(device: torch.device) -> bool:
    """Whether torch's variable-length attention has a kernel there."""
    return device.type == "cuda"


def _by_kernel(parts: Sequence[Tensor], borders: Tensor, longest: int, scale: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = parts
    if scale is None:
        attended = varlen_attn(query, key, value, borders, borders, longest, longest)
    elif "scale" in inspect.signature(varlen_attn).parameters:
        attended = varlen_attn(query, key, value, borders, borders, longest, longest, scale=scale)
    else:  # an older torch divides by sqrt(d) in any case
        query = query * (scale * query.shape[-1] ** 0.5)
        attended = varlen_attn(query, key, value, borders, borders, longest, longest)
    assert isinstance(attended, Tensor)  # more than one only where more is asked for
    return attended


def _protein_by_protein(parts: Sequence[Tensor], borders: Tensor, longest: int, scale: float | None) -> Tensor:
    proteins = zip(*(part.split(borders.diff().tolist()) for part in parts), strict=True)
    heads_first = ([part.transpose(0, 1) for part in protein] for protein in proteins)
    return torch.cat([F.scaled_dot_product_attention(*each, scale=scale).transpose(0, 1) for each in heads_first])

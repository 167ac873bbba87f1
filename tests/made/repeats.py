"""A training of seconds that has something to learn: proteins of one repeated residue each, some residues masked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder
from proteinlm.models.packed import Packed, pack


def language_model(config: ModelConfig) -> tuple[ProteinEncoder, LanguageModelHead]:
    torch.manual_seed(0)
    encoder = ProteinEncoder(config)
    return encoder, LanguageModelHead(config, encoder.token_embedding)


def autocast(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype, enabled=dtype is not None)


@contextmanager
def seeded(seed: int) -> Iterator[np.random.Generator]:
    torch.manual_seed(seed)
    yield np.random.default_rng(seed)


def repeats(generator: np.random.Generator) -> tuple[Packed, Tensor, Tensor]:
    """Proteins of one repeated residue each: (micro batch, scored tokens, what they were)."""
    lengths = generator.integers(10, 30, size=8)
    tokens = np.repeat(generator.integers(4, 24, size=8), lengths).astype(np.uint8)
    scored = np.flatnonzero(generator.random(len(tokens)) < 0.15)
    masked = tokens.copy()
    masked[scored] = get_alphabet("esm").mask_id
    packed = pack(masked, lengths, get_alphabet("esm"))
    return packed, torch.from_numpy(scored), torch.from_numpy(tokens[scored].astype(np.int64))


def losses(
    dtype: torch.dtype | None, steps: int, seed: int = 0, prepare: Callable[[ProteinEncoder], None] = lambda _: None
) -> np.ndarray:
    """Loss of each step of a small model's training; `prepare` may change how its encoder computes."""
    config = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    encoder, head = language_model(config)
    prepare(encoder)
    parameters = dict.fromkeys([*encoder.parameters(), *head.parameters()])
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, fused=True)
    found = []
    with seeded(seed) as generator:
        for _ in range(steps):
            packed, scored, truth = repeats(generator)
            with autocast(dtype):
                loss = F.cross_entropy(head(encoder(packed)[scored]).float(), truth)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss.detach()))
    return np.array(found)

"""The protein encoder: token ids of a packed micro batch in, hidden states of every token out.

Pre-LayerNorm, as in the paper; with rotary positions it computes what ESM-2 does, with learned ones what ProteinLM (and
ESM-1b, its embedding LayerNorm aside) does.

Shapes: N tokens of the micro batch, D hidden, V rows of the token table.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from proteinlm.models.attention import Rotation, rotation
from proteinlm.models.config import ModelConfig
from proteinlm.models.layers import EncoderLayer
from proteinlm.models.packed import Packed


class ProteinEncoder(nn.Module):
    """Embedding, layers, final LayerNorm; freshly made weights are drawn from torch's global generator."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.position_embedding = (
            nn.Embedding(config.max_positions, config.hidden_size) if config.position == "learned" else None
        )
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.apply(partial(initialise, deviation=config.initial_deviation))
        self._shrink_output_projections()

    def forward(self, packed: Packed) -> Tensor:
        """Hidden states [N, D] after the final LayerNorm.

        Raises ValueError where learned positions do not reach to the end of a protein.
        """
        hidden: Tensor = self.token_embedding(packed.tokens)
        angles: Rotation | None = None
        if self.position_embedding is None:
            angles = rotation(packed.longest, self.config.head_size, packed.tokens.device)
        else:
            self._check_positions(packed)
            hidden = hidden + self.position_embedding(packed.positions)
        if self.training and self.config.dropout > 0.0:
            hidden = F.dropout(hidden, self.config.dropout)
        for layer in self.layers:
            if self.config.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, packed, angles, use_reentrant=False)
            else:
                hidden = layer(hidden, packed, angles)
        final: Tensor = self.final_norm(hidden)
        return final

    def _check_positions(self, packed: Packed) -> None:
        if packed.longest > self.config.max_positions:
            raise ValueError(
                f"a protein has {packed.longest} tokens (special tokens counted), but the model has learned positions "
                f"for max_positions = {self.config.max_positions}; crop the protein or use position: rotary"
            )

    def _shrink_output_projections(self) -> None:
        """Both projections into the residual stream start smaller, so that its variance does not grow with depth."""
        deviation = self.config.initial_deviation / math.sqrt(2 * self.config.num_hidden_layers)
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            nn.init.normal_(layer.attention.output.weight, std=deviation)
            nn.init.normal_(layer.feed_forward.output.weight, std=deviation)


def initialise(module: nn.Module, deviation: float) -> None:
    """The paper's start for a module's own weights: N(0, deviation), biases zero, LayerNorm the identity."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=deviation)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)

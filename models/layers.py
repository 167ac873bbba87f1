"""One pre-LayerNorm layer of the encoder on an unpadded stream.

Shapes: N tokens of the micro batch, D hidden, M width of the MLP.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from proteinlm.models.attention import Rotation, attend
from proteinlm.models.config import ModelConfig
from proteinlm.models.packed import Packed


class SelfAttention(nn.Module):
    """Each protein attends to itself: [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, packed: Packed, angles: Rotation | None) -> Tensor:
        """`angles` None leaves queries and keys as they are (learned positions)."""
        qkv: Tensor = self.qkv(hidden)
        attended = attend(qkv, packed, angles, self.num_heads, self.dropout if self.training else 0.0)
        output: Tensor = self.output(attended)
        return output


class FeedForward(nn.Module):
    """GELU MLP: [N, D] -> [N, M] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gelu = "tanh" if config.gelu == "tanh" else "none"
        self.expand = nn.Linear(config.hidden_size, config.mlp_size)
        self.output = nn.Linear(config.mlp_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        output: Tensor = self.output(F.gelu(self.expand(hidden), approximate=self.gelu))
        return output


class EncoderLayer(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)): the paper's pre-LayerNorm layer, [N, D] -> [N, D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, packed: Packed, angles: Rotation | None) -> Tensor:
        """[N, D] -> [N, D]."""
        hidden = hidden + self._drop(self.attention(self.attention_norm(hidden), packed, angles))
        return hidden + self._drop(self.feed_forward(self.feed_forward_norm(hidden)))

    def _drop(self, part: Tensor) -> Tensor:
        # F.dropout with p = 0 still draws and multiplies on a CPU
        return F.dropout(part, self.dropout) if self.training and self.dropout > 0.0 else part

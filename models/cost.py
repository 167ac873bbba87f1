"""What a model costs: parameters, model FLOPs of its forward and training pass, bytes of memory in training.

Model FLOPs are what must be computed, whatever an implementation adds to it.

A multiply-add counts as two operations. Padding and recomputation are not work, so they do not count: flash attention,
attention groups and activation checkpointing do not change these numbers. LayerNorm, GELU, softmax, rotary positions
and the embedding are left out, as usual (below one percent).

Sources: Kaplan et al. 2020 (arXiv 2001.08361), table 1; Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B,
whose per-token formula holds for one sequence length; here the attention of each protein has its own length. Memory:
Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1 for the 16 bytes of a parameter and section 5 for what a
stage shares; Korthikanti et al. 2022 (arXiv 2205.05198), equation 2, for activations.

Shapes: N tokens of the micro batch, L tokens of one protein, D hidden, M width of the MLP, V alphabet.
"""

from collections.abc import Sequence

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.config import ModelConfig

ADAM_BYTES = (4, 4, 8)
"""Of one parameter in fp32: weight, gradient, two moments."""
ACTIVATION_BYTES = 34
"""Of one token, layer and hidden unit in 16 bits, the attention matrix not kept."""


def forward_flops(config: ModelConfig, lengths: Sequence[int], num_scored: int = 0) -> int:
    """Model FLOPs of the forward pass over proteins of `lengths` [B] tokens, special tokens included.

    `num_scored` tokens go through the language model head; 0 counts the encoder alone.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = 4 * hidden * hidden + 2 * hidden * config.mlp_size  # of one layer: queries, keys, values, output; MLP
    linear = 2 * weights * sum(lengths)
    attention = 4 * hidden * sum(length * length for length in lengths)  # scores and weighted values, 2 L^2 D each
    head = 2 * hidden * (hidden + get_alphabet(config.alphabet).size) * num_scored
    return layers * (linear + attention) + head


def training_flops(config: ModelConfig, lengths: Sequence[int], num_scored: int = 0) -> int:
    """Model FLOPs of forward and backward pass: the gradient of each product is two more of the same size."""
    return 3 * forward_flops(config, lengths, num_scored)


def num_parameters(config: ModelConfig) -> int:
    """Parameters of the encoder and the language model head, the tied token table counted once."""
    hidden, mlp, vocab = config.hidden_size, config.mlp_size, config.padded_vocab_size
    attention = 4 * hidden * hidden + 4 * hidden
    layer = attention + 2 * hidden * mlp + mlp + hidden + 4 * hidden  # the last: two LayerNorms
    positions = config.max_positions * hidden if config.position == "learned" else 0
    head = hidden * hidden + 3 * hidden + vocab
    return config.num_hidden_layers * layer + 2 * hidden + vocab * hidden + positions + head


def training_bytes(
    config: ModelConfig, tokens: int, *, workers: int = 1, zero_stage: int = 0, is_fp32: bool = False
) -> float:
    """Bytes of one worker in training with Adam: weights, gradients, both moments (fp32), and activations.

    `tokens` of a micro batch; of `workers` that share what ZeRO's `zero_stage` shares. `is_fp32`: activations have 32
    bits and not 16. Attention matrices are not kept; with activation checkpointing neither are layers but one.
    """
    weights, gradients, moments = ADAM_BYTES
    shared = (0, moments, moments + gradients, moments + gradients + weights)[zero_stage]
    of_state = num_parameters(config) * (sum(ADAM_BYTES) - shared + shared / workers)
    layers = 1 if config.activation_checkpointing else config.num_hidden_layers
    return of_state + (2 if is_fp32 else 1) * ACTIVATION_BYTES * layers * config.hidden_size * tokens

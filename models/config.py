"""The shape of a model as a frozen value, its presets, and what it costs: parameters, model FLOPs, bytes of memory.

Presets carry the ten configurations of the paper's Table 7 and the released 200M model with the paper's own choices,
five of ESM-2 with ESM-2's, and small rotary ones for machines without an accelerator.

Model FLOPs are what must be computed, whatever an implementation adds to it. A multiply-add counts as two operations.
Padding and recomputation do not count: flash attention, attention groups and activation checkpointing do not change
these numbers. LayerNorm, GELU, softmax, rotary positions and the embedding are left out, as usual (below one percent).

Sources: Kaplan et al. 2020 (arXiv 2001.08361), table 1; Chowdhery et al. 2022 (PaLM, arXiv 2204.02311), appendix B,
whose per-token formula holds for one sequence length; here the attention of each protein has its own length. Memory:
Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1 for the 16 bytes of a parameter and section 5 for what a
stage shares; Korthikanti et al. 2022 (arXiv 2205.05198), equation 2, for activations.

Shapes: B proteins.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from proteinlm.models.alphabet import get_alphabet

CNN_NAME = "convolution"
"""Name of the model of mode cnn in result rows, unchanged so that rows of earlier runs stay comparable."""

LATER_FIELDS = frozenset({"token_dropout", "embedding_norm"})
"""Fields that are written only where they are true: models, runs and sweeps from before they existed keep their hashes
and are still found the same."""

MOST_LAYERS = 1_000
"""Every layer is a handful of Python objects before a weight is read: 1,000 take a second, 10^7 would take hours. The
deepest published protein model has 48 (ESM-2 of 15 billion); raise it here for a deeper one."""
MOST_PARAMETERS = 10**12
"""4 terabytes in fp32, sixty times the largest published protein model. A width or table of positions beyond it is a
slip or an attack, and is better named than met as a lack of memory; raise it here for a larger model."""


class ModelConfig(BaseModel):
    """What an encoder and its language model head are built from."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    preset: str | None = None
    """Where the values came from, kept for tables; it was expanded before (`expand_preset`)."""
    alphabet: str = "esm"
    """esm (33 tokens), tape (30) or proteinlm (31)."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_hidden_layers: int = Field(gt=0)
    """Layers of the encoder."""
    num_attention_heads: int = Field(gt=0)
    """Attention heads of a layer; they divide `hidden_size`."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width of the MLP; None is 4 x hidden_size."""
    position: Literal["learned", "rotary"] = "rotary"
    """learned: a table of positions added to the tokens (the paper, ESM-1b); rotary: in attention (ESM-2)."""
    max_positions: int = Field(default=2176, gt=0)
    """Tokens of the longest protein, special tokens counted; only learned positions have this limit."""
    token_dropout: bool = False
    """ESM's: embeddings of mask tokens are zero, and those of a protein's other tokens are scaled up by the share of
    its mask tokens (models/encoder.py: `token_dropout_scale`), in training and in scoring."""
    embedding_norm: bool = False
    """A LayerNorm after the embedding of tokens and positions, as in ESM-1b (there: emb_layer_norm_before)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """After the embedding, on attention weights and after both parts of a layer."""
    layer_norm_eps: float = Field(default=1e-5, gt=0.0, le=1.0)
    """LayerNorm's term that keeps its division finite."""
    initializer_range: float = Field(default=0.02, gt=0.0, le=1e30)
    """Standard deviation of random weights; projections into the residual stream start smaller by sqrt(2 x layers)."""
    vocab_multiple: int = Field(default=1, gt=0)
    """The token table is padded to a multiple of this; the padding is never an input nor a logit."""
    gelu: Literal["exact", "tanh"] = "exact"
    """GELU of the MLP (the language model head's is always exact, as in the paper)."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""

    @model_validator(mode="before")
    @classmethod
    def _names_of_today(cls, values: object) -> object:
        return renamed(values) if isinstance(values, Mapping) else values

    @model_serializer(mode="wrap")
    def _without_later_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in LATER_FIELDS or value is not False}

    @field_validator("alphabet")
    @classmethod
    def _known_alphabet(cls, name: str) -> str:
        return get_alphabet(name).name

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"num_attention_heads ({_size(self.num_attention_heads)}) must divide hidden_size "
                f"({_size(self.hidden_size)})"
            )
        if self.position == "rotary" and self.head_size % 2 != 0:
            raise ValueError(
                f"rotary positions need an even head size, found hidden_size {_size(self.hidden_size)} / "
                f"num_attention_heads {_size(self.num_attention_heads)} = {_size(self.head_size)}; or take position: "
                "learned"
            )
        return self

    @model_validator(mode="after")
    def _can_be_held(self) -> "ModelConfig":
        if self.num_hidden_layers > MOST_LAYERS:
            raise ValueError(f"num_hidden_layers is {_size(self.num_hidden_layers)}; accepted: up to {MOST_LAYERS:,}")
        if num_parameters(self) > MOST_PARAMETERS:
            sizes = {
                "hidden_size": self.hidden_size,
                "intermediate_size": self.mlp_size,
                "max_positions": self.max_positions,
                "vocab_multiple": self.vocab_multiple,
            }
            found = ", ".join(f"{name} {_size(size)}" for name, size in sizes.items())
            raise ValueError(f"{found} make more parameters than a model has; accepted: up to {MOST_PARAMETERS:,}")
        return self

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def mlp_size(self) -> int:
        """Width of the MLP, the default filled in."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the token table: the alphabet's size rounded up to `vocab_multiple`."""
        return -(-get_alphabet(self.alphabet).size // self.vocab_multiple) * self.vocab_multiple


def _size(number: int) -> str:
    """A number of a few digits, however many it has."""
    return str(number) if number < 10**15 else "10^15 or more"


_PAPER: Mapping[str, object] = {
    "alphabet": "proteinlm",
    "position": "learned",
    "max_positions": 2176,
    "vocab_multiple": 128,
    "dropout": 0.1,
    "gelu": "tanh",
    "layer_norm_eps": 1e-12,
}
"""ProteinLM's choices, read in its code (pretrain/megatron and the released launch scripts)."""

TABLE_7: tuple[tuple[int, int, int], ...] = (
    (512, 32, 8),
    (768, 12, 6),
    (768, 16, 16),
    (768, 16, 24),
    (1024, 12, 16),
    (1024, 12, 32),
    (2048, 12, 16),
    (2048, 24, 16),
    (2048, 24, 8),
    (3072, 24, 16),
)
"""(hidden_size, num_hidden_layers, num_attention_heads) of Xiao et al. 2021, Table 7."""

TABLE_7_SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {f"hidden-{hidden}-layer-{layers}-head-{heads}": (hidden, layers, heads) for hidden, layers, heads in TABLE_7}
)
"""The same by the paper's names."""

_ESM_2: Mapping[str, object] = {"token_dropout": True, "max_positions": 1024}
"""ESM-2's choices (facebook's config.json) where they are not the defaults: those are ESM-2's, its 33 tokens too."""

ESM_2_SHAPES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "esm2-8m": (320, 6, 20),
        "esm2-35m": (480, 12, 20),
        "esm2-150m": (640, 30, 20),
        "esm2-650m": (1280, 33, 20),
        "esm2-3b": (2560, 36, 40),
    }
)
"""(hidden_size, num_hidden_layers, num_attention_heads) of Lin et al. 2022."""


def _shape(hidden: int, layers: int, heads: int) -> dict[str, object]:
    return {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}


PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "cpu-tiny": _shape(64, 2, 2),
        "cpu-small": _shape(128, 2, 4),
        "cpu": {**_shape(256, 2, 4), "initializer_range": 0.05},
        "proteinlm-200m": {**_PAPER, **_shape(1024, 16, 16)},
        **{name: {**_PAPER, **_shape(*shape)} for name, shape in TABLE_7_SHAPES.items()},
        **{name: {**_ESM_2, **_shape(*shape)} for name, shape in ESM_2_SHAPES.items()},
    }
)
"""Values of `ModelConfig` by preset name."""


EARLIER_NAMES: Mapping[str, str] = MappingProxyType({"initial_deviation": "initializer_range"})
"""Name of a value in files of earlier versions -> today's."""


def renamed(values: Mapping[str, object]) -> dict[str, object]:
    """`values` of a `ModelConfig` under today's names. ValueError where a value stands under both names."""
    both = [f"{old} and {new}" for old, new in EARLIER_NAMES.items() if old in values and new in values]
    if both:
        raise ValueError(f"found {both[0]}, two names of one value; accepted: {both[0].split()[-1]}")
    return {EARLIER_NAMES.get(name, name): value for name, value in values.items()}


def expand_preset(values: Mapping[str, object]) -> dict[str, object]:
    """`values` over those of their `preset`, if they name one; the name stays, so expanding twice changes nothing.

    Raises ValueError with the near name for an unknown preset.
    """
    values = renamed(values)
    preset = values.get("preset")
    if preset is None:
        return values
    if not isinstance(preset, str) or preset not in PRESETS:
        near = get_close_matches(str(preset), PRESETS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown model preset {repr(preset)[:60]}{hint}; accepted: {', '.join(PRESETS)}")
    return {**PRESETS[preset], **values}


def shape_name(config: ModelConfig) -> str:
    """The paper's name of an architecture (Table 7)."""
    return f"hidden-{config.hidden_size}-layer-{config.num_hidden_layers}-head-{config.num_attention_heads}"


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
    norms = 2 * hidden * (2 if config.embedding_norm else 1)  # of all layers' output, and of the embedding
    head = hidden * hidden + 3 * hidden + vocab
    return config.num_hidden_layers * layer + norms + vocab * hidden + positions + head

"""The modes of finetuning: which weights each one starts from, and what it trains.

    mode      encoder               starts from                trains
    full      transformer           pretrained weights         encoder and head
    frozen    transformer           pretrained weights         head, on embeddings computed once
    lora      transformer           pretrained weights         head and low-rank adapters
    scratch   transformer           random weights             encoder and head
    cnn       small convolutional   random weights             encoder and head
    probe     transformer           pretrained weights         nothing: a regression is fitted on its attention maps
    baseline  none                  -                          nothing: the task's baselines are fitted on the records

Everything that treats modes differently asks this table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Mode = Literal["full", "frozen", "lora", "scratch", "cnn", "probe", "baseline"]


@dataclass(frozen=True)
class ModeFacts:
    """What a mode means for a run."""

    encoder: Literal["transformer", "cnn"] | None
    """None: the run has no network at all."""
    is_pretrained: bool
    """Whether the weights come from a pretrained directory, which then must be given."""
    is_trained: bool
    """Whether a network is trained, in optimizer steps and with a seed; else something is fitted once for a task."""
    trains_encoder: bool
    """Whether gradients pass through the encoder; adapters in it count."""


MODES: Mapping[str, ModeFacts] = {
    "full": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=True),
    "frozen": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=False),
    "lora": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=True),
    "scratch": ModeFacts("transformer", is_pretrained=False, is_trained=True, trains_encoder=True),
    "cnn": ModeFacts("cnn", is_pretrained=False, is_trained=True, trains_encoder=True),
    "probe": ModeFacts("transformer", is_pretrained=True, is_trained=False, trains_encoder=False),
    "baseline": ModeFacts(None, is_pretrained=False, is_trained=False, trains_encoder=False),
}
"""By name, in the order of the table above."""

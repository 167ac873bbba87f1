"""What a sweep found, as values: one line for each configuration, as in the paper's Table 7.

    run directories -> gather.py -> SweepResults -> text.py, page.py, pictures.py

A line is a configuration in one finetuning mode, its seeds pooled. Baselines are lines of their own. The paper's
figures stand apart and are never ranked with ours.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

MASKED_LANGUAGE_MODELING = "masked_language_modeling"


@dataclass(frozen=True)
class Column:
    """One figure of the table: which rows it is made of, and how it is written."""

    title: str
    task: str
    split: str
    metric: str
    larger_is_better: bool = True

    @property
    def is_downstream(self) -> bool:
        """Whether it is a figure of finetuning."""
        return self.task != MASKED_LANGUAGE_MODELING


COLUMNS: tuple[Column, ...] = (
    Column("P@L/5", "contact_prediction", "test", "precision_l5_sep6"),
    Column("P@L/2", "contact_prediction", "test", "precision_l2_sep6"),
    Column("P@L", "contact_prediction", "test", "precision_l_sep6"),
    Column("P@L/5, paper's count", "contact_prediction", "test", "paper_precision_l5"),
    Column("fluorescence", "fluorescence", "test", "spearman"),
    Column("RH", "remote_homology", "test_fold_holdout", "accuracy"),
    Column("SS Q3", "secondary_structure_q3", "cb513", "accuracy"),
    Column("SS Q8", "secondary_structure_q8", "cb513", "accuracy"),
    Column("stability", "stability", "test", "spearman"),
    Column("valid loss", MASKED_LANGUAGE_MODELING, "valid", "loss", larger_is_better=False),
    Column("valid perplexity", MASKED_LANGUAGE_MODELING, "valid", "perplexity", larger_is_better=False),
    Column("holdout loss", MASKED_LANGUAGE_MODELING, "holdout", "loss", larger_is_better=False),
    Column("holdout perplexity", MASKED_LANGUAGE_MODELING, "holdout", "perplexity", larger_is_better=False),
)
"""The paper's eight figures in its order, contacts also counted as the paper does, then those of pretraining."""


@dataclass(frozen=True)
class Figure:
    """One figure over its seeds."""

    value: float
    """Mean over seeds."""
    spread: float | None
    """Standard deviation over seeds; None of one seed."""
    num_seeds: int


Device = Literal["core", "gpu"]
State = Literal["finished", "incomplete", "halted", "failed"]
"""incomplete: pretraining is done, and a finetuning trial failed; or trials have not ended. The remarks say which."""


@dataclass(frozen=True)
class ConfigurationResult:
    """One line: what a configuration is, what it cost, and what came of it."""

    name: str
    """Such as hidden-512-layer-32-head-8, with what else tells it from others (`extras`); of a baseline, its name."""
    mode: str
    """How it was finetuned; "-" where there was no finetuning."""
    like: str | None
    """The configuration of the paper that it stands for."""
    hidden_size: int
    """0 of a baseline or a convolutional network, as are the next three."""
    num_hidden_layers: int
    num_attention_heads: int
    parameters: int
    """Of encoder and language model head; 0 also where the paper does not say."""
    training_flops: float | None
    """Model FLOPs of the pretraining that was done; of several seeds, their mean."""
    residues: int | None
    """Residues seen in pretraining; of several seeds, their mean."""
    device_hours: float | None
    """Of pretraining and finetuning together, each device counted, over all seeds."""
    figures: dict[Column, Figure] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """Why something is missing: trials that failed, were halted, or have not run."""
    state: State = "finished"
    pretraining: str = ""
    """Configuration of the pretraining trials: lines of equal ones are the same model finetuned otherwise; "" where
    nothing was pretrained in this sweep."""
    is_baseline: bool = False
    extras: str = ""
    """What the name says beside the shape."""


@dataclass(frozen=True)
class SweepResults:
    """The table of a sweep and all that must be read with it."""

    name: str
    lines: tuple[ConfigurationResult, ...]
    """In the plan's order, then baselines."""
    paper: tuple[ConfigurationResult, ...]
    """The paper's Table 7 for the configurations that lines stand for; never ranked."""
    columns: tuple[Column, ...]
    """Those that a line has, or that a trial was to fill."""
    unranked: tuple[Column, ...]
    """Those whose figures were not all measured alike."""
    device: Device
    """What `device_hours` count."""
    notes: tuple[str, ...]
    paper_notes: tuple[str, ...]
    """How the paper's definitions differ; none without lines of the paper."""
    is_simulated: bool = False

    def best(self, column: Column) -> frozenset[int]:
        """Places in `lines` of the best figures of `column`; none where fewer than two models compete."""
        if column in self.unranked:
            return frozenset()
        found = {place: line.figures[column].value for place, line in enumerate(self.lines) if column in line.figures}
        values = {place: value for place, value in found.items() if not math.isnan(value)}
        rivals = {place if column.is_downstream else self.lines[place].pretraining for place in values}
        if len(rivals) < 2:
            return frozenset()
        top = max(values.values()) if column.larger_is_better else min(values.values())
        return frozenset(place for place, value in values.items() if math.isclose(value, top, rel_tol=1e-9))

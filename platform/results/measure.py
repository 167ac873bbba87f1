"""From the per-protein columns of a split to result rows: values with definition, interval, counts and floor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from proteinlm.models.config import ModelConfig
from proteinlm.models.masking import context_free_floor
from proteinlm.platform.data.manifest import Manifest, Split
from proteinlm.platform.results.rows import ResultRow
from proteinlm.tasks.masked_language_modeling import scored_masking
from proteinlm.tasks.metrics import evaluate
from proteinlm.tasks.task import Columns, Metric, Task


@dataclass(frozen=True)
class Measured:
    """What all rows of a run have in common: which model was measured."""

    run: str
    kind: Literal["pretrain", "finetune", "baseline"]
    model: str
    mode: str
    seed: int
    code_version: str
    architecture: ModelConfig | None = None
    """Of the encoder, for the shape in the rows; None where there is no encoder."""
    configuration: str | None = None
    """Name shared by runs that differ only in their seed; None: the name of the run."""
    parameters: int | None = None
    steps: int | None = None
    residues: int | None = None
    settings: dict[str, object] | None = None
    longest_scored: int | None = None
    """Residues from which on a protein was cut before it was scored; None: none was."""


def measure(
    who: Measured,
    task: Task,
    manifest: Manifest,
    scores: Mapping[str, Columns],
    floors: Mapping[str, Mapping[str, float]] | None = None,
) -> list[ResultRow]:
    """A result row for each split of `scores` (split -> per-protein columns) and each metric of `task`.

    `floors`: split -> metric -> value of a model without context. `manifest` says which data were scored.
    """
    return [
        _row(who, task, manifest, split, columns, (floors or {}).get(split, {}), metric)
        for split, columns in scores.items()
        for metric in task.metrics
    ]


def _row(
    who: Measured,
    task: Task,
    manifest: Manifest,
    split: str,
    columns: Columns,
    floors: Mapping[str, float],
    metric: Metric,
) -> ResultRow:
    score = evaluate(metric, columns)
    shape = who.architecture
    return ResultRow(
        run=who.run,
        configuration=who.configuration or who.run,
        kind=who.kind,
        model=who.model,
        hidden_size=shape.hidden_size if shape else None,
        num_hidden_layers=shape.num_hidden_layers if shape else None,
        num_attention_heads=shape.num_attention_heads if shape else None,
        mode=who.mode,
        seed=who.seed,
        code_version=who.code_version,
        parameters=who.parameters,
        steps=who.steps,
        residues=who.residues,
        settings=who.settings,
        task=task.name,
        split=split,
        metric=metric.name,
        definition=metric.definition + _cut(who, manifest.split(split)),
        value=score.value,
        low=_known(score.low),
        high=_known(score.high),
        num_proteins=score.num_proteins,
        num_scored=score.num_scored,
        unit=metric.unit,
        larger_is_better=metric.larger_is_better,
        is_main=metric.is_main,
        floor=floors.get(metric.name),
        data_hash=manifest.split(split).content_hash,
        mask_seed=manifest.split(split).mask_seed if floors else None,
        split_rule=split_rule(manifest, split),
        is_simulated=manifest.is_simulated,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _cut(who: Measured, split: Split) -> str:
    """The end of a definition where proteins of the split were too long for the model; "" where none was."""
    if who.longest_scored is None or split.longest <= who.longest_scored:
        return ""
    return f"; of every protein the first {who.longest_scored:,} residues alone, which are all of it in the above"


def split_rule(manifest: Manifest, split: str) -> str:
    """How the proteins of `split` were chosen, in words."""
    rule = str(manifest.settings.get("split_rule", "as the data set's files say"))
    read, kept = manifest.counts.get(f"{split}_read", 0), manifest.split(split).rows
    if "max_test_examples" in manifest.settings and read > kept:
        rule += f", of its {read:,} proteins those {kept:,} whose SHA-256 comes first"
    return rule


def language_model_floors(manifest: Manifest, split: str, options: Mapping[str, float]) -> dict[str, float]:
    """Metric of masked language modelling -> the best value that a model without context can reach on `split`.

    `options`: those of the task, which say how residues are masked. Losses are in nats.
    """
    floor = context_free_floor(manifest.split(split).residue_counts, scored_masking(options))
    return {"loss": floor.training_mix, "masked_loss": floor.masked, "perplexity": math.exp(floor.training_mix)}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value

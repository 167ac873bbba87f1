"""From the run directories of a sweep to its table, whatever of it is done.

trials -> runs and groups (runs.py) -> lines with figures over seeds -> SweepResults with its notes
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from proteinlm.models.config import TABLE_7_SHAPES
from proteinlm.models.cost import num_parameters
from proteinlm.platform.results.rows import ResultRow
from proteinlm.sweeps.planning.plan import Trial
from proteinlm.sweeps.results.runs import Group, Run, make_groups, read_run, remarks_of, state_of
from proteinlm.sweeps.results.table7 import column_notes, cost_notes, measures, paper_figures, paper_notes, seed_note
from proteinlm.sweeps.results.values import (
    COLUMNS,
    MASKED_LANGUAGE_MODELING,
    Column,
    ConfigurationResult,
    Device,
    Figure,
    SweepResults,
)

BASELINE = "baseline"
WATCHED_SPLITS = ("train", "valid")


def gather_results(trials: Sequence[Trial], directory: Path, flops_per_residue: Mapping[str, float]) -> SweepResults:
    """The table of the sweep whose run directories are `<directory>/<trial name>`.

    `flops_per_residue`: name of a pretraining trial -> model FLOPs of training for one residue. ValueError for a file
    of a run directory that cannot be read.
    """
    runs = {trial.name: read_run(trial, directory / trial.name) for trial in trials}
    rows = [row for run in runs.values() for row in run.rows]
    tasks = {run.task if run.trial.verb == "finetune" else MASKED_LANGUAGE_MODELING for run in runs.values()}
    columns = tuple(found for column in COLUMNS if (found := _measured_column(column, rows, tasks)))
    device: Device = "gpu" if any("gpu" in run.seconds for run in runs.values()) else "core"
    lines = [
        _line(group, columns, flops_per_residue, device, runs)
        for group in make_groups([run for run in runs.values() if run.mode != BASELINE])
    ]
    lines += _baseline_lines([run for run in runs.values() if run.mode == BASELINE], columns)
    paper = _paper_lines(lines)
    of_column = {column: [row for row in rows if _is_of(row, column)] for column in columns}
    return SweepResults(
        name=directory.name,
        lines=tuple(lines),
        paper=paper,
        columns=columns,
        unranked=tuple(column for column, of_this in of_column.items() if len(measures(of_this)) > 1),
        device=device,
        notes=(
            *column_notes({column.title: of_this for column, of_this in of_column.items()}),
            seed_note(_seeds(runs, "pretrain"), _seeds(runs, "finetune")),
            *cost_notes(device, [line.pretraining for line in lines if line.pretraining]),
        ),
        paper_notes=paper_notes({line.like: line.name for line in lines if line.like}) if paper else (),
        is_simulated=any(row.is_simulated for row in rows),
    )


def _seeds(runs: Mapping[str, Run], verb: str) -> list[int]:
    found = {run.trial.config.seed for run in runs.values() if run.trial.verb == verb and run.mode != BASELINE}
    return sorted(found)


def _is_of(row: ResultRow, column: Column) -> bool:
    return (row.task, row.split, row.metric) == (column.task, column.split, column.metric)


def _measured_column(column: Column, rows: Sequence[ResultRow], tasks: set[str]) -> Column | None:
    """`column` where a row fills it or a trial is to; of its task's own test split where the data have another one."""
    alike = [row for row in rows if (row.task, row.metric) == (column.task, column.metric)]
    if any(row.split == column.split for row in alike):
        return column
    if not any(row.task == column.task for row in rows):
        return column if column.task in tasks else None
    others = [row.split for row in alike if row.split not in WATCHED_SPLITS]
    if not others or not column.is_downstream:
        return None
    return replace(column, split=others[0], title=f"{column.title} on {others[0]}")


def _figures(rows: Sequence[ResultRow], columns: Sequence[Column]) -> dict[Column, Figure]:
    """The figure of every column that has rows, over its seeds."""
    figures = {}
    for column in columns:
        values = [row.value for row in rows if _is_of(row, column)]
        if values:
            figures[column] = Figure(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
    return figures


def _line(
    group: Group, columns: Sequence[Column], flops: Mapping[str, float], device: Device, runs: Mapping[str, Run]
) -> ConfigurationResult:
    before = group.used_pretraining
    model = None if group.mode == "cnn" else (group.pretraining or group.finetuning)[0].model
    residues = {run.trial.name: row.residues for run in before for row in run.rows if row.residues is not None}
    spent = [flops[name] * seen for name, seen in residues.items() if name in flops]
    held = [run.seconds for run in group.runs if run.seconds]
    return ConfigurationResult(
        name=group.name,
        mode=group.mode,
        extras=group.extras,
        like=group.pretraining[0].trial.like if group.pretraining else None,
        hidden_size=model.hidden_size if model else 0,
        num_hidden_layers=model.num_hidden_layers if model else 0,
        num_attention_heads=model.num_attention_heads if model else 0,
        parameters=num_parameters(model) if model else 0,
        training_flops=fmean(spent) if spent else None,
        residues=round(fmean(residues.values())) if residues else None,
        device_hours=sum(seconds.get(device, 0.0) for seconds in held) / 3600 if held else None,
        figures=_figures([row for run in group.runs for row in run.rows], columns),
        remarks=remarks_of(group, runs),
        state=state_of(group),
        pretraining=before[0].trial.configuration if before else "",
    )


def _baseline_lines(runs: Sequence[Run], columns: Sequence[Column]) -> list[ConfigurationResult]:
    """A line for each baseline that has a figure of a column, and one for what is missing."""
    of_model: dict[str, list[ResultRow]] = {}
    for row in (row for run in runs for row in run.rows):
        of_model.setdefault(row.model, []).append(row)
    lines = [_baseline_line(name, figures=_figures(rows, columns)) for name, rows in of_model.items()]
    lines = [line for line in lines if line.figures]
    group = Group("baselines", BASELINE, [], list(runs))
    remarks = remarks_of(group, {})
    if remarks:
        lines.append(replace(_baseline_line(group.name, {}), remarks=remarks, state=state_of(group)))
    return lines


def _baseline_line(name: str, figures: dict[Column, Figure]) -> ConfigurationResult:
    return ConfigurationResult(name, BASELINE, None, 0, 0, 0, 0, None, None, None, figures, is_baseline=True)


def _paper_lines(lines: Sequence[ConfigurationResult]) -> tuple[ConfigurationResult, ...]:
    """The paper's lines for what `lines` stand for, or are by name, in their order."""
    table = paper_figures()
    wanted = dict.fromkeys(line.like or line.name for line in lines)
    return tuple(_paper_line(name, table[name]) for name in wanted if name in table)


def _paper_line(name: str, values: Mapping[str, float]) -> ConfigurationResult:
    figures = {column: Figure(values[column.title], None, 1) for column in COLUMNS if column.title in values}
    return ConfigurationResult(name, "full", None, *TABLE_7_SHAPES[name], 0, None, None, None, figures)

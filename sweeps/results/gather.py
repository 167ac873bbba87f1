"""From the run directories of a sweep to its results and its table; works while trials are missing.

trials -> runs and groups (runs.py) -> gather_results: lines with values over seeds, notes -> sweep_table: a Table
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from proteinlm.models.config import TABLE_7_SHAPES, num_parameters
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.tables import Cell, Column, Fact, FactColumn, Line, Table, measure_of, pool
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.results.runs import (
    ConfigurationResult,
    Device,
    Group,
    Run,
    SweepResults,
    make_groups,
    read_run,
    remarks_of,
    state_of,
)
from proteinlm.sweeps.results.table7 import COLUMNS, column_notes, cost_notes, paper_notes, paper_values, seed_note
from proteinlm.tasks.masked_language_modeling import NAME as MASKED_LANGUAGE_MODELING

BASELINE = "baseline"
WATCHED_SPLITS = ("train", "valid")
PAPER_HEADING = "The paper's Table 7 (Xiao et al. 2021): DEFINITIONS DIFFER, single runs, never ranked with the above"
SIMULATED = "SIMULATED PROTEINS: the values are of made-up data and say nothing about real proteins"
CAPTION = "Best of a column in bold; mean ± standard deviation over seeds; a number in brackets is a remark."
SHAPE = ("hidden_size", "num_hidden_layers", "num_attention_heads")
FACTS = (FactColumn("source"), FactColumn("mode", "mode"), *map(FactColumn, ("like", "state", *SHAPE, "pretraining")))


def gather_results(trials: Sequence[Trial], directory: Path, flops_per_residue: Mapping[str, float]) -> SweepResults:
    """The results of the sweep of `trials`, from their run directories `<directory>/<trial name>`.

    `flops_per_residue`: name of a pretraining trial -> model FLOPs of training per residue. Raises ValueError for a
    file of a run directory that cannot be read.
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
        unranked=tuple(column for column, of_this in of_column.items() if len(set(map(measure_of, of_this))) > 1),
        device=device,
        notes=(
            *column_notes(of_column),
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
    """`column` if a row fills it or a trial will (`tasks` are those of all trials); else None.

    Where the data have a test split of another name, the column of that split, which its title says.
    """
    alike = [row for row in rows if (row.task, row.metric) == (column.task, column.metric)]
    if any(row.split == column.split for row in alike):
        return column
    if not any(row.task == column.task for row in rows):
        return column if column.task in tasks else None
    others = [row.split for row in alike if row.split not in WATCHED_SPLITS]
    if not others or not column.is_downstream:
        return None
    return replace(column, split=others[0], title=f"{column.title} on {others[0]}")


def _values(rows: Sequence[ResultRow], columns: Sequence[Column]) -> dict[Column, Cell]:
    """Column -> value over seeds, of the columns that have rows."""
    found = {column: [row for row in rows if _is_of(row, column)] for column in columns}
    return {column: pool(of_seeds) for column, of_seeds in found.items() if of_seeds}


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
        values=_values([row for run in group.runs for row in run.rows], columns),
        remarks=remarks_of(group, runs),
        state=state_of(group),
        pretraining=before[0].trial.configuration if before else "",
    )


def _baseline_lines(runs: Sequence[Run], columns: Sequence[Column]) -> list[ConfigurationResult]:
    """A line for each baseline that has a value, and one with remarks if baseline runs are missing."""
    of_model: dict[str, list[ResultRow]] = {}
    for row in (row for run in runs for row in run.rows):
        of_model.setdefault(row.model, []).append(row)
    lines = [_baseline_line(name, _values(rows, columns)) for name, rows in of_model.items()]
    lines = [line for line in lines if line.values]
    group = Group("baselines", BASELINE, [], list(runs))
    remarks = remarks_of(group, {})
    if remarks:
        lines.append(replace(_baseline_line(group.name, {}), remarks=remarks, state=state_of(group)))
    return lines


def _baseline_line(name: str, values: dict[Column, Cell]) -> ConfigurationResult:
    return ConfigurationResult(name, BASELINE, None, 0, 0, 0, 0, None, None, None, values, is_baseline=True)


def _paper_lines(lines: Sequence[ConfigurationResult]) -> tuple[ConfigurationResult, ...]:
    """The paper's lines of the configurations that `lines` stand for or are themselves, in their order."""
    table = paper_values()
    wanted = dict.fromkeys(line.like or line.name for line in lines)
    return tuple(_paper_line(name, table[name]) for name in wanted if name in table)


def _paper_line(name: str, values: Mapping[str, float]) -> ConfigurationResult:
    cells = {column: Cell(values[column.title]) for column in COLUMNS if column.title in values}
    return ConfigurationResult(name, "full", None, *TABLE_7_SHAPES[name], 0, None, None, None, cells)


def sweep_table(results: SweepResults) -> Table:
    """`results` as a table: one line for each configuration and baseline, and below them the paper's lines."""
    hours = "GPU-hours" if results.device == "gpu" else "core-hours"
    return Table(
        title=f"Sweep {results.name}{' (SIMULATED PROTEINS)' if results.is_simulated else ''}",
        subject="configuration",
        facts=FACTS,
        columns=results.columns,
        costs=(
            FactColumn("parameters", "parameters", "count"),
            FactColumn("training_flops", "training FLOPs", "power"),
            FactColumn("residues", "residues", "count"),
            FactColumn(f"{results.device}_hours", hours, "hours"),
            FactColumn("simulated_proteins"),
        ),
        lines=tuple(_table_lines(results)),
        notes=results.notes,
        more_notes={"The paper's values": results.paper_notes} if results.paper_notes else {},
        caption=CAPTION,
        warning=SIMULATED if results.is_simulated else "",
        is_brief=True,
    )


def _table_lines(results: SweepResults) -> Iterator[Line]:
    """Our lines, with the best of each column marked, then the paper's."""
    best = {column: results.best(column) for column in results.columns}
    for index, line in enumerate(results.lines):
        cells = {
            column: (replace(cell, is_best=index in best[column]),)
            for column, cell in line.values.items()
            if column in best
        }
        state = () if line.state == "finished" else (line.state,)
        facts = _facts(line, results) | {"source": "measured", "simulated_proteins": results.is_simulated}
        yield Line(line.name, facts, cells, state, line.remarks)
    for line in results.paper:
        cells = {column: (cell,) for column, cell in line.values.items() if column in best}
        facts = _facts(line, results) | {"source": "paper", "simulated_proteins": False}
        yield Line(line.name, facts, cells, is_published=True, heading=PAPER_HEADING)


def _facts(line: ConfigurationResult, results: SweepResults) -> dict[str, Fact]:
    """Shape and costs of a line; None for what it does not have."""
    return {
        **{name: getattr(line, name) for name in ("mode", "like", "state", "training_flops", "residues")},
        **{key: getattr(line, key) or None for key in (*SHAPE, "parameters", "pretraining")},
        f"{results.device}_hours": line.device_hours,
    }

"""Tables of result rows: which rows may be compared, and which of those is best.

    rows of runs (rows.gather_rows), published_rows -> make_tables -> a Table for each task

The best is marked among at least two values of equal measure (see tables.py).

Published values (tasks/published.py) become rows too. One whose definition is that of a metric of ours carries that
metric's own definition; any other says in its definition how it differs. A published row has no data hash: it stands
below ours where its definition is that of a row of ours, and is ranked with ours where it also has the same split and
as many proteins. All other published rows are a table of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.tables import (
    PUBLISHED,
    Cell,
    Column,
    FactColumn,
    Line,
    Measure,
    Sample,
    Table,
    best_value,
    data_note,
    measure_of,
    pool,
)
from proteinlm.tasks.catalog import TASKS, build_task
from proteinlm.tasks.published import PublishedFigure, PublishedMeasure, published_figures

_KINDS = ("baseline", "pretrain", "finetune", PUBLISHED)  # order of the lines


def make_tables(rows: Sequence[ResultRow]) -> tuple[Table, ...]:
    """A table of the main metrics for each task; tasks, splits and metrics in the order of their first row.

    Rows that belong to seeds of one configuration share a line. A metric that is not a main one is shown where a
    published row has the same definition. Published rows of other definitions form a second table of their task.
    """
    published = {_known_by(row) for row in rows if row.kind == PUBLISHED}
    rows = [row for row in rows if row.is_main or _known_by(row) in published]
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [row for row in rows if row.task == task]
        ours = {_known_by(row) for row in of_task if row.kind != PUBLISHED}
        beside = [row for row in of_task if _known_by(row) in ours]
        apart = [row for row in of_task if _known_by(row) not in ours]
        tables += [_make_table(task, beside, is_apart=False)] if beside else []
        other = f"{task}: {PUBLISHED}" + (", other definitions" if beside else "")
        tables += [_make_table(other, apart, is_apart=True)] if apart else []
    return tuple(tables)


def _known_by(row: ResultRow) -> tuple[str, str, str]:
    """The task, the metric and how it is defined, whatever the data."""
    return row.task, row.metric, row.definition


def _make_table(title: str, rows: Sequence[ResultRow], *, is_apart: bool) -> Table:
    """The table of `rows` of one task; `is_apart`: all of them are published, as the title says."""
    columns = {
        (row.split, row.metric): Column(
            f"{row.split}\n{row.metric}", row.task, row.split, row.metric, row.larger_is_better
        )
        for row in rows
    }
    ordered = sorted(rows, key=lambda row: list(columns).index((row.split, row.metric)))
    definitions: dict[tuple[str, str], str] = {}
    data: dict[Sample, str] = {}
    for row in ordered:
        what, on_what = measure_of(row)
        if row.kind != PUBLISHED or what not in definitions:
            definitions[what] = f"{row.metric}: {row.definition}" + f"; n counts {row.unit}" * (row.kind != PUBLISHED)
        data[on_what] = data_note(row)
    numbers = {what: str(number) for number, what in enumerate(definitions, 1)}
    letters = {on_what: _letters(index) for index, on_what in enumerate(data)}
    marks = {(what, on_what): f"[{numbers[what]}{letters[on_what]}]" for what, on_what in map(measure_of, rows)}
    runs: dict[tuple[str, str, str, str], list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: _KINDS.index(row.kind)):
        runs.setdefault((row.kind, row.model, row.mode, row.configuration), []).append(row)
    best = _best_values(list(runs.values()))
    return Table(
        title=title + _simulated(list(runs.values())),
        subject="model",
        facts=(FactColumn("parameters", "parameters", "amount"), FactColumn("mode", "mode"), FactColumn("run", "run")),
        columns=tuple(columns.values()),
        lines=tuple(_line(run, columns, best, marks, is_apart=is_apart) for run in runs.values()),
        notes=(
            *(f"[{numbers[what]}] {note}" for what, note in definitions.items()),
            *(f"[{letters[on_what]}] {note}" for on_what, note in data.items()),
        ),
    )


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _simulated(runs: Sequence[Sequence[ResultRow]]) -> str:
    """The end of a title where runs (published ones do not count) are on simulated proteins; else ""."""
    said = [any(row.is_simulated for row in run) for run in runs if run[0].kind != PUBLISHED]
    return f" ({'simulated proteins' if all(said) else 'some on simulated proteins'})" if any(said) else ""


def _best_values(runs: Sequence[Sequence[ResultRow]]) -> dict[Measure, float | None]:
    """The best value (mean over seeds) of each measure; None where fewer than two values may be compared.

    A published value competes under every measure of ours that it may be compared with, and counts as the best only
    where it is the best under all of them.
    """
    means: dict[Measure, list[float]] = {}
    of_measure: dict[Measure, list[ResultRow]] = {}
    for run in runs:
        for measure, of_seeds in _by_measure(run).items():
            means.setdefault(measure, []).append(pool(of_seeds).value)
            of_measure.setdefault(measure, []).extend(of_seeds)
    ours = [measure for measure, rows in of_measure.items() if rows[0].kind != PUBLISHED]
    rivals = {
        measure: [other for other in ours if _may_be_ranked(rows, of_measure[other])]
        for measure, rows in of_measure.items()
        if rows[0].kind == PUBLISHED
    }
    best: dict[Measure, float | None] = {}
    for measure in ours:
        theirs = [value for other, under in rivals.items() if measure in under for value in means[other]]
        larger_is_better = of_measure[measure][0].larger_is_better
        best[measure] = best_value(means[measure] + theirs, larger_is_better=larger_is_better)
    for measure, under in rivals.items():
        to_reach = {best[other] for other in under}
        best[measure] = to_reach.pop() if len(to_reach) == 1 else None
    return best


def _may_be_ranked(published: Sequence[ResultRow], ours: Sequence[ResultRow]) -> bool:
    """Whether all rows have one split, metric, definition and number of proteins, and none is of simulated ones."""
    asked = {(row.split, row.metric, row.definition, row.num_proteins) for row in (*published, *ours)}
    return len(asked) == 1 and published[0].num_proteins > 0 and not any(row.is_simulated for row in ours)


def _line(
    rows: Sequence[ResultRow],
    columns: Mapping[tuple[str, str], Column],
    best: Mapping[Measure, float | None],
    marks: Mapping[Measure, str],
    *,
    is_apart: bool,
) -> Line:
    """The line of one configuration; `marks`: measure -> reference to its notes."""
    cells: dict[Column, tuple[Cell, ...]] = dict.fromkeys(columns.values(), ())
    for measure, of_seeds in _by_measure(rows).items():
        cell = pool(of_seeds)
        cell = replace(cell, note=marks[measure], is_best=cell.value == best[measure])
        cells[columns[of_seeds[0].split, of_seeds[0].metric]] += (cell,)
    first = rows[0]
    parameters = next((row.parameters for row in rows if row.parameters is not None), None)
    kind = [first.kind] * (first.kind in {"baseline", PUBLISHED} and not is_apart)
    return Line(
        name=first.model,
        facts={"parameters": parameters, "mode": first.mode, "run": first.configuration},
        cells=cells,
        qualifiers=(*kind, *["simulated"] * any(row.is_simulated for row in rows)),
        is_published=first.kind == PUBLISHED,
    )


def _by_measure(rows: Iterable[ResultRow]) -> dict[Measure, list[ResultRow]]:
    found: dict[Measure, list[ResultRow]] = {}
    for row in rows:
        found.setdefault(measure_of(row), []).append(row)
    return found


def published_rows(tasks: Iterable[str]) -> list[ResultRow]:
    """All published values (tasks/published.py) on `tasks` as rows; none for a task without published values."""
    wanted = set(tasks) & TASKS.keys()
    return [_row(each) for each in published_figures() if each.measure.task in wanted]


def _row(published: PublishedFigure) -> ResultRow:
    measure = published.measure
    return ResultRow(
        run=published.table,
        kind="published",
        model=published.model,
        mode=published.mode,
        parameters=published.parameters,
        task=measure.task,
        split=measure.split,
        metric=measure.metric,
        definition=_definition(measure),
        value=published.value,
        deviation=published.deviation,
        num_seeds=published.seeds,
        larger_is_better=True,
        num_proteins=measure.num_proteins or 0,
        num_scored=measure.num_proteins or 0,
        unit="proteins",
        seed=0,
        data_hash="-",
        split_rule="; ".join(filter(None, (published.source, measure.caveat))),
        code_version="-",
        created=f"{published.year}-01-01T00:00:00+00:00",
    )


def _definition(measure: PublishedMeasure) -> str:
    """The definition of our metric where it is the same, else the source's, and how it differs."""
    if measure.comparable_with is None:
        return f"{measure.definition}. Not as ours: {measure.difference}"
    metrics = {metric.name: metric.definition for metric in build_task(measure.task).metrics}
    return metrics[measure.comparable_with]

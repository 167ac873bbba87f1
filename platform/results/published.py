"""Published figures (tasks/published.py) as result rows, so that they stand in the same tables as measured ones.

A figure whose definition is that of a metric of ours carries that metric's own definition: compare.py puts it beside
ours, and ranks it with ours where as many proteins were scored. Any other says in its definition how it differs.
"""

from collections.abc import Iterable

from proteinlm.platform.results.store import ResultRow
from proteinlm.tasks.catalog import TASKS, build_task
from proteinlm.tasks.published import PublishedFigure, PublishedMeasure, published_figures


def published_rows(tasks: Iterable[str]) -> list[ResultRow]:
    """The published rows of `tasks`; none for a task that nobody published figures of."""
    wanted = set(tasks) & TASKS.keys()
    return [_row(figure) for figure in published_figures() if figure.measure.task in wanted]


def _row(figure: PublishedFigure) -> ResultRow:
    measure = figure.measure
    return ResultRow(
        run=figure.table,
        kind="published",
        model=figure.model,
        mode=figure.mode,
        parameters=figure.parameters,
        task=measure.task,
        split=measure.split,
        metric=measure.metric,
        definition=_definition(measure),
        value=figure.value,
        deviation=figure.deviation,
        num_seeds=figure.seeds,
        larger_is_better=True,
        num_proteins=measure.num_proteins or 0,
        num_scored=measure.num_proteins or 0,
        unit="proteins",
        seed=0,
        data_hash="-",
        split_rule="; ".join(filter(None, (figure.source, measure.caveat))),
        code_version="-",
        created=f"{figure.year}-01-01T00:00:00+00:00",
    )


def _definition(measure: PublishedMeasure) -> str:
    """That of our metric, or how the source measured and what is different there."""
    if measure.comparable_with is None:
        return f"{measure.definition}. Not as ours: {measure.difference}"
    metrics = {metric.name: metric.definition for metric in build_task(measure.task).metrics}
    return metrics[measure.comparable_with]

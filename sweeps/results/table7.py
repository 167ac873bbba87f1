"""The paper's Table 7: its columns, the notes to our values, and its own values (from tasks/published.py).

rows of a column  -> note: what is measured, on which data           seeds -> note: what the values are means over
published Table 7 -> {configuration: {column title: value}}, and notes: how its definitions differ from ours
"""

from collections.abc import Mapping, Sequence

from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.tables import Column, data_note, measure_of
from proteinlm.tasks.contact_prediction import NAME as CONTACTS
from proteinlm.tasks.masked_language_modeling import NAME as MASKED_LANGUAGE_MODELING
from proteinlm.tasks.published import PublishedFigure, PublishedMeasure, published_figures

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
"""The paper's eight metrics in its order (contacts also as the paper counts them), then those of pretraining."""
VALID_LOSS = next(column for column in COLUMNS if column.title == "valid loss")
PAPER_TABLE = "ProteinLM Table 7"
PAPER_COUNT = "P@L/5, paper's count"
"""Title of our column that counts contacts as the paper does."""
_CONTACT_TITLES = {"paper_precision_l5": "P@L/5", "P@L/2": "P@L/2", "P@L": "P@L"}
_TITLES = {
    "fluorescence": "fluorescence",
    "remote_homology": "RH",
    "secondary_structure_q3": "SS Q3",
    "secondary_structure_q8": "SS Q8",
    "stability": "stability",
}
"""Task -> title of its column in the paper."""


def column_notes(columns: Mapping[Column, Sequence[ResultRow]]) -> list[str]:
    """A note for each column with rows: definition, split and data; or that its values were not measured alike."""
    notes = []
    for column, rows in columns.items():
        ways = {measure_of(row): _measured(row) for row in rows}
        if len(ways) > 1:
            said = "; or: ".join(ways.values())
            notes.append(f"{column.title}: NOT ALL MEASURED ALIKE, so none is marked as best: {said}")
        elif ways:
            notes.append(f"{column.title}: {next(iter(ways.values()))}")
    return notes


def _measured(row: ResultRow) -> str:
    return f"{row.metric} of {row.task}: {row.definition}. Split {data_note(row)}"


def seed_note(pretraining: Sequence[int], finetuning: Sequence[int]) -> str:
    """The note that says over which seeds values are means."""
    said = [
        f"{verb} seed{'s' * (len(set(seeds)) > 1)} {', '.join(map(str, sorted(set(seeds))))}"
        for verb, seeds in (("pretraining", pretraining), ("finetuning", finetuning))
        if seeds
    ]
    return f"Values are means over seeds, ± their sample standard deviation ({'; '.join(said) or 'no seeds'})"


def cost_notes(device: str, pretraining: Sequence[str]) -> list[str]:
    """Notes on the columns of costs; `pretraining`: configuration of the pretraining of each line that has one."""
    hours = (
        f"{'GPU' if device == 'gpu' else 'core'}-hours: of pretraining and finetuning over all seeds, a killed attempt "
        "until its last sign of life; baselines are not counted"
    )
    if device == "gpu":
        hours += ", nor is what ran without a GPU"
    if len(set(pretraining)) < len(pretraining):
        hours += "; the pretraining that several lines share counts in each of them"
    counted = (
        "training FLOPs (of the model, without recomputation) and residues: of pretraining; of several seeds, the mean"
    )
    return [counted, hours]


def paper_values() -> dict[str, dict[str, float]]:
    """Configuration -> column title -> value of the paper's Table 7, in its order.

    Its P@L/5 is there twice: under that title and under `PAPER_COUNT`, our column with the same definition.
    """
    table: dict[str, dict[str, float]] = {}
    for each in _published():
        line = table.setdefault(each.model, {})
        line[_title(each.measure)] = each.value
        if each.measure.comparable_with and each.measure.task == CONTACTS:
            line[PAPER_COUNT] = each.value
    return table


def paper_notes(stand_ins: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on the paper's values: source, and for each column its definition and how it differs from ours.

    `stand_ins`: configuration of the paper -> ours that stands for it.
    """
    published = _published()
    notes = [f"{published[0].source}; single runs, no seeds. Definitions differ, so none is ranked with ours"]
    for title, measure in {_title(each.measure): each.measure for each in published}.items():
        caveat = f" ({measure.caveat})" if measure.caveat else ""
        if measure.comparable_with and measure.task == CONTACTS:
            alike = f"defined as our column {PAPER_COUNT}, where it stands too, and not as our {title}"
        elif measure.comparable_with:
            alike = "defined as ours, on the paper's data"
        else:
            alike = f"not as ours: {measure.difference}"
        notes.append(f"{title}: {measure.definition}; {alike}{caveat}")
    if stand_ins:
        notes.append("ours for the paper's: " + ", ".join(f"{own} for {name}" for name, own in stand_ins.items()))
    return tuple(notes)


def _published() -> list[PublishedFigure]:
    return [each for each in published_figures() if each.table == PAPER_TABLE]


def _title(measure: PublishedMeasure) -> str:
    """Title of the column of Table 7."""
    return _CONTACT_TITLES[measure.metric] if measure.task == CONTACTS else _TITLES[measure.task]

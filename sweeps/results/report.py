"""The report of a sweep in `<storage>/<name>/results`: its table in five forms, plots, and findings in words.

table.md .csv .tex .json   index.html   findings.txt   loss.png/.svg   shape.png/.svg   pretraining.png/.svg

The time that trials held devices has two parts. Training steps: residues / (residues/s) of each logged stretch of
metrics.jsonl, with waiting for data, without saving and validation. The rest: start, validation, scoring and saving.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from proteinlm.platform.results.table_export import to_csv, to_html, to_json, to_latex
from proteinlm.platform.results.table_text import to_markdown
from proteinlm.platform.results.tables import Table
from proteinlm.platform.storage.atomic import write_atomically
from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.platform.training.tracking import read_metrics
from proteinlm.sweeps.planning.config import SweepConfig
from proteinlm.sweeps.planning.cost import Cost
from proteinlm.sweeps.planning.plan import Plan
from proteinlm.sweeps.results.compute_optimal import fit_joint_law, measured_flops
from proteinlm.sweeps.results.effects import what_mattered
from proteinlm.sweeps.results.gather import gather_results, sweep_table
from proteinlm.sweeps.results.plots import plot_against_shape, plot_loss_against, plot_pretraining, pretrained_lines
from proteinlm.sweeps.results.runs import ConfigurationResult, SweepResults
from proteinlm.sweeps.results.scaling import PowerLaw, fit_power_law
from proteinlm.sweeps.results.table7 import VALID_LOSS
from proteinlm.sweeps.trials.trial_state import attempts, device_seconds

FOLDER = "results"
PAGE = "index.html"
FINDINGS = "findings.txt"
NO_ADVICE = "Which size on how many residues for a budget: this sweep does not say"
ONE_BY_ONE = "Metric by metric"
"""Heading of the details in findings.txt and on the page."""
FORMS: Mapping[str, Callable[[Table], str]] = {
    "table.md": to_markdown,
    "table.csv": to_csv,
    "table.tex": to_latex,
    "table.json": to_json,
}
SUFFIXES = (".png", ".svg")
Laws = tuple[PowerLaw | None, PowerLaw | None]


def write_report(config: SweepConfig, plan: Plan, costs: Mapping[str, Cost]) -> Path:
    """Write the whole report again from the run directories, with what the trials so far allow; returns its folder.

    `costs`: name of a pretraining trial -> its cost.
    """
    folder = config.directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    flops_per_residue = {name: cost.flops_per_residue for name, cost in costs.items()}
    results = gather_results(plan.trials, config.directory, flops_per_residue)
    laws, said_of_laws = fit_laws(results)
    ranked = [column for column in results.columns if column not in results.unranked]
    spent = device_time([config.directory / trial.name for trial in plan.trials])
    said_of_time = [spent] if spent else []
    mattered, one_by_one = what_mattered(results.lines, ranked)
    findings = [*said_of_laws, *_advice(config, costs, results), mattered, *said_of_time]
    plots = _draw(config, plan, results, laws, folder)
    table = sweep_table(results)
    for name, form in FORMS.items():
        write_atomically(folder / name, form(table))
    write_atomically(folder / FINDINGS, "\n\n".join([*findings, ONE_BY_ONE, *one_by_one]) + "\n")
    write_atomically(folder / PAGE, to_html(table.title, [table], findings, plots, {ONE_BY_ONE: one_by_one}))
    return folder


def fit_laws(results: SweepResults) -> tuple[Laws, list[str]]:
    """The laws of valid loss against training FLOPs and against parameters (None: not fitted), and both in words."""
    measured = _measured(results)
    laws: list[PowerLaw | None] = []
    said = []
    for name, symbol, values in (
        ("training FLOPs", "C", [line.training_flops or 0.0 for line in measured]),
        ("parameters", "N", [float(line.parameters) for line in measured]),
    ):
        try:
            law = fit_power_law(values, [line.values[VALID_LOSS].value for line in measured])
        except ValueError as error:
            laws.append(None)
            said.append(f"Valid loss against {name}: no law was fitted; {error}.")
        else:
            laws.append(law)
            said.append(f"Valid loss against {name} ({symbol}): {law.as_text(symbol)}.")
    return (laws[0], laws[1]), said if measured else []


def _measured(results: SweepResults) -> list[ConfigurationResult]:
    """The pretrained configurations whose valid loss and training FLOPs are known."""
    return [
        line
        for line in pretrained_lines(results.lines)
        if VALID_LOSS in line.values and math.isfinite(line.values[VALID_LOSS].value) and line.training_flops
    ]


def _advice(config: SweepConfig, costs: Mapping[str, Cost], results: SweepResults) -> list[str]:
    """For each budget the best model size and number of residues in words, or why the sweep does not say."""
    lines = _measured(results)
    if not lines:
        return []
    parameters = [float(line.parameters) for line in lines]
    residues = [float(line.residues or 0) for line in lines]
    flops = [line.training_flops or 0.0 for line in lines]
    finished = [name for name in costs if is_finished(config.directory / name)]
    held = sum(sum(device_seconds(config.directory / name).values()) for name in finished)
    if not held:  # a kill between a trial's rows and its mark
        return [f"{NO_ADVICE}; no pretraining trial is finished, so its speed is not known."]
    # Model FLOP/s of one device, everything counted that a trial held it for.
    rate = sum(costs[name].training_flops for name in finished) / held
    budgets = config.budgets or (10 * held / 3600,)
    said = []
    try:
        law = fit_joint_law(
            parameters,
            residues,
            [line.values[VALID_LOSS].value for line in lines],
            measured_flops(parameters, residues, flops),
        )
        for hours in budgets:
            advice = law.best(hours * 3600 * rate)
            said.append(f"A budget of {hours:.3g} {results.device}-hours at {rate:.2g} FLOP/s: {advice.as_text()}")
    except ValueError as error:
        said.append(f"{NO_ADVICE}; {error}.")
    return said


def _draw(config: SweepConfig, plan: Plan, results: SweepResults, laws: Laws, folder: Path) -> dict[str, Path]:
    """Draw the plots for which there are data, as PNG and SVG; returns caption -> SVG file."""
    curves = {
        trial.label: read_metrics(config.directory / trial.name)
        for trial in plan.trials
        if trial.verb == "pretrain" and not trial.config.seed
    }
    wanted: dict[str, tuple[str, Callable[[Path], Path]]] = {
        "loss": ("Valid loss against compute and size", lambda path: plot_loss_against(results, path, laws)),
        "shape": ("The tasks against depth, width and heads", lambda path: plot_against_shape(results, path)),
        "pretraining": (
            "Pretraining",
            partial(plot_pretraining, curves, is_simulated=results.is_simulated),
        ),
    }
    drawn = {}
    for name, (caption, draw) in wanted.items():
        for suffix in SUFFIXES:
            path = folder / f"{name}{suffix}"
            try:
                drawn[caption] = draw(path)
            except ValueError:  # nothing measured of it
                path.unlink(missing_ok=True)
    return drawn


def device_time(runs: Sequence[Path]) -> str | None:
    """A sentence on the device time of the trials with these run directories; None where no device was held.

    The wall time of a sweep that was interrupted includes its pauses.
    """
    spans = {run: attempts(run) for run in runs}
    everything = [span for found in spans.values() for span in found]
    held = sum(span.device_seconds for span in everything)
    if not held:
        return None
    wall = max(span.end for span in everything) - min(span.start for span in everything)
    stepping = sum(training_seconds(run) * found[0].devices for run, found in spans.items() if found)
    device = {"core": "cores", "gpu": "GPUs"}[everything[0].device]
    return (
        f"{len(runs)} trials in {wall / 60:.1f} min: {held / wall:.2f} {device} held on average, "
        f"{stepping / wall:.2f} of them in training steps ({stepping / held:.0%} of what was held)."
    )


def training_seconds(run_directory: Path) -> float:
    """Seconds that the run spent in training steps; steps that a resumed run repeated count once."""
    rows = [row for row in read_metrics(run_directory) if row.get("residues_per_s") and "residues" in row]
    seen = [0.0, *(row["residues"] for row in rows)]
    stretches = zip(pairwise(seen), rows, strict=True)
    return float(sum((now - before) / row["residues_per_s"] for (before, now), row in stretches))

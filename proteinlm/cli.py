"""The front door: `proteinlm VERB ...`. It may name every room, inside its functions, so that `--help` answers at once.

A wrong input is answered by one readable message and exit code 2, before any worker starts (errors.py). The verbs about
data, `corpus` and `tasks`, stand in cli_data.py, those about clusters in cli_cluster.py.
"""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteinlm.cli_cluster import add_cluster_verbs
from proteinlm.cli_data import corpus_app, tasks_app
from proteinlm.errors import FAILED, plain_errors
from proteinlm.platform.storage.phases import note, phase, process_start, tell_phases

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

app = typer.Typer(
    name="proteinlm",
    help="Pretrain, sweep and finetune protein language models on Ray, into one results table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(corpus_app, name="corpus")
app.add_typer(tasks_app, name="tasks")
plot_app = typer.Typer(help="Draw what runs found.", no_args_is_help=True)
app.add_typer(plot_app, name="plot")
add_cluster_verbs(app)

Settings = Annotated[
    list[str] | None, typer.Argument(help="Settings that change the file's, such as optimizer.learning_rate=1e-3.")
]
ConfigFile = Annotated[Path, typer.Argument(help="YAML file of settings.", metavar="CONFIG.yaml")]


@plot_app.command("contacts", epilog="Example: proteinlm plot contacts runs/first-contacts --split test")
def plot_contacts(
    run: Annotated[Path, typer.Argument(help="A finetuning run of contact_prediction.")],
    split: Annotated[str, typer.Option(help="Split whose predictions are drawn.")] = "test",
    protein: Annotated[
        list[str] | None, typer.Option(help="Id of a protein, several times for more; none: best, median and worst.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pictures; none: RUN/contact_maps.")] = None,
) -> None:
    """Contact maps as PNG and SVG: truth above the diagonal, prediction below, P@L/5 in the title."""
    with plain_errors() as console:
        from proteinlm.platform.results.contact_map import plot_contacts as draw

        for path in draw(run, split, protein or (), out):
            console.print(str(path), soft_wrap=True)


@app.command(epilog="Example: proteinlm pretrain platform/configs/pretrain-cpu.yaml corpus=data/pfam name=first")
def pretrain(config: ConfigFile, settings: Settings = None) -> None:
    """Pretrain a model on a corpus; the same command again goes on where the run stopped."""
    with plain_errors() as console:
        with importing():
            from proteinlm.platform.pretrain import pretrain as run
            from proteinlm.platform.settings.config import PretrainConfig
            from proteinlm.platform.settings.loading import load_settings

        chosen = load_settings(PretrainConfig, config, settings or [])
        run(chosen, console)
        with phase("table"):
            show_table([chosen.directory], console)
        tell_phases(chosen.directory, console)


@app.command(
    epilog="Example: proteinlm plan platform/configs/pretrain-200m-v100.yaml --device V100-32 --price 3.06; or: "
    "proteinlm plan sweeps/table7.yaml --device V100-32 --gpus 64 --price 3.06"
)
def plan(
    config: ConfigFile,
    settings: Settings = None,
    device: Annotated[
        str, typer.Option(help="Kind of GPU: a name in platform/devices.yaml, or a file of that form with one.")
    ] = "V100-32",
    share: Annotated[float | None, typer.Option(help="Measured share of the device's peak; none: the table's.")] = None,
    gigabits: Annotated[float, typer.Option(help="Bandwidth of a worker, 10^9 bit/s.")] = 100.0,
    price: Annotated[float | None, typer.Option(help="Of a device for an hour.")] = None,
    length: Annotated[int, typer.Option(help="Tokens of a protein.")] = 256,
    gpus: Annotated[
        int | None, typer.Option(help="Devices that a sweep has; none: what its largest trial takes.")
    ] = None,
) -> None:
    """Memory, communication, hours and cost of a pretraining or a sweep on some kind of GPU, before it runs."""
    with plain_errors() as console:
        from proteinlm.platform.plan import Assumed, devices_with, show_plan
        from proteinlm.platform.settings.config import PretrainConfig
        from proteinlm.platform.settings.loading import load_settings
        from proteinlm.platform.settings.yaml_text import read_yaml

        name, table = devices_with(device)
        assumed = Assumed(name, share, gigabits, price, length)
        if {"pretrain", "tasks"} & read_yaml(config).keys():
            from proteinlm.sweeps.planning.on_devices import show_sweep
            from proteinlm.sweeps.planning.plan import load_sweep

            show_sweep(load_sweep(config, settings or []), assumed, table, gpus, console)
        elif gpus is not None:
            raise ValueError("--gpus is for sweeps; a run takes cluster.num_workers devices")
        else:
            show_plan(load_settings(PretrainConfig, config, settings or []), assumed, table, console)


@app.command(
    epilog="Example: proteinlm finetune platform/configs/finetune-cpu.yaml pretrained=runs/first/model "
    "data=data task=all name=first-tasks"
)
def finetune(config: ConfigFile, settings: Settings = None) -> None:
    """Finetune a model on a task or on all, in one mode or several, with the task's baselines beside it."""
    with plain_errors() as console:
        from proteinlm.platform.finetune import finetune as run
        from proteinlm.platform.settings.config import FinetuneConfig
        from proteinlm.platform.settings.loading import load_settings

        chosen = load_settings(FinetuneConfig, config, settings or [])
        if chosen.is_many:
            from proteinlm.sweeps.sweep import finetune_many

            end_trials(finetune_many(chosen, console), chosen.directory, console)
        else:
            show_table(run(chosen, console), console)


@app.command(
    epilog="Example: proteinlm sweep sweeps/heads.yaml pretrain.corpus=data/pfam finetune.data=data/tape --dry-run"
)
def sweep(
    config: ConfigFile,
    settings: Settings = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and stop.")] = False,
) -> None:
    """Run a sweep's pretraining and finetuning trials in parallel, into one table; the same command again goes on."""
    with plain_errors() as console:
        from proteinlm.sweeps.planning.plan import load_sweep
        from proteinlm.sweeps.sweep import sweep as run

        plan = load_sweep(config, settings or [])
        unfinished = run(plan, console, dry_run=dry_run)
        if not dry_run:
            end_trials(unfinished, plan.sweep.directory, console)


@app.command(epilog="Example: proteinlm table runs --format markdown > results.md")
def table(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    format: Annotated[str, typer.Option(help="terminal, markdown, latex, csv or json.")] = "terminal",
    published: Annotated[bool, typer.Option("--published", help="Add published figures of the same tasks.")] = False,
) -> None:
    """The results of runs as one table."""
    with plain_errors() as console:
        from proteinlm.platform.results.comparison import make_tables
        from proteinlm.platform.results.rows import gather_rows
        from proteinlm.platform.results.table_export import rows_to_csv, rows_to_json, to_latex
        from proteinlm.platform.results.table_text import render, to_markdown

        of_tables, of_rows = {"markdown": to_markdown, "latex": to_latex}, {"csv": rows_to_csv, "json": rows_to_json}
        writers = [*of_tables, *of_rows]
        if format != "terminal" and format not in writers:
            raise ValueError(f"--format: found {format!r}; accepted: terminal, {', '.join(writers)}")
        rows = gather_rows(runs)
        if published:
            from proteinlm.platform.results.comparison import published_rows

            rows += published_rows(row.task for row in rows)
        if format == "terminal":
            render(make_tables(rows), console)
        elif format in of_rows:
            sys.stdout.write(of_rows[format](rows))
        else:
            sys.stdout.write(of_tables[format](*make_tables(rows)))


@app.command(epilog="Example: proteinlm settings pretrain")
def settings(
    verb: Annotated[str | None, typer.Argument(help="corpus, pretrain, finetune or sweep; none: all.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page docs/settings.md.")] = False,
) -> None:
    """All settings of a verb: what each takes, its default and what it means."""
    with plain_errors() as console:
        from proteinlm.platform.settings.reference import settings_of, to_markdown, to_terminal

        models = settings_models()
        if verb is not None and verb not in models:
            raise ValueError(f"settings: found {verb!r}; accepted: {', '.join(models)}")
        chosen = {name: model for name, model in models.items() if verb in (None, name)}
        if markdown:
            sys.stdout.write(to_markdown(chosen))
        else:
            for name, model in chosen.items():
                console.print(to_terminal(name, list(settings_of(model))))


@contextmanager
def importing() -> Iterator[None]:
    """Inside the body heavy modules are imported, which leave no garbage: looking for it takes a fifth of the time."""
    gc.disable()
    try:
        with phase("imports"):
            yield
    finally:
        gc.freeze()
        gc.enable()


def settings_models() -> dict[str, "type[BaseModel]"]:
    """The settings of each verb that takes CONFIG.yaml and key=value."""
    from proteinlm.platform.settings.config import CorpusConfig, FinetuneConfig, PretrainConfig
    from proteinlm.sweeps.planning.config import SweepConfig

    return {"corpus": CorpusConfig, "pretrain": PretrainConfig, "finetune": FinetuneConfig, "sweep": SweepConfig}


@app.command(epilog="Example: proteinlm demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
) -> None:
    """The whole road on simulated proteins, on this machine: corpus, pretraining, a sweep, the table and a picture."""
    with plain_errors() as console:
        from proteinlm.demo import run_demo

        run_demo(out, console)


def end_trials(failed: list[str], directory: Path, console: "Console") -> None:
    """Print the table of all trials in `directory`; exit code 1 where some failed."""
    show_table([directory], console)
    if failed:
        console.print(f"{len(failed)} trials did not finish: {', '.join(failed)}")
        raise typer.Exit(FAILED)


def show_table(runs: list[Path], console: "Console") -> None:
    """Print the result rows of `runs` as a table."""
    from proteinlm.platform.results.comparison import make_tables
    from proteinlm.platform.results.rows import gather_rows
    from proteinlm.platform.results.table_text import render

    render(make_tables(gather_rows(runs)), console)


def main() -> None:
    """Entry point of the console script."""
    # As cluster/connect.py does for workers: threads that wait by spinning starve other processes. Read with torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    note("Python's start", process_start())
    try:
        app()
    finally:
        gc.freeze()  # else the interpreter looks through all objects of all libraries several times as it ends

"""The front door: `proteinlm VERB ...`. The one file that may name every room, and does so inside its functions,
so that `--help` answers at once.

A wrong input is answered by one readable message and exit code 2, before any worker starts; PROTEINLM_TRACEBACK=1 shows
the traceback as well.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="proteinlm",
    help="Pretrain, sweep and finetune protein language models on Ray, into one results table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
corpus_app = typer.Typer(help="Make and examine a corpus of protein sequences.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
tasks_app = typer.Typer(help="Fetch and check the records of the TAPE tasks.", no_args_is_help=True)
app.add_typer(tasks_app, name="tasks")
plot_app = typer.Typer(help="Draw what runs found.", no_args_is_help=True)
app.add_typer(plot_app, name="plot")

Settings = Annotated[
    list[str] | None, typer.Argument(help="Settings that change the file's, such as optimizer.learning_rate=1e-3.")
]
ConfigFile = Annotated[Path, typer.Argument(help="YAML file of settings.", metavar="CONFIG.yaml")]

WRONG_INPUT = 2
FAILED = 1


@corpus_app.command(
    "build", epilog="Example: proteinlm corpus build Pfam-A.fasta.gz --clans Pfam-A.clans.tsv.gz --out data/pfam"
)
def corpus_build(
    sources: Annotated[list[Path], typer.Argument(help="FASTA (.gz), TAPE JSON lines (.gz) or TAPE LMDB directories.")],
    out: Annotated[Path, typer.Option(help="Directory to make.")],
    clans: Annotated[Path | None, typer.Option(help="Pfam-A.clans.tsv (.gz): the clan of each family.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle, the random split and the held-out families.")] = 0,
    valid_fraction: Annotated[float, typer.Option(help="Share of the proteins that are not held out.")] = 0.05,
    holdout_fraction: Annotated[
        float, typer.Option(help="Hold out seeded families and clans up to this share.")
    ] = 0.02,
    shard_rows: Annotated[int, typer.Option(help="Proteins of one shard.")] = 4096,
    max_reject_fraction: Annotated[float, typer.Option(help="Fail above this share of rejected records.")] = 0.01,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Mark the proteins as made up, in every figure.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="Ray address; empty: RAY_ADDRESS, else an embedded Ray.")] = None,
) -> None:
    """Clean, deduplicate, split and shuffle protein sequences into Parquet shards."""
    with plain_errors() as console:
        from proteinlm.platform.corpus.build import build_corpus

        manifest = build_corpus(
            sources,
            out,
            clans=clans,
            seed=seed,
            valid_fraction=valid_fraction,
            holdout_fraction=holdout_fraction,
            shard_rows=shard_rows,
            max_reject_fraction=max_reject_fraction,
            is_simulated=simulated,
            address=address,
        )
        console.print(", ".join(f"{name} {count:,}" for name, count in manifest.counts.items()))
        console.print(f"{out}: corpus {manifest.content_hash}")


@corpus_app.command("stats", epilog="Example: proteinlm corpus stats data/pfam")
def corpus_stats(directory: Annotated[Path, typer.Argument(help="A corpus directory.")]) -> None:
    """Counts, lengths, padding factors, floors and leakage of a corpus."""
    with plain_errors() as console:
        from proteinlm.platform.corpus.stats import corpus_stats as examine
        from proteinlm.platform.corpus.stats import render

        console.print(render(examine(directory)))


@tasks_app.command("fetch", epilog="Example: proteinlm tasks fetch stability contact_prediction --out data/tape")
def tasks_fetch(
    out: Annotated[Path, typer.Option(help="Folder for the tasks' folders.")],
    tasks: Annotated[
        list[str] | None, typer.Argument(help="Tasks or archives; none: all five, without pfam.", metavar="TASK")
    ] = None,
    flavour: Annotated[str, typer.Option(help="lmdb or json.")] = "lmdb",
    mirror: Annotated[
        list[str] | None,
        typer.Option(help="Address that holds data_pytorch/NAME.tar.gz, tried first; may be repeated."),
    ] = None,
) -> None:
    """Download TAPE's records; what broke off goes on where it stopped, what is there already is left."""
    with plain_errors() as console:
        from proteinlm.platform.labelled.tape_download import fetch_tape

        for folder in fetch_tape(tasks or [], out, flavour=flavour, mirrors=mirror or [], console=console):
            console.print(str(folder), soft_wrap=True)


@tasks_app.command("check", epilog="Example: proteinlm tasks check data/tape")
def tasks_check(
    directory: Annotated[Path, typer.Argument(help="TAPE's tree of tasks, or the folder of one task.")],
) -> None:
    """Check every record, and compare the counts with TAPE's; exit code 2 where a record is wrong."""
    with plain_errors() as console:
        from proteinlm.platform.labelled.task_check import show_check

        num_wrong = show_check(directory, console)
    if num_wrong:
        raise typer.Exit(WRONG_INPUT)


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
        from proteinlm.platform.pretrain import pretrain as run
        from proteinlm.platform.settings.config import PretrainConfig
        from proteinlm.platform.settings.loading import load_settings

        chosen = load_settings(PretrainConfig, config, settings or [])
        run(chosen, console)
        show_table([chosen.directory], console)


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
        from proteinlm.sweeps.planning.load import load_sweep
        from proteinlm.sweeps.sweep import sweep as run

        chosen = load_sweep(config, settings or [])
        unfinished = run(chosen, console, dry_run=dry_run)
        if not dry_run:
            end_trials(unfinished, chosen.directory, console)


@app.command(epilog="Example: proteinlm table runs --format markdown > results.md")
def table(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    format: Annotated[str, typer.Option(help="terminal, markdown, csv or json.")] = "terminal",
    published: Annotated[bool, typer.Option("--published", help="Add published figures of the same tasks.")] = False,
) -> None:
    """The results of runs as one table."""
    with plain_errors() as console:
        from proteinlm.platform.results.rows import gather_rows
        from proteinlm.platform.results.table_text import render, to_csv, to_json, to_markdown

        writers = {"markdown": to_markdown, "csv": to_csv, "json": to_json}
        if format != "terminal" and format not in writers:
            raise ValueError(f"--format: found {format!r}; accepted: terminal, {', '.join(writers)}")
        rows = gather_rows(runs)
        if published:
            from proteinlm.platform.results.tables import published_rows

            rows += published_rows(row.task for row in rows)
        if format == "terminal":
            render(rows, console)
        else:
            sys.stdout.write(writers[format](rows))


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
    from proteinlm.platform.results.rows import gather_rows
    from proteinlm.platform.results.table_text import render

    render(gather_rows(runs), console)


@contextmanager
def plain_errors() -> Iterator["Console"]:
    """Run the body with a console; what a user can mend is one message and exit code 2, a failed run exit code 1."""
    from rich.console import Console

    try:
        yield Console()
    except typer.Exit:  # a RuntimeError too, and already said
        raise
    except (ValueError, OSError) as error:
        _fail(error, WRONG_INPUT)
    except RuntimeError as error:
        _fail(error, FAILED)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from the newest checkpoint", err=True)
        raise typer.Exit(130) from None


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("PROTEINLM_TRACEBACK"):
        raise error
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(code) from None


def main() -> None:
    """Entry point of the console script."""
    app()

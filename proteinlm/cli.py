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
        from proteinlm.platform.data.corpus_build import build_corpus

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
        from proteinlm.platform.data.corpus_stats import corpus_stats as examine
        from proteinlm.platform.data.corpus_stats import render

        console.print(render(examine(directory)))


@app.command(epilog="Example: proteinlm pretrain platform/configs/pretrain-cpu.yaml corpus=data/pfam name=first")
def pretrain(config: ConfigFile, settings: Settings = None) -> None:
    """Pretrain a model on a corpus; the same command again goes on where the run stopped."""
    with plain_errors() as console:
        from proteinlm.platform.config import PretrainConfig
        from proteinlm.platform.pretrain import pretrain as run
        from proteinlm.platform.settings import load_settings

        chosen = load_settings(PretrainConfig, config, settings or [])
        run(chosen, console)
        show_table([chosen.directory], console)


@app.command(
    epilog="Example: proteinlm finetune platform/configs/finetune-cpu.yaml pretrained=runs/first/model "
    "data=data/secondary_structure name=first-q3"
)
def finetune(config: ConfigFile, settings: Settings = None) -> None:
    """Finetune a pretrained model on a task (modes full, frozen, scratch), or fit the task's baseline."""
    with plain_errors() as console:
        from proteinlm.platform.config import FinetuneConfig
        from proteinlm.platform.finetune import finetune as run
        from proteinlm.platform.settings import load_settings

        chosen = load_settings(FinetuneConfig, config, settings or [])
        run(chosen, console)
        show_table([chosen.directory], console)


@app.command(
    epilog="Example: proteinlm sweep sweeps/tiny.yaml pretrain.corpus=data/pfam finetune.data=data/secondary_structure"
)
def sweep(config: ConfigFile, settings: Settings = None) -> None:
    """Run a sweep's pretraining and finetuning trials in parallel, into one table."""
    with plain_errors() as console:
        from proteinlm.platform.settings import load_settings
        from proteinlm.sweeps.plan import SweepConfig
        from proteinlm.sweeps.sweep import sweep as run

        chosen = load_settings(SweepConfig, config, settings or [])
        failed = run(chosen, console)
        show_table([chosen.directory], console)
        if failed:
            console.print(f"{len(failed)} trials did not finish: {', '.join(failed)}")
            raise typer.Exit(FAILED)


@app.command(epilog="Example: proteinlm table runs --format markdown > results.md")
def table(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, or folders of them.")],
    format: Annotated[str, typer.Option(help="terminal, markdown, csv or json.")] = "terminal",
) -> None:
    """The results of runs as one table."""
    with plain_errors() as console:
        from proteinlm.platform.results.store import gather_rows
        from proteinlm.platform.results.table import to_csv, to_json, to_markdown

        writers = {"markdown": to_markdown, "csv": to_csv, "json": to_json}
        if format == "terminal":
            show_table(runs, console)
        elif format in writers:
            sys.stdout.write(writers[format](gather_rows(runs)))
        else:
            raise ValueError(f"--format: found {format!r}; accepted: terminal, {', '.join(writers)}")


@app.command(epilog="Example: proteinlm demo --out runs/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("runs/demo"),
) -> None:
    """The whole road on simulated proteins, on this machine: corpus, pretraining, a sweep, the table and a picture."""
    with plain_errors() as console:
        from proteinlm.demo import run_demo

        run_demo(out, console)


def show_table(runs: list[Path], console: "Console") -> None:
    """Print the result rows of `runs` as a table."""
    from proteinlm.platform.results.store import gather_rows
    from proteinlm.platform.results.table import render

    render(gather_rows(runs), console)


@contextmanager
def plain_errors() -> Iterator["Console"]:
    """Run the body with a console; what a user can mend is one message and exit code 2, a failed run exit code 1."""
    from rich.console import Console

    try:
        yield Console()
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

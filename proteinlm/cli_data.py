"""The verbs about data: `proteinlm corpus ...` and `proteinlm tasks ...`."""

from pathlib import Path
from typing import Annotated

import typer

from proteinlm.errors import WRONG_INPUT, plain_errors

corpus_app = typer.Typer(help="Make and examine a corpus of protein sequences.", no_args_is_help=True)
tasks_app = typer.Typer(help="Fetch and check the records of the TAPE tasks.", no_args_is_help=True)


@corpus_app.command(
    "build",
    epilog="Example: proteinlm corpus build Pfam-A.fasta.gz --clans Pfam-A.clans.tsv.gz --out data/pfam, or "
    "proteinlm corpus build platform/configs/corpus-pfam.yaml out=data/pfam valid_fraction=0.01",
    context_settings={"ignore_unknown_options": True},
)
def corpus_build(
    arguments: Annotated[
        list[str],
        typer.Argument(
            help="A YAML file of settings; FASTA or TAPE JSON lines (plain, .gz, .bz2, .xz, .zst) or TAPE LMDB "
            "directories; settings, such as valid_fraction=0.1 (or --valid-fraction 0.1). `proteinlm settings corpus` "
            "lists them.",
            metavar="[CONFIG.yaml] [SOURCE]... [key=value]...",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Directory to make.")] = None,
    clans: Annotated[Path | None, typer.Option(help="Pfam-A.clans.tsv (.gz): the clan of each family.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the shuffle, the random split and the held-out families.")
    ] = None,
    simulated: Annotated[
        bool, typer.Option("--simulated", help="Mark the proteins as made up, in every result.")
    ] = False,
    address: Annotated[str | None, typer.Option(help="Ray address; empty: RAY_ADDRESS, else an embedded Ray.")] = None,
) -> None:
    """Clean, deduplicate, split and shuffle protein sequences into Parquet shards."""
    with plain_errors() as console:
        from proteinlm.platform.corpus.build import build_corpus
        from proteinlm.platform.corpus.scratch import REJECTS_FILE, reject_reasons
        from proteinlm.platform.settings.config import CorpusConfig
        from proteinlm.platform.settings.loading import load_settings

        file, sources, settings = sorted_arguments(arguments)
        flags: dict[str, object] = {
            "sources": sources or None,
            "out": out,
            "clans": clans,
            "seed": seed,
            "is_simulated": simulated or None,
            "work.address": address,
        }
        given = {name: value for name, value in flags.items() if value is not None}
        config = load_settings(CorpusConfig, file, settings, given)
        manifest = build_corpus(config)
        console.print(", ".join(f"{name} {count:,}" for name, count in manifest.counts.items()))
        if manifest.counts.get("rejected"):
            listed = config.out / REJECTS_FILE
            console.print(f"rejected: {reject_reasons(listed)}; all are in {listed}", markup=False)
        console.print(f"{config.out}: corpus {manifest.content_hash}")


def sorted_arguments(arguments: list[str]) -> tuple[Path | None, list[Path], list[str]]:
    """(YAML file, sources, settings) among the arguments of `corpus build`, in whatever order they come.

    `--name VALUE` is the setting `name=VALUE`. ValueError for a second YAML file and for an option without a value.
    """
    files, sources, settings = [], [], []
    waiting = iter(arguments)
    for argument in waiting:
        if argument.startswith("--"):
            name, equals, value = argument.removeprefix("--").partition("=")
            value = value if equals else next(waiting, "")
            if not value:
                raise ValueError(f"{argument}: found no value; accepted: {argument} VALUE")
            settings.append(f"{name.replace('-', '_')}={value}")
        elif argument.endswith((".yaml", ".yml")) and "=" not in argument:
            files.append(Path(argument))
        elif "=" in argument and not Path(argument).exists():
            settings.append(argument)
        else:
            sources.append(Path(argument))
    if len(files) > 1:
        raise ValueError(f"found {len(files)} YAML files ({', '.join(map(str, files))}); accepted: one")
    return files[0] if files else None, sources, settings


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

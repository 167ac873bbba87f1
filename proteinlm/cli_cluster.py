"""The verbs about clusters: `proteinlm submit` and `proteinlm doctor`."""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import proteinlm
from proteinlm.errors import FAILED, plain_errors

if TYPE_CHECKING:
    from rich.console import Console

    from proteinlm.cluster.submit import Jobs

Address = Annotated[
    str | None,
    typer.Option(help="http://HOST:PORT of the head's dashboard; none: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS."),
]


def known_verb(context: typer.Context, words: list[str] | None) -> list[str] | None:
    """The words, whose first one is a verb; BadParameter, which ends in exit code 2."""
    verbs = sorted(set(getattr(context.find_root().command, "commands", {})) - {"submit"})
    if words and words[0] not in verbs:
        raise typer.BadParameter(f"found {words[0]!r}; accepted: {', '.join(verbs)}")
    return words


def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="The verb that the job runs, with its arguments.", metavar="-- VERB ...", callback=known_verb
        ),
    ] = None,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="Name of the new job; none: Ray makes one.")] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="A variable of the job, NAME=VALUE, or NAME for its value here; may be repeated."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show what the job prints, to its end.")] = True,
    stop: Annotated[str | None, typer.Option(metavar="JOB", help="Ask this job to stop, with a checkpoint.")] = None,
    status: Annotated[str | None, typer.Option(metavar="JOB", help="Say how this job stands.")] = None,
    logs: Annotated[str | None, typer.Option(metavar="JOB", help="Show what this job prints.")] = None,
) -> None:
    """Run a verb as a job of a cluster and follow it; Ctrl-C leaves it running. The exit code is the job's.

    The package and the configuration files that are named are sent, and nothing else.
    """
    with plain_errors() as console:
        from proteinlm.cluster.submit import environment, job_server, reached, token_in_clear

        asked = [option for option in (stop, status, logs) if option is not None]
        if len(asked) + bool(words) != 1:
            raise ValueError("submit: accepted is one of: -- VERB ..., --stop JOB, --status JOB, --logs JOB")
        variables = environment(env or [])
        server = job_server(address)
        if words:
            from proteinlm.cluster.packing import unseen_places

            for warning in unseen_places(places(words)):
                warn(console, warning)
        with reached(server) as jobs:
            if token_in_clear(server):
                warn(console, f"--address: the token goes to {server} unencrypted; use a tunnel or https")
            if stop is not None:
                is_asked = jobs.stop(stop)
                console.print(f"{stop}: asked to stop, saves a checkpoint" if is_asked else f"{stop}: had ended")
            elif status is not None:
                state, message = jobs.status(status)
                console.print(f"{status}: {state}{message and ': '}{message}", soft_wrap=True)
            elif logs is not None:
                jobs.status(logs)  # one that is not there is named
                show_to_end(jobs, logs, console, follow=follow)
            else:
                assert words
                sent = send(jobs, words, variables, name, console)
                if follow:
                    show_to_end(jobs, sent, console, follow=True)


def places(words: Sequence[str]) -> dict[str, str]:
    """The directories that a verb's words name, by their setting; SettingsError for wrong settings."""
    from pydantic import BaseModel

    from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
    from proteinlm.platform.settings.loading import load_settings
    from proteinlm.sweeps.planning.config import SweepConfig

    models: dict[str, type[BaseModel]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "sweep": SweepConfig}
    plain = [word for word in words[1:] if not word.startswith("-")]
    model, file = models.get(words[0]), Path(plain[0]) if plain else None
    if model is None or file is None:
        return {word: word for word in plain if Path(word).exists() and not Path(word).suffix.startswith(".y")}
    if not file.is_file():
        return {}  # on the cluster, or refused where it is packed
    return named_places(load_settings(model, file, plain[1:]).model_dump(mode="json"))


def named_places(values: Mapping[str, Any]) -> dict[str, str]:
    """Directories in settings, by dotted name."""
    from proteinlm.platform.settings.config import PLACES

    found = {}
    for section in ("", "pretrain", "finetune"):
        inner: Any = values.get(section) if section else values
        for name in PLACES if isinstance(inner, dict) else ():
            if isinstance(inner.get(name), str):
                found[f"{section}.{name}".lstrip(".")] = inner[name]
    return found


def send(jobs: "Jobs", words: Sequence[str], variables: Mapping[str, str], name: str | None, console: "Console") -> str:
    """Pack and start the job, and say how to come back to it; its name."""
    from proteinlm.cluster.packing import pack

    with tempfile.TemporaryDirectory(prefix="proteinlm-") as folder:
        package = Path(proteinlm.__file__).parent
        packed = pack(words, Path(folder), package, Path.cwd())
        for file in packed.sent:
            console.print(f"sent along: {file}", soft_wrap=True)
        sent = jobs.submit(packed, variables, name)
    console.print(f"job {sent} at {jobs.address}", soft_wrap=True)
    console.print(f"  to come back: proteinlm submit --address {jobs.address} --logs {sent}", soft_wrap=True)
    return sent


def show_to_end(jobs: "Jobs", name: str, console: "Console", *, follow: bool) -> None:
    """Show what a job prints, to its end where it is followed, and end with its exit code."""

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    if not follow:
        show(jobs.logs(name))
        return
    back = f"proteinlm submit --address {jobs.address} --logs {name} follows it again, --stop {name} ends it"
    try:
        code = jobs.follow(name, show)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"job {name} goes on; {back}") from None
    state, message = jobs.status(name)
    console.print(f"job {name}: {state}{message and ': '}{message}", soft_wrap=True)
    if code:
        raise typer.Exit(code)


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            help="Of Ray (HOST:6379 on the cluster), or http://HOST:PORT of the dashboard, to look from inside as a "
            "job; none: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else this machine."
        ),
    ] = None,
    storage: Annotated[
        list[str] | None, typer.Option(help="Directory or URI that every node must write and read; may be repeated.")
    ] = None,
) -> None:
    """Check a cluster, or this machine: versions, GPUs, storage, network, ports, token, clocks, disks, memory.

    A line for each, with its mend; exit code 1 where one fails.
    """
    with plain_errors() as console:
        address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
        if address and address.startswith(("http://", "https://")):
            doctor_as_a_job(address, storage or [], console)
            return
        from proteinlm.cluster.connect import connected
        from proteinlm.cluster.doctor import examine
        from proteinlm.cluster.judgement import FAIL

        states = []
        with connected(address):
            for check in examine(storage or [], is_own_machine=not address):
                console.print(check.line(), soft_wrap=True)
                states.append(check.state)
    if FAIL in states:
        raise typer.Exit(FAILED)


def doctor_as_a_job(address: str, storage: Sequence[str], console: "Console") -> None:
    """Send the doctor to the cluster: the nodes' ports are not open to a laptop."""
    from proteinlm.cluster.submit import environment, job_server, reached

    # "auto": inside of a job, the cluster that it runs on.
    words = ["doctor", "--address", "auto", *(word for place in storage for word in ("--storage", place))]
    with reached(job_server(address)) as jobs:
        show_to_end(jobs, send(jobs, words, environment([]), None, console), console, follow=True)


def warn(console: "Console", text: str) -> None:
    """Say what may go wrong, without an end."""
    console.print(f"warning: {text}", soft_wrap=True)


def add_cluster_verbs(app: typer.Typer) -> None:
    """Register both verbs with the front door."""
    app.command(
        epilog="Example: proteinlm submit --address http://127.0.0.1:8265 -- pretrain "
        "platform/configs/pretrain-cpu.yaml corpus=/shared/pfam storage=/shared/runs name=first",
        # What follows the verb is the verb's.
        context_settings={"allow_interspersed_args": False},
    )(submit)
    app.command(epilog="Example: proteinlm doctor --address http://127.0.0.1:8265 --storage s3://bucket/runs")(doctor)

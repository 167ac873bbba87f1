"""The progress bar of a run: step, loss, real residues/s, time left. It follows metrics.jsonl, wherever workers are."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from proteinlm.platform.training.tracking import read_metrics

POLL_SECONDS = 0.5


@contextmanager
def progress_bar(run_directory: Path, total_steps: int, console: Console | None) -> Iterator[None]:
    """Show the progress of the run in `run_directory` while the body waits for it; no console: show nothing."""
    if console is None:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    done = threading.Event()
    with Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(run_directory.name, total=total_steps, figures="starting workers")

        def follow() -> None:
            while not done.is_set():
                _show(bar, task, run_directory)
                done.wait(POLL_SECONDS)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
            _show(bar, task, run_directory)


def _show(bar: Progress, task: object, run_directory: Path) -> None:
    rows = read_metrics(run_directory)
    trained = [row for row in rows if "loss" in row]
    if not trained:
        return
    last = trained[-1]
    figures = f"loss {last['loss']:.4f}  {last['residues_per_s']:,.0f} residues/s"
    validated = [row for row in rows if "valid/loss" in row]
    if validated:
        figures += f"  valid {validated[-1]['valid/loss']:.4f}"
    bar.update(task, completed=last["step"], figures=figures)  # type: ignore[arg-type]

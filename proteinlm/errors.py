"""Errors on the command line: one readable message, never a traceback.

What a user can mend (ValueError, OSError) ends in exit code 2, a failed run (RuntimeError) in 1, Ctrl-C in 130;
PROTEINLM_TRACEBACK=1 shows the traceback as well.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from proteinlm.models.messages import printable

if TYPE_CHECKING:
    from rich.console import Console

WRONG_INPUT = 2
FAILED = 1
INTERRUPTED = 130


@contextmanager
def plain_errors() -> Iterator["Console"]:
    """Run the body with a console; what a user can mend is one message and exit code 2, a failed run exit code 1."""
    from rich.console import Console

    try:
        yield Console(markup=False, emoji=False)  # names and paths may hold brackets and colons
    except typer.Exit:  # a RuntimeError too, and already said
        raise
    except (ValueError, OSError) as error:
        _fail(error, WRONG_INPUT)
    except RuntimeError as error:
        _fail(error, FAILED)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "the same command goes on from the newest checkpoint"
        typer.echo(f"interrupted; {said}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _fail(error: Exception, code: int) -> None:
    if os.environ.get("PROTEINLM_TRACEBACK"):
        raise error
    text = "\n".join([str(error), *getattr(error, "__notes__", [])])
    # What a file says may stand in a message: letters that a terminal would obey are written as escapes.
    said = "\n".join(printable(line, most=len(line)) for line in text.split("\n"))
    typer.echo(f"error: {said}", err=True)
    raise typer.Exit(code) from None

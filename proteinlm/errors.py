"""Errors on the command line: one readable message, never a traceback.

What a user can mend (ValueError, OSError) ends in exit code 2, a failed run (RuntimeError) in 1, Ctrl-C in 130;
PROTEINLM_TRACEBACK=1 shows the traceback as well.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

WRONG_INPUT = 2
FAILED = 1


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
    # What a file says may stand in a message: letters that a terminal would obey are written as escapes.
    said = "".join(letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in str(error))
    typer.echo(f"error: {said}", err=True)
    raise typer.Exit(code) from None

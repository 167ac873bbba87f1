"""Writing a file so that readers, and a run that is killed, see the old content or the new, never a half."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` beside `path` and rename; the folder must exist. OSError as the file system gives it."""
    aside = path.with_name(path.name + ".writing")
    aside.write_text(text)
    os.replace(aside, path)

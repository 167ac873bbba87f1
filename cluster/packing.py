"""What a job is sent with: the package's own files and the configuration files that are named, and nothing else.

A package is small and data is not, whatever its folder is called: so nothing is left out, what belongs is taken.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

PACKAGE = "proteinlm"
PACKAGE_FILES = ("*.py", "*.yaml", "*.json", "*.jinja", "*.sh", "py.typed")
"""What a wheel of the package holds (pyproject.toml, package-data)."""
CONFIG_SUFFIXES = (".yaml", ".yml")
SENT_ALONG = "sent"
"""Folder in a job's working directory for configuration files from outside of the one it was sent from."""

IS_URI = re.compile(r"[a-z][a-z0-9+]+:/")


@dataclass(frozen=True)
class Packed:
    """What is sent: a folder, and the command's words with the paths that hold there."""

    folder: Path
    words: tuple[str, ...]
    sent: tuple[Path, ...]
    """Configuration files that came along from outside of the working directory."""


def pack(words: Sequence[str], target: Path, package: Path, here: Path) -> Packed:
    """Copy the `package`'s own files and the configuration files among `words` (paths from `here`) into `target`.

    A file inside of `here` keeps its path; another goes into a folder of its own, and its word is changed to match.
    FileNotFoundError for a relative path that is not there: the job would not find it either. An absolute path that is
    not on this machine stays, for it may be on the cluster.
    """
    # Rooms are symlinks in a clone: copied as what they point to, as a wheel has them.
    shutil.copytree(package, target / PACKAGE, ignore=_all_but_package_files)
    changed: list[str] = []
    sent: list[Path] = []
    for word in words:
        path = Path(word).expanduser()
        is_config = path.suffix in CONFIG_SUFFIXES and "=" not in word and not word.startswith("-")
        if not is_config or (path.is_absolute() and not path.exists()):
            changed.append(word)
            continue
        if not (here / path).is_file():
            raise FileNotFoundError(f"{word}: no such file in {here}; the job would not find it either")
        place = _place_of(here / path, here, {one.name for one in sent})
        if place.parts[0] == SENT_ALONG:
            sent.append(here / path)
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here / path, target / place)
        changed.append(str(place))
    return Packed(target, tuple(changed), tuple(sent))


def _place_of(file: Path, here: Path, taken: set[str]) -> PurePosixPath:
    """Where `file` lies in the job's working directory."""
    normal = Path(os.path.normpath(file))
    if normal.is_relative_to(here):
        return PurePosixPath(normal.relative_to(here).as_posix())
    if file.name in taken:
        raise ValueError(f"{file}: another configuration file from elsewhere has the same name; rename one")
    return PurePosixPath(SENT_ALONG, file.name)


def _all_but_package_files(folder: str, names: list[str]) -> set[str]:
    def is_ours(name: str) -> bool:
        path = Path(folder, name)
        if path.is_dir():
            return not name.startswith((".", "__"))
        return any(path.match(pattern) for pattern in PACKAGE_FILES)

    return {name for name in names if not is_ours(name)}


def unseen_places(places: Mapping[str, str]) -> list[str]:
    """A warning for each setting (dotted name -> path or URI) whose place the cluster's nodes will hardly see."""
    warnings = []
    for name, place in places.items():
        is_output = name.rpartition(".")[2] == "storage"
        mend = "name a directory that every node sees, or a URI such as s3://BUCKET/FOLDER"
        if IS_URI.match(place):
            if place.startswith("file:"):
                warnings.append(f"{name}={place}: each node's own file, unless it lies on a shared file system; {mend}")
        elif not Path(place).is_absolute():
            lost = "what is written there goes with the job" if is_output else "the job finds nothing there"
            warnings.append(f"{name}={place}: a folder of the job's own on the head, and {lost}; {mend}")
        elif Path(place).exists():
            warnings.append(f"{name}={place}: is on this machine; make sure that it is on every node too")
    return warnings

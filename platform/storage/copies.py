"""Copies of what lies in an object store, in this user's cache: fetched once for each content."""

import hashlib
import os
from pathlib import Path

from proteinlm.platform.places.places import fetch_to
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.storage.atomic import staged_directory


def kept_copy(path: Path) -> Path:
    """The file or directory `path` on a disk: itself, or its copy, which stays.

    FileNotFoundError where nothing is there. Content is known by names, sizes and times of change.
    """
    if not isinstance(path, RemotePath):
        return path
    about = [(str(file), info.size, info.mtime_ns) for file, info in path.below(recursive=True)]
    if not about:
        status = path.stat()
        about = [(str(path), status.st_size, status.st_mtime_ns)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "proteinlm", "copies")
    copy = cache / hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    if not copy.is_dir():
        try:
            with staged_directory(copy) as staging:
                fetch_to(path, staging / path.name)
        except OSError:
            if not copy.is_dir():  # else another process was faster
                raise
    return copy / path.name

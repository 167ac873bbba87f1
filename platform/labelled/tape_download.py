"""TAPE's archives (Rao et al. 2019, github.com/songlab-cal/tape), downloaded and unpacked.

    MIRROR/data_pytorch/NAME.tar.gz (LMDB) or MIRROR/data_raw_pytorch/NAME.tar.gz (JSON) -> OUT/NAME/NAME_<split>.lmdb

Mirrors are tried in turn. An archive is unpacked into a staging folder, from plain files only, and renamed whole. A
download that broke off is resumed from a part file by an HTTP range. Beside a part file lies PART.tag, the server's
mark of the version (ETag or Last-Modified): the rest is asked for on condition that the mark still holds (If-Range),
and a server that has another version, or knows no ranges, sends the whole again.
"""

import hashlib
import http.client
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proteinlm.platform.storage.atomic import move_directory

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

MIRRORS = (
    "https://s3.amazonaws.com/songlabdata/proteindata",
    "http://s3.amazonaws.com/songlabdata/proteindata",
)
FLAVOURS: Mapping[str, str] = {"lmdb": "data_pytorch", "json": "data_raw_pytorch"}
ARCHIVES = ("secondary_structure", "proteinnet", "remote_homology", "fluorescence", "stability", "pfam")
SUPERVISED = ARCHIVES[:-1]
"""What is fetched unasked: 120 MB in all; pfam is 7.7 GB, and 19 GB unpacked (TAPE's download_data.sh)."""
ARCHIVE_OF_TASK: Mapping[str, str] = {
    "secondary_structure_q3": "secondary_structure",
    "secondary_structure_q8": "secondary_structure",
    "contact_prediction": "proteinnet",
    "masked_language_modeling": "pfam",
}
MD5: Mapping[str, str] = {
    "secondary_structure": "2f61e8e09c215c032ef5bc8b910c8e97",
    "remote_homology": "1d687bdeb9e3866f77504d6079eed00a",
    "fluorescence": "d63d1d51ec8c20ff0d981e4cbd67457a",
    "stability": "aa1e06eb5a59e0ecdae581e9ea029675",
}
"""Of the LMDB archives, as torchdrug's data sets state them."""
FURTHER: Mapping[str, tuple[str, str]] = {
    "proteinnet": (
        "https://miladeepgraphlearningproteindata.s3.us-east-2.amazonaws.com/data/proteinnet.tar.gz",
        "ab44ab201b1570c0171a2bba9eb4d389",
    )
}
"""A further place of an LMDB archive, and the MD5 of what lies there (torchdrug/datasets/proteinnet.py)."""


@dataclass(frozen=True)
class Place:
    """Where an archive may be had."""

    url: str
    md5: str | None


def fetch_tape(
    names: Sequence[str],
    out: Path,
    *,
    flavour: str = "lmdb",
    mirrors: Sequence[str] = (),
    console: "Console | None" = None,
) -> list[Path]:
    """Download and unpack the archives of the tasks or archives `names` (none: the five supervised ones) below `out`.

    Returns their folders; one that is there already is left as it is. `mirrors` are tried before the known ones.
    ValueError for an unknown name, flavour or mirror and for a folder that is something else; OSError where no mirror
    gave an archive, with every mirror and what was wrong with it.
    """
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour is {flavour!r}; accepted: {', '.join(FLAVOURS)}")
    for mirror in mirrors:
        if not mirror.startswith(("http://", "https://")):
            raise ValueError(f"mirror is {mirror!r}; accepted: an address that begins with http:// or https://")
    archives = list(dict.fromkeys(_archive_of(name) for name in names)) or list(SUPERVISED)
    wanted = [name for name in archives if not _is_there(out / name, name, flavour)]
    out.mkdir(parents=True, exist_ok=True)
    with _progress(console) as progress:
        for name in wanted:
            _fetch(name, out, flavour, places(name, flavour, mirrors), progress)
    return [out / name for name in archives]


def places(name: str, flavour: str, mirrors: Sequence[str]) -> list[Place]:
    """Where the archive `name` may be had, in the order in which it is tried."""
    md5 = MD5.get(name) if flavour == "lmdb" else None
    urls = [f"{mirror.rstrip('/')}/{FLAVOURS[flavour]}/{name}.tar.gz" for mirror in (*mirrors, *MIRRORS)]
    further = [Place(*FURTHER[name])] if flavour == "lmdb" and name in FURTHER else []
    return [Place(url, md5) for url in dict.fromkeys(urls)] + further


def _archive_of(name: str) -> str:
    archive = ARCHIVE_OF_TASK.get(name, name)
    if archive not in ARCHIVES:
        accepted = ", ".join((*ARCHIVES, *ARCHIVE_OF_TASK))
        raise ValueError(f"TAPE has no archive {name!r}; accepted: {accepted}")
    return archive


def _is_there(folder: Path, name: str, flavour: str) -> bool:
    """Whether an archive was unpacked to `folder`; ValueError where something else is there."""
    if not folder.exists():
        return False
    if not _holds(folder, name, flavour):
        raise ValueError(f"{folder} exists and holds no {name}_train.{flavour}; remove it, or name another --out")
    return True


def _holds(folder: Path, name: str, flavour: str) -> bool:
    return (folder / f"{name}_train.{flavour}").exists()


def _progress(console: "Console | None") -> "Progress | nullcontext[None]":
    if console is None:
        return nullcontext()
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    said = TextColumn("{task.description}", markup=False)
    columns = (said, BarColumn(bar_width=20), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


def _fetch(name: str, out: Path, flavour: str, tried: Sequence[Place], progress: "Progress | None") -> None:
    """Get and unpack one archive from the first place that has it, and remove what is left of the other attempts."""
    refusals = []
    bar = None if progress is None else progress.add_task(name, total=None)

    def report(completed: int, total: int | None) -> None:
        if progress is not None and bar is not None:
            progress.update(bar, completed=completed, total=total)

    parts = [out / f".{name}.{flavour}.{hashlib.sha256(place.url.encode()).hexdigest()[:8]}.part" for place in tried]
    for place, part in zip(tried, parts, strict=True):
        try:
            download(place.url, part, report)
            _check_md5(part, place.md5)
            _unpack(part, out, name, flavour)
        except (OSError, ValueError) as error:
            refusals.append(f"{place.url}: {error}")
            continue
        for leftover in parts:
            forget(leftover)
        return
    raise OSError(f"{name}: no mirror gave TAPE's archive ({flavour})\n  " + "\n  ".join(refusals))


def _check_md5(part: Path, md5: str | None) -> None:
    """Remove `part` and raise ValueError where it is not what `md5` says."""
    if md5 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        forget(part)
        raise ValueError(f"the archive's md5 is {found}; accepted: {md5} (what was downloaded is removed)")


def _unpack(archive: Path, out: Path, name: str, flavour: str) -> None:
    """Unpack plain files aside and rename the folder to OUT/NAME; a bad archive is removed and a ValueError says why.

    The archives hold the folder NAME, or its files alone.
    """
    with tempfile.TemporaryDirectory(prefix=f".{name}.unpacking-", dir=out) as aside:
        try:
            unpacked = Path(aside, "unpacked")
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(unpacked, filter=_plain_files)
            found = [folder for folder in (unpacked / name, unpacked) if _holds(folder, name, flavour)]
            if not found:
                raise ValueError(f"the archive holds no {name}_train.{flavour}")
        except (tarfile.TarError, EOFError, zlib.error, ValueError) as error:
            forget(archive)
            raise ValueError(f"{error} (the archive is removed)") from None
        move_directory(found[0], out / name)


def _plain_files(member: tarfile.TarInfo, destination: str) -> tarfile.TarInfo | None:
    """Only files and folders below `destination`, by Python's filter "data"; no links, devices and absolute names."""
    if member.name.startswith("/") or not (member.isfile() or member.isdir()):
        raise tarfile.FilterError(f"the archive holds {member.name!r}, which is no plain file below its folder")
    return tarfile.data_filter(member, destination)


Report = Callable[[int, int | None], None]
"""(bytes that are here, bytes in all where known), called as they come."""
TIMEOUT_SECONDS = 60.0
"""Of silence, after which a transfer is taken for broken."""
_BLOCK_BYTES = 1 << 18
_PARTIAL, _RANGE_REFUSED = 206, 416
_WHOLE = re.compile(r"bytes \*/([0-9]+)")


def download(url: str, part: Path, report: Report) -> None:
    """Fill `part` with what `url` gives. A transfer that breaks off is taken up again as long as each one brings bytes.

    OSError says what was wrong: no connection, the server's refusal, or a transfer that broke off twice at one place.
    `part` is kept for the next time.
    """
    while True:
        before = _size(part)
        try:
            _transfer(url, part, report)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == _RANGE_REFUSED and before:
                if _whole_size(error.headers.get("Content-Range")) == before:
                    return
                forget(part)
                continue
            raise OSError(f"the server answered {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if _size(part) > before:
                continue
            reason = getattr(error, "reason", error)
            raise OSError(f"{reason or type(error).__name__}") from None
        return


def forget(part: Path) -> None:
    """Remove a part file and its mark."""
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, report: Report) -> None:
    """One request, from the end of `part` on; ConnectionError where less came than the server had announced."""
    start, tag = _size(part), _tag_file(part)
    headers = {"User-Agent": "proteinlm"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag.is_file():
            headers["If-Range"] = tag.read_text()
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != _PARTIAL:
            start = 0
        elif not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"the server sent {response.headers.get('Content-Range')!r} for bytes from {start}")
        announced = response.headers.get("Content-Length")
        total = None if announced is None else start + int(announced)
        if not start:
            forget(part)
            mark = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if mark and not mark.startswith("W/"):  # a weak mark does not say that bytes are the same
                tag.write_text(mark)
        report(start, total)
        with part.open("ab") as file:
            while block := response.read(_BLOCK_BYTES):
                file.write(block)
                report(file.tell(), total)
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the transfer broke off after {_size(part):,} of {total:,} bytes")


def _whole_size(content_range: str | None) -> int | None:
    found = _WHOLE.fullmatch(content_range or "")
    return int(found[1]) if found else None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")

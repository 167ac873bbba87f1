"""One file by HTTP into a part file: what broke off goes on where it stopped, as far as the server allows it.

Beside a part file lies PART.tag, the server's mark of the version (ETag or Last-Modified). The rest is asked for on the
condition that the mark still holds (If-Range); a server that has another version, or knows no ranges, sends the whole
again.
"""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

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

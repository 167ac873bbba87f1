"""A web server on this machine that gives archives, and fails in the ways that servers do."""

import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class ArchiveServer:
    """What is served, and what was asked for."""

    files: dict[str, bytes]
    """Path (with its leading slash) -> content."""
    ranges: bool = True
    """Whether a Range is answered by a part (206)."""
    break_after: list[int] = field(default_factory=list)
    """For each request in turn: so many bytes are sent, and then the connection is closed."""
    tag: str = '"one"'
    """The ETag of every file."""
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of each request."""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Send the file, or the part of it that was asked for."""
        asked = request.headers.get("Range")
        self.requests.append((request.path, asked))
        content = self.files.get(request.path)
        if content is None:
            request.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        if request.headers.get("If-Range", self.tag) != self.tag:
            start = 0
        if start and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", self.tag)
        request.end_headers()
        sent = content[start:]
        request.wfile.write(sent[: self.break_after.pop(0)] if self.break_after else sent)
        request.close_connection = True


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[ArchiveServer]:
    """Serve `files` on a free port while the body runs."""
    archive = ArchiveServer(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            archive.answer(self)

        def log_message(self, format: str, *arguments: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        archive.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield archive
        finally:
            server.shutdown()
            thread.join()


def packed(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    """A gzipped tar of plain files and of further members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in others:
            tar.addfile(member)
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that points elsewhere."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member

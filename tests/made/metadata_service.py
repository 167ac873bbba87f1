"""The metadata service of a cloud's machine: plays AWS (IMDSv2) and Google Cloud, before and after a notice."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "token-of-the-test"


class MetadataService(ThreadingHTTPServer):
    """No notice until `announce` is called."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.deadline: float | None = None
        self.announced = threading.Event()
        self.asked: list[str] = []
        """Method and path of each question."""
        self.broken = 0
        """How many questions are answered with an error first."""

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def announce(self, seconds: float) -> None:
        """The machine is taken away in `seconds`."""
        self.deadline = time.time() + seconds
        self.announced.set()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataService

    def do_PUT(self) -> None:
        self.server.asked.append(f"PUT {self.path}")
        if self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers:
            return self._answer(200, TOKEN)
        return self._answer(400, "")

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        if self.server.broken:
            self.server.broken -= 1
            return self._answer(503, "")
        if self.path == "/latest/meta-data/spot/instance-action":
            return self._aws()
        if self.path.startswith("/computeMetadata/v1/instance/preempted?wait_for_change=true"):
            return self._gcp()
        return self._answer(400, "")

    def _aws(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != TOKEN:  # IMDSv2 alone, as the cluster files ask
            return self._answer(401, "")
        if self.server.deadline is None:
            return self._answer(404, "<html>Not Found</html>")
        at = datetime.fromtimestamp(self.server.deadline, UTC)
        return self._answer(200, json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}))

    def _gcp(self) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return self._answer(403, "")
        self.server.announced.wait(0.2)
        return self._answer(200, "TRUE\n" if self.server.announced.is_set() else "FALSE\n")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def metadata_service() -> Iterator[MetadataService]:
    service = MetadataService()
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        service.shutdown()
        thread.join()
        service.server_close()

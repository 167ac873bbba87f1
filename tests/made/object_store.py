"""Object stores on this machine: servers that speak as S3 (moto's) and Google's do, each in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

import pytest

from proteinlm.platform.places import remote_path

BUCKET = "lab-bucket"


def environment(address: str) -> dict[str, str]:
    """What a process is told that works there; without a region's or a profile's files, or a machine's role."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "of-a-test",
        "AWS_SECRET_ACCESS_KEY": "of-a-test-too",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def object_store() -> Iterator[str]:
    """Yields the address of an S3 server with the empty bucket `BUCKET`; inside, the environment tells of it."""
    pytest.importorskip("moto")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    with _serving(["moto.server", "-H", "127.0.0.1", "-p", str(port)], f"{address}/moto-api/"):
        ask(f"{address}/{BUCKET}", "PUT")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(address).items():
                patch.setenv(name, value)
            remote_path._filesystem.cache_clear()  # it may know the server of another test
            yield address


@contextmanager
def google_store() -> Iterator[str]:
    """As `object_store`, of Google's; it asks nobody for credentials."""
    pytest.importorskip("gcp_storage_emulator")
    port = _free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["--host", "127.0.0.1", "--port", str(port), "--in-memory", "--default-bucket", BUCKET]
    with (
        _serving(["gcp_storage_emulator", "start", *options], f"{address}/storage/v1/b/{BUCKET}"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        yield address


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _serving(module: list[str], answers: str) -> Iterator[None]:
    """Run the module in a process; inside, the URL `answers`."""
    command = [sys.executable, "-m", *module]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        _wait_for(answers, server)
        yield
    finally:
        server.terminate()
        server.wait()


def refuse_strangers(address: str, *, after: str = "0") -> None:
    """Have the server check who asks, from so many requests on; "inf": never."""
    ask(f"{address}/moto-api/reset-auth", "POST", after.encode())


def ask(url: str, method: str, data: bytes | None = None) -> bytes:
    """The answer to a request without credentials."""
    request = urllib.request.Request(url, method=method, data=data, headers={"Content-Type": "text/plain"})
    with urllib.request.urlopen(request) as answer:
        return bytes(answer.read())


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            ask(url, "GET")
        except (URLError, ConnectionError):
            assert server.poll() is None, "the server has ended"
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"no answer from {url}")

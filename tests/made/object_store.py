"""An S3 server on this machine (moto's), in a process of its own, with credentials of its own."""

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
    """Yields the address of a server with the empty bucket `BUCKET`; inside, the environment tells of it."""
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    try:
        _wait_for(address, server)
        ask(f"{address}/{BUCKET}", "PUT")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(address).items():
                patch.setenv(name, value)
            remote_path._filesystem.cache_clear()  # it may know the server of another test
            yield address
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


def _wait_for(address: str, server: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        try:
            ask(f"{address}/moto-api/", "GET")
        except (URLError, ConnectionError):
            assert server.poll() is None, "the server has ended"
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"no answer from {address}")

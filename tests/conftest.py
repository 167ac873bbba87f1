"""Fixtures shared by all rooms: one embedded Ray for the session, and where real proteins may lie."""

import os
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else each test user writes ~/.ray/auth_token
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Tests compute on small matrices. A second thread waits for the first by spinning, and on busy cores for ever.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers run at niceness 15: beside anything else that computes, another test for one, they stand still.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # a report waits for this poll

settings.register_profile("shared", deadline=None)  # a shared machine stalls for longer than any deadline
settings.load_profile("shared")

ROOT = Path(__file__).resolve().parent.parent


def checker(name: str) -> str:
    """A program that checks other programs, of the package in the `dev` extra or of the machine; skips without."""
    found = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    return found or pytest.skip(f"{name} is not installed")


def is_own(path: Path) -> bool:
    with suppress(OSError):
        return path.stat().st_uid == os.getuid()
    return False


def maps_of(process: Path) -> str:
    with suppress(OSError):  # it has ended
        return (process / "maps").read_text()
    return ""


@pytest.fixture(scope="session", autouse=True)
def shared_memory() -> Iterator[None]:
    """No buffer of DeepSpeed's lies in shared memory at the end that no process uses: 69 MB each until a boot."""
    folder = Path("/dev/shm")
    before = set(folder.glob("deepspeed_*"))
    yield
    left = {path for path in set(folder.glob("deepspeed_*")) - before if is_own(path)}
    if left:
        used = "".join(map(maps_of, Path("/proc").glob("[0-9]*")))
        assert [path.name for path in sorted(left) if str(path) not in used] == []


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """An embedded Ray of the tests' own: own temp dir, four logical CPUs, shut down here."""
    import ray

    # A short name: paths of sockets are limited to 107 bytes.
    with tempfile.TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as temp_dir:
        ray.init(num_cpus=4, dashboard_port=0, _temp_dir=temp_dir, log_to_driver=False, object_store_memory=300_000_000)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real proteins; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("PROTEINLM_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real protein data not found at {folder}")
    return folder

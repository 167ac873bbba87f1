"""The front door answers before anything heavy is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch",
    "ray",
    "deepspeed",
    "pyarrow",
    "numpy",
    "pandas",
    "scipy",
    "sklearn",
    "matplotlib",
    "transformers",
    "tensorboard",
)


@pytest.mark.parametrize("module", ["proteinlm", "proteinlm.cli"])
def test_importing_the_front_door_brings_nothing_heavy(root: Path, module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_import_platform_from_the_root_is_the_standard_library(root: Path) -> None:
    code = "import platform, uuid; print(platform.system()); print(platform.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.splitlines()[1]).is_relative_to(root / "platform")


def test_the_package_is_found_from_the_root_without_installation(root: Path, rooms: tuple[str, ...]) -> None:
    code = f"import importlib.util as u; print(*[u.find_spec(f'proteinlm.{{room}}') is not None for room in {rooms!r}])"
    command = [sys.executable, "-S", "-c", code]  # -S: without site-packages
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True"] * len(rooms), done.stderr

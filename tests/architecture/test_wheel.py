"""What is built and what is sent to a cluster holds all of the rooms: every module, every YAML file."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(root: Path, rooms: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of this tree."""
    copy = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in (*rooms, "proteinlm"):
        shutil.copytree(root / folder, copy / folder, symlinks=True, ignore=ignore)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / file, copy / file)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        "out",
        ".",
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next((copy / "out").glob("proteinlm-*.whl")))


def test_the_wheel_holds_every_module_and_yaml_file(wheel: zipfile.ZipFile, root: Path, rooms: tuple[str, ...]) -> None:
    files = [
        path
        for room in rooms
        for path in (root / room).rglob("*")
        if path.suffix in {".py", ".yaml", ".json", ".jinja", ".sh"}
    ]
    expected = {f"proteinlm/{path.relative_to(root).as_posix()}" for path in files}
    expected |= {f"proteinlm/{path.name}" for path in (root / "proteinlm").glob("*.py")} | {"proteinlm/py.typed"}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_asks_for_nothing_heavy(wheel: zipfile.ZipFile) -> None:
    metadata = wheel.read(next(name for name in wheel.namelist() if name.endswith("/METADATA"))).decode()
    plain = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split(":")[1].strip().split(">")[0] for line in plain) == ["pydantic", "pyyaml", "rich", "typer"]


def test_no_yaml_file_has_an_ending_that_the_wheel_leaves_out(root: Path, rooms: tuple[str, ...]) -> None:
    assert [path for room in rooms for path in (root / room).rglob("*.yml")] == []

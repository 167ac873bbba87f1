"""The house: what lies where, what files are called, and that the tools and README see all of them."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from proteinlm.platform.settings.yaml_text import read_yaml
from tests.architecture.source import Modules

LONGEST = 300  # lines
OTHER_TESTS = {"architecture", "benchmarks", "fuzz", "made", "proteinlm"}


def test_every_room_is_a_symlink_of_the_package(root: Path, rooms: tuple[str, ...]) -> None:
    links = {path.name: path.readlink().as_posix() for path in (root / "proteinlm").iterdir() if path.is_symlink()}
    assert links == {room: f"../{room}" for room in rooms}
    assert all((root / "proteinlm" / room).resolve() == root / room for room in rooms)


def test_no_room_is_a_regular_package(root: Path, rooms: tuple[str, ...]) -> None:
    assert [path for room in rooms for path in (root / room).rglob("__init__.py")] == []


def test_no_test_lies_inside_a_room(modules: Modules) -> None:
    names = {module.file: module.path.name for module in modules.values()}
    assert [
        file for file, name in names.items() if name.startswith(("test_", "conftest")) or name.endswith("_test.py")
    ] == []


def test_no_file_is_named_like_a_module_of_the_standard_library(root: Path, rooms: tuple[str, ...]) -> None:
    inside = [path for room in rooms for path in (root / room).rglob("*") if "__pycache__" not in path.parts]
    assert [path for path in inside if path.stem in sys.stdlib_module_names and path.suffix in {".py", ""}] == []


def test_there_is_no_room_for_odds_and_ends(modules: Modules) -> None:
    vague = {"util", "utils", "helper", "helpers", "misc", "common", "base"}
    assert [module.file for module in modules.values() if vague & set(module.name.split("."))] == []


def test_every_module_says_what_it_is(modules: Modules) -> None:
    assert [module.file for module in modules.values() if len(ast.get_docstring(module.tree) or "") < 30] == []


def test_no_module_is_long(modules: Modules) -> None:
    lengths = {module.file: len(module.path.read_text().splitlines()) for module in modules.values()}
    assert {file: length for file, length in lengths.items() if length > LONGEST} == {}


def test_tests_mirror_the_rooms(root: Path, rooms: tuple[str, ...], modules: Modules) -> None:
    folders = {path.name for path in (root / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(rooms) | OTHER_TESTS
    stray = []
    for room in rooms:
        for path in (root / "tests" / room).rglob("test_*.py"):
            folder = path.parent.relative_to(root / "tests").as_posix()
            stems = {module.path.stem for module in modules.values() if module.file.rpartition("/")[0] == folder}
            words = path.stem.removeprefix("test_").split("_")
            ends = {
                "_".join(words[start:stop]) for start in range(len(words)) for stop in range(start + 1, len(words) + 1)
            }
            if not ends & stems:
                stray.append(f"{path.relative_to(root)} names no module of {folder}/")
    assert stray == []


def test_no_test_file_imports_another(root: Path) -> None:
    """What several tests need lies in tests/made, once."""
    wrong = [
        f"{path.relative_to(root)}:{node.lineno} imports {node.module}"
        for path in sorted((root / "tests").rglob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and re.fullmatch(r"tests\..*\.test_\w+", node.module or "")
    ]
    assert wrong == []


def test_every_module_is_named_in_a_test_or_behind_one_that_is(
    root: Path, rooms: tuple[str, ...], modules: Modules
) -> None:
    tests = "\n".join(path.read_text() for path in (root / "tests").rglob("*.py"))
    named = {name for name in modules if re.search(rf"\b{re.escape(name)}\b", tests)}
    behind = {imported.module for name in named for imported in modules[name].imports}  # what they are made of
    missing = [module.file for module in modules.values() if module.room in rooms and module.name not in named | behind]
    assert not missing, "\n".join(missing)


def test_every_yaml_file_of_the_rooms_is_read(root: Path, rooms: tuple[str, ...]) -> None:
    for room in rooms:
        for path in (root / room).rglob("*.y*ml"):
            assert read_yaml(path), path


def test_readme_names_every_folder_of_the_rooms(root: Path, modules: Modules) -> None:
    tree = (root / "README.md").read_text().partition("## The tree")[2].partition("## ")[0]
    folders = {module.path.parent.name for module in modules.values()}
    assert sorted(folder for folder in folders if f"{folder}/ " not in tree) == []


def test_readme_names_only_files_that_are_there(root: Path, modules: Modules, rooms: tuple[str, ...]) -> None:
    tree = (root / "README.md").read_text().partition("## The tree")[2].partition("## ")[0]
    there = {module.path.name for module in modules.values()} | {
        path.name for room in rooms for path in (root / room).rglob("*.yaml")
    }
    assert sorted(set(re.findall(r"[\w-]+\.(?:py|yaml)", tree)) - there) == []


OTHERS_FILES = {"modeling_esm.py", "modeling_utils.py", "zero_to_fp32.py"}
"""Of transformers, TAPE and DeepSpeed, which docstrings name without a folder."""


def test_docstrings_and_comments_name_only_files_that_are_there(root: Path, modules: Modules) -> None:
    """A file of somebody else is named with its folder, such as checkpoint/ds_to_universal.py."""
    there = {path.name for path in (root / "tests").rglob("*.py")} | {module.path.name for module in modules.values()}
    named = {
        (module.file, name)
        for module in modules.values()
        for name in re.findall(r"(?<![\w/])\w+\.py\b", module.path.read_text())
    }
    assert sorted((file, name) for file, name in named if name not in there | OTHERS_FILES) == []


def test_ruff_sees_every_file_once(root: Path, rooms: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    shown = sorted(Path(line).relative_to(root).as_posix() for line in done.stdout.split("\n") if line.endswith(".py"))
    files = [path for folder in (*rooms, "tests") for path in (root / folder).rglob("*.py")]
    files += (root / "proteinlm").glob("*.py")
    assert [file for file in shown if file != "pyproject.toml"] == sorted(
        path.relative_to(root).as_posix() for path in files
    )


def test_ruff_leaves_alone_what_users_put_into_a_clone(root: Path, tmp_path: Path) -> None:
    """Runs with the scripts that libraries write, and virtual environments of other names, are not source."""
    shutil.copy(root / "pyproject.toml", tmp_path)
    for folder in ("runs/demo", "results", "data", "venv-of-mine/lib", "models"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "zero_to_fp32.py").write_text("import os\n")
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {Path(line).relative_to(tmp_path).as_posix() for line in done.stdout.split()} == {
        "pyproject.toml",
        "models/zero_to_fp32.py",
    }


def test_mypy_is_strict_and_goes_through_the_package(root: Path, modules: Modules) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["mypy"]
    assert (settings["strict"], settings["packages"], settings.get("files")) == (True, ["proteinlm"], None)
    paths = ["proteinlm/" + module.file.removeprefix("proteinlm/") for module in modules.values()]
    assert [path for path in paths if any(re.search(pattern, path) for pattern in settings.get("exclude", []))] == []
    loose = [
        override
        for override in settings.get("overrides", [])
        if any(name.startswith("proteinlm") for name in override["module"])
    ]
    assert loose == []


@pytest.mark.parametrize(
    "file", ["LICENSE", "CONTRIBUTING.md", "CHANGELOG.md", "constraints.txt", "constraints-v100.txt", ".ci/run"]
)
def test_the_house_has_its_papers(root: Path, file: str) -> None:
    assert (root / file).read_text().strip()


def test_the_pins_agree_with_the_requirements(root: Path) -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    lines = [line for line in (root / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {name.lower(): version for name, version in (line.split("==") for line in lines)}
    assert all("+" not in version for version in pins.values()), "a local version would refuse other builds of torch"
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement

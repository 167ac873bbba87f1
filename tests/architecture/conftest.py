"""The source as the architecture tests see it: every module of the rooms and the front door, with what it imports."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cluster", "models", "platform", "sweeps", "tasks")


@dataclass(frozen=True)
class Import:
    """One imported name: `from proteinlm.models.encoder import ProteinEncoder` has module, name and target in full."""

    line: int
    module: str
    name: str | None
    """None for `import module`."""
    level: int
    """Dots of a relative import."""

    @property
    def target(self) -> str:
        """Dotted name of what is imported."""
        return f"{self.module}.{self.name}" if self.name else self.module


@dataclass(frozen=True)
class Module:
    """One source file."""

    name: str
    path: Path
    file: str
    """Path from the repository's root, such as "platform/settings/loading.py"."""
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """The room's name, or "proteinlm" for the front door."""
        return self.file.split("/")[0]

    @property
    def defined(self) -> set[str]:
        """Names that the module defines at its top level (under an `if` or `try` too)."""
        return set(_defined(self.tree.body))


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            yield from _defined([*node.body, *node.orelse])


def _imports(tree: ast.Module) -> Iterator[Import]:
    """All imports, inside functions too, and `import_module("...")` with the name written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, None, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (Import(node.lineno, node.module or "", alias.name, node.level) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield Import(node.lineno, node.args[0].value, None, 0)


def read_module(path: Path, root: Path) -> Module:
    """The module at `path` of the tree at `root`."""
    file = path.relative_to(root).as_posix()
    parts = file.removesuffix(".py").split("/")
    name = ".".join(parts if parts[0] == "proteinlm" else ["proteinlm", *parts]).removesuffix(".__init__")
    tree = ast.parse(path.read_text(), str(path))
    return Module(name, path, file, tree, tuple(_imports(tree)))


@pytest.fixture(scope="session")
def modules() -> dict[str, Module]:
    """All modules by dotted name."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    files += sorted((ROOT / "proteinlm").glob("*.py"))
    return {module.name: module for module in (read_module(path, ROOT) for path in files)}


@pytest.fixture(scope="session")
def rooms() -> tuple[str, ...]:
    """Names of the rooms."""
    return ROOMS


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT

"""The source of a checkout as values: every module of the rooms and the front door, with what it imports."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("cluster", "models", "platform", "sweeps", "tasks")
FRONT_DOOR = "proteinlm"


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
    """Path from the repository's root, such as "platform/storage/atomic.py"."""
    tree: ast.Module
    imports: tuple[Import, ...]

    @property
    def room(self) -> str:
        """The room's name, or "proteinlm" for the front door."""
        return self.file.split("/")[0]

    @property
    def folder(self) -> str:
        """The folder that the file lies in, such as "platform/storage"."""
        return self.file.rpartition("/")[0]

    @property
    def num_lines(self) -> int:
        """Lines of the file, blank ones included."""
        return len(self.path.read_text().splitlines())

    @property
    def defined(self) -> set[str]:
        """Names that the module defines at its top level (under an `if` or `try` too)."""
        return set(_defined(self.tree.body))


Modules = Mapping[str, Module]
"""Modules by dotted name."""


def read_modules(root: Path) -> dict[str, Module]:
    """All modules of the checkout at `root` by dotted name."""
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    files += sorted((root / FRONT_DOOR).glob("*.py"))
    return {module.name: module for module in (read_module(path, root) for path in files)}


def read_module(path: Path, root: Path) -> Module:
    """The module at `path` of the tree at `root`."""
    file = path.relative_to(root).as_posix()
    parts = file.removesuffix(".py").split("/")
    name = ".".join(parts if parts[0] == FRONT_DOOR else [FRONT_DOOR, *parts]).removesuffix(".__init__")
    tree = ast.parse(path.read_text(), str(path))
    return Module(name, path, file, tree, tuple(_imports(tree)))


def imported_module(modules: Modules, imported: Import) -> str:
    """The module that an import of ours loads: its target where that is a module, else the one that defines it."""
    return imported.target if imported.target in modules else imported.module


def arrows(modules: Modules) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports, inside functions too."""
    return {
        name: {
            target
            for imported in module.imports
            if imported.target.split(".")[0] == FRONT_DOOR
            and not imported.level
            and (target := imported_module(modules, imported)) in modules
            and target != name
        }
        for name, module in modules.items()
    }


def folder_arrows(modules: Modules) -> dict[str, dict[str, int]]:
    """Folder -> the other folders that its files import from -> how many imports (pairs of files).

    The package itself (`proteinlm/__init__.py`) is in no folder: Python runs it before any other module of ours.
    """
    folders = {name: module.folder for name, module in modules.items() if name != FRONT_DOOR}
    counted: dict[str, dict[str, int]] = {folder: {} for folder in sorted(set(folders.values()))}
    for name, targets in arrows(modules).items():
        for target in targets:
            if name in folders and target in folders and folders[name] != folders[target]:
                inner = counted[folders[name]]
                inner[folders[target]] = inner.get(folders[target], 0) + 1
    return counted


def circle(arrows: Mapping[str, Iterator[str] | set[str] | Mapping[str, int]]) -> list[str]:
    """A circle of `arrows` as a path that ends where it began, empty where there is none."""
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for following in sorted(arrows.get(node, ())):
            if found := walk(following, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(arrows) if (found := walk(node, []))), [])


def closure(arrows: Mapping[str, set[str]], start: str) -> set[str]:
    """`start` and all modules that it imports, directly or through others."""
    seen, waiting = {start}, [start]
    while waiting:
        new = arrows[waiting.pop()] - seen
        seen |= new
        waiting += new
    return seen


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

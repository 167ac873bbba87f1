"""Who may import whom: no arrow up, no circle, absolute imports from the module that defines the name."""

from collections.abc import Iterator

import pytest

from tests.architecture.source import Import, Module, Modules, arrows, circle, folder_arrows, imported_module

MAY_IMPORT = {
    "models": {"models"},
    "cluster": {"cluster"},
    "tasks": {"tasks", "models"},
    "platform": {"platform", "tasks", "models", "cluster"},
    "sweeps": {"sweeps", "platform", "tasks", "models", "cluster"},
    "proteinlm": {"proteinlm", "sweeps", "platform", "tasks", "models", "cluster"},  # lazily: see test_front_door.py
}
VERSION = "proteinlm.__version__"  # rows and run directories say it: the one name of the front door that rooms may use


def ours(modules: Modules) -> Iterator[tuple[Module, Import]]:
    """Every import of something of ours."""
    for module in modules.values():
        for imported in module.imports:
            if imported.target.split(".")[0] == "proteinlm" and not imported.level:
                yield module, imported


def test_no_arrow_points_up(modules: Modules, rooms: tuple[str, ...]) -> None:
    wrong = []
    for module, imported in ours(modules):
        parts = imported.target.split(".")
        room = parts[1] if len(parts) > 1 and parts[1] in rooms else "proteinlm"
        if room not in MAY_IMPORT[module.room] and imported.target != VERSION:
            wrong.append(f"{module.file}:{imported.line} imports {imported.target}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_its_layer(rooms: tuple[str, ...]) -> None:
    assert set(rooms) | {"proteinlm"} == set(MAY_IMPORT)


def test_no_module_imports_itself_round_a_corner(modules: Modules) -> None:
    assert circle(arrows(modules)) == []


def test_no_folders_import_each_other_in_a_circle(modules: Modules) -> None:
    """Files without a circle can still tie two folders together: then neither can be read without the other."""
    assert circle(folder_arrows(modules)) == []


@pytest.mark.parametrize(
    ("arrows", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_circles_are_found(arrows: dict[str, set[str]], expected: list[str]) -> None:
    assert circle(arrows) == expected


def test_imports_are_absolute_and_through_the_package(modules: Modules, rooms: tuple[str, ...]) -> None:
    wrong = [
        f"{module.file}:{imported.line} imports {'.' * imported.level}{imported.target}"
        for module in modules.values()
        for imported in module.imports
        if imported.level or (imported.target.split(".")[0] in rooms and imported.target != "platform")
    ]
    assert not wrong, "\n".join(wrong)


def test_names_are_imported_from_the_module_that_defines_them(modules: Modules) -> None:
    wrong = []
    for module, imported in ours(modules):
        origin = modules.get(imported_module(modules, imported))
        if origin is None:
            wrong.append(f"{module.file}:{imported.line} imports {imported.target}: there is no such module")
        elif imported.target not in modules and imported.name not in origin.defined:
            wrong.append(
                f"{module.file}:{imported.line} imports {imported.target}, which {origin.file} does not define"
            )
    assert not wrong, "\n".join(wrong)


def test_nothing_is_re_exported(modules: Modules) -> None:
    wrong = [
        f"{module.file}: __all__"
        for module in modules.values()
        if "__all__" in module.defined and module.room != "proteinlm"
    ]
    wrong += [f"{module.file}:{imported.line} imports *" for module, imported in ours(modules) if imported.name == "*"]
    assert not wrong, "\n".join(wrong)

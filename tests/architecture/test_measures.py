"""How large the house may be, counted; and that the counting sees what it is to see."""

import ast
from pathlib import Path

from tests.architecture.measures import folder_circles, measure, num_lines, num_parameters, table
from tests.architecture.source import Modules, read_modules

MOST_FILES = 148  # raise these only for a new noun, and say which in the commit
CLOSURES = {"platform/pretrain.py": 81, "platform/finetune.py": 85, "sweeps/sweep.py": 117}


def test_the_house_stays_small(modules: Modules) -> None:
    measures = measure(modules)
    assert len(measures.lengths) <= MOST_FILES
    assert {verb: count for verb, count in measures.closures.items() if count > CLOSURES[verb]} == {}
    assert set(measures.closures) == set(CLOSURES)


def test_functions_and_signatures_stay_short(modules: Modules) -> None:
    measures = measure(modules)
    assert measures.long_functions == ()
    assert measures.long_signatures == ()


def make_tree(root: Path, **files: str) -> Modules:
    """A checkout with `files`, by their path with "__" for "/"."""
    for name, text in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "proteinlm").mkdir(exist_ok=True)
    return read_modules(root)


def test_circles_of_folders_are_seen_where_files_have_none(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        platform__a__one="from proteinlm.platform.b.two import x\n",
        platform__b__two="x = 1\n",
        platform__b__three="def later():\n    from proteinlm.platform.a.one import x\n",
        models__four="import torch\n",
    )
    assert folder_circles(tree) == (("platform/a", "platform/b"),)
    measures = measure(tree)
    assert measures.imported_by_one == ("platform/a/one.py", "platform/b/two.py")
    assert "circles of folders                            1 (platform/a <-> platform/b)" in table(measures)


def test_closures_go_through_functions_and_other_files(tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path,
        platform__pretrain="from proteinlm.models.one import x\n",
        models__one="def later():\n    from proteinlm.models import two\n",
        models__two="",
        models__three="",
    )
    assert measure(tree).closures == {"platform/pretrain.py": 3}


def test_lines_and_parameters_are_counted_as_written() -> None:
    function = ast.parse(
        "class A:\n    def f(self, a, /, b, *c, d=1, **e):\n        return (\n            a\n        )\n"
    )
    found = next(node for node in ast.walk(function) if isinstance(node, ast.FunctionDef))
    assert (num_lines(found), num_parameters(found)) == (4, 5)

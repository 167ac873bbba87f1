"""The house in numbers: `python -m tests.architecture.measures [ROOT] [--list] [--hops]` prints them for any checkout.

A file's import closure is the file and all files of ours that it imports, directly or through others, imports inside
functions included: what a reader of a verb must be ready to open. `--list` names what is counted. `--hops` also runs a
tiny pretraining and lists the files that its learning rate passes (hops.py), in about a minute.
"""

import argparse
import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.architecture.source import ROOT, Modules, arrows, closure, folder_arrows, read_modules

VERBS = ("platform/pretrain.py", "platform/finetune.py", "sweeps/sweep.py")
LONG_FUNCTION = 60  # lines, from `def` to the last one
MANY_PARAMETERS = 8  # self and cls not counted


@dataclass(frozen=True)
class Measures:
    """What is counted of a checkout; files by their path from its root."""

    lengths: dict[str, int]
    """File -> lines."""
    imported_by_one: tuple[str, ...]
    folder_circles: tuple[tuple[str, ...], ...]
    """Groups of folders that import each other, directly or through others."""
    closures: dict[str, int]
    """Verb's file -> files in its import closure."""
    long_functions: tuple[str, ...]
    long_signatures: tuple[str, ...]


def measure(modules: Modules) -> Measures:
    """Count `modules`."""
    between = arrows(modules)
    importers = Counter(target for targets in between.values() for target in targets)
    of_file = {module.file: name for name, module in modules.items()}
    functions = [(module.file, node) for module in modules.values() for node in _functions(module.tree)]
    return Measures(
        lengths={module.file: module.num_lines for module in modules.values()},
        imported_by_one=tuple(modules[name].file for name in modules if importers[name] == 1),
        folder_circles=folder_circles(modules),
        closures={verb: len(closure(between, of_file[verb])) for verb in VERBS if verb in of_file},
        long_functions=tuple(_named(file, node) for file, node in functions if num_lines(node) > LONG_FUNCTION),
        long_signatures=tuple(_named(file, node) for file, node in functions if num_parameters(node) > MANY_PARAMETERS),
    )


def folder_circles(modules: Modules) -> tuple[tuple[str, ...], ...]:
    """The groups of two or more folders each of which reaches all others of its group by imports."""
    between = {folder: set(targets) for folder, targets in folder_arrows(modules).items()}
    reached = {folder: closure(between, folder) for folder in between}
    groups = {tuple(sorted(other for other in reached[folder] if folder in reached[other])) for folder in between}
    return tuple(sorted(group for group in groups if len(group) > 1))


Function = ast.FunctionDef | ast.AsyncFunctionDef


def num_lines(function: Function) -> int:
    """Lines from `def` to the function's last one."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def num_parameters(function: Function) -> int:
    """Parameters of all kinds but self and cls."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    further = [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
    return len([name for name in names if name not in {"self", "cls"}]) + len(further)


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _named(file: str, function: Function) -> str:
    return f"{file}:{function.lineno} {function.name}"


def table(measures: Measures) -> str:
    """The counts, one a line."""
    lengths = measures.lengths
    largest = max(lengths, key=lambda file: lengths[file])
    circles = "; ".join(" <-> ".join(group) for group in measures.folder_circles)
    lines = [
        ("files", f"{len(lengths)}"),
        ("lines", f"{sum(lengths.values()):,}"),
        ("median file", f"{statistics.median(lengths.values()):.0f} lines"),
        ("largest file", f"{lengths[largest]} lines ({largest})"),
        ("files that one other imports", f"{len(measures.imported_by_one)}"),
        ("circles of folders", f"{len(measures.folder_circles)}" + (f" ({circles})" if circles else "")),
        *((f"files in the closure of {verb}", f"{count}") for verb, count in measures.closures.items()),
        (f"functions over {LONG_FUNCTION} lines", f"{len(measures.long_functions)}"),
        (f"parameter lists over {MANY_PARAMETERS}", f"{len(measures.long_signatures)}"),
    ]
    return "\n".join(f"{name:<45} {value}" for name, value in lines)


def main() -> None:
    """Print the measures of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="a checkout; this one where none is given")
    parser.add_argument("--list", action="store_true", help="name what is counted")
    parser.add_argument("--hops", action="store_true", help="run a tiny pretraining and follow its learning rate")
    chosen = parser.parse_args()
    measures = measure(read_modules(chosen.root.resolve()))
    print(table(measures))
    if chosen.list:
        for title in ("imported_by_one", "long_functions", "long_signatures"):
            print(f"\n{title}", *getattr(measures, title), sep="\n  ")
    if chosen.hops:
        from tests.architecture.hops import hops_of_the_learning_rate

        hops = hops_of_the_learning_rate(chosen.root.resolve())
        print(f"\nfiles that optimizer.learning_rate passes in `pretrain`: {len(hops)}", *hops, sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())

"""Settings as YAML text: read strictly, and numbers as people write them.

A key given twice, or one that is not text, is refused with its line; so is what is too large, too deep or refers to
itself, by the limits below, and a value that its tag does not fit. `1e-3` is a number (YAML 1.1 takes it for text);
dates, `yes`, `010` and `1:30`, which YAML 1.1 converts, stay text. Readers of YAML 1.1 read what `to_yaml` writes to
equal values.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from proteinlm.models.messages import printable
from proteinlm.models.messages import shown as shown_value

MAX_BYTES = 1 << 20
"""Of a settings file. The longest that is shipped has three kilobytes; a sweep of a thousand lines has a hundred."""
MAX_VALUES = 100_000
"""Values and keys in it, those behind an alias counted wherever it stands."""
MAX_DEPTH = 40
"""Lists and sections in each other."""
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$")
_NUMBER = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?$"
    r"|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_TRUTH = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")


def to_yaml(values: BaseModel | Mapping[str, object]) -> str:
    """Return YAML text that `read_yaml` reads back to equal values; of a model all values, defaults included."""
    plain = values.model_dump(mode="json") if isinstance(values, BaseModel) else dict(values)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31, default_flow_style=False)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in the YAML file at `path`, {} for an empty file.

    Raises FileNotFoundError, and ValueError with file and line for what is not a mapping in YAML.
    """
    if not path.is_file():
        found = "is a directory" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"settings file {path} {found}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; accepted: settings of up to {MAX_BYTES:,}")
    try:
        values = _loaded(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}{_where(error)}: {_why(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: found {shown(values)}, expected settings such as `name: value`, one a line")
    return values


def parse_value(text: str) -> Any:
    """Read one value (`1e-3`, `null`, `[a, b]`); ValueError says why `text` is none in YAML.

    Text without quotes is taken as it stands: to YAML, ` #` would begin a comment that is no part of it.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == _TEXT_TAG
        if is_plain or (text.strip() and (node is None or node.end_mark.index < len(text.rstrip()))):
            return text.strip()
        return _loaded(text)
    except yaml.YAMLError as error:
        raise ValueError(_why(error)) from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from None


def shown(value: object) -> str:
    """Return `value` as a user would write it in YAML, for messages; cut after 60 characters."""
    if isinstance(value, Mapping):
        names = ", ".join(printable(str(key)) for key in list(value)[:20])
        return f"a section ({names}{', ...' if len(value) > 20 else ''})"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return shown_value(value)


_TEXT_TAG = "tag:yaml.org,2002:str"


def _loaded(text: str) -> Any:
    """The one document in `text`; YAMLError says what is wrong with it, mostly with a line."""
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    except (ValueError, OverflowError) as error:  # PyYAML's scanner, of escapes that are no characters
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=loader.get_mark()) from None
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys, keys that are not text, and what would grow without end."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; ComposerError where it lies too deep."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"more than {MAX_DEPTH} lists and sections in each other"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The document; ComposerError where it refers to itself, or its aliases stand for too much."""
        node = super().get_single_node()
        if node is not None:
            _size(node, {})
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of `node`; ConstructorError with its line where its tag does not fit it."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            problem = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of `node`; ConstructorError where a key is repeated or not text."""
        first_line: dict[str, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a name", key_node.start_mark)
            if key in first_line:
                problem = f"{key!r} is given twice (first in line {first_line[key]})"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            first_line[key] = line
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(values, depth) of `node` with its aliases written out; `known` are other nodes', None while one is counted."""
    if id(node) not in known:
        known[id(node)] = None
        inner = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        sizes = [_size(one, known) for one in inner]
        known[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    size = known[id(node)]
    if size is None:
        raise yaml.composer.ComposerError(None, None, "a value that holds itself", node.start_mark)
    if size[0] > MAX_VALUES or size[1] > MAX_DEPTH:
        problem = f"more than {MAX_VALUES:,} values, or {MAX_DEPTH} in each other, with what aliases stand for"
        raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
    return size


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes all text which either YAML 1.1 or `_Loader` would read as something else."""

    def ignore_aliases(self, data: object) -> bool:
        """True: a value that occurs twice is written twice, not as an anchor."""
        return True


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] == "tag:yaml.org,2002:null"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _TRUTH, list("tTfF"))
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:int", _INTEGER, list("-+0123456789"))
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+0123456789."))


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _why(error: yaml.YAMLError) -> str:
    return printable(str(getattr(error, "problem", None) or error).splitlines()[0])

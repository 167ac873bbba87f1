"""Settings as YAML text: read strictly, and numbers as people write them.

A key given twice, or one that is not text, is refused with its line. `1e-3` is a number (YAML 1.1 takes it for text);
dates, `yes`, `010` and `1:30`, which YAML 1.1 converts, stay text. Readers of YAML 1.1 read what `to_yaml` writes to
equal values.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

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
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
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
    """Read one value (`1e-3`, `null`, `[a, b]`); ValueError says why `text` is none in YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(_why(error)) from None


def shown(value: object) -> str:
    """Return `value` as a user would write it in YAML, for messages; cut after 60 characters."""
    if isinstance(value, Mapping):
        return f"a section ({', '.join(str(key) for key in value)})"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses repeated keys and keys that are not text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of `node`; ConstructorError where a key is repeated or not text."""
        first_line: dict[str, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a name", key_node.start_mark)
            if key in first_line:
                problem = f"{key!r} is given twice (first in line {first_line[key]})"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            first_line[key] = line
        return super().construct_mapping(node, deep)


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
    return str(getattr(error, "problem", None) or error).splitlines()[0]

"""A setting's road: defaults < YAML file < `key=value`, merged once into a frozen pydantic model.

    values = override(merge(read_yaml(path), extra), ["model.hidden_size=256"])     plain dicts, still unchecked
    config = validate(Config, values, "run.yaml")                                   frozen, checked, or one ValueError

The command line, a Tune sample and a test all go through `override`. A wrong key or value is refused before anything
starts: all faults in one message, each with its dotted name, what was found and expected, an unknown key's near name.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proteinlm.platform.settings.yaml_text import parse_value, read_yaml, shown, to_yaml

Settings = TypeVar("Settings", bound=BaseModel)


def load_settings(model: type[Settings], path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """`model` from its defaults, then the YAML file at `path` (None: no file), then dotted `key=value` overrides.

    Raises FileNotFoundError for a missing file and ValueError with every fault of file and overrides in one message.
    """
    values, faults = _assign(read_yaml(path) if path is not None else {}, overrides)
    return _checked(model, values, _source(path, overrides), faults)


def validate(model: type[Settings], values: Mapping[str, object], source: str) -> Settings:
    """`values` as a frozen `model`; ValueError gives every fault under its dotted name and says `source`."""
    return _checked(model, values, source, [])


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `extra` laid over it, section by section; all else (a list, null) replaces what was there."""
    merged = copy.deepcopy(dict(base))
    for key, value in extra.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(under, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def override(values: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`values` with dotted `key=value` assignments laid over it, later ones winning; values are read as YAML.

    Raises ValueError with every malformed assignment in one message. Whether the keys exist is for `validate` to say.
    """
    changed, faults = _assign(values, assignments)
    if faults:
        raise ValueError(_message("command line", faults))
    return changed


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level of dotted names."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        dotted |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return dotted


def as_assignments(sample: Mapping[str, object]) -> list[str]:
    """Dotted names and plain values (a Tune sample) as the `key=value` that `override` reads back to equal values."""
    flow = {name: to_yaml({"_": value}, flow=True) for name, value in sample.items()}  # {_: value}
    return [f"{name}={text.strip()[len('{_: ') : -1]}" for name, text in flow.items()]


def _assign(values: Mapping[str, Any], assignments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`values` with the well-formed assignments made, and a line for each malformed one."""
    changed, faults = copy.deepcopy(dict(values)), []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            faults.append(f"{assignment}: expected key=value with a dotted key, such as model.hidden_size=256")
        elif not text.strip():
            faults.append(f"{name}: no value after '='; write {name}=null for none or {name}=\"''\" for empty text")
        else:
            faults += _set(changed, keys, text)
    return changed, faults


def _set(values: dict[str, Any], keys: Sequence[str], text: str) -> Iterator[str]:
    """Set the nested key in `values` to `text` read as YAML; yields the fault where that cannot be done."""
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        if not isinstance(section[key], dict):
            parent = ".".join(keys[:depth])
            yield f"{'.'.join(keys)}: {parent} is {shown(section[key])}, not a section with settings in it"
            return
        section = section[key]
    try:
        section[keys[-1]] = parse_value(text)
    except ValueError as error:
        yield f"{'.'.join(keys)}: found {text!r}, which is not a value in YAML: {error}"


def _checked(model: type[Settings], values: Mapping[str, object], source: str, faults: list[str]) -> Settings:
    settings = None
    try:
        settings = model.model_validate(values)
        faults = faults + [f"{name}: found {shown(flag)}, expected a number" for name, flag in _flags(values, settings)]
    except ValidationError as error:
        faults = faults + _faults(model, values, error.errors(include_url=False))
    if settings is None or faults:
        raise ValueError(_message(source, faults))
    return settings


def _message(source: str, faults: Sequence[str]) -> str:
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n  ".join([f"{count} in the settings ({source}):", *faults])


def _source(path: Path | None, overrides: Sequence[str]) -> str:
    return " and ".join([str(path)] * (path is not None) + ["command line"] * bool(overrides)) or "defaults"


def _flags(values: object, settings: object, name: str = "") -> Iterator[tuple[str, bool]]:
    """Names of booleans that pydantic took for a number: `steps: true` would train for 1 step."""
    if isinstance(values, bool) and type(settings) in {int, float}:
        yield name, values
    elif isinstance(values, Mapping) and isinstance(settings, BaseModel | Mapping):
        inside = settings if isinstance(settings, Mapping) else settings.__dict__
        for key, value in values.items():
            yield from _flags(value, inside.get(key), f"{name}.{key}".lstrip("."))
    elif isinstance(values, list | tuple) and isinstance(settings, list | tuple):
        for index, (value, kept) in enumerate(zip(values, settings, strict=False)):
            yield from _flags(value, kept, f"{name}[{index}]")


def _faults(model: type[BaseModel], values: Mapping[str, object], errors: Sequence[ErrorDetails]) -> list[str]:
    """One line for each setting at fault; what pydantic says of the members of a union is gathered into one line."""
    found: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for error in errors:
        found.setdefault(_path(values, error), []).append(error)
    lines = []
    for path, group in found.items():
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".") or "all together"
        known = [error for error in group if error["type"] != "extra_forbidden"]
        lines.append(f"{name}: {_said(known) if known else _unknown(model, path)}")
    return lines


def _path(values: object, error: ErrorDetails) -> tuple[str | int, ...]:
    """The error's location without the names of union members, which pydantic puts between the keys."""
    path: list[str | int] = []
    for key in error["loc"]:
        is_index = isinstance(values, list | tuple) and isinstance(key, int) and key < len(values)
        if is_index or (isinstance(values, Mapping) and key in values):
            values = values[key]  # type: ignore[index]
        elif error["type"] != "missing" or key != error["loc"][-1]:
            continue
        path.append(key)
    return tuple(path)


def _said(errors: Sequence[ErrorDetails]) -> str:
    """What was found and what was expected, in words."""
    kind, found = errors[0]["type"], errors[0]["input"]
    alternatives = " or ".join(dict.fromkeys(_expected(error["msg"]) for error in errors))
    if kind == "missing":
        return "not given, and it has no default"
    if kind == "value_error":  # a validator of ours speaks: of a whole section it names the settings itself
        return alternatives if isinstance(found, Mapping) else f"found {shown(found)}: {alternatives}"
    return f"found {shown(found)}, expected {alternatives}"


def _expected(said: str) -> str:
    """Pydantic's sentence without what the message already says."""
    said = said.removeprefix("Value error, ").removeprefix("Input should be ").split(", unable to parse")[0]
    return "a section of settings" if said.startswith("a valid dictionary") else said


def _unknown(model: type[BaseModel], path: Sequence[str | int]) -> str:
    """That the last key of `path` is no setting, with the near name of its section or its place in another one."""
    sections: list[type[BaseModel]] = [model]
    for key in path[:-1]:
        sections = [inner for section in sections for inner in _models(_annotation(section, key))] or sections
    fields = list(dict.fromkeys(field for section in sections for field in section.model_fields))
    near = difflib.get_close_matches(str(path[-1]), fields, n=1)
    near = near or [name for name in _names(model) if name.split(".")[-1] == path[-1]]
    return f"unknown setting; {f'did you mean {near[0]}?' if near else 'accepted here: ' + ', '.join(fields)}"


def _annotation(section: type[BaseModel], key: str | int) -> object:
    field = section.model_fields.get(str(key))
    return field.annotation if field else None


def _models(annotation: object) -> list[type[BaseModel]]:
    """The pydantic models in a type such as `Section | None` or `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of `model`, sections included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _models(field.annotation):
            yield from _names(inner, f"{prefix}{name}.")

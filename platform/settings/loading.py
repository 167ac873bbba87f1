"""Settings from a YAML file and the command line: defaults < file < `key=value`, merged into a frozen pydantic model.

    values = override(merge(read_yaml(path), extra), ["model.hidden_size=256"])     plain dicts, still unchecked
    values = set_dotted(values, {"optimizer.learning_rate": 1e-3})                   the same with values, not text
    config = validate(Config, values, "run.yaml")                                   frozen and checked

A wrong key or value is refused before anything starts. SettingsError carries every fault at once, each with the
setting's dotted name, what was found and what was expected; an unknown key also gets the nearest known one.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proteinlm.models.config import EARLIER_NAMES
from proteinlm.models.messages import printable
from proteinlm.platform.settings.yaml_text import parse_value, read_yaml, shown

Settings = TypeVar("Settings", bound=BaseModel)
COMMAND_LINE = "command line"
SHOWN_FAULTS = 20
"""Of one source, in a message; `faults` holds all."""
AS_TYPED: Mapping[str, bool] = {"as typed": True}
"""Context of a validation in which settings that are not given are those that nobody typed."""


@dataclass(frozen=True)
class Fault:
    """One setting that cannot be used."""

    name: str
    """Dotted name of the setting; "all together" where several settings do not fit each other."""
    source: str
    """Where the settings come from: a file, "command line", or what a caller calls them."""
    text: str
    """What was found and what is accepted."""


class SettingsError(ValueError):
    """Settings with one or more faults; `faults` holds them as values, `str()` is one message with all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))  # `args`, from which pickle makes the error again in another process
        self.faults = tuple(faults)

    def __str__(self) -> str:
        blocks = []
        for source in dict.fromkeys(fault.source for fault in self.faults):
            found = [f"{printable(fault.name)}: {fault.text}" for fault in self.faults if fault.source == source]
            lines = list(dict.fromkeys(found))
            count = "one fault" if len(found) == 1 else f"{len(found)} faults"
            lines[SHOWN_FAULTS:] = [f"... and {len(lines) - SHOWN_FAULTS} more"] * (len(lines) > SHOWN_FAULTS)
            blocks.append("\n  ".join([f"{count} in the settings ({source}):", *lines]))
        return "\n".join(blocks)


def load_settings(
    model: type[Settings], path: Path | None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Settings:
    """Read a `model` from the YAML file at `path` (None: defaults alone), `flags` and dotted `key=value` overrides.

    `flags` are settings by dotted name whose values are no text any more: options of a command line. Raises
    FileNotFoundError for a missing file, ValueError for one that is not YAML, and SettingsError with all other faults.
    """
    is_typed = bool(overrides or flags)
    source = " and ".join([str(path)] * (path is not None) + [COMMAND_LINE] * is_typed) or "defaults"
    values = set_dotted(read_yaml(path) if path is not None else {}, flags or {}, source)
    values, faults = _assign(values, overrides, source, model)
    return _checked(model, values, source, faults, context=AS_TYPED)


def validate(model: type[Settings], values: Mapping[str, object], source: str) -> Settings:
    """Check `values` and return them as a frozen `model`; SettingsError holds every fault, marked with `source`."""
    return _checked(model, values, source, [])


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `extra` laid over it, section by section; all else (a list, null) is replaced whole."""
    merged = copy.deepcopy(dict(base))
    for key, value in extra.items():
        under = merged.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(under, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def override(
    values: Mapping[str, Any], assignments: Sequence[str], model: type[BaseModel] | None = None
) -> dict[str, Any]:
    """Return `values` with dotted `key=value` assignments laid over them, later ones winning.

    A value is read as YAML, but for text: that is taken as it stands, a ` #` in it too, and where the `model` is known,
    the value of a setting that is text or a path is text. Raises SettingsError with every malformed assignment. Whether
    the keys exist is checked by `validate`.
    """
    changed, faults = _assign(values, assignments, COMMAND_LINE, model)
    if faults:
        raise SettingsError(faults)
    return changed


def set_dotted(values: Mapping[str, Any], changes: Mapping[str, Any], source: str = COMMAND_LINE) -> dict[str, Any]:
    """Return nested `values` with `changes` (dotted name -> value) laid over them; missing sections are made.

    Raises SettingsError, marked with `source`, where a name leads through something that is not a section.
    """
    changed = copy.deepcopy(dict(values))
    faults = [fault for name, value in changes.items() for fault in _set(changed, name, copy.deepcopy(value), source)]
    if faults:
        raise SettingsError(faults)
    return changed


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as one level of dotted names."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        dotted |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return dotted


def _assign(
    values: Mapping[str, Any], assignments: Sequence[str], source: str, model: type[BaseModel] | None
) -> tuple[dict[str, Any], list[Fault]]:
    """`values` with the well-formed assignments made, and a fault for each malformed one."""
    changed, faults = copy.deepcopy(dict(values)), []
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(name.strip().split(".")):
            expected = "expected key=value with a dotted key, such as model.hidden_size=256"
            faults.append(Fault(assignment, source, expected))
        elif not text.strip():
            empty = f"no value after '='; write {printable(name)}=null for none or =\"''\" for empty text"
            faults.append(Fault(name, source, empty))
        else:
            try:
                faults += _set(changed, name.strip(), _typed(text, _kinds(model, name.strip())), source)
            except ValueError as error:
                why = f"found {shown(text)}, which is not a value in YAML: {error}"
                faults.append(Fault(name.strip(), source, why))
    return changed, faults


def _kinds(model: type[BaseModel] | None, name: str) -> set[object]:
    """The types that the setting of this dotted name takes, unions taken apart; none where there is no such setting."""
    sections, kinds = [model] if model else [], []
    for key in name.split("."):
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        sections = [inner for field in fields for inner in models_in(field.annotation)]
        kinds = [kind for field in fields for kind in _alternatives(field.annotation)]
    return set(kinds)


def _alternatives(annotation: Any) -> Iterator[object]:
    if get_origin(annotation) in {Union, UnionType, Annotated}:
        inner = get_args(annotation)
        for one in inner[:1] if get_origin(annotation) is Annotated else inner:
            yield from _alternatives(one)
    elif annotation.__hash__:
        yield annotation


def _typed(text: str, kinds: set[object]) -> Any:
    """What was typed: text for a setting that takes text or a path and nothing else but none, unless it is quoted."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    is_text = bool(kinds) and kinds <= {str, Path, type(None)}
    if not is_text or is_quoted or (text.strip() == "null" and type(None) in kinds):
        return parse_value(text)
    return text


def _set(values: dict[str, Any], name: str, value: object, source: str) -> Iterator[Fault]:
    """Set the setting of this dotted name in nested `values`; yields the fault where that cannot be done."""
    keys = name.split(".")
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        if section.get(key) is None:
            section[key] = {}
        if not isinstance(section[key], dict):
            parent = ".".join(keys[:depth])
            yield Fault(
                name, source, f"{printable(parent)} is {shown(section[key])}, not a section with settings in it"
            )
            return
        section = section[key]
    section[keys[-1]] = value


def _checked(
    model: type[Settings], values: Mapping[str, object], source: str, faults: list[Fault], context: Any = None
) -> Settings:
    settings = None
    try:
        settings = model.model_validate(values, context=context)
        flags = _flags(values, settings)
        faults = faults + [Fault(name, source, f"found {shown(flag)}, expected a number") for name, flag in flags]
    except ValidationError as error:
        faults = [*faults, *_faults(model, values, source, error.errors(include_url=False))]
    if settings is None or faults:
        raise SettingsError(faults)
    return settings


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


def _faults(
    model: type[BaseModel], values: Mapping[str, object], source: str, errors: Sequence[ErrorDetails]
) -> Iterator[Fault]:
    """One fault for each setting; what pydantic says about the members of a union is gathered into one."""
    groups: dict[tuple[str | int, ...], list[ErrorDetails]] = {}
    for error in errors:
        groups.setdefault(_path(values, error), []).append(error)
    for path, group in groups.items():
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".") or "all together"
        known = [error for error in group if error["type"] != "extra_forbidden"]
        yield Fault(name, source, _said(known) if known else _unknown(model, path))


def _path(values: object, error: ErrorDetails) -> tuple[str | int, ...]:
    """The error's location without the names of union members, which pydantic puts between the keys."""
    path: list[str | int] = []
    earlier = {new: old for old, new in EARLIER_NAMES.items()}
    for place in error["loc"]:
        is_earlier = isinstance(values, Mapping) and place not in values and earlier.get(str(place)) in values
        key = earlier[str(place)] if is_earlier else place  # as it was typed
        is_index = isinstance(values, list | tuple) and isinstance(key, int) and key < len(values)
        if is_index or (isinstance(values, Mapping) and key in values):
            values = values[key]  # type: ignore[index]
        elif error["type"] != "missing" or place != error["loc"][-1]:
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
    """Say that the last key of `path` is no setting, and what near or equal name there is here or in other sections."""
    sections: list[type[BaseModel]] = [model]
    for key in path[:-1]:
        sections = [inner for section in sections for inner in models_in(_annotation(section, key))] or sections
    fields = list(dict.fromkeys(field for section in sections for field in section.model_fields))
    near = difflib.get_close_matches(str(path[-1]), fields, n=1)
    near = near or [name for name in _names(model) if name.split(".")[-1] == path[-1]]
    return f"unknown setting; {f'did you mean {near[0]}?' if near else 'accepted here: ' + ', '.join(fields)}"


def _annotation(section: type[BaseModel], key: str | int) -> object:
    field = section.model_fields.get(str(key))
    return field.annotation if field else None


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the pydantic models in a type such as `Section | None` or `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of `model`, sections included."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in models_in(field.annotation):
            yield from _names(inner, f"{prefix}{name}.")

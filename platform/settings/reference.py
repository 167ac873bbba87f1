"""All settings of a verb as a table: name, what is accepted, default, meaning. Read from the settings models.

What is said of a setting stands once, under its field in sections.py, config.py or models/config.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from proteinlm.platform.settings.yaml_text import shown

if TYPE_CHECKING:
    from rich.table import Table

REQUIRED = "must be given"
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}
HEAD = ("setting", "accepted", "default", "meaning")
PAGE = """# Settings

What `proteinlm VERB CONFIG.yaml key=value ...` takes, as `proteinlm settings VERB` prints it. This page is made by
`make settings` from the settings themselves. A dotted name is a key in a section: `optimizer.learning_rate=1e-3` on the
command line, `optimizer: {learning_rate: 1.0e-3}` in a file.
"""


@dataclass(frozen=True)
class Setting:
    """One setting of a verb."""

    name: str
    """Dotted, as `key=value` takes it."""
    accepted: str
    """Type and bounds in words."""
    default: str
    meaning: str


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """The settings of `model` in the order of its fields, those of its sections by dotted names."""
    for name, field in model.model_fields.items():
        sections = list(dict.fromkeys(_sections(field.annotation)))
        meaning = " ".join((field.description or "").split())
        if len(sections) != 1 or get_origin(field.annotation) in {tuple, list, dict}:
            yield Setting(f"{prefix}{name}", accepted(field), default_text(field), meaning)
            continue
        (section,) = sections
        if type(None) in get_args(field.annotation):
            yield Setting(f"{prefix}{name}", "a section, or null", default_text(field), meaning)
        yield from settings_of(section, f"{prefix}{name}.")


def accepted(field: FieldInfo) -> str:
    """What a setting takes, in words: its type, then its bounds."""
    return ", ".join([type_text(field.annotation), *_bounds(field.metadata)])


def type_text(annotation: Any) -> str:
    """A type in words that a user of YAML reads: `int | None` is "whole number or null"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None) or annotation is None:
        return "null"
    if origin is Annotated:
        return ", ".join([type_text(inner[0]), *_bounds(_constraints(inner[1:]))])
    if origin is Literal:
        return " or ".join(map(shown, inner))
    if origin in {Union, UnionType}:
        return " or ".join(type_text(one) for one in inner)
    if origin is tuple:
        parts = inner[:1] if inner[-1] is Ellipsis else inner
        return f"list of {type_text(parts[0])}" if len(parts) == 1 else f"[{', '.join(map(type_text, parts))}]"
    if origin is list:
        return f"list of {type_text(inner[0])}"
    if origin is dict:
        return f"map of {type_text(inner[0])} to {type_text(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def default_text(field: FieldInfo) -> str:
    """The default as YAML writes it."""
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return "{}"
    return shown(list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _constraints(metadata: Sequence[Any]) -> list[Any]:
    """Bounds as single values: a `Field(ge=1)` inside of an annotation holds them in its own metadata."""
    return [one for entry in metadata for one in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _bounds(metadata: Sequence[Any]) -> Iterator[str]:
    for bound in _constraints(metadata):
        match bound:
            case annotated_types.Ge(ge=value):
                yield f"at least {value:g}"
            case annotated_types.Gt(gt=value):
                yield f"above {value:g}"
            case annotated_types.Le(le=value):
                yield f"at most {value:g}"
            case annotated_types.Lt(lt=value):
                yield f"below {value:g}"
            case annotated_types.MinLen(min_length=value):
                yield f"{value} or more"


def to_terminal(title: str, settings: Sequence[Setting]) -> "Table":
    """A table for a terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_lines=False)
    for heading in HEAD:
        table.add_column(heading, overflow="fold")
    for setting in settings:
        table.add_row(setting.name, setting.accepted, setting.default, setting.meaning)
    return table


def to_markdown(models: Mapping[str, type[BaseModel]]) -> str:
    """A page with the settings of all verbs; those of a section that several verbs have are written down for the first.

    `models`: what is typed after `proteinlm` -> the settings it takes.
    """
    lines = [PAGE]
    written: dict[Setting, str] = {}
    for verb, model in models.items():
        settings = list(settings_of(model))
        new = [one for one in settings if one not in written]
        elsewhere = sorted({written[one] for one in settings if one in written})
        known = f" Further ones are those of {' and '.join(elsewhere)}." if elsewhere else ""
        lines += [f"## {verb}", "", f"{len(settings)} settings.{known}", ""]
        rows = [HEAD, ("---",) * len(HEAD)]
        rows += [(f"`{one.name}`", one.accepted, one.default, one.meaning) for one in new]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows] + [""]
        written |= dict.fromkeys(new, f"`{verb}`")
    return "\n".join(lines)

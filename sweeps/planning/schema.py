"""The JSON schema (draft 2020-12) of sweep files, by which editors complete and check them.

It is made from the settings' models, so it knows every setting there is, with its description:

    python -m proteinlm.sweeps.planning.schema > sweeps/sweep.schema.json

It refuses unknown names, and values of a wrong type or out of bounds. Rules between several settings, and missing ones,
are checked by the models alone (`proteinlm sweep FILE --dry-run`).
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from proteinlm.models.config import PRESETS
from proteinlm.platform.settings.config import ALL_TASKS, FinetuneConfig, PretrainConfig
from proteinlm.sweeps.planning.config import LIKE, TRAINING_FLOPS, SweepConfig
from proteinlm.tasks.catalog import TASKS, build_task

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NUMBERS = {
    "integer": r"^[-+]?[0-9][0-9_]*([eE]\+?[0-9]+)?$",
    "number": r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$",
}
"""Patterns of text that is a number to our YAML reader, and text to readers of YAML 1.1: 1e-3, 1_000_000."""
NO_SETTINGS: Schema = {
    LIKE: {"type": "string", "description": "The configuration of the paper that this one stands for."},
    TRAINING_FLOPS: {
        "type": "number",
        "exclusiveMinimum": 0,
        "description": "Model FLOPs of pretraining; training.steps follows from it.",
    },
}
"""Keys of a configuration beside its settings."""


def sweep_schema() -> Schema:
    """Return the schema of a sweep file."""
    defs = _definitions(PretrainConfig, FinetuneConfig, SweepConfig)
    for name in _definitions(PretrainConfig, FinetuneConfig):  # what one part of a sweep leaves out, another one gives
        defs[name].pop("required", None)
    defs["ModelConfig"]["properties"]["preset"] = {"enum": [*PRESETS, None]}
    tasks = [name for name in TASKS if build_task(name).records]
    defs["FinetuneConfig"]["properties"]["task"]["enum"] = [*tasks, ALL_TASKS]
    top = defs.pop("SweepConfig")
    _name_the_keys(top["properties"], defs)
    schema = {"$schema": DIALECT, **top, "title": "proteinlm sweep"}
    made: Schema = _for_editors(schema | {"$defs": defs})
    return made


def schema_text() -> str:
    """Return the schema as text, as it is kept in sweep.schema.json."""
    return json.dumps(sweep_schema(), indent=1) + "\n"


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, which would only say its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _definitions(*models: type[PretrainConfig | FinetuneConfig | SweepConfig]) -> Schema:
    """The schemas of `models` and of all sections in them, by class name."""
    _, schema = models_json_schema([(model, "validation") for model in models], schema_generator=_Untitled)
    return dict(schema["$defs"])


def _name_the_keys(fields: Schema, defs: Schema) -> None:
    """Say what keys there are in the parts of a sweep that are plain dictionaries to its model."""
    parts = {
        "Configuration": _object(defs, "PretrainConfig", _itself, NO_SETTINGS),
        "Grid": _object(defs, "PretrainConfig", _list_of, NO_SETTINGS),
        "Space": _object(defs, "PretrainConfig", _drawn, NO_SETTINGS),
        "Task": _object(defs, "FinetuneConfig", _itself),
        "FinetuneGrid": _object(defs, "FinetuneConfig", _list_of),
    }
    defs |= parts
    fields["configurations"]["items"] = _at("Configuration")
    fields["tasks"]["items"] = _at("Task")
    sections = {
        "pretrain": "PretrainConfig",
        "finetune": "FinetuneConfig",
        "grid": "Grid",
        "finetune_grid": "FinetuneGrid",
    }
    for name, part in sections.items():
        fields[name] = _as_described(fields[name]) | _at(part)
    search = defs["SearchSection"]["properties"]
    search["space"] = _as_described(search["space"]) | _at("Space")


def _object(defs: Schema, section: str, wrapped: Callable[[Schema], Schema], others: Schema | None = None) -> Schema:
    """An object whose keys are the dotted names of a section's settings and `others`, with `wrapped` values."""
    settings = list(_settings(defs, section))
    values = {name: _at(place) for name, place in settings} | (others or {})
    inside = {f"^{re.escape(name)}\\.": wrapped({}) for name, place in settings if _is_open(_field_at(defs, place))}
    return {
        "type": "object",
        "properties": {name: wrapped(value) for name, value in values.items()},
        **({"patternProperties": inside} if inside else {}),
        "additionalProperties": False,
    }


def _settings(defs: Schema, section: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted name and place of each setting of `section`, sections in it included."""
    for name, field in defs[section]["properties"].items():
        yield f"{prefix}{name}", f"{section}/properties/{name}"
        for variant in (field, *field.get("anyOf", ())):
            if "$ref" in variant:
                yield from _settings(defs, variant["$ref"].rsplit("/", 1)[-1], f"{prefix}{name}.")


def _field_at(defs: Schema, place: str) -> Schema:
    section, _, name = place.split("/")
    return dict(defs[section]["properties"][name])


def _is_open(field: Schema) -> bool:
    """Whether its keys are the user's own, such as a task's options."""
    return bool(field.get("additionalProperties"))


def _at(place: str) -> Schema:
    return {"$ref": f"#/$defs/{place}"}


def _itself(value: Schema) -> Schema:
    return value


def _list_of(value: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": value}


def _drawn(value: Schema) -> Schema:
    return _at("Distribution")


def _as_described(field: Schema) -> Schema:
    return {"description": field["description"]} if "description" in field else {}


def _for_editors(schema: Any) -> Any:
    """Numbers may be written as text that we read as numbers; a default that is a whole section is left out."""
    if isinstance(schema, list):
        return [_for_editors(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {
        key: _for_editors(value) for key, value in schema.items() if key != "default" or not isinstance(value, dict)
    }
    kind = made.get("type")
    if isinstance(kind, str) and kind in NUMBERS and "enum" not in made:
        made |= {"type": [kind, "string"], "pattern": NUMBERS[kind]}
    return made


if __name__ == "__main__":
    sys.stdout.write(schema_text())

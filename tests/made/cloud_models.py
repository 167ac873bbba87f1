"""What a cloud would be asked for, against its own description of the call: no credentials, no network.

AWS's RunInstances as botocore describes it, with the values of its enumerations; Google's instances.insert as the
discovery document in google-api-python-client does. Both are packages of who uses these clouds, and need not be there.
"""

import functools
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema

RAY_ONLY_AWS = {"SubnetIds"}
"""Keys that Ray takes out before it asks."""


def aws_faults(node_config: dict[str, Any]) -> list[str]:
    """What RunInstances would refuse in `node_config`."""
    validator = importlib.import_module("botocore.validate").ParamValidator()
    body = {key: value for key, value in node_config.items() if key not in RAY_ONLY_AWS}
    body |= {"MinCount": 1, "MaxCount": 1}
    report = validator.validate(body, run_instances())
    found = report.generate_report().splitlines() if report.has_errors() else []
    return [*found, *_unknown_values(run_instances(), body, "node_config")]


@functools.cache
def run_instances() -> Any:
    """The shape of RunInstances' input."""
    loader = importlib.import_module("botocore.loaders").Loader()
    model = importlib.import_module("botocore.model").ServiceModel(loader.load_service_model("ec2", "service-2"), "ec2")
    return model.operation_model("RunInstances").input_shape


def _unknown_values(shape: Any, value: object, where: str) -> Iterator[str]:
    """Names and types are all that botocore looks at: a machine that does not exist passes."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from _unknown_values(shape.members[key], value[key], f"{where}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for number, child in enumerate(value):
            yield from _unknown_values(shape.member, child, f"{where}[{number}]")
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        yield f"{where}: {value!r} is not one of {len(shape.enum)} known values"


def gcp_faults(node_config: dict[str, Any]) -> list[str]:
    """What instances.insert would refuse in `node_config`."""
    return [f"{error.json_path}: {error.message[:160]}" for error in insert_validator().iter_errors(node_config)]


@functools.cache
def insert_validator() -> jsonschema.Draft202012Validator:
    """The body of instances.insert as JSON schema."""
    package = importlib.import_module("googleapiclient").__file__
    path = Path(str(package)).parent / "discovery_cache" / "documents" / "compute.v1.json"
    document = json.loads(path.read_text())
    schemas = {name: _translated(schema) for name, schema in document["schemas"].items()}
    body = document["resources"]["instances"]["methods"]["insert"]["request"]["$ref"]
    return jsonschema.Draft202012Validator({"$defs": schemas, "$ref": f"#/$defs/{body}"})


def _translated(schema: dict[str, Any]) -> dict[str, Any]:
    """A discovery document's schema (draft 3, with its own references and formats) as JSON schema, closed."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    result = {key: schema[key] for key in ("enum", "pattern") if key in schema}
    kind = schema.get("type")
    if kind and kind != "any":
        # JSON carries 64-bit numbers as text; the API takes both.
        is_long = kind == "string" and schema.get("format") in ("int64", "uint64")
        result["type"] = ["string", "integer"] if is_long else kind
    if "items" in schema:
        result["items"] = _translated(schema["items"])
    if "properties" in schema:
        result["properties"] = {key: _translated(child) for key, child in schema["properties"].items()}
        result["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _translated(schema["additionalProperties"])
    return result

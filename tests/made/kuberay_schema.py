"""Manifests of KubeRay against the operator's own CRDs, as strictly as `kubectl apply --validate=strict` would.

An API server drops unknown fields without a word, so here every section is closed. Beside the schema: formats, keys
that occur once in lists, and the operator's own rules (validation.go, KubeRay 1.7) that concern what is shipped.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONGEST_NAME = {"RayCluster": 63, "RayJob": 47}

FORMATS = jsonschema.FormatChecker(formats=())
FORMATS.checks("int32")(lambda value: not isinstance(value, int) or -(2**31) <= value < 2**31)
FORMATS.checks("int64")(lambda value: not isinstance(value, int) or -(2**63) <= value < 2**63)


def load_schemas(folder: Path) -> dict[tuple[str, str], Schema]:
    """(kind, apiVersion) -> closed schema, of the CRDs in `folder`."""
    schemas = {}
    for path in sorted(folder.glob("ray.io_*.yaml")):
        crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in crd["versions"]:
            schema = copy.deepcopy(version["schema"]["openAPIV3Schema"])
            for key, kind in {"apiVersion": "string", "kind": "string", "metadata": "object"}.items():
                schema["properties"].setdefault(key, {"type": kind})
            schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
            _close(schema)
            schemas[crd["names"]["kind"], f"{crd['group']}/{version['name']}"] = schema
    return schemas


def _close(schema: Schema) -> None:
    """No field that is not named, wherever an API server would drop it."""
    if schema.get("x-kubernetes-int-or-string"):
        schema.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if "properties" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for child in schema["properties"].values():
            _close(child)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            _close(schema[key])


def manifest_faults(schemas: Mapping[tuple[str, str], Schema], manifest: Schema) -> list[str]:
    """Every fault of `manifest`, with its place; the operator's rules where the schema finds none."""
    schema = schemas.get((manifest.get("kind", ""), manifest.get("apiVersion", "")))
    if schema is None:
        return [f"no schema for {manifest.get('kind')} {manifest.get('apiVersion')}"]
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    found = [f"{error.json_path}: {error.message[:160]}" for error in validator.iter_errors(manifest)]
    return found or [*_repeated(schema, manifest, "$"), *_operator_rules(manifest)]


def _repeated(schema: Schema, value: object, where: str) -> Iterator[str]:
    """Entries of lists whose keys may occur once (x-kubernetes-list-type), and occur twice."""
    if isinstance(value, dict):
        for key, child in value.items():
            inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(inner, dict):
                yield from _repeated(inner, child, f"{where}.{key}")
    elif isinstance(value, list):
        kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys", ())
        seen: list[object] = []
        for number, item in enumerate(value):
            mark = item if kind == "set" else tuple(item.get(key) for key in keys) if isinstance(item, dict) else None
            if kind in ("set", "map") and mark in seen:
                yield f"{where}: {mark} twice"
            seen.append(mark)
            yield from _repeated(schema.get("items", {}), item, f"{where}[{number}]")


def _operator_rules(manifest: Schema) -> Iterator[str]:
    """What the operator refuses and no schema says."""
    kind, name, spec = manifest["kind"], manifest["metadata"].get("name", ""), manifest["spec"]
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME[kind]:
        yield f"metadata.name {name!r}"
    cluster = spec
    if kind == "RayJob":
        if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
            yield "spec: one of rayClusterSpec and clusterSelector"
        if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
            yield "spec.ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
        cluster = spec.get("rayClusterSpec")
    if cluster:
        yield from _cluster_rules(cluster)


def _cluster_rules(cluster: Schema) -> Iterator[str]:
    v2 = cluster.get("enableInTreeAutoscaling") and cluster.get("autoscalerOptions", {}).get("version") == "v2"
    version = tuple(int(number) for number in re.findall(r"\d+", cluster.get("rayVersion", ""))[:2])
    if cluster.get("authOptions", {}).get("mode") == "token" and version < (2, 52):
        yield "authOptions.mode token needs rayVersion >= 2.52.0"
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        where, pod = group.get("groupName", "headGroupSpec"), group["template"]["spec"]
        if v2 and pod.get("restartPolicy", "Never") != "Never":
            yield f"{where}: restartPolicy must be Never or unset with autoscaler v2"
        if "labels" in group["rayStartParams"]:
            yield f"{where}: labels belong in the group's labels, not in rayStartParams"
        if {"num-cpus", "num-gpus", "memory", "resources"} & group["rayStartParams"].keys() and group.get("resources"):
            yield f"{where}: resources in rayStartParams and in resources"
        if group.get("minReplicas", 0) > group.get("maxReplicas", 2**31):
            yield f"{where}: minReplicas > maxReplicas"
        if "idleTimeoutSeconds" in group and not v2:
            yield f"{where}: idleTimeoutSeconds needs autoscaler v2"
        if group.get("priority") and not (v2 and version >= (2, 56)):
            yield f"{where}: priority needs autoscaler v2 and rayVersion >= 2.56.0"

"""A cluster file of `ray up`: what Ray would refuse in it, and what Ray lets pass that exposes, hangs or costs money.

    python -m proteinlm.cluster.cluster_file FILE.yaml ...

prints what is wrong, a line each, and what has not been filled in; exit code 1 where there is any. Nothing is started
and no cloud is asked. Files of KubeRay are not read here: `kubectl apply --dry-run=server --validate=strict` checks
those against the operator's own schema.
"""

import copy
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
"""Lists of shell commands. Where one is missing, Ray runs its provider's defaults."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only the machine itself reaches."""

TOKEN_MODE = "RAY_AUTH_MODE=token"
TOKEN_FILE = ".ray/auth_token"
"""Where Ray looks for the token, in the home directory of whoever runs it."""

BLANK = re.compile(r"<[A-Z][A-Z ]*>")
"""What stands in a shipped file for a value of the user's own."""


@dataclass(frozen=True)
class Machine:
    """What a cloud's machine type has."""

    vcpus: int
    gpus: int


AWS_MACHINES = {
    "p3.2xlarge": Machine(8, 1),
    "p3.8xlarge": Machine(32, 4),
    "p3.16xlarge": Machine(64, 8),
    "p3dn.24xlarge": Machine(96, 8),
    "p4d.24xlarge": Machine(96, 8),
    "p4de.24xlarge": Machine(96, 8),
    "p5.4xlarge": Machine(16, 1),
    "p5.48xlarge": Machine(192, 8),
    "p5e.48xlarge": Machine(192, 8),
    "p5en.48xlarge": Machine(192, 8),
}
"""AWS's machines with the V100, A100, H100 or H200. Others are not compared with what the file says of them."""

GCP_ACCELERATORS = {
    "nvidia-tesla-p100": "n1-",
    "nvidia-tesla-v100": "n1-",
    "nvidia-tesla-t4": "n1-",
    "nvidia-l4": "g2-",
    "nvidia-tesla-a100": "a2-",
    "nvidia-a100-80gb": "a2-ultragpu-",
    "nvidia-h100-80gb": "a3-highgpu-",
    "nvidia-h100-mega-80gb": "a3-megagpu-",
    "nvidia-h200-141gb": "a3-ultragpu-",
    "nvidia-b200": "a4-highgpu-",
}
"""Google's accelerators that training can use, and how the names of the machines that take them begin.

To the API both are free text: a wrong one is refused when the first node is to start, and Ray tries again for ever.
"""


def read_cluster_file(path: Path) -> dict[str, Any]:
    """Read the cluster file at `path`; OSError where there is none, ValueError where it is no mapping in YAML."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: found {type(config).__name__}, expected the settings of a cluster")
    return config


def cluster_faults(config: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the cluster file `config`, each with the place in the file; empty: nothing.

    Where Ray itself refuses the file, only that is returned.
    """
    try:
        merged = _accepted_by_ray(config)
    except ValueError as error:
        return [str(error)]
    return [
        *_commands_of_ray(config, merged),
        *_node_types(merged),
        *_listening(merged),
        *_token(merged),
        *_money(merged),
    ]


def blanks(config: object, where: str = "") -> list[str]:
    """The places of `config` that are still to be filled in, such as "provider.region: <REGION>"."""
    if isinstance(config, Mapping):
        return [blank for key, value in config.items() for blank in blanks(value, f"{where}.{key}".lstrip("."))]
    if isinstance(config, list):
        return [blank for number, value in enumerate(config) for blank in blanks(value, f"{where}[{number}]")]
    return [f"{where}: {blank}" for blank in BLANK.findall(config)] if isinstance(config, str) else []


def _accepted_by_ray(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of its provider, as `ray up` merges them; ValueError where Ray refuses it."""
    from jsonschema import ValidationError  # type: ignore[import-untyped]
    from ray.autoscaler._private import util  # private, and the only place where `ray up` checks a file

    noise = logging.getLogger(util.__name__)
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        merged: dict[str, Any] = util.prepare_config(copy.deepcopy(dict(config)))
        util.validate_config(merged)
    except ValidationError as error:
        place = ".".join(str(step) for step in error.absolute_path)
        raise ValueError(f"{place}: {error.message}" if place else error.message) from None
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    # A provider's check raises any of these for what it did not expect (NotImplementedError is a RuntimeError).
    except (ValueError, RuntimeError, AssertionError, TypeError, AttributeError) as error:
        raise ValueError(f"Ray refuses it: {error}") from None
    finally:
        noise.setLevel(level)
    return merged


def _commands_of_ray(config: Mapping[str, Any], merged: Mapping[str, Any]) -> Iterator[str]:
    """Commands that the file does not name and Ray would run all the same."""
    for name in COMMANDS:
        # Ray has put the commands for both before those for the head and for the workers.
        for_both = len(merged["setup_commands"]) if name.endswith("_setup_commands") else 0
        defaults = merged[name][for_both:]
        if name not in config and defaults:
            yield f"{name} is missing: Ray would run its own, {defaults[-1]!r}; write [] for none"


def _node_types(merged: Mapping[str, Any]) -> Iterator[str]:
    """What the node types promise and cannot keep."""
    head = merged["head_node_type"]
    for name, node_type in merged["available_node_types"].items():
        where = f"available_node_types.{name}"
        resources = node_type.get("resources") or {}
        cpus, gpus = resources.get("CPU"), resources.get("GPU", 0)
        if node_type["max_workers"] > merged["max_workers"]:
            yield f"{where}.max_workers is {node_type['max_workers']}, of the whole cluster {merged['max_workers']}"
        if name == head:
            if cpus != 0 or gpus:
                yield f"{where}.resources: the head takes part in training; accepted: {{CPU: 0}}"
            continue
        if gpus and (cpus is None or cpus <= gpus):
            yield f"{where}.resources: {cpus} CPUs for {gpus} GPUs leave none for data; accepted: more than {gpus}"
        yield from _machine(where, node_type.get("node_config") or {}, cpus, gpus)


def _machine(where: str, node_config: Mapping[str, Any], cpus: int | None, gpus: int) -> Iterator[str]:
    """Differences between the resources of a node type and the machine that it asks the cloud for."""
    machine = AWS_MACHINES.get(str(node_config.get("InstanceType")))
    for accelerator in node_config.get("guestAccelerators") or []:
        kind, machine_type = accelerator.get("acceleratorType"), str(node_config.get("machineType"))
        if kind not in GCP_ACCELERATORS:
            yield f"{where}: acceleratorType {kind!r} is not known; accepted: {', '.join(GCP_ACCELERATORS)}"
            return
        if not machine_type.startswith(GCP_ACCELERATORS[kind]):
            yield f"{where}: machineType {machine_type!r} takes no {kind}; accepted: {GCP_ACCELERATORS[kind]}*"
        size = re.search(r"-(\d+)$", machine_type)  # n1-standard-96; a2-highgpu-8g says GPUs instead
        machine = Machine(int(size[1]) if size else sys.maxsize, accelerator.get("acceleratorCount"))
    if machine and gpus != machine.gpus:
        yield f"{where}.resources.GPU is {gpus}; its machine has {machine.gpus}"
    if machine and cpus is not None and cpus > machine.vcpus:
        yield f"{where}.resources.CPU is {cpus}; its machine has {machine.vcpus}"


def _listening(merged: Mapping[str, Any]) -> Iterator[str]:
    """A dashboard, where jobs are taken, that other machines reach."""
    for number, command in enumerate(merged["head_start_ray_commands"]):
        if "ray start" not in command or "--head" not in command:
            continue
        hosts = re.findall(r"--dashboard-host[= ](\S+)", command)
        if not hosts:
            yield f"head_start_ray_commands[{number}]: --dashboard-host=127.0.0.1 is missing"
        elif hosts[-1] not in LOOPBACK:
            yield (
                f"head_start_ray_commands[{number}]: the dashboard, which runs what it is sent, listens on {hosts[-1]}"
                "; accepted: 127.0.0.1, and a tunnel to it (`ray dashboard FILE`)"
            )


def _token(merged: Mapping[str, Any]) -> Iterator[str]:
    """Ray processes that would take work from anybody, or that would look for the token in vain."""
    docker = merged.get("docker") or {}
    for who in ("head", "worker"):
        options = [*docker.get("run_options", []), *docker.get(f"{who}_run_options", [])]
        starts = [command for command in merged[f"{who}_start_ray_commands"] if "ray start" in command]
        in_container = any(TOKEN_MODE in option for option in options)
        if starts and not in_container and not all(TOKEN_MODE in command for command in starts):
            yield f"docker.run_options: `-e {TOKEN_MODE}` is missing: the {who} would ask nobody for a token"
    targets = merged.get("file_mounts") or {}
    if merged["head_start_ray_commands"] and not any(target.endswith(TOKEN_FILE) for target in targets):
        yield f"file_mounts: ~/{TOKEN_FILE} is missing: Ray would find no token on the nodes"


def _money(merged: Mapping[str, Any]) -> Iterator[str]:
    """What is paid for when nothing runs."""
    provider = merged["provider"]
    if provider["type"] == "aws" and provider.get("cache_stopped_nodes", True):
        yield "provider.cache_stopped_nodes: nodes would be stopped and their disks go on costing; accepted: false"


def main(paths: list[str]) -> int:
    """Print the faults and the blanks of the cluster files at `paths`; 1 where there are any, else 0."""
    wrong = 0
    for path in paths:
        try:
            config = read_cluster_file(Path(path))
            lines = cluster_faults(config) + [f"not filled in: {blank}" for blank in blanks(config)]
        except (OSError, ValueError) as error:
            lines = [str(error)]
        for line in lines:
            print(f"{path}: {line}")
        wrong += bool(lines)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

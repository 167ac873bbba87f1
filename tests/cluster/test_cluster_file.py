"""The shipped cluster files, and twins of them with one fault each: what passes, and what is said of the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from proteinlm.cluster.cluster_file import COMMANDS, blanks, cluster_faults, main, read_cluster_file
from tests.conftest import ROOT
from tests.made.broken_twins import MISSING, twin

CONFIGS = ROOT / "cluster" / "configs"
CLOUDS = ("aws-v100", "aws-h100", "gcp-v100")
TYPES = "available_node_types"
SPOT = (TYPES, "v100-spot")
START = "ray start --head --port=6379 --num-cpus=0"


def shipped(name: str) -> dict[str, Any]:
    return read_cluster_file(CONFIGS / f"{name}.yaml")


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_what_is_shipped_has_no_fault(name: str) -> None:
    assert cluster_faults(shipped(name)) == []


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("aws-v100", {"<REGION>", "<REGISTRY>", "<EFS>", "<AMI>"}),
        ("aws-h100", {"<REGION>", "<REGISTRY>", "<EFS>", "<AMI>"}),
        ("gcp-v100", {"<REGION>", "<ZONE>", "<PROJECT>", "<REGISTRY>", "<FILESTORE>"}),
        ("local", set()),
    ],
)
def test_what_is_to_be_filled_in_is_said_with_its_place_and_in_the_guide(name: str, missing: set[str]) -> None:
    found = blanks(shipped(name))
    assert {blank.partition(": ")[2] for blank in found} == missing
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert [blank for blank in missing if f"`{blank}`" not in guide] == []


def test_blanks_are_found_in_lists_and_sections() -> None:
    config = {"a": {"b": ["x", "mount <EFS>:/ <OTHER NAME>"]}, "c": 3, "d": "<not one>", "e": "a < b > c"}
    assert blanks(config) == ["a.b[1]: <EFS>", "a.b[1]: <OTHER NAME>"]


TWINS: dict[str, tuple[str, tuple[str | int, ...], object, str]] = {
    # What Ray refuses by itself.
    "typo at the top": ("aws-v100", ("max_worker",), 3, "max_worker"),
    "typo in a node type": ("aws-v100", (*SPOT, "max_worker"), 3, "available_node_types.v100-spot"),
    "more nodes at least than at most": ("aws-v100", (*SPOT, "min_workers"), 20, "sum of `min_workers`"),
    "a head type that is none": ("aws-v100", ("head_node_type",), "nope", "head_node_type"),
    "half a GPU": ("aws-v100", (*SPOT, "resources", "GPU"), 0.5, "resources.GPU: 0.5"),
    "a label that is a number": ("aws-v100", (*SPOT, "labels", "market"), 1, "v100-spot.labels.market: 1"),
    "minutes as text": ("aws-v100", ("idle_timeout_minutes",), "10", "idle_timeout_minutes: '10'"),
    "a provider that is none": ("aws-v100", ("provider", "type"), "awz", "awz"),
    "no provider": ("gcp-v100", ("provider",), MISSING, "provider is missing"),
    "a container without an image": ("gcp-v100", ("docker", "image"), MISSING, "container & image name"),
    "no file mounts where Ray fills in none": ("local", ("cluster_synced_files",), MISSING, "cluster_synced_files"),
    # What it lets pass.
    "a type larger than the cluster": ("aws-v100", (*SPOT, "max_workers"), 99, "v100-spot.max_workers is 99, of the"),
    "an accelerator that is none": (
        "gcp-v100",
        (*SPOT, "node_config", "guestAccelerators", 0, "acceleratorType"),
        "nvidia-v100",
        "acceleratorType 'nvidia-v100' is not known",
    ),
    "a machine that takes no V100": (
        "gcp-v100",
        (*SPOT, "node_config", "machineType"),
        "a2-highgpu-8g",
        "machineType 'a2-highgpu-8g' takes no nvidia-tesla-v100",
    ),
    "fewer GPUs than the machine has": ("aws-h100", (TYPES, "h100-spot", "resources", "GPU"), 4, "its machine has 8"),
    "more GPUs than are asked for": (
        "gcp-v100",
        (*SPOT, "node_config", "guestAccelerators", 0, "acceleratorCount"),
        4,
        "resources.GPU is 8; its machine has 4",
    ),
    "more CPUs than the machine has": ("aws-v100", (*SPOT, "resources", "CPU"), 96, "CPU is 96; its machine has 64"),
    "more CPUs than Google's machine has": ("gcp-v100", (*SPOT, "resources", "CPU"), 128, "its machine has 96"),
    "no CPU for data": ("aws-v100", (*SPOT, "resources", "CPU"), 8, "8 CPUs for 8 GPUs leave none for data"),
    "a head that trains": ("aws-v100", (TYPES, "head", "resources"), {"CPU": 8}, "head takes part in training"),
    "a head without a word on it": ("aws-v100", (TYPES, "head", "resources"), {}, "head takes part in training"),
    "stopped nodes": ("aws-v100", ("provider", "cache_stopped_nodes"), True, "cache_stopped_nodes"),
    "stopped nodes by default": ("aws-v100", ("provider", "cache_stopped_nodes"), MISSING, "cache_stopped_nodes"),
    "an open dashboard": (
        "aws-v100",
        ("head_start_ray_commands", 1),
        f"{START} --dashboard-host=0.0.0.0",
        "listens on 0.0.0.0",
    ),
    "an open dashboard, in two words": (
        "gcp-v100",
        ("head_start_ray_commands", 1),
        f"{START} --dashboard-host ::",
        "listens on ::",
    ),
    "a dashboard wherever Ray likes": ("aws-v100", ("head_start_ray_commands", 1), START, "--dashboard-host=127.0.0.1"),
    "no token asked for": ("aws-v100", ("docker", "run_options"), ["-v /shared:/shared"], "ask nobody for a token"),
    "the token is not sent along": ("gcp-v100", ("file_mounts",), {}, "~/.ray/auth_token is missing"),
} | {f"no {name}": ("aws-v100", (name,), MISSING, f"{name} is missing: Ray would run its own") for name in COMMANDS[1:]}
WITHOUT_DEFAULT = ("no worker_setup_commands",)
"""AWS's defaults have nothing there: the file may leave it out."""


@pytest.mark.parametrize("name", [name for name in TWINS if name not in WITHOUT_DEFAULT])
def test_a_twin_with_one_fault_is_refused_and_the_fault_named(name: str) -> None:
    file, path, value, words = TWINS[name]
    found = cluster_faults(twin(shipped(file), path, value))
    assert words in "\n".join(found)
    assert len(found) <= 2, "one fault, of head and worker where it concerns both"


@pytest.mark.parametrize("name", WITHOUT_DEFAULT)
def test_commands_that_the_defaults_do_not_have_may_be_left_out(name: str) -> None:
    file, path, value, _ = TWINS[name]
    assert cluster_faults(twin(shipped(file), path, value)) == []


def test_the_mode_may_stand_in_the_commands_instead() -> None:
    config = shipped("aws-v100")
    config["docker"]["run_options"].remove("-e RAY_AUTH_MODE=token")
    for who in ("head", "worker"):
        command = config[f"{who}_start_ray_commands"]
        command[1] = f"RAY_AUTH_MODE=token {command[1]}"
    assert cluster_faults(config) == []
    config["worker_start_ray_commands"][1] = "ray start --address=$RAY_HEAD_IP:6379"
    assert len(found := cluster_faults(config)) == 1
    assert "the worker would ask nobody" in found[0]


@pytest.mark.parametrize("name", CLOUDS)
def test_every_command_that_ray_runs_is_the_file_s_own(name: str) -> None:
    """`ray up` merges its defaults in: a nightly Ray, and a dashboard that everybody reaches."""
    from ray.autoscaler._private.util import prepare_config

    config = shipped(name)
    merged = prepare_config(shipped(name))
    both = config["setup_commands"]
    assert merged["head_setup_commands"] == both + config["head_setup_commands"]
    assert merged["worker_setup_commands"] == both + config["worker_setup_commands"]
    for key in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        assert merged[key] == config[key]
    assert "nightly" not in str(merged)
    assert "ray-wheels" not in str(merged)
    assert "0.0.0.0" not in str(merged)


def node_types(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The node types that train."""
    return {name: kind for name, kind in config[TYPES].items() if name != config["head_node_type"]}


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_nothing_runs_until_it_is_asked_for_and_spot_comes_first(name: str) -> None:
    kinds = node_types(shipped(name))
    assert {kind["min_workers"] for kind in kinds.values()} == {0}
    priority = {kind["labels"]["market"]: kind["priority"] for kind in kinds.values()}
    assert priority["spot"] > priority["on-demand"]
    assert sum(kind["max_workers"] for kind in kinds.values()) >= shipped(name)["max_workers"]


@pytest.mark.parametrize(("name", "config"), [("aws-v100", "v100"), ("gcp-v100", "v100"), ("aws-h100", "v100")])
def test_the_shipped_run_fits_each_node_and_leaves_cpus_for_data(name: str, config: str) -> None:
    run = yaml.safe_load((ROOT / "platform" / "configs" / f"pretrain-200m-{config}.yaml").read_text())["cluster"]
    for kind in node_types(shipped(name)).values():
        assert kind["resources"]["GPU"] * run["cpus_per_worker"] < kind["resources"]["CPU"]


@pytest.mark.parametrize("name", CLOUDS)
def test_a_file_says_how_it_is_used(name: str) -> None:
    head = (CONFIGS / f"{name}.yaml").read_text().partition("\ncluster_name")[0]
    for command in (
        "ray get-auth-token --generate",
        f"ray up -y {name}.yaml",
        f"ray dashboard {name}.yaml",
        "ray down",
    ):
        assert command in head


def test_what_is_no_cluster_file_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "torn.yaml").write_text("{a: ")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert main([str(tmp_path / name) for name in ("list.yaml", "torn.yaml", "none.yaml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    words: Sequence[str] = ("found list, expected the settings of a cluster", "is not YAML", "No such file")
    assert all(word in line for word, line in zip(words, lines, strict=True)), lines


def test_the_command_prints_faults_then_blanks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CONFIGS / "local.yaml")]) == 0
    assert capsys.readouterr().out == ""
    broken = twin(shipped("aws-v100"), (*SPOT, "max_workers"), 99)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(broken))
    assert main([str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "v100-spot.max_workers is 99" in lines[0]
    assert len(lines) == 7
    assert all("not filled in: " in line for line in lines[1:])

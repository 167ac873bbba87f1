"""The image's recipe: pinned, made of the constraints, without root and without what a build leaves behind."""

import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proteinlm.cluster.cluster_file import read_cluster_file
from tests.conftest import ROOT

IMAGES = ROOT / "cluster" / "images"
BACKENDS = {"v100": "cu126", "cuda": "cu130", "cpu": "cpu"}
"""Tag -> build of torch; sm_70 is in cu126 alone."""


def instructions(text: str) -> list[tuple[str, str]]:
    """(name, rest) of each instruction of a Dockerfile, continued lines joined."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile; of the rules of Docker's own guide, those that have cost somebody a day."""
    steps = instructions(text)
    of = {name: [rest for other, rest in steps if other == name] for name, _ in steps}
    environment = dict(
        word.partition("=")[::2] for rest in [*of.get("ENV", []), *of.get("ARG", [])] for word in shlex.split(rest)
    )
    commands = [command.strip() for rest in of["RUN"] for command in re.split(r"&&|\|\||;", rest)]
    found = [
        f"FROM {base}: no full version"
        for base in of["FROM"]
        if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+", base)
    ]
    installs = [command for command in commands if re.match(r"(uv )?pip install ", command)]
    found += [
        f"{command}: neither the constraints nor --no-deps with pins"
        for command in installs
        if not re.search(r" -c constraints\.txt| --no-deps -r \S+/clouds\.txt$| --no-deps \.$", command)
    ]
    found += [
        f"{name} is not set: a cache in the image"
        for name in ("PIP_NO_CACHE_DIR", "UV_NO_CACHE")
        if name not in environment
    ]
    for command in commands:
        if command.startswith("apt-get install"):
            found += [
                f"apt-get install without {word}" for word in ("-y", "--no-install-recommends") if word not in command
            ]
    if any("apt-get" in rest and "rm -rf /var/lib/apt/lists/*" not in rest for rest in of["RUN"]):
        found.append("the lists of apt stay in the image")
    if (
        any(command.startswith("apt-get") for command in commands)
        and environment.get("DEBIAN_FRONTEND") != "noninteractive"
    ):
        found.append("apt-get would ask questions")
    if not of.get("USER") or of["USER"][-1] in ("root", "0"):
        found.append("runs as root")
    elif not any(f"useradd --create-home --uid 1000 --shell /bin/bash {of['USER'][-1]}" in rest for rest in of["RUN"]):
        found.append(f"{of['USER'][-1]} is not user 1000, who owns what is mounted")
    if environment.get("HOME") != f"/home/{of.get('USER', ['root'])[-1]}":
        found.append("HOME is not the user's: Ray would mount the token into /root")  # it reads HOME of the image
    if any(re.search(r"\b(RAY_AUTH_TOKEN|auth_token|AWS_\w+)\b", rest) for _, rest in steps):
        found.append("a secret in the image")
    if any(name == "ADD" for name, _ in steps):
        found.append("ADD takes archives apart and fetches: COPY")
    return found


def recipe() -> str:
    return (IMAGES / "Dockerfile").read_text()


def test_the_recipe_keeps_the_rules() -> None:
    assert faults(recipe()) == []


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (":3.11.14-slim-bookworm", ":3.11-slim", "no full version"),
        (":3.11.14-slim-bookworm", "", "no full version"),
        ("uv pip install -c constraints.txt torch", "uv pip install torch", "uv pip install torch: neither"),
        ("uv pip install --no-deps -r", "uv pip install -r", "clouds.txt: neither"),
        ("uv pip install --no-deps .", "uv pip install .", "uv pip install .: neither"),
        ("pip install -c constraints.txt uv", "pip install uv", "pip install uv: neither"),
        ("PIP_NO_CACHE_DIR=1 ", "", "PIP_NO_CACHE_DIR is not set"),
        ("UV_NO_CACHE=1 ", "", "UV_NO_CACHE is not set"),
        ("install -y ", "install ", "apt-get install without -y"),
        ("--no-install-recommends ", "", "apt-get install without --no-install-recommends"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "lists of apt"),
        ("ARG DEBIAN_FRONTEND=noninteractive\n", "", "ask questions"),
        ("USER ray\n", "", "runs as root"),
        ("USER ray\n", "USER root\n", "runs as root"),
        ("--uid 1000", "--uid 999", "is not user 1000"),
        ("HOME=/home/ray ", "", "HOME is not the user's"),
        ("ARG BACKEND\n", "ARG BACKEND\nENV RAY_AUTH_TOKEN=abc\n", "a secret in the image"),
        ("COPY . .", "ADD . .", "ADD takes"),
    ],
)
def test_a_recipe_with_one_fault_is_refused_and_the_fault_named(good: str, bad: str, words: str) -> None:
    assert good in recipe()
    assert words in "\n".join(faults(recipe().replace(good, bad)))


def test_every_build_is_said_with_its_command_and_no_other_is_taken() -> None:
    comments = "\n".join(line for line in recipe().splitlines() if line.startswith("#"))
    said = dict(reversed(pair) for pair in re.findall(r"BACKEND=(\w+) -t <REGISTRY>/proteinlm:(\w+) \.", comments))
    assert said == BACKENDS
    accepted = re.search(r"\^\(([\w|]+)\)\$", recipe())
    assert accepted is not None
    assert set(accepted[1].split("|")) == set(BACKENDS.values())
    assert '"+$BACKEND"' in recipe(), "that torch is this build is looked at, not believed"


def test_the_v100_build_is_the_one_of_the_constraints_for_v100() -> None:
    pin = (ROOT / "constraints-v100.txt").read_text().splitlines()[-1]
    assert pin.endswith(f"+{BACKENDS['v100']}")
    assert pin.partition("+")[0] in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_clusters_run_the_image_of_their_gpus() -> None:
    used = {}
    for path in sorted((ROOT / "cluster" / "configs").glob("*.yaml")):
        for image in re.findall(r"image: (\S+)", path.read_text()):
            used.setdefault(path.stem, set()).add(image)
    assert used == {
        name: {f"<REGISTRY>/proteinlm:{'v100' if 'v100' in name else 'cuda'}"}
        for name in ("aws-h100", "aws-v100", "gcp-v100", "kuberay-h100", "kuberay-v100")
    }


def test_python_is_the_one_that_the_versions_were_tested_with() -> None:
    from_line = dict(instructions(recipe()))["FROM"]
    assert from_line.startswith("python:3.11."), "README: Python 3.11 or newer; the pins were tried with 3.11"


def test_what_is_copied_is_there_and_let_through() -> None:
    allowed = [
        line[1:] for line in (IMAGES / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    ]
    assert "*" in (IMAGES / "Dockerfile.dockerignore").read_text().splitlines(), "all else is left out"
    assert [name for name in allowed if not (ROOT / name).exists()] == []
    for name, rest in instructions(recipe()):
        if name == "COPY" and rest != ". .":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert any(source == entry or source.startswith(f"{entry}/") for entry in allowed), source


def test_the_package_can_be_built_from_what_is_let_through() -> None:
    """All rooms, and the files that pyproject.toml names."""
    allowed = {
        line[1:] for line in (IMAGES / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")
    }
    rooms = {path.readlink().name for path in (ROOT / "proteinlm").iterdir() if path.is_symlink()}
    assert rooms | {"proteinlm", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == allowed


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_what_the_head_needs_to_start_nodes_agrees_with_the_constraints() -> None:
    clouds, constraints = pins(IMAGES / "clouds.txt"), pins(ROOT / "constraints.txt")
    assert {"boto3", "google-api-python-client"} <= clouds.keys()
    assert {name for name in clouds.keys() & constraints.keys() if clouds[name] != constraints[name]} == set()


@pytest.mark.parametrize("name", ["boto3", "google-api-python-client"])
def test_no_dependency_of_theirs_is_forgotten(name: str) -> None:
    """They are installed without dependencies: all of them must be in one of the two lists."""
    pytest.importorskip({"boto3": "boto3", "google-api-python-client": "googleapiclient"}[name])
    clouds, constraints = pins(IMAGES / "clouds.txt"), pins(ROOT / "constraints.txt")
    listed, waiting = constraints | clouds, [name]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        seen.add(one)
        wanted = [Requirement(line) for line in metadata.requires(one) or []]
        for requirement in wanted:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed = canonicalize_name(requirement.name)
                assert requirement.specifier.contains(listed[needed]), requirement
                waiting += {needed} - seen


def test_the_user_of_the_image_owns_what_the_clusters_mount() -> None:
    home = "/home/ray"
    assert f"install -d -o ray -g ray -m 700 {home}/.ray" in recipe(), "else Docker makes it, for root"
    for name in ("aws-v100", "aws-h100", "gcp-v100"):
        config = read_cluster_file(ROOT / "cluster" / "configs" / f"{name}.yaml")
        assert list(config["file_mounts"]) == [f"{home}/.ray/auth_token"]
        assert "sudo chown 1000 /shared" in " ".join(config["initialization_commands"])
    for name in ("kuberay-v100", "kuberay-h100"):
        text = yaml.safe_load((ROOT / "cluster" / "configs" / f"{name}.yaml").read_text())
        assert set(re.findall(r"'runAs(?:User|Group)': (\d+)", str(text))) == {"1000"}

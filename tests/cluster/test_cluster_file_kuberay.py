"""The shipped manifests of KubeRay: against its CRDs where they are at hand, and what a cluster must be here."""

from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from proteinlm.cluster.cluster_file import blanks
from tests.conftest import ROOT
from tests.made.broken_twins import MISSING, twin
from tests.made.kuberay_schema import Schema, load_schemas, manifest_faults

CONFIGS = ROOT / "cluster" / "configs"
SHIPPED = ("kuberay-v100", "kuberay-h100")


def manifests(name: str) -> dict[str, dict[str, Any]]:
    """Kind -> manifest, as kubectl takes the list apart."""
    whole = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert (whole["apiVersion"], whole["kind"]) == ("v1", "List")
    return {manifest["kind"]: manifest for manifest in whole["items"]}


@pytest.fixture(scope="module")
def schemas(real_data: Path) -> dict[tuple[str, str], Schema]:
    if not (real_data / "cluster").is_dir():
        pytest.skip(f"KubeRay's CRDs not found at {real_data / 'cluster'}")
    return load_schemas(real_data / "cluster")


@pytest.mark.parametrize("name", SHIPPED)
def test_kuberay_s_own_schema_has_nothing_against_what_is_shipped(
    name: str, schemas: dict[tuple[str, str], Schema]
) -> None:
    found = {kind: manifest_faults(schemas, manifest) for kind, manifest in manifests(name).items()}
    assert found == {"RayCluster": [], "RayJob": []}


GROUP = ("spec", "workerGroupSpecs", 0)
HEAD = ("spec", "headGroupSpec")
CONTAINER = ("template", "spec", "containers", 0)
WORKER = (*GROUP, *CONTAINER)
PORT = {"containerPort": 1, "protocol": "TCP"}
TWINS: dict[str, tuple[str, tuple[str | int, ...], object, str]] = {
    "typo in the spec": ("RayCluster", ("spec", "enableInTreeAutoscaler"), True, "enableInTreeAutoscaler"),
    "typo deep in a pod": ("RayCluster", (*WORKER, "volumeMount"), [], "volumeMount"),
    "a number for a start parameter": ("RayCluster", (*HEAD, "rayStartParams", "num-cpus"), 0, "num-cpus"),
    "autoscaler v3": ("RayCluster", ("spec", "autoscalerOptions", "version"), "v3", "autoscalerOptions.version"),
    "a mode that is none": ("RayCluster", ("spec", "authOptions", "mode"), "tokens", "authOptions.mode"),
    "no maxReplicas": ("RayCluster", (*GROUP, "maxReplicas"), MISSING, "'maxReplicas' is a required property"),
    "replicas as text": ("RayCluster", (*GROUP, "replicas"), "0", "workerGroupSpecs[0].replicas"),
    "more replicas than fit in 32 bits": ("RayCluster", (*GROUP, "maxReplicas"), 2**31, "int32"),
    "memory with a blank": ("RayCluster", (*WORKER, "resources", "limits", "memory"), "300 GB", "limits.memory"),
    "a fraction of a CPU": ("RayCluster", (*WORKER, "resources", "limits", "cpu"), 1.5, "limits.cpu"),
    "a container without a name": ("RayCluster", (*WORKER, "name"), MISSING, "'name' is a required property"),
    "a port twice": ("RayCluster", (*HEAD, *CONTAINER, "ports"), [PORT, PORT], "twice"),
    "no head": ("RayCluster", HEAD, MISSING, "'headGroupSpec' is a required property"),
    "a version that is not served": ("RayCluster", ("apiVersion",), "ray.io/v2", "no schema for RayCluster ray.io/v2"),
    "restarts with autoscaler v2": (
        "RayCluster",
        (*GROUP, "template", "spec", "restartPolicy"),
        "Always",
        "v100-spot: restartPolicy",
    ),
    "a token on an old Ray": ("RayCluster", ("spec", "rayVersion"), "2.40.0", "authOptions.mode token needs"),
    "a priority without v2": ("RayCluster", ("spec", "autoscalerOptions", "version"), "v1", "v100-spot: priority"),
    "more at least than at most": ("RayCluster", (*GROUP, "minReplicas"), 9, "v100-spot: minReplicas > maxReplicas"),
    "labels among start parameters": (
        "RayCluster",
        (*GROUP, "rayStartParams", "labels"),
        "a=b",
        "v100-spot: labels belong",
    ),
    "a name in capitals": ("RayCluster", ("metadata", "name"), "ProteinLM", "metadata.name 'ProteinLM'"),
    "a job's name of 48 letters": ("RayJob", ("metadata", "name"), "a" * 48, "metadata.name"),
    "a job that is removed but not ended": (
        "RayJob",
        ("spec", "shutdownAfterJobFinishes"),
        False,
        "needs shutdownAfterJobFinishes",
    ),
    "no time before it runs": ("RayJob", ("spec", "preRunningDeadlineSeconds"), 0, "preRunningDeadlineSeconds"),
    "an entrypoint in words": ("RayJob", ("spec", "entrypoint"), ["python"], "spec.entrypoint"),
    "a job without a cluster": ("RayJob", ("spec", "rayClusterSpec"), MISSING, "one of rayClusterSpec"),
    "an environment that is no text": ("RayJob", ("spec", "runtimeEnvYAML"), {"pip": []}, "spec.runtimeEnvYAML"),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_with_one_fault_is_refused_and_the_fault_named(
    name: str, schemas: dict[tuple[str, str], Schema]
) -> None:
    kind, path, value, words = TWINS[name]
    found = manifest_faults(schemas, twin(manifests("kuberay-v100")[kind], path, value))
    assert words in "\n".join(found)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_job_s_cluster_is_the_cluster(name: str) -> None:
    shipped = manifests(name)
    assert shipped["RayJob"]["spec"]["rayClusterSpec"] == shipped["RayCluster"]["spec"]
    labels = {kind: manifest["metadata"]["labels"]["proteinlm"] for kind, manifest in shipped.items()}
    assert labels == {"RayCluster": "cluster", "RayJob": "job"}, "by which `kubectl apply -l` takes one of them"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_cluster_has_a_token_and_a_head_that_does_not_train(name: str) -> None:
    cluster = manifests(name)["RayCluster"]["spec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["autoscalerOptions"]["version"] == "v2"
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in str(head)
    assert head.get("serviceType", "ClusterIP") == "ClusterIP", "reached from inside, or through a tunnel"
    assert not head.get("enableIngress")


@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_runs_until_it_is_asked_for_and_spot_comes_first(name: str) -> None:
    groups = manifests(name)["RayCluster"]["spec"]["workerGroupSpecs"]
    assert {(group["replicas"], group["minReplicas"]) for group in groups} == {(0, 0)}
    by_market = {group["labels"]["ray.io/market-type"]: group for group in groups}
    assert by_market["spot"]["priority"] > by_market["on-demand"]["priority"]
    is_spot = {
        market: "cloud.google.com/gke-spot" in group["template"]["spec"]["nodeSelector"]
        for market, group in by_market.items()
    }
    assert is_spot == {"spot": True, "on-demand": False}, "the label says what the pods really are"


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_run_fits_each_pod_and_leaves_cpus_for_data(name: str) -> None:
    path = ROOT / "platform" / "configs" / "pretrain-200m-v100.yaml"
    each = yaml.safe_load(path.read_text())["cluster"]["cpus_per_worker"]
    for group in manifests(name)["RayCluster"]["spec"]["workerGroupSpecs"]:
        resources = group["template"]["spec"]["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"], "guaranteed: no pod is taken for another's sake"
        assert resources["limits"]["nvidia.com/gpu"] * each < int(resources["limits"]["cpu"])


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_to_be_filled_in_stands_in_the_guide(name: str) -> None:
    missing = {blank.partition(": ")[2] for blank in blanks(list(manifests(name).values()))}
    assert missing == {"<REGISTRY>", "<CLAIM>"}
    guide = (ROOT / "docs" / "cluster.md").read_text()
    assert [blank for blank in missing if f"`{blank}`" not in guide] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_job_s_command_names_a_run_that_is_shipped(name: str) -> None:
    words = manifests(name)["RayJob"]["spec"]["entrypoint"].split()
    assert words[:4] == ["python", "-m", "proteinlm", "pretrain"]
    assert (ROOT / words[4].removeprefix("/home/ray/proteinlm/")).is_file()

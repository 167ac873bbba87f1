"""Metrics on a node's endpoint: what a run logged last is what Prometheus would read there, and does where it is."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from proteinlm.cluster.metrics import METRICS
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.training.tracking import read_metrics
from tests.made.small_corpus import write_small_corpus
from tests.made.small_pretraining import config

PATIENCE = 30.0
"""Seconds; metrics travel to a node's endpoint every few seconds."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> PretrainConfig:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "corpus").mkdir()
    write_small_corpus(folder / "corpus")
    run = config(folder, "watched", workers=1, lanes=1, steps=30, validate_every=30, checkpoint_every=30)
    pretrain(run)
    return run


def endpoint() -> str:
    import ray

    (node,) = ray.nodes()
    return f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"


def expected(run: PretrainConfig) -> dict[tuple[str, ...], float]:
    """(name, split and metric where there are) -> value, of the newest row that has it."""
    newest: dict[str, float] = {}
    for row in read_metrics(run.directory):
        newest |= row
    exported = {metric.name: metric.exported for metric in METRICS}
    found: dict[tuple[str, ...], float] = {}
    for name, value in newest.items():
        key = ("ray_proteinlm_validation", *name.split("/")) if "/" in name else (exported[name],)
        found[key] = value
    return found


def scraped(run: PretrainConfig) -> dict[tuple[str, ...], float]:
    parser = pytest.importorskip("prometheus_client.parser")
    with urllib.request.urlopen(f"http://{endpoint()}/metrics", timeout=10) as answer:
        families = list(parser.text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    return {
        (one.name, *(one.labels[tag] for tag in ("split", "metric") if tag in one.labels)): one.value
        for one in samples
        if one.name.startswith("ray_proteinlm_") and one.labels.get("run") == run.name
    }


def test_the_endpoint_has_what_was_logged_last(run: PretrainConfig) -> None:
    wanted, end = expected(run), time.monotonic() + PATIENCE
    assert {("ray_proteinlm_loss",), ("ray_proteinlm_validation", "valid", "loss")} <= wanted.keys()
    while True:
        found = scraped(run)
        if wanted.items() <= found.items() or time.monotonic() > end:
            break
        time.sleep(0.3)
    launched = found.pop(("ray_proteinlm_launch_time_seconds",))
    assert time.time() - 600 < launched < time.time()
    assert found == pytest.approx(wanted)


def test_rays_list_of_targets_names_the_endpoint(ray_cluster: None) -> None:
    import ray

    session = Path(ray._private.worker._global_node.get_session_dir_path())  # type: ignore[attr-defined]
    settings = (session / "metrics" / "prometheus" / "prometheus.yml").read_text()
    listed = session.parent / "prom_metrics_service_discovery.json"
    assert listed.name in settings
    end = time.monotonic() + PATIENCE
    targets: list[str] = []
    while endpoint() not in targets and time.monotonic() < end:
        targets = (
            [one for group in json.loads(listed.read_text()) for one in group["targets"]] if listed.exists() else []
        )
        time.sleep(0.3)
    assert endpoint() in targets


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed")
def test_prometheus_scrapes_a_run(run: PretrainConfig, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [endpoint()]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(settings))
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={tmp_path / 'tsdb'}"], stdout=log, stderr=log)
    try:
        (sample,) = asked(address, f'max by (run) (ray_proteinlm_loss{{run="{run.name}"}})')
    finally:
        process.terminate()
        process.wait()
    assert float(sample["value"][1]) == pytest.approx(expected(run)[("ray_proteinlm_loss",)])


def asked(address: str, query: str) -> list[dict[str, Any]]:
    """What Prometheus answers once it has an answer; empty where it has none in time."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except OSError:  # it is starting
            result = []
        if result:
            return result
        time.sleep(0.3)
    return []

"""The watcher for notices of AWS and Google Cloud, against a service that plays both."""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from proteinlm.cluster import spot_notice
from proteinlm.cluster.spot_notice import GCP_SECONDS, aws_deadline, gcp_deadline, main, wait_for_notice
from tests.made.metadata_service import MetadataService, metadata_service


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with metadata_service() as one:
        yield one


def test_aws_is_asked_with_a_token_and_404_is_no_notice(service: MetadataService) -> None:
    assert aws_deadline(service.base) is None
    assert service.asked == ["PUT /latest/api/token", "GET /latest/meta-data/spot/instance-action"]
    service.announce(120)
    deadline = aws_deadline(service.base)
    assert deadline == int(service.deadline or 0), "the notice names whole seconds"


def test_google_is_asked_in_its_way(service: MetadataService) -> None:
    assert gcp_deadline(service.base) is None
    service.announce(0)
    before = time.time()
    deadline = gcp_deadline(service.base)
    assert deadline is not None
    assert before <= deadline - GCP_SECONDS <= time.time()


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_notice_is_waited_for_over_errors_of_the_service(
    cloud: str, service: MetadataService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.broken = 2
    threading.Timer(0.3, service.announce, [60]).start()
    deadline = wait_for_notice(cloud, service.base, poll_seconds=0.02)
    assert deadline > time.time()
    assert capsys.readouterr().out.count("503") == 1, "said once, not at every question"


def test_a_machine_without_the_service_is_asked_again(service: MetadataService) -> None:
    """Nobody listens at first: a node works all the same."""
    gone = MetadataService()
    gone.server_close()
    with pytest.raises(OSError, match=r"refused"):
        aws_deadline(gone.base)


@pytest.mark.parametrize(("drained", "code"), [(["ab12"], 0), ([], 1)])
def test_the_node_of_this_machine_is_drained_with_the_notice_s_deadline(
    drained: list[str],
    code: int,
    service: MetadataService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[object] = []
    monkeypatch.setattr(spot_notice, "drain", lambda *arguments: given.extend(arguments) or drained)
    service.announce(90)
    options = ["--address=10.0.0.1:6379", f"--metadata={service.base}", "--node-address=10.0.0.7"]
    assert main(["aws", *options]) == code
    address, goes, deadline, why = given
    assert address == "10.0.0.1:6379"
    assert callable(goes)
    assert goes(SimpleNamespace(node_manager_address="10.0.0.7"))
    assert not goes(SimpleNamespace(node_manager_address="10.0.0.8"))
    assert deadline == pytest.approx(service.deadline, abs=1)
    assert str(why).startswith("aws: taken away in ")
    assert ("ab12" if drained else "no node") in capsys.readouterr().out

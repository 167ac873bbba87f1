"""How long room for a worker group is waited for, which nodes are counted, and what is said at the end."""

from collections.abc import Iterator
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision, ScalingPolicy

from proteinlm.cluster import scaling
from proteinlm.cluster.launch import BRIEF_SECONDS, waits_of
from proteinlm.cluster.scaling import INFEASIBLE_SECONDS, NoRoomError, PatientElastic, scaling_policy

TWO_CPUS = {"CPU": 2.0}


class Cluster:
    """What a policy sees: the time, nodes by id with their resources, and what the autoscaler says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes: dict[str, dict[str, float]] = {}
        self.going: set[str] = set()
        self.is_infeasible = False
        self.allows = 1000
        """Bundles that the autoscaler's limits allow; it says so seven seconds after it was asked, a look later."""
        self.sent: list[tuple[float, int]] = []

    def refused(self) -> int:
        heard = [number for when, number in self.sent if when <= self.now - 7]
        return heard[-1] if heard and heard[-1] > self.allows else 0

    def staying(self) -> dict[str, Any]:
        return {name: {"Resources": held} for name, held in self.nodes.items() if name not in self.going}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made = Cluster()
    monkeypatch.setattr(scaling.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(scaling.time, "sleep", lambda seconds: setattr(made, "now", made.now + seconds))
    monkeypatch.setattr(scaling, "nodes_that_stay", made.staying)
    monkeypatch.setattr(scaling, "is_infeasible", lambda bundle, number: made.is_infeasible)
    monkeypatch.setattr(scaling, "number_refused", lambda bundle: made.refused())
    monkeypatch.setattr(ScalingPolicy, "_maybe_send_resource_request", lambda self: None)

    def send(self: ScalingPolicy) -> None:
        made.sent.append((made.now, self._get_num_workers_for_resource_request()))

    monkeypatch.setattr(ScalingPolicy, "_send_resource_request", send)
    monkeypatch.setattr(PatientElastic, "_get_reserved_resources", lambda self: made.nodes)
    return made


def policy(workers: int | tuple[int, int], seconds: float = 30, queues: bool = False) -> ScalingPolicy:
    config = ScalingConfig(num_workers=workers, resources_per_worker=TWO_CPUS)  # type: ignore[arg-type]
    return scaling_policy(config, seconds, "a test", queues)


def decide(one: ScalingPolicy) -> Any:
    return one.make_decision_for_non_running_worker_group()


def until_given_up(one: ScalingPolicy, cluster: Cluster, most: float) -> tuple[float, str]:
    """Seconds until the policy gives up, and what it says then."""
    began = cluster.now
    while cluster.now < began + most:
        try:
            decide(one)
        except NoRoomError as error:
            return cluster.now - began, str(error)
        cluster.now += 1
    pytest.fail(f"not given up within {most} s")


@pytest.mark.parametrize("workers", [2, (2, 4)])
def test_a_group_without_room_is_given_up_with_what_was_asked_and_what_exists(workers: Any, cluster: Cluster) -> None:
    cluster.nodes = {"head": {}, "a": {"CPU": 3.0, "GPU": 1.0, "memory": 1e9}}
    seconds, said = until_given_up(policy(workers), cluster, 60)
    assert 30 < seconds < 33
    assert "no room for 2 workers of 2 CPUs within 3" in said
    assert said.endswith("s (a test); nodes there are: no CPU; 3 CPUs and 1 GPU")
    assert "\n" not in said, "the last line of an error is what the user sees"


def test_a_group_that_ran_is_waited_for_anew(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    one = policy(2)
    assert isinstance(decide(one), ResizeDecision)
    cluster.now = 25
    one.make_decision_for_running_worker_group(None, None)
    cluster.now = 50
    assert isinstance(decide(one), ResizeDecision)
    assert until_given_up(one, cluster, 60)[0] > 30


@pytest.mark.parametrize(("queues", "is_given_up"), [(True, False), (False, True)])
def test_trials_of_a_sweep_take_turns_on_nodes_that_are_enough(
    queues: bool, is_given_up: bool, cluster: Cluster
) -> None:
    cluster.nodes = {"a": {"CPU": 2.0}, "b": {"CPU": 3.0}}
    one = policy(2, queues=queues)
    try:
        for cluster.now in range(100):
            decide(one)
    except NoRoomError:
        assert is_given_up
    else:
        assert not is_given_up


def test_what_the_autoscaler_never_allows_ends_before_the_time_is_up(cluster: Cluster) -> None:
    cluster.is_infeasible = True
    seconds, said = until_given_up(policy(2, 3600, queues=True), cluster, 3600)
    assert INFEASIBLE_SECONDS < seconds < INFEASIBLE_SECONDS + 3
    assert "that the autoscaler's node types and limits allow" in said


def test_a_request_that_was_infeasible_for_a_moment_is_waited_for(cluster: Cluster) -> None:
    one = policy(2, 3600, queues=True)
    for cluster.now in range(300):
        cluster.is_infeasible = cluster.now % 50 != 0
        decide(one)


def test_an_elastic_group_passes_by_nodes_that_are_taken_away(cluster: Cluster) -> None:
    cluster.nodes = {"a": {"CPU": 2.0}, "b": {"CPU": 2.0}}
    assert decide(policy((1, 4))).num_workers == 2
    cluster.going = {"b"}
    assert decide(policy((1, 4))).num_workers == 1
    cluster.going = {"a", "b"}
    assert isinstance(decide(policy((1, 4))), NoopDecision)


@pytest.mark.parametrize(
    ("node_minutes", "seconds", "queues", "words"),
    [(None, BRIEF_SECONDS, False, "cluster.autoscaling is false"), (20, 1200, True, "cluster.node_minutes=20")],
)
def test_nodes_that_may_be_added_are_waited_for_as_long_as_the_settings_say(
    node_minutes: float | None, seconds: float, queues: bool, words: str
) -> None:
    found = waits_of(10, node_minutes)
    assert (found.resize, found.room, found.queues) == (600, seconds, queues)
    assert words in found.setting


@pytest.mark.parametrize(
    ("workers", "allows", "asked"),
    [
        ((1, 4), 3, [4, 3]),
        ((2, 4), 1, [4, 3, 2]),  # the fewest stay asked for: others may go
        ((1, 4), 4, [4]),
        ((8, 40), 20, [40, 35, 31, 28, 25, 22, 20]),
    ],
)
def test_fewer_are_asked_for_where_the_autoscaler_adds_no_node_for_the_most(
    workers: tuple[int, int], allows: int, asked: list[int], cluster: Cluster
) -> None:
    one = policy(workers, 3600, queues=True)
    cluster.allows = allows
    one._send_resource_request()  # as the controller does at its start
    for cluster.now in range(1, 200):
        decide(one)
    assert [number for _, number in cluster.sent] == asked

"""How large a worker group is started, and how long room for it is waited for: Ray Train's own policies, with an end.

Ray Train decides in its controller, on the node of the driver. By itself it waits for ever where there is no room, or
gives up after a number of attempts in the whole life of a run; and it asks for workers on nodes that are on their way
out, which it waits for in vain. Imported by launch.py when a group is launched, since it loads Ray Train.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ScalingPolicy,
)

POLL_SECONDS = 0.5
"""Between two questions whether there is room: Ray Train's controller asks without a pause, on the head's core."""
INFEASIBLE_SECONDS = 60.0
"""How long the autoscaler must call a request one that its limits never allow before it is believed: other runs end."""
LOOK_SECONDS = 5.0
"""Between two looks at what the autoscaler refuses, which decides about as often."""


class NoRoomError(RuntimeError):
    """A worker group that found no room in time; the message, of one line, says what was asked and what exists."""


class _Patient(ScalingPolicy):
    """Gives up where there has been no room for so long; a group that runs begins the time anew."""

    def __init__(self, scaling_config: ScalingConfig, seconds: float, setting: str, queues: bool) -> None:
        """`seconds` without room, `setting` and `queues` as in launch.py's `Waits`."""
        super().__init__(scaling_config)  # type: ignore[arg-type]  # annotations show Train v1
        self._seconds, self._setting, self._queues = seconds, setting, queues
        self._waits_since: float | None = None
        self._infeasible_since: float | None = None

    def make_decision_for_non_running_worker_group(self) -> Any:
        now = time.monotonic()
        if self._waits_since is None or (self._queues and self._is_held_by_others()):
            self._waits_since = now
        waited = now - self._waits_since
        if waited > self._seconds:
            raise NoRoomError(self._told(f"within {waited:.0f} s ({self._setting})"))
        if not is_infeasible(self._asked(), self._fewest()):
            self._infeasible_since = None
        elif self._infeasible_since is None:
            self._infeasible_since = now
        elif now - self._infeasible_since > min(INFEASIBLE_SECONDS, self._seconds):
            raise NoRoomError(self._told("that the autoscaler's node types and limits allow"))
        decision = super().make_decision_for_non_running_worker_group()  # type: ignore[safe-super]  # of the mixed-in class
        if isinstance(decision, NoopDecision):
            time.sleep(POLL_SECONDS)
        return decision

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        self._waits_since = self._infeasible_since = None
        return super().make_decision_for_running_worker_group(  # type: ignore[safe-super]  # as above
            worker_group_state, worker_group_status
        )

    def _asked(self) -> dict[str, float]:
        return dict(self.scaling_config._resources_per_worker_not_none)

    def _fewest(self) -> int:
        number = self.scaling_config.num_workers
        return min(number) if isinstance(number, tuple) else int(number or 1)

    def _is_held_by_others(self) -> bool:
        """Whether the nodes there are would do for the fewest workers, were they free."""
        asked = self._asked()
        rooms = [
            min(int(node["Resources"].get(name, 0.0) / amount) for name, amount in asked.items() if amount)
            for node in nodes_that_stay().values()
        ]
        return sum(rooms) >= self._fewest()

    def _told(self, limit: str) -> str:
        there_is = "; ".join(described(node["Resources"]) for node in nodes_that_stay().values()) or "none"
        return (
            f"no room for {self._fewest()} workers of {described(self._asked())} {limit}; nodes there are: {there_is}"
        )


class PatientFixed(_Patient, FixedScalingPolicy):
    """A group of one size."""


class PatientElastic(_Patient, ElasticScalingPolicy):
    """A group that starts with as many workers as there is room for, on nodes that stay.

    Ray asks the autoscaler for the most workers as one request, for which no node at all is added where the limits
    allow fewer. So fewer are asked for until they are allowed.
    """

    _asks: int | None = None
    """Workers asked for; None: the most."""
    _refused = 0
    _looked_at = float("-inf")

    def make_decision_for_non_running_worker_group(self) -> Any:
        """As Ray Train's; NoRoomError."""
        self._ask_for_fewer()
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """As Ray Train's."""
        self._ask_for_fewer()
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _get_num_workers_for_resource_request(self) -> int:
        return self._asks or int(super()._get_num_workers_for_resource_request())

    def _ask_for_fewer(self) -> None:
        """Lower what is asked for, by an eighth, where it was refused since the last look."""
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        asks, refused = self._get_num_workers_for_resource_request(), number_refused(self._asked())
        if refused >= asks > self._fewest() and refused != self._refused:  # the same number: of the ask before
            self._asks = max(self._fewest(), asks - max(1, asks // 8))
            self._send_resource_request()  # type: ignore[no-untyped-call]  # Ray has no types here
        self._refused = refused

    def _count_possible_workers(self, reserved_resources: Mapping[str, Any]) -> int:
        """Ray counts nodes that are drained, and for 20 s those that are dead, and waits for them to take a worker."""
        staying = nodes_that_stay()
        reserved = {node: resources for node, resources in reserved_resources.items() if node in staying}
        return int(super()._count_possible_workers(reserved))


def scaling_policy(scaling_config: ScalingConfig, seconds: float, setting: str, queues: bool) -> ScalingPolicy:
    """The policy of Ray Train that `scaling_config` asks for, with an end: NoRoomError."""
    kind = PatientElastic if isinstance(scaling_config.num_workers, tuple) else PatientFixed
    return kind(scaling_config, seconds, setting, queues)


def nodes_that_stay() -> dict[str, Mapping[str, Any]]:
    """The nodes, by id, that are neither dead nor announced to be taken away."""
    going = ray._private.state.state.get_draining_nodes()  # as Ray Train does
    return {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going}  # type: ignore[no-untyped-call]


def is_infeasible(bundle: Mapping[str, float], number: int) -> bool:
    """Whether the autoscaler, where there is one (v2), says that its limits never allow `number` such bundles."""
    return any(
        sum(dict(request.resources_bundle) == dict(bundle) for request in gang.requests) >= number
        for gang in _autoscaling_state().infeasible_gang_resource_requests
    )


def number_refused(bundle: Mapping[str, float]) -> int:
    """How many such bundles are in what all runs together ask of the autoscaler, where its limits do not allow that."""
    return sum(
        one.count
        for asked in _autoscaling_state().infeasible_cluster_resource_constraints
        for one in asked.resource_requests
        if dict(one.request.resources_bundle) == dict(bundle)
    )


def _autoscaling_state() -> Any:
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # generated

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    return GetClusterStatusReply.FromString(client.get_cluster_status()).autoscaling_state


def described(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs in words, such as "4 CPUs and 1 GPU"."""
    named = [(resources.get(name, 0.0), name) for name in ("CPU", "GPU")]
    return " and ".join(f"{count:g} {name}{'' if count == 1 else 's'}" for count, name in named if count) or "no CPU"

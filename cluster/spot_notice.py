"""Tell Ray when the cloud announces that it takes this machine away: Ray does not ask AWS or Google Cloud itself.

    python -m proteinlm.cluster.spot_notice CLOUD --address HEAD:6379

CLOUD is aws or gcp. Asks the machine's metadata service until there is a notice, drains the node of Ray that runs here,
with the notice's deadline, and ends. A run saves a checkpoint then and goes on elsewhere. On a machine that is not
a spot one there is never a notice. The service: two minutes on AWS, thirty seconds on Google Cloud.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

METADATA = {"aws": "http://169.254.169.254", "gcp": "http://metadata.google.internal"}
"""Where the machine's metadata service answers."""
TOKEN_SECONDS = 300
"""How long a token of AWS's metadata service (IMDSv2) is asked for."""
GCP_SECONDS = 30.0
"""What Google Cloud leaves between its notice and the end."""
POLL_SECONDS = 5.0
"""Between two questions; AWS asks for this cadence."""
ANSWER_SECONDS = 10.0
"""How long an answer may take; Google's waits this long for a change before it says that there is none."""


def asked(url: str, headers: Mapping[str, str], method: str = "GET") -> str | None:
    """What `url` answers, None for 404; OSError where it does not answer or answers another error."""
    request = urllib.request.Request(url, headers=dict(headers), method=method)
    # Without the environment's proxies: no proxy reaches a machine's own service.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2 * ANSWER_SECONDS) as answer:
            text: bytes = answer.read()
            return text.decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def aws_deadline(base: str) -> float | None:
    """When AWS ends or stops this machine (seconds since 1970); None: it has not said so."""
    token = asked(f"{base}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}, "PUT")
    said = asked(f"{base}/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token or ""})
    if said is None:
        return None
    return datetime.strptime(json.loads(said)["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def gcp_deadline(base: str) -> float | None:
    """When Google Cloud ends this machine (seconds since 1970); None: it has not said so."""
    url = f"{base}/computeMetadata/v1/instance/preempted?wait_for_change=true&timeout_sec={ANSWER_SECONDS:g}"
    said = asked(url, {"Metadata-Flavor": "Google"})
    return time.time() + GCP_SECONDS if said and said.strip() == "TRUE" else None


DEADLINES: dict[str, Callable[[str], float | None]] = {"aws": aws_deadline, "gcp": gcp_deadline}


def wait_for_notice(cloud: str, base: str, poll_seconds: float = POLL_SECONDS) -> float:
    """Wait until `cloud`'s metadata service at `base` announces this machine's end; seconds since 1970.

    A service that does not answer, or not in its form, is asked again: it may be late, and the node works without.
    """
    silent = False
    while True:
        try:
            deadline = DEADLINES[cloud](base)
            silent = False
        except (OSError, ValueError, KeyError) as error:
            deadline = None
            if not silent:
                say(f"{base}: {error}; asking on")
            silent = True
        if deadline is not None:
            return deadline
        time.sleep(poll_seconds)


def drain(address: str, goes: Callable[[Any], bool], deadline: float, why: str) -> list[str]:
    """Announce to Ray at `address` that the nodes for which `goes` (of Ray's GcsNodeInfo) holds go at `deadline`.

    Returns the ids of those that Ray drains.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled; as `ray drain-node` does
    from ray.core.generated import autoscaler_pb2
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]  # generated

    client = GcsClient(address=address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")  # type: ignore[attr-defined]
    drained = []
    for node_id, node in client.get_all_node_info().items():
        if node.state == GcsNodeInfo.ALIVE and goes(node):
            is_accepted, refusal = client.drain_node(node_id.hex(), reason, why, int(1000 * deadline))
            if is_accepted:
                drained.append(node_id.hex())
            else:
                say(f"Ray refuses to drain node {node_id.hex()}: {refusal}")
    return drained


def say(text: str) -> None:
    """Print `text` with the time, for a log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Wait for a notice and drain this machine's node; 1 where Ray knows none here, or refuses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cloud", choices=sorted(METADATA))
    parser.add_argument("--address", required=True, help="Ray's address: HEAD:6379")
    parser.add_argument("--metadata", help="the metadata service; default: the cloud's own")
    parser.add_argument("--node-address", help="the node's address as Ray knows it; default: this machine's")
    parser.add_argument("--poll-seconds", type=float, default=POLL_SECONDS)
    given = parser.parse_args(arguments)
    import ray

    node_address = given.node_address or ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray has no types here
    deadline = wait_for_notice(given.cloud, given.metadata or METADATA[given.cloud], given.poll_seconds)
    left = deadline - time.time()
    why = f"{given.cloud}: taken away in {left:.0f} s"
    drained = drain(given.address, lambda node: node.node_manager_address == node_address, deadline, why)
    say(f"{given.cloud} takes this machine away in {left:.0f} s; drained: {', '.join(drained) or 'no node'}")
    return int(not drained)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

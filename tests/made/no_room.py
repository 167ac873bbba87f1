"""A run that asks for more than a small cluster can ever give, and nobody adds nodes: how it ends, as a JSON line.

    python -m tests.made.no_room [NODE_MINUTES]

Two nodes, of 2 and 3 CPUs, and a head of one; two workers of 2.5 CPUs. All together the CPUs would do, so that only
waiting shows that the nodes do not. NODE_MINUTES: the run is told that nodes may be added; none ever is.
"""

import json
import sys
import time
from contextlib import suppress
from typing import Any

from tests.made.ray_nodes import Node, RayNodes, left_of_a_run, wait_until
from tests.made.watched_run import WatchedRun


def main() -> None:
    cluster: dict[str, Any] = {"num_workers": 2, "cpus_per_worker": 2.5}
    if sys.argv[1:]:
        cluster |= {"autoscaling": True, "node_minutes": float(sys.argv[1])}
    with RayNodes() as nodes:
        nodes.start_head(Node("head"), "--num-cpus=1")
        nodes.start_worker(Node("a"), 2)
        nodes.start_worker(Node("b"), 3)
        began = time.monotonic()
        run = WatchedRun(nodes, "large", cluster, nodes.address)
        code = run.end()
        seconds = time.monotonic() - began
        with suppress(TimeoutError):  # Ray's cleaner of placement groups looks from time to time
            wait_until(lambda: not left_of_a_run(), 10)
        left = [*left_of_a_run(), *["a placement group"] * nodes.placement_groups()]
        print(json.dumps({"code": code, "seconds": seconds, "said": run.said.read_text(), "left": left}))


if __name__ == "__main__":
    main()

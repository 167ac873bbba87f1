"""What a pretraining loses when something dies, measured on several Ray nodes of this machine, a line a fault.

    python -m tests.benchmarks.failure_table [FAULT ...] [--reference FILE] [--json]

The run is a process of its own that joins by RAY_ADDRESS, the faults stand in tests/made/faults.py. Without any: all.
--reference FILE: the undisturbed run's losses, kept there for the next call.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from proteinlm.platform.training.tracking import read_metrics
from tests.made.faults import FAULTS, HEAD, WORKERS, two_networks
from tests.made.ray_nodes import Node, RayNodes, left_of_a_run, wait_until
from tests.made.watched_run import STEPS, WatchedRun, losses, undisturbed

AT = 33
"""Steps before the fault."""
SHARED_MEMORY = Path("/dev/shm")
NOT_OURS = ("torchinductor_", "pymp-")
"""Temporary files of others: torch's cache, and an empty folder of Python's that a killed process cannot remove."""


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    fault: str
    happened: str
    code: int
    steps_again: int
    without_step: float
    """Seconds, the longest time."""
    largest_difference: float
    """Relative, of any step's loss and the last validation's from the undisturbed run's."""
    steps: bool
    """Whether metrics.jsonl holds each step once."""
    left: list[str]
    """Processes, placement groups and temporary files that outlived the run."""


def measure(fault: str, expected: Sequence[tuple[int, float]]) -> Row:
    about = FAULTS[fault]
    with ExitStack() as stack:
        nodes = stack.enter_context(RayNodes())
        in_memory = set(SHARED_MEMORY.iterdir())
        head, *workers = stack.enter_context(two_networks(nodes)) if about.is_cut else (HEAD, *WORKERS)
        nodes.start_head(head, "--num-cpus=1")
        for node in workers[: about.nodes]:
            nodes.start_worker(node, 2)
        cluster = {"num_workers": about.num_workers, "cpus_per_worker": 2}
        run = WatchedRun(nodes, fault, cluster, nodes.address, head.prefix)
        try:
            run.wait_for(AT)
            since = time.time()
            happened = about.harm(nodes, run)
            code = run.end()
        finally:
            print(run.said.read_text()[-3000:], file=sys.stderr)
        found = losses(run.directory)
        same = zip(found, expected, strict=False)
        return Row(
            fault,
            happened,
            code,
            run.steps.again(),
            run.steps.longest_gap(since),
            max((abs(a / b - 1) for (_, a), (_, b) in same), default=1.0),
            [row["step"] for row in read_metrics(run.directory) if "loss" in row] == list(range(1, STEPS + 1)),
            left_behind(nodes, head, in_memory),
        )


def left_behind(nodes: RayNodes, head: Node, in_memory: set[Path]) -> list[str]:
    """Processes, placement groups and files of the run, ten seconds after its end."""

    def left() -> list[str]:
        files = [*set(SHARED_MEMORY.iterdir()) - in_memory, *(nodes.folder / "tmp").iterdir()]
        return left_of_a_run() + [str(path) for path in files if not path.name.startswith(NOT_OURS)]

    with suppress(TimeoutError):
        wait_until(lambda: not left(), 10)
    return left() + ["a placement group"] * nodes.placement_groups(head.prefix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", choices=[*FAULTS, []], default=[])
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of the table")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        expected = undisturbed(given.reference or Path(folder) / "losses.json")
    for fault in given.faults or FAULTS:
        row = measure(fault, expected)
        text = (
            f"{row.fault:14} {row.steps_again:3} steps again  {row.without_step:6.1f} s without a step  "
            f"loss off by {row.largest_difference:.1g}  code {row.code}, each step once: {row.steps}, "
            f"left: {row.left or 'nothing'}; {row.happened}"
        )
        print(json.dumps(asdict(row)) if given.json else text, flush=True)


if __name__ == "__main__":
    main()

"""What the doctor measures on a node: an actor a node, which reserves nothing and is gone when it is let go.

    probe = start_probe(node_id)
    facts = ray.get(probe.facts.remote())

Nothing is judged here (doctor.py). Bytes, seconds; a fact that this system does not tell is None or empty.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from proteinlm.cluster.launch import last_line

OF_TORCH = """
import json, torch
on = torch.cuda.is_available()
cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())] if on else []
print(json.dumps({
    "version": torch.__version__, "built_for": torch.cuda.get_arch_list() if on else [],
    "cards": [{"name": card.name, "major": card.major, "minor": card.minor} for card in cards],
}))
"""
"""Asked in a process of its own: Ray hides GPUs from an actor that reserves none, and this one must not hold any."""
TORCH_SECONDS = 120

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp."""
LOOPBACK_V4, LOOPBACK_V6 = "7F", "00000000000000000000000001000000"
REDUCED_ELEMENTS = 8_000_000
"""Of a float32 all-reduce, 32 MB: large enough that its time is bandwidth and not latency."""
REDUCED_TIMES = 4


@dataclass(frozen=True)
class Card:
    """A GPU."""

    name: str
    major: int
    minor: int
    """Compute capability major.minor."""


@dataclass(frozen=True)
class NodeFacts:
    """What one node says of itself."""

    node: str
    """Its address."""
    python: str
    ray: str
    torch: str
    """Version with its build, such as 2.13.0+cu126; empty: torch cannot be imported."""
    built_for: tuple[str, ...]
    """sm_70 and so on; empty without a GPU."""
    cards: tuple[Card, ...]
    disk_free: int
    disk_total: int
    """Where Ray keeps its session and spills objects."""
    shared_free: int | None
    shared_total: int | None
    """/dev/shm."""
    object_store: int
    """Reserved for Ray's objects."""
    listening: tuple[int, ...]
    """TCP ports of this node that others than the node itself reach."""
    torch_fault: str = ""
    """Why torch cannot be imported, in a line."""


class NodeProbe:
    """Runs on the node that it measures."""

    def __init__(self) -> None:
        self.group: Any = None

    def facts(self, object_store: int, session: str) -> NodeFacts:
        """Measure all that needs nobody else."""
        import ray
        from ray.util import get_node_ip_address

        torch = of_torch()
        disk = shutil.disk_usage(session if Path(session).exists() else "/")
        shared = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
        return NodeFacts(
            node=get_node_ip_address(),  # type: ignore[no-untyped-call]  # Ray has no types here
            python=".".join(map(str, sys.version_info[:3])),
            ray=ray.__version__,
            torch=torch["version"],
            torch_fault=torch["fault"],
            built_for=tuple(torch["built_for"]),
            cards=tuple(Card(**card) for card in torch["cards"]),
            disk_free=disk.free,
            disk_total=disk.total,
            shared_free=shared.free if shared else None,
            shared_total=shared.total if shared else None,
            object_store=object_store,
            listening=tuple(sorted({port for is_open, port in listening_sockets() if is_open})),
        )

    def clock(self) -> float:
        """Seconds since 1970 by this node's clock."""
        return time.time()

    def asks_for_token(self, dashboard: str) -> tuple[int, bool]:
        """(HTTP status of a question without a token, whether others than this node reach the port), on the head."""
        from urllib.error import HTTPError
        from urllib.request import ProxyHandler, build_opener

        port = int(dashboard.rpartition(":")[2])
        try:
            # The port of this very machine, whatever proxy there is for others.
            with build_opener(ProxyHandler({})).open(f"{dashboard}/api/jobs/", timeout=10) as answer:
                status = answer.status
        except HTTPError as error:
            status = error.code
        return status, any(is_open for is_open, number in listening_sockets() if number == port)

    def write(self, storage: str, name: str, text: str) -> str:
        """Write a file into `storage`; what went wrong, or nothing."""
        try:
            filesystem, folder = filesystem_of(storage)
            filesystem.create_dir(folder, recursive=True)
            with filesystem.open_output_stream(f"{folder}/{name}") as stream:
                stream.write(text.encode())
        except Exception as error:  # each store's client has errors of its own
            return f"cannot write: {error}"
        return ""

    def read(self, storage: str, texts: dict[str, str]) -> str:
        """Read the files of all nodes; what went wrong, or nothing."""
        filesystem, folder = filesystem_of(storage)
        for name, text in texts.items():
            try:
                with filesystem.open_input_stream(f"{folder}/{name}") as stream:
                    found = stream.read().decode()
            except Exception as error:
                return f"does not see what another node wrote: {error}"
            if found != text:
                return "reads something else than what another node wrote"
        return ""

    def remove(self, storage: str) -> None:
        """Remove the folder of files that were written."""
        filesystem, folder = filesystem_of(storage)
        if filesystem.get_file_info(folder).type.name != "NotFound":
            filesystem.delete_dir(folder)

    def open_port(self) -> tuple[str, int]:
        """Return this node's address and a free port of it."""
        from ray.util import get_node_ip_address

        with socket.socket() as free:
            free.bind(("", 0))
            return str(get_node_ip_address()), int(free.getsockname()[1])  # type: ignore[no-untyped-call]  # Ray has no types here

    def reduce(self, backend: str, rank: int, world: int, leader: str, seconds: float) -> tuple[float, float]:
        """All-reduce with the others: (sum of ones, which is `world`; seconds of one)."""
        import torch
        from torch import distributed

        device = torch.device("cuda:0" if backend == "nccl" else "cpu")
        distributed.init_process_group(
            backend,
            init_method=f"tcp://{leader}",
            rank=rank,
            world_size=world,
            timeout=timedelta(seconds=seconds),
        )
        try:
            taken = []
            for _ in range(REDUCED_TIMES + 1):  # the first one connects
                ones = torch.ones(REDUCED_ELEMENTS, device=device)
                distributed.barrier()
                began = time.perf_counter()
                distributed.all_reduce(ones)
                total = float(ones[-1])  # waits for the GPU
                taken.append(time.perf_counter() - began)
        finally:
            distributed.destroy_process_group()
        return total, min(taken[1:])


def of_torch() -> dict[str, Any]:
    """The version of torch, what it is built for, the GPUs that it sees, and the fault where it does not import."""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-c", OF_TORCH]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True
        )
        return {"fault": "", **json.loads(done.stdout.splitlines()[-1])}
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        said = getattr(error, "stderr", None)  # of a process that failed; bytes of one that took too long
        fault = said.strip().splitlines()[-1] if isinstance(said, str) and said.strip() else last_line(error)
        return {"version": "", "built_for": [], "cards": [], "fault": fault}


def listening_sockets() -> list[tuple[bool, int]]:
    """(Whether others than this machine reach it, port) of each listening TCP socket; none without /proc."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            address, _, port = local.partition(":")
            if state == LISTEN:
                # An IPv4 address stands there with its bytes turned round: 127.0.0.1 is 0100007F.
                is_own = address.endswith(LOOPBACK_V4) if len(address) == 8 else address == LOOPBACK_V6
                found.append((not is_own, int(port, 16)))
    return found


def filesystem_of(storage: str) -> tuple[Any, str]:
    """The file system and the path in it that a directory or a URI names."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(storage) if "://" in storage else (fs.LocalFileSystem(), storage)


def start_probe(node_id: str, num_gpus: int = 0) -> Any:
    """Start an actor on a node that reserves no CPU, and `num_gpus` of its GPUs."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return ray.remote(NodeProbe).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=place).remote()

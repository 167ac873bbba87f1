"""The Slurm script with stand-ins for Slurm, Ray and the driver: who starts where, who hears signals, what is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import ROOT, checker

SCRIPT = ROOT / "cluster" / "configs" / "slurm-v100.sh"
NODES = ("node-a", "node-b")

RECORD = """
    import json, os, signal, sys, time
    from pathlib import Path
    def record(**more):
        line = {"program": Path(sys.argv[0]).name, "arguments": sys.argv[1:], "address": os.environ.get("RAY_ADDRESS"),
                "mode": os.environ.get("RAY_AUTH_MODE"), **more}
        with open(os.environ["RECORD"], "a") as file:
            file.write(json.dumps(line) + "\\n")
"""

STAND_INS = {
    "scontrol": "print(os.environ['NODES'].replace(',', chr(10)))",
    "ray": "record(); print('the-secret-token')",
    # A step of Ray lasts until SIGTERM; the head's listens, as Ray's head does.
    "srun": """
        record()
        if "ray" in sys.argv:
            def end(number, frame):
                record(ended=True)
                os._exit(143)
            signal.signal(signal.SIGTERM, end)
            if "--head" in sys.argv and os.environ.get("HEAD_ADDRESS"):
                if os.environ.get("HEAD_FAILS"):
                    sys.exit(1)
                import socket
                server = socket.create_server((os.environ["HEAD_ADDRESS"], int(os.environ["PORT"])))
            record(listens=True)
            while True:
                signal.pause()
    """,
    # `python -` waits for nodes with a stand-in for the module ray; `python -m proteinlm` is the driver.
    "python": """
        if sys.argv[1] == "-":
            os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
        signals = {signal.SIGUSR1, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        record()
        if os.environ.get("DRIVER_WAITS"):
            os.write(int(os.environ["DRIVER_WAITS"]), b"up")
            record(heard=signal.Signals(signal.sigwait(signals)).name)
        sys.exit(int(os.environ.get("DRIVER_CODE", "0")))
    """,
}

RAY_MODULE = """
    import os, time
    from pathlib import Path
    def init(**options):
        assert os.environ["RAY_ADDRESS"], options
        while Path(os.environ["RECORD"]).read_text().count('"listens"') < 2:  # both steps are up, and can be ended
            time.sleep(0.02)
    asked = []
    def nodes():
        asked.append(1)
        if len(asked) > 2:
            raise SystemExit(124)  # what `timeout` says when the time is up
        head = {"Alive": True, "NodeManagerHostname": "node-a", "Resources": {}}
        dead = {"Alive": False, "NodeManagerHostname": "node-b", "Resources": {"GPU": 8.0}}
        joined = os.environ["JOINED"].split(",")
        return [head, dead, *({"Alive": True, "NodeManagerHostname": f"{name}.site", "Resources": {"GPU": 8.0}}
                              for name in joined)]
"""


@dataclass
class Site:
    """A place with stand-ins for a Slurm cluster, and what they recorded."""

    folder: Path
    job: int
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Of the head: each job has its own."""
        return 20000 + self.job % 3000 * 4

    def start(self, *arguments: str, pass_fds: tuple[int, ...] = (), **more: str) -> subprocess.Popen[str]:
        """The script, started as Slurm does on the first node."""
        script = subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=self.environment | more,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        self.started.append(script)
        return script

    def run(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        """Exit code, output and complaints of the script."""
        started = self.start(*arguments, **more)
        out, err = started.communicate(timeout=60)
        return started.returncode, out, err

    def records(self, program: str) -> list[dict[str, object]]:
        """What `program`'s stand-ins recorded, in their order."""
        path = Path(self.environment["RECORD"])
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if line["program"] == program]

    def steps(self) -> list[list[str]]:
        """Arguments of each step that was started."""
        started = [line for line in self.records("srun") if not {"ended", "listens"} & line.keys()]
        return [[str(word) for word in line["arguments"]] for line in started]  # type: ignore[attr-defined]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable} -S\n{body}\n")
    path.chmod(0o755)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        write_program(programs / name, f"{textwrap.dedent(RECORD)}\n{textwrap.dedent(body)}")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "ray.py").write_text(textwrap.dedent(RAY_MODULE))
    job = next(number for number in range(4000 + os.getpid() % 1000, 7000) if is_free(20000 + number % 3000 * 4))
    place = Site(
        tmp_path,
        job,
        {
            "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(tmp_path / "modules"),
            "RECORD": str(tmp_path / "record"),
            "NODES": ",".join(NODES),
            "JOINED": ",".join(NODES),
            "HEAD_ADDRESS": "127.0.0.1",
            "PORT": str(20000 + job % 3000 * 4),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": "node-[a-b]",
            "SLURM_CPUS_ON_NODE": "64",
            "SLURM_GPUS_ON_NODE": "8",
        },
    )
    yield place
    for script in place.started:
        with suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)  # what a script that failed has left


def options(step: list[str]) -> dict[str, str]:
    """`--name=value` and `--name` of a step and of what it runs."""
    return {word.partition("=")[0]: word.partition("=")[2] for word in step if word.startswith("--")}


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run([checker("shellcheck"), str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_head_without_resources_and_a_training_node_on_every_machine(site: Site) -> None:
    code, out, err = site.run("pretrain", "run.yaml", "name=a b")
    assert (code, err) == (0, "")
    head, workers, cleaning = site.steps()
    assert head[head.index("ray") :][:3] == ["ray", "start", "--head"]
    on_head = options(head)
    assert on_head.items() >= {"--nodelist": "node-a", "--nodes": "1", "--ntasks": "1", "--gres": "none"}.items()
    assert (on_head["--num-cpus"], on_head["--num-gpus"]) == ("0", "0")
    assert (on_head["--dashboard-host"], on_head["--port"]) == ("127.0.0.1", str(site.port))
    on_workers = options(workers)
    assert "--nodelist" not in on_workers
    assert (on_workers["--nodes"], on_workers["--ntasks"], on_workers["--ntasks-per-node"]) == ("2", "2", "1")
    assert (on_workers["--num-cpus"], on_workers["--num-gpus"]) == ("60", "8")
    assert (on_workers["--address"], on_workers["--cpus-per-task"]) == (f"127.0.0.1:{site.port}", "64")
    assert "--no-kill" in on_workers
    assert cleaning[-4:] == ["rm", "-rf", "--", f"/tmp/ray-{site.job}"]
    own = [on_head[name] for name in ("--port", "--dashboard-port", "--ray-client-server-port")]
    own.append(on_head["--dashboard-agent-listen-port"])
    assert len(set(own)) == 4
    assert f"127.0.0.1:{on_head['--dashboard-port']} node-a" in out, "the tunnel"


def test_the_driver_gets_the_command_the_address_and_the_token_mode(site: Site) -> None:
    assert site.run("pretrain", "run.yaml", "name=a b")[0] == 0
    driver = site.records("python")[0]
    assert driver["arguments"] == ["-m", "proteinlm", "pretrain", "run.yaml", "name=a b"]
    assert driver["address"] == f"127.0.0.1:{site.port}"
    everybody = [*site.records("srun"), *site.records("python")]
    assert {line["mode"] for line in everybody} == {"token"}


def test_the_token_is_made_before_ray_starts_and_never_shown(site: Site) -> None:
    _, out, err = site.run("pretrain", "run.yaml")
    assert [line["arguments"] for line in site.records("ray")] == [["get-auth-token", "--generate"]]
    assert "the-secret-token" not in out + err
    assert all("the-secret-token" not in word for step in site.steps() for word in step)


@pytest.mark.parametrize("driver_code", [0, 2, 17])
def test_the_driver_s_exit_code_is_the_job_s_and_both_steps_are_ended(site: Site, driver_code: int) -> None:
    code, _, err = site.run("pretrain", "run.yaml", DRIVER_CODE=str(driver_code))
    assert code == driver_code
    assert sum("ended" in line for line in site.records("srun")) == 2
    assert ("logs stay in" in err, len(site.steps())) == ((True, 2) if driver_code else (False, 3))


@pytest.mark.parametrize(("sent", "heard"), [(signal.SIGUSR1, "SIGUSR1"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_is_the_driver_s_and_its_end_is_waited_for(site: Site, sent: signal.Signals, heard: str) -> None:
    reading, writing = os.pipe()
    started = site.start("pretrain", "run.yaml", pass_fds=(writing,), DRIVER_WAITS=str(writing), DRIVER_CODE="5")
    os.close(writing)
    assert os.read(reading, 2) == b"up"
    os.close(reading)
    started.send_signal(sent)
    started.communicate(timeout=60)
    assert started.returncode == 5, "the driver's own code, not 128 + the signal"
    assert site.records("python")[-1]["heard"] == heard
    order = list(map(json.loads, Path(site.environment["RECORD"]).read_text().splitlines()))
    ended = [number for number, line in enumerate(order) if "ended" in line]
    assert min(ended) > next(number for number, line in enumerate(order) if "heard" in line), "Ray outlives the driver"


def test_nodes_that_do_not_join_are_named(site: Site) -> None:
    code, out, err = site.run("pretrain", "run.yaml", JOINED="node-a")
    assert (code, "waiting for node-b\n" in out) == (2, True)
    assert "not all nodes joined" in err
    assert site.records("python") == [], "no driver on half a cluster"
    assert sum("ended" in line for line in site.records("srun")) == 2


def test_a_head_that_ends_at_once_is_not_waited_for(site: Site) -> None:
    code, _, err = site.run("pretrain", "run.yaml", HEAD_FAILS="1")
    assert (code, "the head ended" in err, len(site.steps())) == (2, True, 1)


@pytest.mark.parametrize(
    ("getent", "address"),
    [
        ("print('127.0.1.1  STREAM node-a'); print('0.0.0.0  STREAM node-a')", "0.0.0.0"),
        ("print('127.0.1.1  STREAM node-a')", "::ffff:127.0.0.1"),
        ("raise SystemExit(2)", "::ffff:127.0.0.1"),
    ],
)
def test_the_head_s_address_is_not_one_that_leads_every_node_to_itself(site: Site, getent: str, address: str) -> None:
    """Both stand for addresses of the network, and lead to this machine, where nobody answers."""
    for program, body in {"getent": getent, "hostname": "print('::ffff:127.0.0.1 192.0.2.10')"}.items():
        write_program(site.folder / "bin" / program, body)
    site.environment.pop("HEAD_ADDRESS")
    code, _, err = site.run("pretrain", "run.yaml", JOIN_SECONDS="0")
    assert (code, f"no head at {address}:{site.port}" in err) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "change", "words"),
    [
        ([], {}, "usage: sbatch"),
        (["pretrain"], {"SLURM_JOB_ID": ""}, "no Slurm job"),
        (["pretrain"], {"SLURM_GPUS_ON_NODE": "0"}, "no GPU on node-a"),
        (["pretrain"], {"SLURM_CPUS_ON_NODE": "12"}, "12 CPUs on node-a for 8 GPUs; ask for 13 or more"),
        (["pretrain"], {"PATH": "/usr/bin:/bin"}, "no ray on PATH"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    site: Site, arguments: list[str], change: dict[str, str], words: str
) -> None:
    code, _, err = site.run(*arguments, **change)
    assert (code, words in err) == (2, True), err
    assert site.steps() == []

"""Two CPUs and two trials whose workers are groups of their own: where Tune reserves a CPU for each trial, neither
trial's workers ever get one, and nothing is said (ray-project/ray#54305).
"""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.made.small_sweep import small_sweep, write_sweep
from tests.made.terminal import environment_without_cluster

ON_TWO_CPUS = """
import sys, tempfile
from pathlib import Path
import ray
from proteinlm.sweeps.planning.plan import load_sweep
from proteinlm.sweeps.sweep import sweep

if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, dashboard_port=0, _temp_dir=folder, log_to_driver=False)
        assert ray.cluster_resources()["CPU"] == 2
        assert sweep(load_sweep(Path(sys.argv[1]))) == []
        ray.shutdown()
"""


def test_two_trials_with_workers_of_their_own_on_two_cpus(tmp_path: Path) -> None:
    values = small_sweep(tmp_path, "two", tasks=[])
    values["pretrain"]["training"] = {"steps": 2, "zero_stage": 0, "precision": "fp32"}
    script = tmp_path / "on_two_cpus.py"
    script.write_text(ON_TWO_CPUS)
    done = subprocess.run(
        [sys.executable, str(script), str(write_sweep(tmp_path, values))],
        cwd=ROOT,
        env=environment_without_cluster() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    finished = list((tmp_path / "runs" / "two").glob("*/finished.json"))
    assert len(finished) == 2

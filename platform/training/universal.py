"""A ZeRO checkpoint for another number of workers: DeepSpeed's universal format, made from the parts when a run starts.

ZeRO cuts optimizer state into as many parts as there are workers, and refuses any other number. The universal format
holds whole tensors, a file for each parameter (DeepSpeed, checkpoint/ds_to_universal.py).
"""

import shutil
import subprocess
import sys
from pathlib import Path

CONVERTER = "deepspeed.checkpoint.ds_to_universal"


def convert_to_universal(state: Path, converted: Path) -> None:
    """Write the universal form of DeepSpeed's `state` directory as `converted`; RuntimeError where that fails.

    In a process of its own: the converter forks, which a worker with threads and a process group must not.
    """
    shutil.rmtree(converted, ignore_errors=True)  # half of an earlier attempt
    converted.parent.mkdir(parents=True, exist_ok=True)
    folders = ["--input_folder", str(state), "--output_folder", str(converted)]
    # Engines other than Megatron's do not write the state that this flag fills in.
    command = [sys.executable, "-m", CONVERTER, *folders, "--inject_missing_state"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"the checkpoint in {state} could not be converted to the universal format: {last[0]}")

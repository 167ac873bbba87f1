"""A sweep that runs in seconds: two shapes, a task on each and its baseline, on made-up proteins."""

from pathlib import Path
from typing import Any

from proteinlm.platform.settings.loading import merge
from proteinlm.platform.settings.yaml_text import to_yaml
from proteinlm.platform.simulated.proteins import simulate
from tests.made.small_corpus import write_small_corpus

TRIALS = 5


def small_sweep(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Settings of the sweep, its inputs made in `folder` where they are not there yet."""
    if not (folder / "corpus").exists():
        (folder / "corpus").mkdir()
        write_small_corpus(folder / "corpus")
        simulate(folder / "records", num_families=20, proteins_per_family=4, seed=0)
    training = {"steps": 4, "engine": "plain", "precision": "fp32", "validate_every": 2, "checkpoint_every": 2}
    batches = {"micro_batch_residues": 1000, "lanes": 1, "max_length": 200}
    values = {
        "name": name,
        "storage": str(folder / "runs"),
        "pretrain": {
            "corpus": str(folder / "corpus"),
            "model": {"preset": "cpu-tiny", "num_hidden_layers": 1},
            "batches": batches,
            "training": training,
        },
        "configurations": [{"model.hidden_size": 32}, {"model.num_attention_heads": 4}],
        "finetune": {"data": str(folder / "records"), "batches": batches, "training": training},
        "tasks": [
            {"task": "secondary_structure_q3", "mode": "full"},
            {"task": "secondary_structure_q3", "mode": "baseline"},
        ],
    }
    return merge(values, changes)


def write_sweep(folder: Path, values: dict[str, Any]) -> Path:
    """The settings as a file."""
    path = folder / f"{values['name']}.yaml"
    path.write_text(to_yaml(values))
    return path

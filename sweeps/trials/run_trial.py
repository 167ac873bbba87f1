"""One trial, in Tune's process for it: the verb itself, and whatever comes of it put down where the sweep finds it."""

import traceback
from typing import Any

from proteinlm.platform.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.finetune import finetune
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.training.driver import PausedError
from proteinlm.sweeps.trials.outcomes import alone_in, attempt, forget_outcome, mark_failed


def run_trial(told: dict[str, Any]) -> dict[str, Any]:
    """Run the trial and say what it came to: `done`, `paused` (the step) or `failed` (why). It raises nothing.

    What Tune hears of as an error is then a process that died: killed, or with its node.
    """
    make = PretrainConfig if told["verb"] == "pretrain" else FinetuneConfig
    config = make.model_validate(told["values"])
    said: dict[str, Any] = {"trial": told["trial"]}
    try:
        with alone_in(config.directory), attempt(config.directory, *_devices(config), told["scheduled"]):
            forget_outcome(config.directory)
            pretrain(config) if isinstance(config, PretrainConfig) else finetune(config)
    except PausedError as pause:
        return said | {"paused": pause.step}
    except Exception as error:
        why = _in_one_line(error)
        mark_failed(config.directory, why, traceback.format_exc())
        return said | {"failed": why}
    return said | {"done": True}


def _devices(config: PretrainConfig | FinetuneConfig) -> tuple[float, str]:
    """How many devices the trial holds, and what they are; the sweep has settled both (`with_share`)."""
    workers = config.cluster.most_workers
    return (workers, "gpu") if config.cluster.use_gpu else (workers * (config.cluster.threads_per_worker or 1), "core")


def _in_one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__

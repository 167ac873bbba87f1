"""Which step's weights a finetuned model ends with: the best one by the task's first metric on its first valid split.

The test splits are not looked at. It also tells when to stop: after `patience` validations in a row without a better
value. What it has seen is stored in the run directory, so that a resumed run chooses as one that never stopped:

    best/selection.json          every validation so far: [step, value]
    best/step_00000120.pt        trained weights of the best step, and of the one that was best at the last checkpoint

Weights are kept whole, for any number of workers, and without the optimizer's state: they are scored, never trained on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torch import distributed as dist

from proteinlm.models.weights import check_archive
from proteinlm.platform.places.places import fetched, written
from proteinlm.platform.storage.atomic import write_atomically
from proteinlm.platform.storage.run_directory import BEST_FOLDER, first_fault, read_json
from proteinlm.platform.training.checkpoint import loading
from proteinlm.platform.training.engine import Engine, fitting
from proteinlm.platform.training.job import Run

MEMORY_FILE = "selection.json"
ACCEPTED = "a list of [step, value]"


@dataclass(frozen=True)
class Chosen:
    """The step that was chosen, as result rows record it."""

    step: int
    of_steps: int
    """Optimizer steps that were done when training ended."""
    figure: str
    """The metric that was compared, such as "valid/spearman"."""
    value: float


class Selection:
    """Keeps the best weights of a run while it trains."""

    def __init__(
        self,
        folder: Path,
        metric: str,
        *,
        larger_is_better: bool,
        patience: int | None,
        first_step: int,
        engine: Engine,
        is_first_worker: bool,
    ) -> None:
        """`metric` names a metric of the validation, such as "valid/spearman"; training resumes after `first_step`."""
        self._folder, self._metric, self._patience = folder, metric, patience
        self._sign = 1.0 if larger_is_better else -1.0
        self._engine, self._is_first = engine, is_first_worker
        # Validations after the checkpoint will be made again.
        self._seen = [(step, value) for step, value in _remembered(folder) if step <= first_step]
        self._at_checkpoint = self.best_step()

    @classmethod
    def of(cls, run: Run, engine: Engine, first_step: int) -> "Selection | None":
        """Make the selection of a finetuning run; None for a pretraining, and where the task has no valid split."""
        if run.job.verb == "pretrain" or not run.task.valid_splits:
            return None
        metric = run.task.metrics[0]
        return cls(
            run.job.directory / BEST_FOLDER,
            f"{run.task.valid_splits[0]}/{metric.name}",
            larger_is_better=metric.larger_is_better,
            patience=run.job.training.patience,
            first_step=first_step,
            engine=engine,
            is_first_worker=run.worker.is_first,
        )

    def best_step(self) -> int | None:
        """Return the step whose metric is best so far, of equal ones the first; None while all were NaN."""
        known = [(self._sign * value, -step) for step, value in self._seen if value == value]
        return -max(known)[1] if known else None

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the weights of this validated step if it is the best so far; all workers call it with equal metrics."""
        self._seen.append((step, metrics[self._metric]))
        if self._is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
        if self.best_step() == step:
            with self._engine.module() as model:
                if self._is_first:
                    with written(_weights(self._folder, step)) as file:
                        torch.save(_trained(model), file)
        if self._is_first:
            write_atomically(self._folder / MEMORY_FILE, json.dumps(self._seen) + "\n")
            self._forget_all_but({self.best_step(), self._at_checkpoint})

    def checkpointed(self) -> None:
        """Note that a checkpoint was made: a run resumed from it needs the weights that are best now."""
        self._at_checkpoint = self.best_step()

    def is_exhausted(self) -> bool:
        """Whether the last `patience` validations brought no new best step."""
        best = self.best_step()
        if self._patience is None or best is None:
            return False
        return sum(step > best for step, _ in self._seen) >= self._patience

    def load_best(self) -> bool:
        """Load the best step's weights into the engine; False where the last validated step is the best."""
        best = self.best_step()
        if best is None or best == self._seen[-1][0]:
            return False
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.barrier()  # the first worker may still be writing
        with fetched(_weights(self._folder, best)) as file, self._engine.module(writes=True) as model:
            check_archive(file, sums=True)
            with loading(file.parent):
                state = torch.load(file, map_location="cpu", weights_only=True)
            with fitting(file):
                if state.keys() != _trained(model).keys():
                    raise ValueError("it has other parameters")
                model.load_state_dict(state, strict=False)
        return True

    def chosen(self, of_steps: int) -> Chosen | None:
        """Return the chosen step out of `of_steps` steps done; None where every value was NaN."""
        best = self.best_step()
        return None if best is None else Chosen(best, of_steps, self._metric, dict(self._seen)[best])

    def _forget_all_but(self, steps: set[int | None]) -> None:
        kept = {_weights(self._folder, step) for step in steps if step is not None}
        for path in self._folder.glob("step_*"):
            if path not in kept:
                path.unlink(missing_ok=True)


def _weights(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.pt"


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, and buffers such as BatchNorm's; a frozen encoder is in its pretrained directory."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items() if name not in frozen}


def _remembered(folder: Path) -> list[tuple[int, float]]:
    """Every validation so far: (step, value); ValueError that names the file where it does not say it."""
    memory = folder / MEMORY_FILE
    if not memory.is_file():
        return []
    values = read_json(memory, ACCEPTED)
    try:
        return TypeAdapter(list[tuple[int, float]]).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"{memory} is damaged: {first_fault(error)}; accepted: {ACCEPTED}") from None

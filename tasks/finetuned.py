"""A finetuned model as a directory: the task, its encoder and its head, read back without the run that made it.

Beside what every model's directory says (models/model_directory.py), config.json holds `task`, `task_options`, `mode`,
the sections `model` (a `ModelConfig`) and `lora`, what the task's metrics are, and `extra`, what the writer adds.

The encoder's weights are in the directory in every mode, also where they are those of the pretrained model (frozen): a
directory can be copied and used alone. Adapters of mode lora are kept as adapters, so that outputs stay bit-equal;
reading such a model needs peft.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from proteinlm.models.config import ModelConfig
from proteinlm.models.encoder import CnnEncoder, ProteinEncoder
from proteinlm.models.messages import printable
from proteinlm.models.model_directory import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Format,
    check_digest,
    read_description,
    read_model_config,
    write_model,
)
from proteinlm.models.weights import check_weights, read_weights
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Task, TaskModel

FORMAT = Format("proteinlm-finetuned", version=1, readable=(1,))
CNN = "cnn"
"""The mode in which a small convolutional encoder takes the place of the transformer, from scratch."""


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters of an encoder; the values of `add_lora`."""

    rank: int
    alpha: int
    dropout: float
    layers: Sequence[str]


@dataclass(frozen=True)
class Finetuned:
    """What a finetuned model is, beside its weights."""

    task: str
    """Name in tasks/catalog.py."""
    task_options: Mapping[str, Any]
    mode: str
    """As in the settings: full, frozen, lora, scratch or cnn."""
    model: ModelConfig
    lora: Adapters | None = None
    extra: Mapping[str, object] = field(default_factory=dict)
    """What the writer adds: run, data hash, step ... Must be JSON."""


def make_task_model(task: Task, about: Finetuned, encoder: ProteinEncoder | None = None) -> TaskModel:
    """A model for `task` with a new head, on `encoder` or, where there is none, on a new one; adapters are added.

    Random weights come from torch's global generator: first the encoder's, then the adapters', then the head's.
    """
    if about.mode == CNN:
        # It has what tasks use of an encoder: a configuration, and hidden states of a packed micro batch.
        encoder = cast(ProteinEncoder, CnnEncoder(about.model))
    elif encoder is None:
        encoder = ProteinEncoder(about.model)
    if about.lora is not None:
        add_lora(encoder, **asdict(about.lora))
    return TaskModel(task, encoder, frozen=about.mode == "frozen")


def save_finetuned(directory: str | Path, model: TaskModel, about: Finetuned) -> None:
    """Write `model` to `directory`, in place of an older finetuned model; whole or not at all.

    Raises ValueError where `directory` holds something else, OSError where it cannot be written.
    """
    metrics = [{"name": one.name, "definition": one.definition, "unit": one.unit} for one in model.task.metrics]
    description = {
        "task": about.task,
        "task_options": dict(about.task_options),
        "mode": about.mode,
        "model": about.model.model_dump(mode="json"),
        "lora": asdict(about.lora) if about.lora else None,
        "label_level": model.task.label_level,
        "metrics": metrics,
        "extra": dict(about.extra),
    }
    write_model(directory, FORMAT, description, model.state_dict())


def load_finetuned(directory: str | Path) -> tuple[TaskModel, Finetuned]:
    """Read a finetuned model: in fp32 on the CPU, in evaluation mode, computing what it computed when it was saved.

    Raises FileNotFoundError where there is none, ImportError where it has adapters and peft is missing, ValueError that
    names the file and the fault where it is broken.
    """
    path = Path(directory)
    description = read_description(path)
    FORMAT.check(path / CONFIG_FILE, description)
    about = _described(path / CONFIG_FILE, description)
    check_digest(path / WEIGHTS_FILE, description)
    state = read_weights(path / WEIGHTS_FILE)
    try:
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            model = make_task_model(build_task(about.task, **about.task_options), about)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        # peft and torch say what is wrong with adapters of rank 0, or of layers that there are none of
        raise ValueError(f"{path / CONFIG_FILE}: {printable(str(error))}") from error
    check_weights(path / WEIGHTS_FILE, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model.eval(), about


def _described(file: Path, description: Mapping[str, Any]) -> Finetuned:
    missing = [name for name in ("task", "task_options", "mode", "model") if name not in description]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}")
    lora = description.get("lora")
    try:
        adapters = Adapters(**lora) if lora else None
        build_task(description["task"], **description["task_options"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {printable(str(error), 600)}") from None
    return Finetuned(
        task=description["task"],
        task_options=description["task_options"],
        mode=description["mode"],
        model=read_model_config(file, description["model"]),
        lora=adapters,
        extra=description.get("extra") or {},
    )


def add_lora(encoder: ProteinEncoder, *, rank: int, alpha: int, dropout: float, layers: Sequence[str]) -> None:
    """Put an adapter of `rank` on each linear layer of the encoder's layers that `layers` names, in place.

    Afterwards each such layer computes with W + (alpha / rank) B A in place of W. B is 0 at first, and A and B are the
    only parameters of the encoder that are trained. `layers` are names in models/encoder.py: "qkv", "output"
    (attention's and the MLP's), "expand".
    Raises ImportError that says what to install where peft is missing, ValueError for a name that no layer has.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("mode lora needs peft: pip install proteinlm[lora]") from None

    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(layers), bias="none")
    inject_adapter_in_model(settings, encoder)

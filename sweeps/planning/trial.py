"""A trial: one pretraining or finetuning run of a plan, and how it is called.

A trial's run directory is `<storage>/<sweep>/<trial>`. Its name is its *configuration* (what all its seeds share), and
`-seed-N` where the seed is not 0. A configuration ends in 8 hex digits of a hash over everything that determines the
result except the seed. So a finished trial is never run again, and a trial whose settings changed has another name.

    hidden-64-layer-2-head-2-learning_rate-0.01-1a2b3c4d-seed-1
    |--------- label -------------------------||-- hash -|
                            |----- extras ----|
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from proteinlm.models.pretrained import content_hash_of
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.finetune import split_options
from proteinlm.platform.labelled.split_files import SplitOptions, records_digest
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.sections import settings_of_result
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.run_directory import MODEL_DIRECTORY
from proteinlm.sweeps.planning.config import LIKE, SEED
from proteinlm.tasks.contact_prediction import NAME as CONTACTS

Config = TypeVar("Config", PretrainConfig, FinetuneConfig)
IN_NO_NAME = {
    *(f"model.{name}" for name in ("preset", "hidden_size", "num_hidden_layers", "num_attention_heads")),
    *("task", "mode", SEED, "seeds", LIKE),
}
"""Settings that a trial's name says in another way, or not at all."""


@dataclass(frozen=True)
class Trial:
    """One run of a verb, and the trial whose model it needs."""

    name: str
    verb: Literal["pretrain", "finetune"]
    config: PretrainConfig | FinetuneConfig
    needs: str | None
    """Name of the pretraining trial whose model is finetuned; None: nothing of this plan has to run before."""
    label: str = ""
    """What people call the pretrained configuration (of finetuning: the one it starts from): its shape and `extras`."""
    extras: str = ""
    """What the label says beside the shape, such as "-learning_rate-0.01"."""
    like: str | None = None
    """The paper's configuration that a pretraining trial stands for."""

    @property
    def configuration(self) -> str:
        """Name that all seeds of the trial share, with the hash of what determines their results."""
        return self.config.configuration or self.name

    @property
    def seed(self) -> int:
        """Of the run; everything else that determines its result is the configuration."""
        return self.config.seed


def identity(config: PretrainConfig | FinetuneConfig, model: Trial | None = None) -> str:
    """Return 8 hex digits that stand for all that determines a run's result except its seed: settings and contents.

    Corpus, records and a model from elsewhere are known by their content, wherever they lie; what is not there yet, by
    its path. `model` is the trial of the same plan whose model is finetuned: it is known by its configuration.
    """
    values = {name: value for name, value in settings_of_result(config).items() if value is not None and name != SEED}
    if isinstance(config, PretrainConfig):
        values["corpus"] = _content(config.corpus, lambda corpus: read_manifest(corpus).content_hash, is_copied=False)
        if start := config.pretrained:
            values["pretrained"] = _content(start, content_hash_of)
        if probe := config.probe:
            values["probe.data"] = _content(
                probe.data, lambda data: records_digest(CONTACTS, data, SplitOptions(config.seed))
            )
    else:
        options = split_options(config)
        values["data"] = _content(config.data, lambda data: records_digest(config.task, data, options))
        if pretrained := config.pretrained:
            is_of_model = model is not None and pretrained == model.config.directory / MODEL_DIRECTORY
            of_plan = model.configuration if model and is_of_model else None
            values["pretrained"] = of_plan or _content(pretrained, content_hash_of)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _content(path: Path, digest: Callable[[Path], str], *, is_copied: bool = True) -> str:
    """What `digest` says of the content at `path`; the path where nothing readable is there: checks name that later.

    Unless `is_copied` is false, it is told of a copy of what lies in a store.
    """
    try:
        return digest(kept_copy(path) if is_copied else path)
    except (OSError, ValueError):
        return str(path.resolve())


def extras(changes: Mapping[str, Any]) -> list[str]:
    """Return what tells a configuration from others of its shape, as parts of its name: ["learning_rate-0.01"]."""
    said = [(name.split(".")[-1], value) for name, value in changes.items() if name not in IN_NO_NAME]
    return [re.sub(r"[^A-Za-z0-9._-]+", "_", f"{name}-{_short(value)}") for name, value in said]


def _short(value: object) -> str:
    """1e13 for ten trillion; other values as they are."""
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) and value >= 1e6 else str(value)


def seed_suffix(seed: int) -> str:
    """Return the end of a trial's name: "" for seed 0, else such as "-seed-1"."""
    return f"-seed-{seed}" if seed else ""


def named(config: Config, configuration: str, name: str) -> Config:
    """Return `config` as a trial called `name` and its seed, one of the seeds of `configuration`.

    It runs in the trial's own process where the plain engine needs no worker group.
    """
    if config.training.engine == "plain" and config.cluster.in_process is None:
        config = config.model_copy(update={"cluster": config.cluster.model_copy(update={"in_process": True})})
    names = {"configuration": configuration, "name": name + seed_suffix(config.seed)}
    return with_absolute_paths(config).model_copy(update=names)


def with_absolute_paths(config: Config) -> Config:
    """Return `config` with absolute input paths: Tune runs every trial in a working directory of its own."""
    paths = {key: getattr(config, key, None) for key in ("corpus", "data", "pretrained")}
    return config.model_copy(update={key: path.resolve() for key, path in paths.items() if path is not None})

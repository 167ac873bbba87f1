"""The sections of a run's settings: each component's own, with units, bounds and defaults.

Sections are frozen; a component is handed its own section and nothing else.

Every setting counts as changing the run's result unless it is marked with `NoResult[...]`. `settings_of_result` gives
the settings that count; whoever asks whether two runs are the same asks it.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

from proteinlm.models.config import ModelConfig, expand_preset
from proteinlm.platform.places.places import PlacePath
from proteinlm.platform.settings.loading import flat, models_in

CHANGES_NO_RESULT: Final = "changes no result"
Value = TypeVar("Value")
NoResult = Annotated[Value, CHANGES_NO_RESULT]
"""A setting or section that may differ between runs of equal results: names, places, resources, cadences of logs."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def settings_of_result(settings: BaseModel) -> dict[str, Any]:
    """Return dotted name -> JSON value of all settings that determine the result of a run."""
    return of_result(type(settings), settings.model_dump(mode="json"))


def of_result(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted name -> value of those of nested `values` that determine the result of a run.

    A name that `model` does not know (such as one from an older version) counts.
    """
    return {name: value for name, value in flat(values).items() if determines_result(model, name)}


def determines_result(model: type[BaseModel], name: str) -> bool:
    """Whether the setting of this dotted name, in `model`, or a section around it is free of the mark `NoResult`."""
    sections = [model]
    for key in name.split("."):
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        if any(CHANGES_NO_RESULT in field.metadata for field in fields):
            return False
        sections = [inner for field in fields for inner in models_in(field.annotation)]
    return True


def _model_section(value: object) -> object:
    return expand_preset(value) if isinstance(value, dict) else value


ModelSection = Annotated[ModelConfig, BeforeValidator(_model_section)]
"""A `ModelConfig`; the key `preset` names a shipped one, further keys change it."""

MOST_STEPS = 10**12
"""Optimizer steps, examples and residues: beyond it, somebody slipped on a key."""
MOST_BATCH_RESIDUES = 1 << 30
"""Residues of one micro batch."""
MOST_PROCESSES = 100_000
"""Workers, lanes, threads and trials at once."""
MOST_MINUTES = 525_600.0
"""A year."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Processes = Annotated[int, Field(ge=1, le=MOST_PROCESSES)]
Minutes = Annotated[float, Field(gt=0, le=MOST_MINUTES)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]

WorkerCount = Processes | tuple[Processes, Processes]


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"whose home directory {path.parts[0][:60]!r} is meant to be is not known") from None


UserPath = Annotated[PlacePath, AfterValidator(_at_home)]
"""A path or a URI (s3://, gs://, file://); of a path, in which a first `~` is the home directory, as a shell has it."""

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=180)]


class ObjectiveSection(Section):
    """Masked language modelling (Devlin et al. 2018, section 3.1)."""

    mask_fraction: float = Field(0.15, gt=0, lt=1)
    """Share of residues that are scored."""
    training_mask_fraction: float | None = Field(None, gt=0, lt=1)
    """Another share in training; validation keeps `mask_fraction`, so that runs can be compared. Empty: the same."""
    keep_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the scored residues that stay visible."""
    random_fraction: float = Field(0.1, ge=0, le=1)
    """Share of the scored residues that are replaced by a random amino acid; the rest becomes <mask>."""

    @property
    def task_options(self) -> dict[str, float]:
        """Options of the task `masked_language_modeling`."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _some_are_masked(self) -> Self:
        if self.keep_fraction + self.random_fraction >= 1:
            raise ValueError(
                f"keep_fraction + random_fraction is {self.keep_fraction + self.random_fraction:g}; accepted: below 1"
            )
        return self


class BatchSection(Section):
    """How proteins become global batches. Their order depends on this, the corpus and the seed, not on the cluster."""

    micro_batch_residues: int = Field(4096, ge=1, le=MOST_BATCH_RESIDUES)
    """Residues of one micro batch, about: a window of the corpus is cut into equal parts."""
    lanes: Processes = 2
    """Micro batches of one optimizer step, over all workers: a global batch is about lanes x micro_batch_residues."""
    max_length: int = Field(1024, ge=1, le=MOST_BATCH_RESIDUES)
    """Residues; `crop` says what training does with longer proteins. Scoring takes them whole (rotary positions)."""
    crop: Literal["random", "start", "refuse"] = "random"
    """What training sees of proteins longer than max_length: another random stretch in each epoch, or their start;
    refuse: such a corpus is an error."""
    draw: Literal["by_length", "random"] = "by_length"
    """What a micro batch takes out of its window of the corpus. by_length: runs of similar lengths, the same in each
    epoch: nearly no padding where attention works in groups (CPU, V100). random: any proteins, others in each epoch:
    for variable-length attention (bf16 or fp16 on sm_80 and newer), where nothing is padded."""

    @model_serializer(mode="wrap")
    def _as_before_draw(self, handler: Callable[[object], dict[str, Any]]) -> dict[str, Any]:
        """Runs and trials from before `draw` existed keep their settings and hashes, and are still found the same."""
        return {name: value for name, value in handler(self).items() if (name, value) != ("draw", "by_length")}

    @model_validator(mode="after")
    def _longest_fits(self) -> Self:
        if self.max_length > self.micro_batch_residues:
            raise ValueError(
                f"max_length is {self.max_length}; accepted: up to micro_batch_residues ({self.micro_batch_residues})"
            )
        return self


class OptimizerSection(Section):
    """AdamW (no decay on biases and LayerNorm), linear warm-up, then linear or cosine decay."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: torch.optim.Muon on the matrices of the encoder's layers, AdamW on all else (ZeRO stage 0 or plain)."""
    learning_rate: float = Field(2e-3, gt=0, le=1)
    """The highest one, after warm-up."""
    head_learning_rate: float | None = Field(None, gt=0, le=1)
    """Of the task's head in finetuning, on the same schedule; empty: that of the encoder."""
    warmup_steps: int = Field(100, ge=0, le=MOST_STEPS)
    """Steps in which the learning rate rises linearly."""
    decay: Literal["linear", "cosine", "none"] = "linear"
    """How the learning rate falls from the end of warm-up to the last step."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    """Learning rate of the last step, as a share of the peak."""
    weight_decay: float = Field(0.01, ge=0, le=1000)
    """Decoupled from the gradient, on matrices only."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.98)
    """AdamW's decay rates of the running means of gradients and of their squares."""
    epsilon: float = Field(1e-8, gt=0, le=1)
    """AdamW's term that keeps the division by the root of the second mean finite."""
    gradient_clip: float = Field(1.0, gt=0, le=1e12)
    """Largest L2 norm of the whole gradient."""


class TrainingSection(Section):
    """Length, engine and cadences, in optimizer steps."""

    steps: Count | None = None
    """Optimizer steps (or say `epochs`)."""
    epochs: float | None = Field(None, gt=0, le=1e6)
    """Passes over the training split, where `steps` is not given."""
    engine: Literal["deepspeed", "plain"] = "deepspeed"
    """plain: PyTorch alone, for one worker."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed divides among the workers: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """bf16: autocast, fp32 weights (CPU, sm_80 and newer). fp16: dynamic loss scaling, fp32 master weights (V100).
    auto: bf16 where the hardware computes in it, else fp16 on a GPU and fp32 on a CPU."""
    float8: bool = False
    """Matrix products of the encoder's layers in float8 (sm_89 and newer, bf16, ZeRO stage 0 to 2): faster from about
    650 million parameters on. For pretraining, and for finetuning in the modes full and scratch."""
    compile: NoResult[Literal["auto", "off", "dynamic", "static"]] = "auto"
    """Whether the encoder's layers are compiled (torch.compile), which changes results no more than another GPU does.
    dynamic: for micro batches of any size. static: streams are filled up to one number of tokens (GPUs that attend by
    cumulative lengths), and kernels are chosen by trying them: minutes at the start. auto: dynamic there, else off."""
    validate_every: Count = 200
    """Steps between validations."""
    checkpoint_every: NoResult[Count] = 200
    """Steps between checkpoints."""
    checkpoint_minutes: NoResult[Minutes | None] = None
    """A checkpoint also after so many minutes without one."""
    keep_checkpoints: NoResult[Count] = 2
    """The newest checkpoints that are kept; older ones are deleted."""
    max_skipped_steps: NoResult[Count] = 20
    """Steps whose loss or gradient is not finite are skipped; so many in a row end the run."""
    log_every: NoResult[Count] = 10
    """Steps between rows of metrics."""
    pause_at: NoResult[Count | None] = None
    """Validate, save and end after this step, to resume later (successive halving)."""
    patience: Count | None = None
    """Finetuning ends after so many validations in a row without a better value on valid; empty: never."""
    validation_residues: int = Field(1_000_000, ge=1, le=10**15)
    """Residues of each validation split that are scored during training: a fixed prefix of its shuffled rows."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.float8 and self.precision not in ("auto", "bf16"):
            raise ValueError(f"float8: needs precision auto or bf16; found {self.precision}")
        if self.float8 and self.engine == "deepspeed" and self.zero_stage == 3:
            raise ValueError("float8: does not work with zero_stage 3, which gathers weights; accepted: 0, 1, 2")
        return self


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2021, by peft): W + (alpha / rank) B A, of which only A and B are trained."""

    rank: int = Field(8, ge=1, le=65_536)
    """Rank of B A: rows of A, columns of B."""
    alpha: int = Field(16, ge=1, le=65_536)
    """The adapter is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Before A, in training."""
    layers: tuple[Literal["qkv", "output", "expand"], ...] = Field(("qkv", "output", "expand"), min_length=1)
    """Linear layers with an adapter. qkv: queries, keys and values; output: attention's and the MLP's outputs; expand:
    the MLP's first layer."""


class ClusterSection(Section):
    """Where and on how much the workers run. Changing it changes no result."""

    address: str | None = None
    """Ray address; empty: RAY_ADDRESS, else an embedded Ray on this machine."""
    dashboard: bool = False
    """Whether an embedded Ray starts Ray's dashboard too: some seconds more. A cluster has its own; either address is
    printed."""
    num_workers: WorkerCount = 1
    """Workers; or [fewest, most]: an elastic group that starts with what there is room for and continues when workers
    are lost."""
    resize_minutes: Minutes = 10.0
    """How often an elastic group looks for room for more workers. To grow, it restarts from the newest checkpoint."""
    cpus_per_worker: float | None = Field(None, gt=0, le=MOST_PROCESSES)
    """CPUs that a worker reserves; empty: at most 1, such that one is left for Ray Data."""
    threads_per_worker: Processes | None = None
    """PyTorch threads on CPU; empty: the node's cores shared by its workers."""
    use_gpu: bool | None = None
    """Empty: yes where the cluster has GPUs."""
    in_process: bool | None = None
    """Train in the process that runs the command (or the trial) instead of a Ray Train worker: starts at once, but is
    not restarted when it dies. Empty: for finetuning with the plain engine."""
    max_failures: int = Field(3, ge=0, le=MOST_STEPS)
    """Restarts after a worker died before the run is given up; a node that was taken away does not count."""
    autoscaling: bool = False
    """Nodes may be added: a group larger than the present cluster is not refused."""
    node_minutes: Minutes = 20.0
    """With `autoscaling`, how long the fewest workers wait for nodes to be added before the run is given up."""

    @property
    def fewest_workers(self) -> int:
        """Smallest number of workers that the group runs with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Largest number of workers that the group runs with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]

    @model_validator(mode="after")
    def _fewest_first(self) -> Self:
        if self.fewest_workers > self.most_workers:
            raise ValueError(
                f"num_workers is [{self.fewest_workers}, {self.most_workers}]; accepted: [fewest, most] in this order"
            )
        return self


class ProbeSection(Section):
    """The contact probe (Rao et al. 2021) at every validation: logistic regression of contacts on attention maps."""

    data: UserPath
    """Folder of the records of contact prediction, or of one such folder for each task."""
    num_proteins: int = Field(20, ge=1, le=20)
    """Training proteins that the probe is fitted on."""
    max_scored: Count = 100
    """The probe is scored on the first so many proteins of valid."""

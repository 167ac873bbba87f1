"""The settings of a corpus build, a pretraining and a finetuning run, made of sections (sections.py); finetuning modes.

A run is <storage>/<name>. All that depends on a mode of finetuning asks the table `MODES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from proteinlm.platform.settings.sections import (
    BatchSection,
    ClusterSection,
    Count,
    LoraSection,
    ModelSection,
    NoResult,
    ObjectiveSection,
    OptimizerSection,
    ProbeSection,
    Processes,
    RunName,
    Section,
    Seed,
    TrainingSection,
    UserPath,
)

Mode = Literal["full", "frozen", "lora", "scratch", "cnn", "probe", "baseline"]


@dataclass(frozen=True)
class ModeFacts:
    """What a mode means for a run: which weights it starts from, and what it trains."""

    encoder: Literal["transformer", "cnn"] | None
    """None: the run has no network at all."""
    is_pretrained: bool
    """Whether the weights come from a pretrained directory, which then must be given."""
    is_trained: bool
    """Whether a network is trained, in optimizer steps and with a seed; else something is fitted once for a task."""
    trains_encoder: bool
    """Whether gradients pass through the encoder; adapters in it count."""
    takes_float8: bool = False
    """Whether all weights of a transformer's layers are trained, whose products can then be in float8."""


MODES: Mapping[str, ModeFacts] = {
    "full": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=True, takes_float8=True),
    "frozen": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=False),
    "lora": ModeFacts("transformer", is_pretrained=True, is_trained=True, trains_encoder=True),
    "scratch": ModeFacts("transformer", is_pretrained=False, is_trained=True, trains_encoder=True, takes_float8=True),
    "cnn": ModeFacts("cnn", is_pretrained=False, is_trained=True, trains_encoder=True),
    "probe": ModeFacts("transformer", is_pretrained=True, is_trained=False, trains_encoder=False),
    "baseline": ModeFacts(None, is_pretrained=False, is_trained=False, trains_encoder=False),
}
"""By name.

    mode      encoder               starts from                trains
    full      transformer           pretrained weights         encoder and head
    frozen    transformer           pretrained weights         head, on embeddings computed once
    lora      transformer           pretrained weights         head and low-rank adapters
    scratch   transformer           random weights             encoder and head
    cnn       small convolutional   random weights             encoder and head
    probe     transformer           pretrained weights         nothing: a regression is fitted on its attention maps
    baseline  none                  -                          nothing: the task's baselines are fitted on the records
"""


class CorpusWorkSection(Section):
    """How a corpus build is spread over the cluster. Changing it never changes the corpus."""

    address: str | None = None
    """Ray address; empty: RAY_ADDRESS, else an embedded Ray on this machine."""
    max_tasks: Processes | None = None
    """Tasks at once; empty: as many as there are CPUs."""
    chunk_bytes: int = Field(2 << 20, ge=1, le=1 << 30)
    """Bytes of decompressed text that one task reads at a time."""
    bucket_bytes: int = Field(4 << 20, ge=1, le=1 << 34)
    """About how many bytes of text one task puts in order at a time."""


class CorpusConfig(Section):
    """`proteinlm corpus build`: protein sequences cleaned, deduplicated, split and shuffled into Parquet shards.

    Held out are the named clans and families and whole further ones drawn by `seed` up to `holdout_fraction` of the
    records; of the rest `valid_fraction` goes to the split valid.
    """

    sources: tuple[UserPath, ...] = Field(min_length=1)
    """FASTA or JSON lines, each plain or compressed (.gz, .bz2, .xz, .zst), or TAPE LMDB directories."""
    out: UserPath
    """Directory to make: a path that all nodes see, or a URI (s3://, gs://)."""
    clans: UserPath | None = None
    """Pfam-A.clans.tsv, plain or .gz: the clan of each family."""
    seed: Seed = 0
    """Of the shuffle, the split at random and the held-out families."""
    valid_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the proteins that are not held out."""
    holdout_fraction: float = Field(0.02, ge=0, lt=1)
    """Share of the records up to which whole families and clans are drawn for the split holdout."""
    holdout_clans: tuple[str, ...] = ("CL0635", "CL0624", "CL0355", "CL0100", "CL0417", "CL0630")
    """Clans that are held out in any case; the default is TAPE's (songlab-cal/tape-neurips2019, pfam serializer)."""
    holdout_families: tuple[str, ...] = ("PF18346", "PF14604", "PF18697", "PF03577", "PF01112", "PF03417")
    """Families that are held out in any case; the default is TAPE's."""
    shard_rows: int = Field(4096, ge=1, le=10**9)
    """Proteins of one shard, to within one."""
    min_length: Count = 1
    """Shorter proteins, in residues, are rejected."""
    max_length: int = Field(100_000, ge=1, lt=2**31)
    """Longer proteins, in residues, are rejected; so are records of more than 64 times as many bytes and a megabyte."""
    accept_non_protein: bool = False
    """Take what looks like nucleotides, three-letter codes, secondary structure or structure letters as proteins; else
    such records are rejected, and a source that consists of them is refused."""
    max_reject_fraction: float = Field(0.01, ge=0, le=1)
    """The build fails above this share of rejected records."""
    is_simulated: bool = False
    """The proteins are made up: said beside every result that comes from them."""
    work: NoResult[CorpusWorkSection] = CorpusWorkSection()

    @property
    def max_record_bytes(self) -> int:
        """Bytes of text that one record may take, its line ends, gaps, header and further keys included."""
        return (1 << 20) + 64 * self.max_length

    @property
    def split_rule(self) -> str:
        """The rule by which proteins went to splits, in words, as result rows carry it."""
        return (
            f"whole clans and families held out, about {self.holdout_fraction:.0%}; "
            f"{self.valid_fraction:.0%} of the rest valid at random"
        )


PLACES = ("storage", "corpus", "data", "pretrained")
"""Settings of a run that name a directory, or a URI."""


class RunConfig(Section):
    """What pretraining and finetuning have in common."""

    name: NoResult[RunName]
    """The run's name; its directory is `<storage>/<name>`."""
    configuration: NoResult[RunName | None] = None
    """Name that runs share which differ in nothing but their seed: tables pool them. Empty: the run's own name."""
    storage: NoResult[UserPath] = Path("runs")
    """Directory that holds run directories: one that every node sees, or a URI (s3://, gs://)."""
    seed: Seed = 0
    """Of initial weights, the order of batches, crops, training masks and dropout."""
    batches: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection
    cluster: NoResult[ClusterSection] = ClusterSection()

    @property
    def directory(self) -> Path:
        """The run directory `<storage>/<name>`."""
        return self.storage / self.name

    @property
    def runs_in_process(self) -> bool:
        """Whether training runs in the calling process."""
        return bool(self.cluster.in_process)

    @model_validator(mode="after")
    def _warm_up_ends(self, info: ValidationInfo) -> Self:
        """The warm-up that somebody asked for ends within the run; the default one of a short run is nobody's word."""
        steps, warmup = self.training.steps, self.optimizer.warmup_steps
        is_asked_for = bool(info.context) and "warmup_steps" in self.optimizer.model_fields_set
        if is_asked_for and steps is not None and warmup > steps:
            raise ValueError(
                f"optimizer.warmup_steps is {warmup}; accepted: up to training.steps ({steps}), or the learning rate "
                "is never reached"
            )
        return self

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.cluster.most_workers > self.batches.lanes:
            raise ValueError(
                f"cluster.num_workers is {self.cluster.most_workers}; accepted: up to batches.lanes "
                f"({self.batches.lanes}), for every worker takes at least one lane of a global batch"
            )
        if self.optimizer.name == "muon" and self.training.engine == "deepspeed" and self.training.zero_stage > 0:
            raise ValueError(
                f"optimizer.name: muon needs whole matrices, and training.zero_stage {self.training.zero_stage} cuts "
                "them up; accepted: training.zero_stage=0 or training.engine=plain"
            )
        if self.training.engine == "plain" and self.cluster.most_workers > 1:
            raise ValueError("training.engine: plain trains on one worker; use deepspeed for more")
        if self.training.engine == "deepspeed" and self.cluster.in_process:
            raise ValueError("cluster.in_process: DeepSpeed needs a worker group; accepted: training.engine=plain")
        return self


class PretrainConfig(RunConfig):
    """`proteinlm pretrain`: masked language modelling on a corpus."""

    corpus: UserPath
    """Directory that `proteinlm corpus build` made."""
    model: ModelSection
    pretrained: UserPath | None = None
    """Pretrained directory whose weights training starts from, in a schedule of its own; its model must be `model`.
    Empty: random weights."""
    objective: ObjectiveSection = ObjectiveSection()
    probe: ProbeSection | None = None
    """The contact probe at each validation; empty: none."""


ALL_TASKS = "all"


class FinetuneConfig(RunConfig):
    """`proteinlm finetune`: a task on a pretrained encoder, or on the same encoder from scratch, or its baselines.

    With `task: all`, several `seeds` or several `modes` it is many runs, made in parallel and put into one table.
    """

    task: str
    """A task's name, or all: the five of TAPE (secondary structure with 3 and with 8 classes)."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of the task, such as head: tape."""
    data: UserPath
    """Folder of TAPE-style records (`<file stem>_<split>.jsonl.gz`, .json, .lmdb), or of one such folder for each task,
    named by the file stem."""
    files: dict[str, str] = Field(default_factory=dict)
    """Split -> file or file stem in `data`, where the names differ from `<file stem>_<split>`."""
    valid_fraction: float = Field(0.0, ge=0, lt=1)
    """Above 0: this share of the training records becomes the valid split, and no valid file is read."""
    accept_non_protein: bool = False
    """Take sequences that look like nucleotides, three-letter codes or secondary structure as proteins."""
    mode: Mode = "full"
    """full: encoder and head are trained; frozen: the head, on embeddings computed once; lora: the head and low-rank
    adapters; scratch: no pretrained weights; cnn: a small convolutional encoder, from scratch; probe: logistic
    regression on attention maps (contact prediction); baseline: no encoder."""
    lora: LoraSection = LoraSection()
    pretrained: UserPath | None = None
    """Directory of config.json and model.safetensors, such as `<run>/model`, or one of transformers' EsmForMaskedLM;
    for scratch its architecture alone."""
    model: ModelSection | None = None
    """Architecture, where `pretrained` does not give it (modes scratch and cnn)."""
    max_train_examples: Count | None = None
    """Train on at most so many proteins, chosen by `seed`."""
    max_test_examples: Count | None = None
    """Score at most so many proteins of each test split, the same for all seeds; results say so and are never ranked
    with those of whole splits."""
    keep_model: NoResult[bool] = True
    """Save the model in `<run>/model`: config.json and model.safetensors with all weights, the encoder's too."""
    with_baselines: NoResult[bool] = True
    """Also fit the task's baselines, once for these records, so that each result can be compared."""
    seeds: NoResult[tuple[Seed, ...]] = ()
    """A run for each; empty: `seed` alone, and for all tasks three."""
    modes: NoResult[tuple[Mode, ...]] = ()
    """A run in each; empty: `mode` alone, and for all tasks also scratch and the baselines."""
    per_task: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Task -> settings for that task, laid over all others, such as training.epochs: 3."""

    @property
    def is_many(self) -> bool:
        """Whether this is several runs."""
        return self.task == ALL_TASKS or bool(self.seeds) or bool(self.modes)

    @property
    def runs_in_process(self) -> bool:
        """Whether training runs in the calling process: as `cluster.in_process` says, else with the plain engine."""
        chosen = self.cluster.in_process
        return self.training.engine == "plain" if chosen is None else chosen

    @model_validator(mode="after")
    def _has_an_encoder(self) -> Self:
        for mode in self.modes or (self.mode,):
            facts = MODES[mode]
            if facts.is_pretrained and self.pretrained is None:
                raise ValueError(f"pretrained: missing; mode {mode} needs a pretrained directory, such as RUN/model")
            if facts.is_trained and self.pretrained is None and self.model is None:
                raise ValueError(
                    f"model: missing; mode {mode} needs a model section, or a pretrained directory for its shape"
                )
            if self.training.float8 and not facts.takes_float8:
                able = " and ".join(name for name, other in MODES.items() if other.takes_float8)
                raise ValueError(f"training.float8: works in the modes {able}; found {mode}")
        return self

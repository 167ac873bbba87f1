"""`proteinlm plan`: what a pretraining run needs and takes, from its settings alone. No Ray, no model, no corpus.

    PretrainConfig, what its settings do not say (`Assumed`), table of devices -> Time -> tables on the console

Memory is counted by models/cost.py, what computing takes by models/work.py; a sweep is planned by sweeps/planning. In a
step each worker sends, for P parameters of b bytes and W workers, 2 b P (W - 1) / W bytes at ZeRO stages 0 to 2 and
3 b P (W - 1) / W at stage 3 (Rajbhandari et al. 2020, section 7), after it has computed: as if nothing overlapped. The
speed is a share of the device's peak, and that a measurement: the one in the table whose model is nearest in size, or
the user's (`--share`).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from proteinlm.models.config import num_parameters
from proteinlm.models.cost import TrainingSetup, largest_micro_batch, memory_bytes
from proteinlm.models.work import Speed, forward_work, training_passes
from proteinlm.platform.results.formatting import amount, duration, scientific
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.yaml_text import read_yaml

DEVICES_FILE = Path(__file__).with_name("devices.yaml")
STAGES = (0, 1, 2, 3)
USABLE = 0.9
"""Share of a device's memory that tensors may take: the rest is context, fragments and buckets (an assumption)."""
SMALLER = 4
"""A model so many times smaller than any measured one has less of the peak than that."""
BANDWIDTHS = (10.0, 100.0, 400.0)
"""10^9 bit/s between workers: Ethernet of a cloud's nodes, of its large nodes, InfiniBand or NVLink between nodes."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Measured:
    """Share of a device's peak in the training of a model; what is recomputed counts."""

    parameters: Positive
    share: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True)
class Device:
    """A kind of GPU."""

    memory: Positive
    """GiB."""
    peak: Positive
    """FLOP/s of dense 16-bit matrix products."""
    shares: tuple[Measured, ...]
    source: str

    def share_for(self, parameters: int) -> float | None:
        """The share that was measured with the model nearest in size; None: there is no measurement."""
        nearest = min(self.shares, key=lambda one: abs(math.log(one.parameters / parameters)), default=None)
        return nearest.share if nearest else None


@dataclass(frozen=True)
class Assumed:
    """What the settings do not say."""

    device: str = "V100-32"
    share: float | None = None
    """Of the device's peak; None: the table's."""
    gigabits: float = 100.0
    """Bandwidth of a worker, 10^9 bit/s."""
    price: float | None = None
    """Of a device for an hour, in whatever currency."""
    length: int = 256
    """Tokens of a protein."""

    def speed(self, device: Device, parameters: int) -> Speed | None:
        """Of training a model on one `device`; None where no share of peak is given and none was measured."""
        share = self.share or device.share_for(parameters)
        return Speed(share * device.peak) if share else None

    def warning(self, device: Device, parameters: int) -> list[str]:
        """A line where the model is far smaller than any that a share was measured with."""
        smallest = min((one.parameters for one in device.shares), default=0.0)
        if self.share or parameters >= smallest / SMALLER:
            return []
        return [
            f"no share was measured on {self.device} with fewer than {amount(smallest)} parameters; a model of "
            f"{amount(parameters)} reaches less of its peak, and takes longer than this says (--share)"
        ]

    def check(self, devices: dict[str, Device]) -> Device:
        """Return the device; ValueError names the option that is wrong."""
        for name in ("share", "gigabits", "price", "length"):
            value = getattr(self, name)
            most = 1.0 if name == "share" else math.inf
            if value is not None and not (0 < value <= most and math.isfinite(value)):
                raise ValueError(f"--{name}: found {value:g}; accepted: above 0{', at most 1' if most == 1 else ''}")
        if self.device not in devices:
            raise ValueError(f"--device: found {self.device!r}; accepted: {', '.join(devices)}")
        return devices[self.device]


@dataclass(frozen=True)
class Time:
    """What the run takes on one kind of device."""

    share: float
    """Of the device's peak."""
    compute: float
    """Seconds of a step."""
    communication: float
    """Seconds of a step."""
    residues_per_s: float
    """All workers together."""
    steps: int | None
    """None: epochs, whose length is the corpus'."""

    @property
    def seconds(self) -> float | None:
        """Of the whole run."""
        return None if self.steps is None else self.steps * (self.compute + self.communication)


def read_devices(path: Path = DEVICES_FILE) -> dict[str, Device]:
    """Read a table of devices; OSError or ValueError where it is none."""
    try:
        return TypeAdapter(dict[str, Device]).validate_python(read_yaml(path))
    except ValidationError as error:
        raise ValueError(f"{path} is no table of devices (memory, peak, shares, source for each): {error}") from None


def devices_with(named: str) -> tuple[str, dict[str, Device]]:
    """The device that `--device` says, and all known ones: it is in our table, or alone in a YAML file of that form.

    OSError or ValueError where the file is none, or has several.
    """
    known = read_devices()
    if Path(named).suffix not in (".yaml", ".yml"):
        return named, known
    own = read_devices(Path(named))
    if len(own) != 1:
        raise ValueError(f"--device: {named} has {len(own)} devices; accepted: a file with one")
    return next(iter(own)), known | own


def setup_of(config: PretrainConfig | FinetuneConfig, *, is_cpu: bool = False) -> TrainingSetup:
    """How `config` trains a micro batch on one worker; precision auto is bf16 on a GPU and fp32 on a CPU."""
    training, workers = config.training, config.cluster.most_workers
    precision: Literal["fp32", "bf16", "fp16"] = "fp32" if is_cpu else "bf16"
    if training.precision != "auto":
        precision = training.precision
    is_deepspeed = training.engine == "deepspeed"
    return TrainingSetup(
        config.batches.micro_batch_residues,
        precision,
        config.optimizer.name,
        zero_stage=training.zero_stage if is_deepspeed else 0,
        workers=workers,
        keeps_gradients=is_deepspeed or config.batches.lanes > workers,
        is_half=is_deepspeed and precision == "fp16",
        is_cpu=is_cpu,
    )


def sent_bytes(config: PretrainConfig, stage: int) -> float:
    """Bytes that a worker sends in a step: gradients (and weights) of 2 bytes in DeepSpeed's fp16, else 4."""
    workers, of_each = config.cluster.most_workers, 2 if setup_of(config).is_half else 4
    return (3 if stage == 3 else 2) * of_each * num_parameters(config.model) * (workers - 1) / workers


def time_of(config: PretrainConfig, assumed: Assumed, device: Device) -> Time | None:
    """What the run takes; None where no share of peak is given and none was measured on the device."""
    parameters, workers, lanes = num_parameters(config.model), config.cluster.most_workers, config.batches.lanes
    speed = assumed.speed(device, parameters)
    if speed is None:
        return None
    residues = config.batches.micro_batch_residues
    scored = round((config.objective.training_mask_fraction or config.objective.mask_fraction) * assumed.length)
    of_token = forward_work(config.model, [assumed.length], scored) * (training_passes(config.model) / assumed.length)
    compute = speed.seconds(of_token * (math.ceil(lanes / workers) * residues))
    communication = 8 * sent_bytes(config, setup_of(config).zero_stage) / (assumed.gigabits * 1e9)
    return Time(
        speed.flops / device.peak,
        compute,
        communication,
        lanes * residues / (compute + communication),
        config.training.steps,
    )


def show_plan(config: PretrainConfig, assumed: Assumed, devices: dict[str, Device], console: Console) -> None:
    """Print what the run needs and takes. ValueError for an unknown device or options that are out of range."""
    device, setup = assumed.check(devices), setup_of(config)
    workers = config.cluster.most_workers
    console.print(
        f"{config.name}: {amount(num_parameters(config.model))} parameters, {workers} workers, {setup.precision}, "
        f"micro batches of {setup.tokens:,} residues, {config.batches.lanes} a step"
    )
    console.print(_memory_table(config, setup, devices))
    console.print(_communication_table(config, assumed, device))
    for line in _time_lines(config, assumed, device):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _memory_table(config: PretrainConfig, setup: TrainingSetup, devices: dict[str, Device]) -> Table:
    table = Table(box=None, pad_edge=False, title=f"memory of a worker, and micro batches that fit {USABLE:.0%} of it")
    for head in ("ZeRO", "recomputed", "GiB", *devices):
        table.add_column(head, justify="right")
    for is_recomputed in (False, True):
        model = config.model.model_copy(update={"activation_checkpointing": is_recomputed})
        for stage in STAGES:
            of_stage = replace(setup, zero_stage=stage)
            most = [largest_micro_batch(model, of_stage, USABLE * one.memory * 2**30) for one in devices.values()]
            needed = f"{memory_bytes(model, of_stage) / 2**30:.1f}"
            table.add_row(str(stage), "yes" if is_recomputed else "no", needed, *(f"{one:,}" for one in most))
    return table


def _communication_table(config: PretrainConfig, assumed: Assumed, device: Device) -> Table:
    table = Table(box=None, pad_edge=False, title=f"communication a step, and its share on {assumed.device}")
    for head in ("ZeRO", "GB a worker", *(f"{gigabits:g} Gbit/s" for gigabits in BANDWIDTHS)):
        table.add_column(head, justify="right")
    for stage in STAGES:
        of_stage = config.model_copy(update={"training": config.training.model_copy(update={"zero_stage": stage})})
        times = [time_of(of_stage, replace(assumed, gigabits=gigabits), device) for gigabits in BANDWIDTHS]
        shares = [f"{one.communication / (one.compute + one.communication):.0%}" if one else "?" for one in times]
        table.add_row(str(stage), f"{sent_bytes(config, stage) / 1e9:.3g}", *shares)
    return table


def _time_lines(config: PretrainConfig, assumed: Assumed, device: Device) -> list[str]:
    time = time_of(config, assumed, device)
    if time is None:
        return [f"no time: no share of peak was measured on {assumed.device}; give yours with --share"]
    workers, source = config.cluster.most_workers, "yours" if assumed.share else device.source
    lines = [f"{time.residues_per_s:,.0f} residues/s on {workers} {assumed.device} at {assumed.gigabits:g} Gbit/s"]
    if time.seconds is None:
        lines.append("no hours: training.steps is not given, and an epoch is as long as the corpus; training.steps=N")
    else:
        hours = time.seconds / 3600 * workers
        cost = "" if assumed.price is None else f", cost {hours * assumed.price:,.2f}"
        lines.append(f"{duration(time.seconds)} for {time.steps:,} steps, {hours:,.1f} device-hours{cost}")
    lines.append(
        f"assumed: proteins of {assumed.length} tokens, {time.share:.0%} of {scientific(device.peak)} FLOP/s "
        f"({source}), nothing overlapped; without start, validation and checkpoints"
    )
    return lines + assumed.warning(device, num_parameters(config.model))

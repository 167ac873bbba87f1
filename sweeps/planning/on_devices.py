"""`proteinlm plan SWEEP.yaml`: what each trial of a sweep, and all of them, need and take on devices that are not here.

Time of pretraining is that of platform/plan.py. Finetuning takes what it computes (planning/cost.py) at the same share
of peak. Records that are not here are taken to be TAPE's, of proteins of an assumed length. Not counted: start-up,
heads, checkpoints, pretraining's validation, and baselines, which need no device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from proteinlm.models.config import ModelConfig, num_parameters
from proteinlm.models.cost import largest_micro_batch, memory_bytes
from proteinlm.models.pretrained import read_config
from proteinlm.models.work import Work, forward_work, training_passes
from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.labelled.task_check import PUBLISHED_SIZES
from proteinlm.platform.plan import USABLE, Assumed, Device, setup_of, time_of
from proteinlm.platform.results.formatting import UNKNOWN, amount, duration, known_text
from proteinlm.platform.settings.config import MODES, FinetuneConfig, PretrainConfig
from proteinlm.platform.training.job import total_steps
from proteinlm.sweeps.planning.cost import finetuning_work
from proteinlm.sweeps.planning.forecast import wall_seconds
from proteinlm.sweeps.planning.plan import Plan
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.tasks.catalog import build_task

GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """What one trial needs and takes on the devices."""

    trial: Trial
    model: ModelConfig | None
    """None: no network is trained."""
    memory: float
    """Bytes of a worker."""
    most: int
    """Tokens of the largest micro batch that fits."""
    steps: int | None
    seconds: float | None
    """None: its length, or the device's speed, is not known."""

    @property
    def workers(self) -> int:
        """Devices that it holds."""
        return self.trial.config.cluster.most_workers if self.model else 0

    @property
    def device_seconds(self) -> float:
        """Each device counted; 0 where it is not known."""
        return self.workers * (self.seconds or 0.0)

    @property
    def fits(self) -> bool:
        """Whether its micro batch fits a device."""
        return self.most >= self.trial.config.batches.micro_batch_residues


def needs_of(plan: Plan, assumed: Assumed, device: Device) -> list[Needs]:
    """What each trial of the plan needs and takes, in the plan's order."""
    models = {trial.name: trial.config.model for trial in plan.trials if isinstance(trial.config, PretrainConfig)}
    found = []
    for trial in plan.trials:
        config = trial.config
        if isinstance(config, FinetuneConfig) and not MODES[config.mode].is_trained:
            found.append(Needs(trial, None, 0.0, 2**30, None, 0.0))
            continue
        model = models.get(trial.needs or trial.name) or config.model
        if model is None:  # settings are refused that say no model in any way
            assert isinstance(config, FinetuneConfig)
            assert config.pretrained is not None
            model = read_config(config.pretrained)
        setup = setup_of(config)
        most = largest_micro_batch(model, setup, USABLE * device.memory * GIB)
        steps, seconds = _time(config, model, assumed, device)
        found.append(Needs(trial, model, memory_bytes(model, setup), most, steps, seconds))
    return found


def _time(
    config: PretrainConfig | FinetuneConfig, model: ModelConfig, assumed: Assumed, device: Device
) -> tuple[int | None, float | None]:
    """Optimizer steps and seconds."""
    if isinstance(config, PretrainConfig):
        steps = config.training.steps or (
            total_steps(config, read_manifest(config.corpus)) if config.corpus.is_dir() else None
        )
        time = time_of(config, assumed, device)
        return steps, None if time is None or steps is None else steps * (time.compute + time.communication)
    speed = assumed.speed(device, num_parameters(model))
    is_here = config.data.is_dir()
    work = finetuning_work(config, model) if is_here else assumed_work(config, model, assumed.length)
    return None, speed.seconds(work) / config.cluster.most_workers if speed else None


def assumed_work(config: FinetuneConfig, model: ModelConfig, length: int) -> Work:
    """What finetuning computes on as many records as TAPE has, all of them proteins of `length` tokens."""
    task = build_task(config.task, **config.options)
    assert task.records is not None
    sizes = {split: rows * length for split, rows in PUBLISHED_SIZES[task.records.file_stem].items()}
    section, batch = config.training, config.batches.lanes * config.batches.micro_batch_residues
    trained = _at_most(sizes.pop("train"), config.max_train_examples, length)
    validated = min(section.validation_residues, sizes.pop("valid"))
    steps = section.steps or max(1, round((section.epochs or 1) * trained / batch))
    tokens = float(training_passes(model) * steps * batch)
    if not MODES[config.mode].trains_encoder:  # embeddings are computed once
        tokens, steps = float(trained), 1
    tested = sum(_at_most(size, config.max_test_examples, length) for size in sizes.values())
    tokens += math.ceil(steps / section.validate_every) * validated + tested
    return forward_work(model, [length]) * (tokens / length)


def _at_most(tokens: int, examples: int | None, length: int) -> int:
    return min(tokens, (examples or tokens) * length)


def show_sweep(plan: Plan, assumed: Assumed, devices: dict[str, Device], gpus: int | None, console: Console) -> None:
    """Print what the sweep needs and takes with `gpus` devices at once; None: as many as its largest trial holds.

    ValueError for an unknown device and options that are out of range, and for fewer devices than a trial holds.
    """
    device = assumed.check(devices)
    needs = needs_of(plan, assumed, device)
    largest = max((one.workers for one in needs), default=0) or 1
    if gpus is not None and gpus < largest:
        raise ValueError(f"--gpus: found {gpus}; accepted: {largest} or more, which the largest trial holds at once")
    if plan.sweep.pretrain:
        console.print(_table(plan, needs, assumed))
    smallest = min((num_parameters(one.model) for one in needs if one.model), default=0)
    warning = assumed.warning(device, smallest) if smallest else []
    for line in (*_misfits(needs, device, assumed), *_sums(plan, needs, assumed, gpus or largest), *warning):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(plan: Plan, needs: Sequence[Needs], assumed: Assumed) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    table.add_column(f"sweep {plan.sweep.name}", overflow="fold")
    heads = (
        "size",
        "workers",
        "ZeRO",
        "GiB",
        "fits up to",
        "steps",
        "time",
        f"{assumed.device}-hours",
        "cost",
        "tasks",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in needs:
        config = one.trial.config
        if not isinstance(config, PretrainConfig):
            continue
        tasks = [other for other in needs if other.trial.needs == one.trial.name]
        table.add_row(
            one.trial.label,
            amount(num_parameters(config.model)),
            str(one.workers),
            str(setup_of(config).zero_stage),
            f"{one.memory / GIB:.1f}",
            f"{one.most:,}",
            known_text(one.steps, ","),
            UNKNOWN if one.seconds is None else duration(one.seconds),
            UNKNOWN if one.seconds is None else f"{one.device_seconds / 3600:,.1f}",
            _cost([one], assumed),
            f"{len(tasks)}, {sum(other.device_seconds for other in tasks) / 3600:,.1f} h" if tasks else "0",
        )
    return table


def _cost(needs: Sequence[Needs], assumed: Assumed) -> str:
    if assumed.price is None:
        return UNKNOWN
    return f"{sum(one.device_seconds for one in needs) / 3600 * assumed.price:,.2f}"


def _misfits(needs: Sequence[Needs], device: Device, assumed: Assumed) -> list[str]:
    """A line for each trial whose micro batch does not fit, those of a model and kind together."""
    kinds: dict[tuple[str, str], list[Needs]] = {}
    for one in needs:
        if not one.fits:
            kinds.setdefault((one.trial.label, one.trial.verb), []).append(one)
    return [
        f"does not fit {assumed.device} ({device.memory:g} GiB, {USABLE:.0%} of it): {verb} of {label or 'a model'}, "
        f"{len(of_kind)} trials, {of_kind[0].memory / GIB:.1f} GiB a worker; its micro batch fits up to "
        f"{min(one.most for one in of_kind):,} residues" + (" (none)" if not all(one.most for one in of_kind) else "")
        for (label, verb), of_kind in kinds.items()
    ]


def _sums(plan: Plan, needs: Sequence[Needs], assumed: Assumed, gpus: int) -> list[str]:
    total = sum(one.device_seconds for one in needs)
    wall = wall_seconds(plan.trials, {one.trial.name: one.seconds or 0.0 for one in needs}, gpus)
    unknown = sum(one.seconds is None for one in needs)
    cost = "" if assumed.price is None else f", cost {_cost(needs, assumed)}"
    lines = [
        f"{len(needs)} trials, {sum(one.model is None for one in needs)} of them without a device: "
        f"{total / 3600:,.1f} {assumed.device}-hours{cost}; {duration(wall)} on {gpus} at once"
    ]
    if unknown:
        lines.append(f"{unknown} trials are not in it: no share of peak (--share), or an epoch of a corpus not here")
    if plan.sweep.halving:
        lines.append("halving is not counted: every trial as if it were trained to its end")
    lines.append(
        f"assumed: proteins of {assumed.length} tokens, TAPE's numbers of records where the data is not here, "
        "nothing overlapped; without start, heads, checkpoints, and validation in pretraining"
    )
    return lines

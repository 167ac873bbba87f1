"""The engines agree: a global batch gives the same loss and gradient for any workers, micro batches and ZeRO stage."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.platform.training import deepspeed_engine
from proteinlm.platform.training.deepspeed_engine import deepspeed_settings
from proteinlm.platform.training.run_job import make_engine
from proteinlm.tasks.task import Batch
from tests.made import engine_workers
from tests.made.engine_workers import CHAIN, LANES, LINEAR, STEPS
from tests.made.host_reads import HostReads

STAGES = ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def deepspeed() -> dict[int, Any]:
    return engine_workers.run_chain()


@pytest.fixture(scope="module")
def plain() -> list[list[float]]:
    """The uninterrupted run of one plain process over all links of the chain, and two steps more."""
    return engine_workers.losses(engine_workers.plain_engine(), 0, len(CHAIN) * STEPS + 2)


@pytest.fixture(scope="module")
def gradient() -> np.ndarray[Any, Any]:
    return np.array(engine_workers.moved(engine_workers.plain_engine(LINEAR), cuts=1))


@pytest.mark.parametrize("cuts", ["1", "3"])
@pytest.mark.parametrize("world_size", CHAIN)
@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_knows_neither_workers_nor_micro_batches_nor_zero_stage(
    stage: str, world_size: int, cuts: str, deepspeed: dict[int, Any], gradient: np.ndarray[Any, Any]
) -> None:
    found = np.array(deepspeed[world_size][stage]["moved"][cuts])
    # ZeRO's fp32 weights are rounded once when a step is added to them: 1e-7 of a weight, not of its gradient.
    assert np.linalg.norm(found - gradient) <= 1e-5 * np.linalg.norm(gradient)
    assert np.linalg.norm(gradient) > 1e-2


@pytest.mark.parametrize("world_size", CHAIN)
@pytest.mark.parametrize("stage", STAGES)
def test_a_run_goes_on_with_another_number_of_workers(
    stage: str, world_size: int, deepspeed: dict[int, Any], plain: list[list[float]]
) -> None:
    first = CHAIN.index(world_size) * STEPS
    for found, expected in zip(deepspeed[world_size][stage]["losses"], plain[first : first + STEPS], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    for found, expected in zip(
        deepspeed[world_size][stage]["on"], plain[first + STEPS : first + STEPS + 2], strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_a_loaded_checkpoint_goes_on_bit_for_bit(stage: str, deepspeed: dict[int, Any]) -> None:
    found = deepspeed[LANES][stage]
    assert found["on_again"] == found["on"]
    assert found["on"] != found["losses"]


@pytest.mark.parametrize("world_size", CHAIN)
@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_holds_state_and_no_scripts(stage: str, world_size: int, deepspeed: dict[int, Any]) -> None:
    names = deepspeed[world_size][stage]["saved"]
    assert {name.rpartition(".")[2] for name in names} == {"pt", "json"}
    checksums = [f"checksums-{rank:05d}.json" for rank in range(world_size)]
    assert [name for name in names if name.endswith(".json")] == [*checksums, "cursor.json"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_that_would_run_code_is_refused_by_name(stage: str, deepspeed: dict[int, Any]) -> None:
    said = deepspeed[1][stage]["poisoned"]
    files = {name for name in deepspeed[1][stage]["saved"] if name.endswith(".pt")}
    assert {name.removeprefix("load ") for name in said if name.startswith("load ")} == files
    for name, message in said.items():
        file = name.partition(" ")[2]
        assert f"{file} asks for posix.system: refused" in message, (name, message)


@pytest.mark.parametrize("world_size", CHAIN)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_waits_for_no_device(stage: str, world_size: int, deepspeed: dict[int, Any]) -> None:
    """But at stage 3, where DeepSpeed looks whether the norm is finite, and makes what it compares with of values."""
    for cuts in ("1", "3"):
        found = deepspeed[world_size][stage]["waits"][cuts]
        assert found["synchronised"] == 0
        theirs = [read for read in found["reads"] if "/deepspeed/" in read]
        assert found["reads"] == theirs, "none is ours"
        assert [read.split()[0] for read in theirs if "tensor" not in read] == (
            ["aten._local_scalar_dense"] if stage == "3" else []
        )
        assert bool(theirs) == (stage == "3")


@pytest.mark.parametrize("world_size", [size for size in CHAIN if size > 1])
@pytest.mark.parametrize("stage", STAGES)
def test_micro_batches_are_summed_before_gradients_are_reduced(
    stage: str, world_size: int, deepspeed: dict[int, Any]
) -> None:
    """Up to stage 1; beyond it no worker has room for the whole gradient."""
    one, three = (deepspeed[world_size][stage]["waits"][cuts]["collectives"] for cuts in ("1", "3"))
    assert one > 2
    assert (three == one) == (stage in "01")


@pytest.mark.parametrize("world_size", CHAIN)
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_on_one_worker_is_skipped_on_all(
    stage: str, world_size: int, deepspeed: dict[int, Any]
) -> None:
    found = deepspeed[world_size][stage]["not_finite"]
    assert found["is_skipped"]
    assert found["kept"], "weights stay as they were"
    engine = engine_workers.plain_engine()
    first, _, next_ = engine_workers.global_batches(0, 3)
    engine.train_step(first, 1e-2, seed=0)
    assert found["next"] == pytest.approx(engine.train_step(next_, 1e-2, seed=0).read().loss, rel=1e-5)


def test_the_plain_engine_skips_a_step_that_is_not_finite() -> None:
    engine = engine_workers.plain_engine()
    with engine.module() as whole:
        hook = whole.register_forward_hook(lambda _, __, columns: columns | {"loss": columns["loss"] * float("inf")})
        before = {name: weight.clone() for name, weight in whole.state_dict().items()}
        (step,) = engine_workers.global_batches(0, 1)
        assert engine.train_step(step, 1e-2, seed=0).read().is_skipped
        assert all(weight.equal(before[name]) for name, weight in whole.state_dict().items())
        hook.remove()
    assert not engine.train_step(step, 1e-2, seed=0).read().is_skipped


def test_the_plain_engines_gradient_knows_no_micro_batches_and_is_clipped() -> None:
    whole, cut = (np.array(engine_workers.moved(engine_workers.plain_engine(LINEAR), cuts)) for cuts in (1, 3))
    assert np.linalg.norm(cut - whole) <= 1e-5 * np.linalg.norm(whole)
    clipped = engine_workers.plain_engine(LINEAR.model_copy(update={"gradient_clip": 1e-3}))
    assert np.linalg.norm(engine_workers.moved(clipped, cuts=1)) == pytest.approx(1e-3, rel=1e-3)


class Averaging:
    """Stands for what deepspeed.initialize makes: it remembers what losses it was given."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = self.module = model
        self.losses = list[float]()
        self.optimizer = torch.optim.SGD(model.parameters())

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        columns: dict[str, torch.Tensor] = self.model(batch)
        return columns

    def train(self) -> None: ...

    def backward(self, loss: torch.Tensor) -> None:
        self.losses.append(loss.item())

    def step(self) -> None: ...

    def get_global_grad_norm(self) -> float:
        return 1.0


def test_what_deepspeed_takes_means_over_is_multiplied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It divides a gradient by its workers and micro batches; ours is over the number of scored labels alone."""
    whole = Averaging(engine_workers.model())
    monkeypatch.setitem(
        sys.modules, "deepspeed", SimpleNamespace(ops=SimpleNamespace(), initialize=lambda **_: (whole, None))
    )
    monkeypatch.setattr(deepspeed_engine, "world_size", lambda: 4)
    (step,) = engine_workers.global_batches(0, 1)
    made = (engine_workers.training(0), engine_workers.OPTIMIZER, torch.device("cpu"), len(step), False)
    report = deepspeed_engine.DeepSpeedEngine(engine_workers.model(), *made).train_step(step, 1e-2, seed=0).read()
    assert sum(whole.losses) / (4 * len(step)) == pytest.approx(report.loss, rel=1e-6)
    assert report.scored == sum(batch.num_scored for batch in step)
    assert len(set(whole.losses)) == len(step)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_clipping_the_parts_of_a_gradient_is_clipping_the_whole(clip: float) -> None:
    torch.manual_seed(0)
    parts = [[torch.randn(5, 3), torch.randn(7)], [torch.randn(4), torch.zeros(3)]]
    parts[1][1]._zero_padding = True  # type: ignore[attr-defined]
    whole = torch.nn.Parameter(torch.zeros(26))
    whole.grad = torch.cat([part.flatten() for part in (*parts[0], parts[1][0])])
    norm = deepspeed_engine.clip_partitions(parts, clip)
    assert norm.item() == pytest.approx(torch.nn.utils.clip_grad_norm_([whole], clip).item(), rel=1e-6)
    scaled = torch.cat([part.flatten() for part in (*parts[0], parts[1][0])])
    torch.testing.assert_close(scaled, whole.grad, rtol=1e-5, atol=0)
    assert deepspeed_engine.clip_partitions([[torch.tensor([1.0, float("nan")])]], clip).isfinite().item() is False


def test_the_plain_engine_waits_for_no_device() -> None:
    """On the way that a GPU goes, by cumulative lengths; with Muon, and a loss scale in fp16."""
    lengths_alone: list[bool] = []
    for precision in ("fp32", "bf16", "fp16"):
        section = engine_workers.training(0, "plain").model_copy(update={"precision": precision})
        muon = engine_workers.OPTIMIZER.model_copy(update={"name": "muon"})
        made = make_engine(engine_workers.model(), section, muon, device=torch.device("cpu"), micro_batches=1)
        batches = engine_workers.looked_up(engine_workers.global_batches(0, 1)[0])
        batches = [replace(batch, packed=batch.packed.without_groups()) for batch in batches]
        with emulated_attention():
            made.train_step(batches, 1e-2, seed=0)
            with HostReads() as reads:
                report = made.train_step(batches, 1e-2, seed=0)
            # the stand-in for the kernel reads where each sequence begins: a GPU's does not
            assert [read for read in reads.found if "emulated_attention" not in read] == []
            lengths_alone.append(bool(reads.found))
            with HostReads() as reads:
                figures = report.read()
        assert [read.split()[0] for read in reads.found] == ["tolist"]
        assert figures.loss > 0
        assert figures.scored == sum(batch.num_scored for batch in batches)
        assert figures.loss_scale == (2.0**16 if precision == "fp16" else 1.0)
    assert lengths_alone == [True] * 3


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_skipped_step_leaves_weights_and_state_as_they_were(name: str) -> None:
    """Where it is the first one, and later, when there is momentum: what follows is what would have followed."""
    optimizer = engine_workers.OPTIMIZER.model_copy(update={"name": name})
    engines = [engine_workers.plain_engine(optimizer) for _ in range(2)]
    good = engine_workers.global_batches(0, 3)
    poison = {"factor": 1.0}
    with engines[1].module() as whole:
        whole.register_forward_hook(lambda _, __, columns: columns | {"loss": columns["loss"] * poison["factor"]})
    losses: list[list[float]] = [[], []]
    for step in good:
        poison["factor"] = float("nan")
        report = engines[1].train_step(step, 1e-2, seed=0).read()
        assert report.is_skipped
        assert np.isnan(report.gradient_norm)
        poison["factor"] = 1.0
        for engine, found in zip(engines, losses, strict=True):
            found.append(engine.train_step(step, 1e-2, seed=0).read().loss)
    assert losses[0] == losses[1]
    with engines[0].module() as one, engines[1].module() as other:
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_dropout_is_drawn_from_the_step_and_the_rows_of_each_micro_batch() -> None:
    """So that a resumed run draws what one that never stopped does, and no two micro batches share their masks."""
    engine = engine_workers.plain_engine()
    drawn: list[int] = []
    (step,) = engine_workers.global_batches(0, 1)
    step = [replace(batch, rows=(10 * number, *batch.rows)) for number, batch in enumerate(step)]
    with engine.module() as whole:
        whole.register_forward_pre_hook(lambda _, __: drawn.append(torch.initial_seed()))
    for seed in (7, 7, 8):
        torch.manual_seed(len(drawn))  # whatever was drawn before
        engine.train_step(step, 1e-2, seed=seed)
    first, again, next_ = (drawn[place : place + len(step)] for place in range(0, len(drawn), len(step)))
    assert first == again
    assert len({*first, *next_}) == 2 * len(step)


def test_fp16_scales_its_loss_dynamically_and_bf16_keeps_fp32_weights() -> None:
    def settings(precision: str) -> dict[str, Any]:
        section = engine_workers.training(2).model_copy(update={"precision": precision})
        return deepspeed_settings(section, engine_workers.OPTIMIZER, micro_batches=3, device=torch.device("cpu"))

    assert settings("fp16")["fp16"]["enabled"]
    assert "loss_scale" not in settings("fp16")["fp16"]
    assert settings("bf16")["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}
    assert "bf16" not in settings("bf16")
    assert settings("fp32")["gradient_accumulation_steps"] == 3
    assert settings("fp32")["zero_optimization"]["stage"] == 2
    assert not settings("fp32")["timers"]["throughput"]["enabled"], "they wait for the device"
    assert settings("fp32")["gradient_clipping"] == engine_workers.OPTIMIZER.gradient_clip > 0

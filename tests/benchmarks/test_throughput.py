"""The references of the throughput benchmark compute what EsmForMaskedLM does, and how contestants are compared."""

from argparse import Namespace
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import varlen

from proteinlm.models.config import ModelConfig
from proteinlm.platform.training.telemetry import batch_flops
from tests.benchmarks import throughput
from tests.benchmarks.throughput import Made, compare, speeds
from tests.made import training_turns
from tests.made.batches import SPECIALS, batches_by_length, packed_batches, packed_row, padded_batches
from tests.made.esm_reference import PACKED, esm, packed_attention, packed_on, padded_on, trained
from tests.made.measuring import proteins
from tests.made.training_turns import COMPILED_FORMS, EAGER, FLOPS_FORMULA, Spent, as_fed, our_turn

CONFIG = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
SEQUENCES = [sequence[:length] for sequence, length in zip(proteins(6)[0], (9, 40, 3, 25, 18, 31), strict=True)]


def rough_esm(attention: str) -> nn.Module:
    """The reference with weights so large that attention matters."""
    model = esm(CONFIG, "cpu", attention)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_packed_the_reference_computes_what_it_does_padded() -> None:
    """Loss and gradients of the same masked proteins; where they attend to each other, the loss is another."""
    (packed,), (padded,) = packed_batches(SEQUENCES, 10_000), padded_batches(SEQUENCES, len(SEQUENCES))
    losses, gradients = [], []
    for attention, batch in ((PACKED, packed_row(packed)), ("sdpa", padded)):
        model = rough_esm(attention)
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    as_one = packed_row(packed) | {"cu_seq_lens_q": torch.tensor([0, packed.packed.num_tokens], dtype=torch.int32)}
    assert abs(rough_esm(PACKED)(**as_one).loss - losses[0]) > 0.01


@pytest.mark.parametrize("changes", [{"token_dropout": True}, {"position": "learned"}])
def test_the_packed_reference_is_refused_where_it_would_be_another_model(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="accepted is a model with rotary positions and without token dropout"):
        esm(CONFIG.model_copy(update=changes), "cpu", PACKED)


def kernel(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, same: Tensor, longest: int, too: int, scale: float
) -> Tensor:
    attended = []
    for part in zip(*(tensor.split(borders.diff().tolist()) for tensor in (query, key, value)), strict=True):
        first, second, third = (tensor.transpose(0, 1) for tensor in part)
        attended.append(((first @ second.transpose(1, 2) * scale).softmax(-1) @ third).transpose(0, 1))
    return torch.cat(attended)


def with_scale(*parts: Tensor, scale: float | None = None) -> Tensor:
    return kernel(*parts, scale=parts[0].shape[-1] ** -0.5 if scale is None else scale)


def without_scale(*parts: Tensor) -> Tensor:
    return kernel(*parts, scale=parts[0].shape[-1] ** -0.5)


@pytest.mark.parametrize("varlen_attn", [with_scale, without_scale])
@pytest.mark.parametrize("scaling", [1.0, None])
def test_on_a_gpu_each_torch_is_asked_for_the_same(
    varlen_attn: Callable[..., Tensor], scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the way to the GPU's kernel but the kernel; an older torch knows no `scale`."""
    torch.manual_seed(0)
    borders = torch.tensor([0, 3, 10, 11], dtype=torch.int32)
    parts = [torch.randn(1, 2, 11, 4) for _ in range(3)]
    options = {"cu_seq_lens_q": borders, "max_length_q": 7, "scaling": scaling, "dropout": 0.0}
    expected, _ = packed_attention(nn.Module(), *parts, None, **options)
    assert expected.shape == (1, 11, 2, 4)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr("tests.made.esm_reference.has_kernel", lambda device: True)
    torch.testing.assert_close(packed_attention(nn.Module(), *parts, None, **options)[0], expected)


def test_batches_by_length_hold_every_protein_once_and_no_more_than_asked() -> None:
    batches = batches_by_length(SEQUENCES, 90)
    lengths = sorted(int(length) for batch in batches for length in batch["attention_mask"].sum(1))
    assert lengths == sorted(len(sequence) + SPECIALS for sequence in SEQUENCES)
    assert max(batch["input_ids"].numel() for batch in batches) <= 90
    assert sum(batch["input_ids"].numel() for batch in batches) < 6 * max(lengths), "less padding than in one batch"
    assert len(batches_by_length(SEQUENCES, 1)) == len(SEQUENCES), "longer than asked: a batch of its own"


def test_residues_are_counted_alike_on_all_sides() -> None:
    total = sum(map(len, SEQUENCES))
    for fed in (
        packed_on(packed_batches(SEQUENCES, 40), "cpu"),
        padded_on(batches_by_length(SEQUENCES, 90), "cpu"),
        padded_on(padded_batches(SEQUENCES, 2), "cpu"),
    ):
        assert len(fed) > 1
        assert sum(residues for _, residues, _ in fed) == total


def test_the_formula_that_is_printed_is_the_one_that_counts() -> None:
    config = ModelConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=56)
    (batch,) = packed_batches(SEQUENCES, 10_000)
    names = {
        "layers": 3, "D": 32, "M": 56, "N": batch.packed.num_tokens, "scored": batch.num_scored,
        "L2": sum(length**2 for length in batch.packed.lengths),
    }  # fmt: skip
    assert eval(FLOPS_FORMULA, names) == batch_flops(config, batch, is_language_model=True)


def test_every_form_of_a_step_trains() -> None:
    """Each turn is a step on the next batch: the loss of a batch that comes again has fallen."""
    seen: list[float] = []

    def followed(loss: Tensor) -> Tensor:
        seen.append(loss.item())
        return loss

    batches = packed_batches(SEQUENCES, 10_000)
    model = esm(CONFIG, "cpu", PACKED)
    turn = training_turns.Trained(model, lambda batch: followed(model(**batch).loss), "fp32", "cpu").on(
        packed_on(batches, "cpu")
    )
    assert [turn()[0] for _ in range(3)] == [sum(map(len, SEQUENCES))] * 3
    assert seen[0] > seen[1] > seen[2]
    padded = trained(esm(CONFIG, "cpu", "sdpa"), "bf16", "cpu").on(padded_on(padded_batches(SEQUENCES, 3), "cpu"))
    assert padded()[0] > 0


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_our_steps_are_the_same_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are, compiled, and compiled for filled micro batches; what is counted is the proteins alone."""
    batches = packed_batches(SEQUENCES, 70)
    sizes = {
        form: {b.packed.num_tokens for b in as_fed(batches, form, False, "cpu")} for form in (EAGER, *COMPILED_FORMS)
    }
    assert {form: len(found) for form, found in sizes.items()} == {"eager": 2, "dynamic": 2, "static": 1}
    losses: dict[str, list[float]] = {}
    for form in sizes:
        seen = losses.setdefault(form, [])
        monkeypatch.setattr(torch.Tensor, "backward", followed(seen, torch.Tensor.backward))
        turn = our_turn(CONFIG, batches, "fp32", "cpu", form)
        for batch in batches:
            assert turn() == (batch.num_residues, batch_flops(CONFIG, batch, is_language_model=True))
        monkeypatch.undo()
    torch.compiler.reset()
    assert losses["dynamic"] == pytest.approx(losses["eager"], rel=1e-4)
    assert losses["static"] == pytest.approx(losses["eager"], rel=1e-4)


def followed(seen: list[float], backward: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """`backward` that notes the loss first."""

    def noting(loss: Tensor) -> None:
        seen.append(loss.item())
        backward(loss)

    return noting


class Counted:
    """A turn that knows how many of its kind are alive."""

    alive = most = 0

    def __init__(self) -> None:
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1

    def __call__(self) -> tuple[int, float]:
        return 1000, 1e6


@pytest.mark.parametrize(("is_one_at_a_time", "most"), [(True, 1), (False, 3)])
def test_on_a_gpu_one_model_at_a_time_is_there(
    is_one_at_a_time: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throughput, "peak", lambda dtype, device: (2e9, 1e9))
    Counted.most = 0
    names = ("ours", "esm_by_length", "esm_packed")
    contestants = {name: lambda: Made(Counted(), {"size": 4}) for name in names}
    options = Namespace(device="cpu", rounds=2, one_at_a_time=is_one_at_a_time)
    found = compare(contestants, "fp32", options)
    assert (Counted.most, Counted.alive) == (most, 0)
    assert {f"{name}_residues_per_s" for name in names} | {"esm_by_length_size"} <= found.keys()
    assert found["share_of_peak_is"].endswith("of 0.002 TFLOP/s, the fastest matrix product here")


def test_the_figure_is_ours_over_the_better_reference() -> None:
    def rounds(*seconds: float) -> list[Spent]:
        return [Spent(each, each, 600, 1.0) for each in seconds]

    spent = {
        "ours": rounds(1, 2, 10),
        COMPILED_FORMS[0]: rounds(1, 1, 1),
        "esm_by_length": rounds(4, 4, 4),
        "esm_packed": rounds(3, 3, 3),
        "esm_batches_of_32": rounds(0.1, 0.1, 0.1),
    }
    found = speeds(spent)
    assert found["better_reference"] == "esm_packed", "padded batches of 32 are not among them"
    assert found["ours_over_better_reference"] == 1.5, "the median of 3, 1.5 and 0.3"
    assert found[f"{COMPILED_FORMS[0]}_over_better_reference"] == 3
    assert found["ours_residues_per_s"] == 300

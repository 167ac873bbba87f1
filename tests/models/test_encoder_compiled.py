"""Compiled layers: one graph for micro batches of any composition, and the same outputs and gradients."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from proteinlm.models.config import ModelConfig
from proteinlm.models.emulated_attention import emulated_attention
from proteinlm.models.encoder import CompileMode, ProteinEncoder
from proteinlm.models.packed import Packed
from tests.made.small_models import random_packed

# torch's compiler imports what torch has deprecated, and looks at gradients that it knows not to be there
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]

CPU = torch.device("cpu")
MICRO_BATCHES = 200
MOST_RECOMPILATIONS = 2


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    """Compilations are counted from 0; nothing compiled is left for other tests."""
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def by_lengths() -> Iterator[None]:
    """Attention as on a GPU."""
    with emulated_attention():
        yield


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made and cut as ever, but run as they are: generating their kernels takes seconds for each."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def encoder_of(mode: CompileMode | None, **changes: object) -> ProteinEncoder:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "token_dropout": True}
    torch.manual_seed(0)
    encoder = ProteinEncoder(ModelConfig.model_validate({**shape, **changes}))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if mode is not None:
        encoder.compile_layers(mode, CPU)
    return encoder


def micro_batches(count: int) -> list[Packed]:
    """Of 1 to 8 proteins of 2 to 300 tokens."""
    generator = np.random.default_rng(0)
    sizes = [(2 + 298 * generator.random(generator.integers(1, 9)) ** 3).astype(int) for _ in range(count)]
    return [random_packed(lengths.tolist(), seed) for seed, lengths in enumerate(sizes)]


def gradients(encoder: ProteinEncoder, packed: Packed, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Hidden states and the gradient of every parameter, in fp32."""
    encoder.zero_grad()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        hidden = encoder(packed).float()
    (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return {"hidden": hidden.detach()} | {name: p.grad.clone() for name, p in encoder.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        assert (found[name] - one).norm() <= tolerance * one.norm() + tolerance * 1e-2, name


def compiled_graphs() -> int:
    return counters["stats"]["unique_graphs"]


def run(encoder: ProteinEncoder, batches: list[Packed]) -> int:
    """Train on them; returns how many graphs were compiled."""
    for packed in batches:
        encoder(packed).square().sum().backward()
    return compiled_graphs()


@pytest.mark.usefixtures("by_lengths")
def test_micro_batches_of_any_composition_share_one_graph() -> None:
    encoder = encoder_of("dynamic")
    batches = [packed.without_groups() for packed in micro_batches(MICRO_BATCHES)]
    assert len({(packed.num_tokens, packed.num_proteins) for packed in batches}) > MICRO_BATCHES // 2
    assert run(encoder, batches) - 1 <= MOST_RECOMPILATIONS
    assert not counters["graph_break"]


@pytest.mark.usefixtures("by_lengths")
def test_filled_micro_batches_share_one_graph_of_fixed_sizes() -> None:
    encoder = encoder_of("static")
    batches = [packed.filled(2400, 8) for packed in micro_batches(30)]
    assert run(encoder, batches) - 1 <= MOST_RECOMPILATIONS
    assert not counters["graph_break"]


@pytest.mark.usefixtures("by_lengths")
@pytest.mark.parametrize(
    ("mode", "changes"),
    [("dynamic", {}), ("dynamic", {"activation_checkpointing": True}), ("static", {}),
     ("dynamic", {"position": "learned", "max_positions": 300, "gelu": "tanh"})],
)  # fmt: skip
def test_compiling_changes_no_output_and_no_gradient(mode: CompileMode, changes: dict[str, object]) -> None:
    compiled, plain = encoder_of(mode, **changes), encoder_of(None, **changes)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for packed in micro_batches(3):
        given = packed.filled(2400, 8) if mode == "static" else packed.without_groups()
        assert_same(gradients(compiled, given), gradients(plain, packed), 1e-5)
    assert compiled_graphs() >= 1


@pytest.mark.usefixtures("by_lengths")
def test_compiled_layers_keep_a_bf16_stream() -> None:
    compiled, plain = encoder_of("dynamic"), encoder_of(None)
    packed = random_packed([30, 200, 77])
    exact, found = gradients(plain, packed), gradients(compiled, packed, torch.bfloat16)
    assert_same(found, exact, 0.03)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(packed).dtype == torch.bfloat16


@pytest.mark.usefixtures("by_lengths", "without_kernels")
def test_evaluation_and_training_go_side_by_side() -> None:
    encoder, plain = encoder_of("dynamic"), encoder_of(None).eval()
    for packed in micro_batches(20):
        encoder.train()(packed).sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(encoder.eval()(packed), plain(packed), atol=1e-4, rtol=1e-4)
    assert compiled_graphs() <= 2 * (1 + MOST_RECOMPILATIONS)


@pytest.mark.usefixtures("without_kernels")
def test_groups_are_attended_outside_of_the_graph() -> None:
    compiled, plain = encoder_of("dynamic"), encoder_of(None)
    for packed in micro_batches(12):
        assert_same(gradients(compiled, packed), gradients(plain, packed), 1e-5)
    pieces = 4  # before and after attention in the layer, and within its module
    assert compiled_graphs() <= pieces * (1 + MOST_RECOMPILATIONS)

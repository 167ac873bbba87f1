"""Parameter counts of the paper's configurations, presets, and refusals."""

import pytest
import torch
from pydantic import ValidationError

from proteinlm.models.config import ESM_2_SHAPES, PRESETS, ModelConfig, expand_preset, num_parameters
from proteinlm.models.encoder import LanguageModelHead, ProteinEncoder

PAPER_TOTALS = {
    "hidden-512-layer-32-head-8": 102_320_768,
    "hidden-768-layer-12-head-6": 87_417_728,
    "hidden-768-layer-16-head-16": 115_769_216,
    "hidden-768-layer-16-head-24": 115_769_216,
    "hidden-1024-layer-12-head-16": 154_567_808,
    "hidden-1024-layer-12-head-32": 154_567_808,
    "hidden-2048-layer-12-head-16": 613_222_528,
    "hidden-2048-layer-24-head-16": 1_217_521_792,
    "hidden-2048-layer-24-head-8": 1_217_521_792,
    "hidden-3072-layer-24-head-16": 2_735_398_016,
    "proteinlm-200m": 204_952_704,
}


def built_parameters(config: ModelConfig) -> int:
    with torch.device("meta"):
        encoder = ProteinEncoder(config)
        head = LanguageModelHead(config, encoder.token_embedding)
    return sum(parameter.numel() for parameter in {*encoder.parameters(), *head.parameters()})


@pytest.mark.parametrize(("preset", "total"), PAPER_TOTALS.items())
def test_paper_configurations_have_the_papers_size(preset: str, total: int) -> None:
    config = ModelConfig(**expand_preset({"preset": preset}))
    assert num_parameters(config) == total
    assert built_parameters(config) == total


@pytest.mark.parametrize("preset", ["cpu-tiny", "cpu-small", "cpu"])
def test_closed_form_is_the_module(preset: str) -> None:
    config = ModelConfig(**expand_preset({"preset": preset}))
    assert num_parameters(config) == built_parameters(config)


def test_closed_form_follows_every_width() -> None:
    config = ModelConfig(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=100,
        position="learned", max_positions=77, vocab_multiple=64, alphabet="tape", token_dropout=True,
    )  # fmt: skip
    assert num_parameters(config) == built_parameters(config)
    with_norm = config.model_copy(update={"embedding_norm": True})
    assert num_parameters(with_norm) == built_parameters(with_norm) == num_parameters(config) + 2 * 48
    assert config.padded_vocab_size == 64


def test_table_7_is_whole() -> None:
    assert set(PAPER_TOTALS) | {"cpu-tiny", "cpu-small", "cpu"} | set(ESM_2_SHAPES) == set(PRESETS)


def test_paper_presets_make_the_papers_choices() -> None:
    config = ModelConfig(**expand_preset({"preset": "proteinlm-200m"}))
    assert (config.alphabet, config.position, config.max_positions) == ("proteinlm", "learned", 2176)
    assert (config.padded_vocab_size, config.dropout, config.gelu, config.layer_norm_eps) == (128, 0.1, "tanh", 1e-12)


def test_values_stand_above_their_preset() -> None:
    values = expand_preset({"preset": "cpu", "num_hidden_layers": 7})
    assert (values["hidden_size"], values["num_hidden_layers"]) == (256, 7)
    assert expand_preset(values) == values
    assert expand_preset({"hidden_size": 8}) == {"hidden_size": 8}


def test_unknown_preset_names_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"'proteinlm-20m' \(did you mean 'proteinlm-200m'\?\)"):
        expand_preset({"preset": "proteinlm-20m"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 3}, r"num_attention_heads \(3\) must divide hidden_size \(64\)"),
        ({"num_attention_heads": 64}, "rotary positions need an even head size"),
        ({"hidden_size": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"alphabet": "ems"}, "unknown alphabet 'ems'"),
        ({"position": "absolute"}, "'learned' or 'rotary'"),
        ({"layers": 3}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_configs_are_refused(change: dict[str, object], message: str) -> None:
    values = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, **change}
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(values)


def test_the_earlier_name_of_a_value_is_read_and_never_beside_todays() -> None:
    assert ModelConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, initial_deviation=0.3) == ModelConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.3
    )
    assert expand_preset({"preset": "cpu", "initial_deviation": 0.3})["initializer_range"] == 0.3
    with pytest.raises(ValueError, match="found initial_deviation and initializer_range, two names of one value"):
        expand_preset({"preset": "cpu", "initial_deviation": 0.3, "initializer_range": 0.2})


def test_fields_that_came_later_are_written_only_where_they_say_something() -> None:
    """Hashes, settings of runs and identities of trials from before them are made of what is written."""
    config = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    assert not {"token_dropout", "embedding_norm"} & config.model_dump(mode="json").keys()
    esm_1b = config.model_copy(update={"token_dropout": True, "embedding_norm": True})
    written = esm_1b.model_dump(mode="json")
    assert (written["token_dropout"], written["embedding_norm"]) == (True, True)
    assert ModelConfig.model_validate(written) == esm_1b


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 1001), ("hidden_size", 10**9), ("max_positions", 10**12), ("vocab_multiple", 10**12)],
)
def test_sizes_of_no_model_are_refused_with_the_limit(field: str, value: int) -> None:
    values = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "position": "learned"}
    with pytest.raises(ValidationError, match=rf"{field}.*accepted: up to (1,000|1e\+12)"):
        ModelConfig.model_validate({**values, field: value})
    ModelConfig.model_validate({**values, "num_hidden_layers": 1000})


@pytest.mark.parametrize("field", ["layer_norm_eps", "initializer_range", "dropout"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_numbers_that_are_none_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        ModelConfig.model_validate({"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, field: value})

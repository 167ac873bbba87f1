"""A setting's road: what is merged, how values are read, and that every fault is said at once and by name."""

import math
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from proteinlm.platform.settings.loading import (
    Fault,
    SettingsError,
    load_settings,
    merge,
    override,
    set_dotted,
    validate,
)
from proteinlm.platform.settings.yaml_text import parse_value, read_yaml, to_yaml


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    hidden_size: Annotated[int, Field(gt=0)] = 64
    num_attention_heads: int = 4
    position: Literal["learned", "rotary"] = "rotary"

    @model_validator(mode="after")
    def heads_divide(self) -> "Model":
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}"
            )
        return self


class Optimizer(Section):
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    betas: tuple[float, float] = (0.9, 0.98)
    schedule: Literal["linear", "cosine"] = "linear"


class Config(Section):
    name: str = "run"
    steps: Annotated[int, Field(gt=0)] = 10
    resume: bool = True
    valid_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    limit: int | None = None
    budget: int | str = 3
    sources: tuple[str, ...] = ()
    storage: Path = Path("runs")
    model: Model = Model()
    optimizer: Optimizer | None = Optimizer()
    heads: dict[str, Model] = {}


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ValueError, match=r"run\.yaml") as caught:
        load_settings(Config, written(tmp_path, text), overrides)
    return str(caught.value)


def test_defaults_are_under_the_file_and_the_file_under_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, "steps: 20\nmodel:\n  hidden_size: 128\n  num_attention_heads: 2\n")
    config = load_settings(Config, path, ["model.hidden_size=256", "steps=1e2"])
    assert (config.model.hidden_size, config.model.num_attention_heads, config.steps, config.name) == (
        256,
        2,
        100,
        "run",
    )


def test_without_a_file_the_defaults_stand() -> None:
    assert load_settings(Config, None) == Config()


def test_settings_are_frozen(tmp_path: Path) -> None:
    config = load_settings(Config, written(tmp_path, ""))
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("2.5e+3", 2500.0),
        (".5", 0.5),
        ("-7", -7),
        ("100_000", 100_000),
        ("null", None),
        ("~", None),
        ("true", True),
        ("[a, 1e-2, null]", ["a", 0.01, None]),
        ("{a: 1}", {"a": 1}),
        ("-.inf", -math.inf),
        ("yes", "yes"),
        ("no", "no"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2021-12-02", "2021-12-02"),
        ("1e", "1e"),
        ("'3'", "3"),
    ],
)
def test_values_are_read_as_people_write_them(text: str, value: object) -> None:
    read = parse_value(text)
    assert read == value
    assert type(read) is type(value)


def test_merge_goes_section_by_section_and_replaces_all_else() -> None:
    base = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(base, {"a": {"y": [3]}, "b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert base == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


def test_override_makes_sections_and_leaves_its_input_alone() -> None:
    values: dict[str, Any] = {"model": None, "a": {"b": [1]}}
    assert override(values, ["model.hidden_size=3", "a.c=x=y", "a.c=[1]"]) == {
        "model": {"hidden_size": 3},
        "a": {"b": [1], "c": [1]},
    }
    assert values == {"model": None, "a": {"b": [1]}}


def test_all_faults_of_file_and_command_line_are_in_one_message(tmp_path: Path) -> None:
    text = """
steps: -3
valid_fraction: 1.5
resume: perhaps
optimiser: {learning_rate: 1}
model: {hiden_size: 3, position: absolute}
optimizer: {schedule: step, betas: [0.9]}
"""
    message = refusal(tmp_path, text, "limit", "name=", "model.hidden_size=two", "steps.of=3", "budget=[1]")
    for line in [
        "run.yaml and command line",
        "steps: found -3, expected greater than 0",
        "valid_fraction: found 1.5, expected less than or equal to 1",
        "resume: found 'perhaps', expected a valid boolean",
        "optimiser: unknown setting; did you mean optimizer?",
        "model.hiden_size: unknown setting; did you mean hidden_size?",
        "model.position: found 'absolute', expected 'learned' or 'rotary'",
        "model.hidden_size: found 'two', expected a valid integer",
        "optimizer.schedule: found 'step', expected 'linear' or 'cosine'",
        "optimizer.betas[1]: not given",
        "limit: expected key=value",
        "name: no value after '='",
        "steps.of: steps is -3, not a section",
        "budget: found [1], expected a valid integer or a valid string",
    ]:
        assert line in message
    assert message.startswith("13 faults in the settings")
    assert message.count("\n") == 13


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hidden_size: 3", "hidden_size: unknown setting; did you mean model.hidden_size?"),
        ("zzz: 3", "zzz: unknown setting; accepted here: name, steps, resume"),
        ("heads: {q3: {hiddensize: 3}}", "heads.q3.hiddensize: unknown setting; did you mean hidden_size?"),
        ("model: 3", "model: found 3, expected a section of settings"),
        ("model:", "model: found null, expected a section of settings"),
        ("model: {hidden_size: 6}", "model: num_attention_heads 4 does not divide hidden_size 6"),
        ("steps: true", "steps: found true, expected a number"),
        ("optimizer: {betas: [true, 0.9]}", "optimizer.betas[0]: found true, expected a number"),
        ("steps: 1.5", "steps: found 1.5, expected a valid integer"),
        ("name: 12", "name: found 12, expected a valid string"),
        ("steps: 3\nsteps: 4", "line 2: 'steps' is given twice (first in line 1)"),
        ("model:\n  hidden_size: 3\n  position: rotary\n  hidden_size: 4", "line 4: 'hidden_size' is given twice"),
        ("name: [a\nsteps: 3", "line 2: "),
        ("- a\n- b", "found ['a', 'b'], expected settings such as `name: value`"),
        ("3: a", "line 1: key 3 is not a name"),
        ("name: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_a_fault_names_setting_or_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text)


def test_an_override_that_is_no_yaml_is_named() -> None:
    with pytest.raises(ValueError, match=r"a\.b: found '\[1', which is not a value in YAML"):
        override({}, ["a.b=[1"])


def test_a_setting_without_default_is_asked_for() -> None:
    class Needs(Section):
        corpus: Path

    with pytest.raises(ValueError, match=r"one fault in the settings \(trial 3\):\n  corpus: not given"):
        validate(Needs, {}, "trial 3")


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        load_settings(Config, tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match="is a directory"):
        load_settings(Config, tmp_path)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"run\.yaml is not UTF-8"):
        load_settings(Config, tmp_path / "run.yaml")


floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | floats
    | texts
    | st.sampled_from(["1e-3", "yes", "010", "1:30", "2021-12-02", "~", "="])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
configs = st.builds(
    Config,
    name=texts,
    steps=st.integers(1, 10**12),
    resume=st.booleans(),
    valid_fraction=st.floats(0, 1),
    limit=st.none() | st.integers(),
    sources=st.lists(texts, max_size=3).map(tuple),
    model=st.builds(Model, hidden_size=st.integers(1, 100).map(lambda heads: 4 * heads)),
    optimizer=st.none() | st.builds(Optimizer, learning_rate=st.floats(1e-300, 1e300), betas=st.tuples(floats, floats)),
    heads=st.dictionaries(texts, st.just(Model()), max_size=2),
)


@settings(deadline=None)  # a busy machine is no fault
@given(configs)
def test_what_is_dumped_loads_equal(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.mktemp("dumped") / "run.yaml"
    path.write_text(to_yaml(config))
    assert load_settings(Config, path) == config


@settings(deadline=None)  # a busy machine is no fault
@given(st.dictionaries(texts, values, max_size=4))
def test_other_yaml_readers_read_the_dump_alike(content: dict[str, object]) -> None:
    assert yaml.safe_load(to_yaml(content)) == content


@settings(deadline=None)  # a busy machine is no fault
@given(values)
def test_values_set_by_dotted_name_stay_what_they_are(value: object) -> None:
    assert set_dotted({"a": {"c": 1}}, {"a.b": value}) == {"a": {"c": 1, "b": value}}


def test_values_set_by_dotted_name_share_nothing_with_what_was_given() -> None:
    values, changes = {"a": {"b": [1]}}, {"c.d": [2]}
    changed = set_dotted(values, changes)
    changed["a"]["b"].append(3)
    changed["c"]["d"].append(3)
    assert (values, changes) == ({"a": {"b": [1]}}, {"c.d": [2]})


def test_faults_are_values_and_cross_processes() -> None:
    with pytest.raises(SettingsError) as by_name:
        set_dotted({"steps": 3}, {"steps.of": 1}, "trial 3")
    with pytest.raises(SettingsError) as checked:
        validate(Config, {"steps": -3, "model": {"hidden_size": 6}}, "trial 3")
    copy = pickle.loads(pickle.dumps(checked.value))
    assert by_name.value.faults == (Fault("steps.of", "trial 3", "steps is 3, not a section with settings in it"),)
    assert [(fault.name, fault.source) for fault in copy.faults] == [("steps", "trial 3"), ("model", "trial 3")]
    assert str(copy) == str(checked.value)


def test_faults_of_several_sources_are_said_source_by_source() -> None:
    faults = [Fault("a", "one", "x"), Fault("b", "two", "y"), Fault("c", "one", "z")]
    message = "2 faults in the settings (one):\n  a: x\n  c: z\none fault in the settings (two):\n  b: y"
    assert str(SettingsError(faults)) == message


def test_read_yaml_of_an_empty_file_is_empty(tmp_path: Path) -> None:
    assert read_yaml(written(tmp_path, "# nothing yet\n")) == {}

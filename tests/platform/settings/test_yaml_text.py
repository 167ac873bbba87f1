"""YAML that chokes PyYAML, or would grow without end, is one message with file and line within a second."""

import time
from pathlib import Path

import pytest

from proteinlm.models.messages import printable
from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import load_settings
from proteinlm.platform.settings.yaml_text import MAX_BYTES, parse_value, read_yaml, shown

LAUGHS = "[&a [x,x,x,x,x,x,x,x,x,x]" + "".join(
    f", &{chr(98 + number)} [{','.join(['*' + chr(97 + number)] * 10)}]" for number in range(8)
)
LAUGHS += "]"
CHAIN = "[&a0 [x]" + "".join(f", &a{number} [*a{number - 1}]" for number in range(1, 300)) + "]"
VALUES = {
    "!!timestamp foo": "'foo' is no timestamp",
    "!!bool maybe": "'maybe' is no bool",
    "!!int ''": "'' is no int",
    "!!float ''": "'' is no float",
    "!!int foo": "'foo' is no int",
    "!!float foo": "'foo' is no float",
    "9" * 5000: "is no int",
    "[" * 5000: "more than 40 lists and sections in each other",
    "{a: " * 5000: "more than 40 lists and sections in each other",
    "&a [*a]": "a value that holds itself",
    LAUGHS: "more than 100,000 values, or 40 in each other",
    CHAIN: "more than 100,000 values, or 40 in each other",
    '"\\UFFFFFFFF"': "Python int too large",
    "!!python/object/apply:os.system [true]": "could not determine a constructor",
    '{"\\x1b]0;x": 1, "\\x1b]0;x": 2}': r"'\x1b]0;x' is given twice",
    "*nothing": "found undefined alias 'nothing'",
    "!!omap [a]": "",
    "!!binary '*'": "",
    "!!set [a]": "",
    "!!map [a]": "",
}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:20])
def test_a_value_that_chokes_yaml_is_named_with_file_and_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"name: a\ncorpus: data\nmodel: {{preset: cpu-tiny}}\ntraining: {{steps: 10}}\nseed: {value}\n")
    started = time.process_time()
    with pytest.raises(ValueError, match=r"run\.yaml") as caught:
        load_settings(PretrainConfig, path)
    message = str(caught.value)
    assert time.process_time() - started < 5
    assert "line 5: " in message or "seed: found" in message
    assert VALUES[value] in message
    assert len(message) < 500
    assert message.replace("\n", "").isprintable()
    with pytest.raises(ValueError, match="seed"):
        load_settings(PretrainConfig, None, ["name=a", "corpus=b", "model.preset=cpu-tiny", f"seed={value}"])


def test_a_section_that_holds_itself_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: a\ntask: stability\ndata: d\npretrained: p\ntraining: {steps: 1}\noptions: &a {x: *a}\n")
    with pytest.raises(ValueError, match=r"run\.yaml, line 6: a value that holds itself"):
        load_settings(FinetuneConfig, path)


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: &rate 1e-3\nb: *rate\nc: &list [1, 2]\nd: [*list, *list]\n")
    assert read_yaml(tmp_path / "run.yaml") == {"a": 1e-3, "b": 1e-3, "c": [1, 2], "d": [[1, 2], [1, 2]]}


def test_a_file_of_megabytes_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: " + "x" * MAX_BYTES)
    with pytest.raises(ValueError, match=r"run\.yaml has 1,048,579 bytes; accepted: settings of up to 1,048,576"):
        read_yaml(tmp_path / "run.yaml")


def test_a_message_shows_the_beginning_of_a_value_however_large_it_is() -> None:
    value: list[object] = ["x"]
    for _ in range(40):
        value = [value] * 10
    assert len(shown(value)) == 60
    assert shown("a" * 10**7).startswith("'aaa")
    assert shown(10**5000) == "an integer of thousands of digits"
    assert shown({f"k{number}": 1 for number in range(10**5)}).endswith("k19, ...)")
    assert shown({"\x1b[31m": 1}) == r"a section (\x1b[31m)"
    assert printable("é\x1b\n\u202e") == r"é\x1b\n\u202e"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lab project #3", "lab project #3"),
        ("#2", "#2"),
        (" # x", "# x"),
        ("5 # x", "5 # x"),
        ("[1, 2] # x", "[1, 2] # x"),
        ("a#b", "a#b"),
        ("'a #b'", "a #b"),
        ("5", 5),
        ("1e-3", 1e-3),
        ("[1, a]", [1, "a"]),
        ("null", None),
        ("a\n b", "a\n b"),
    ],
)
def test_a_typed_value_loses_nothing_to_a_comment(text: str, value: object) -> None:
    assert parse_value(text) == value

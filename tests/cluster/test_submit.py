"""What is sent to a cluster, where to, with which variables, and what is said before: all that needs no cluster."""

import os
import tomllib
import zipfile
from pathlib import Path

import pytest

from proteinlm.cluster import submit
from proteinlm.cluster.packing import PACKAGE_FILES, pack, unseen_places
from proteinlm.cluster.submit import _Output, environment, job_server, token_in_clear
from tests.conftest import ROOT

SERVER, RAY = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"


@pytest.mark.parametrize(
    ("address", "variables", "expected"),
    [
        ("http://127.0.0.1:8265/", {SERVER: "http://other:1", RAY: "auto"}, "http://127.0.0.1:8265"),
        (None, {SERVER: "https://head:8265", RAY: "http://other:1"}, "https://head:8265"),
        (None, {SERVER: "", RAY: "http://head:8265"}, "http://head:8265"),
    ],
)
def test_jobs_go_to_what_is_named_first(address: str | None, variables: dict[str, str], expected: str) -> None:
    assert job_server(address, variables) == expected


@pytest.mark.parametrize(
    ("address", "variables", "words"),
    [
        (None, {}, "--address: found none, nor RAY_API_SERVER_ADDRESS or RAY_ADDRESS.*8265"),
        ("ray://head:10001", {}, "--address: found ray://head:10001: the port of Ray's client"),
        (None, {RAY: "10.0.0.1:6379"}, "RAY_ADDRESS: found 10.0.0.1:6379: the address at which nodes and drivers join"),
        (None, {SERVER: "auto"}, "RAY_API_SERVER_ADDRESS: found auto: a Ray on this machine"),
        ("http://", {}, "--address: found http://; accepted: http://HOST:PORT"),
        ("127.0.0.1:8265", {}, "accepted: http://HOST:PORT"),
    ],
)
def test_an_address_that_takes_no_jobs_is_refused_with_what_it_is(
    address: str | None, variables: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        job_server(address, variables)


def test_variables_are_given_or_taken_from_this_machine() -> None:
    made = environment(["A=1=2", "B", "RAY_JOB_STOP_WAIT_TIME_S=9"], {"B": "two"})
    assert made == {"A": "1=2", "B": "two", "RAY_JOB_STOP_WAIT_TIME_S": "9"}
    assert environment([])["RAY_JOB_STOP_WAIT_TIME_S"] == "120", "time for a checkpoint; Ray gives 3 s"


@pytest.mark.parametrize(("assignment", "words"), [("C", "C is not set"), ("=1", "found"), ("a-b=1", "NAME=VALUE")])
def test_variables_that_cannot_be_are_refused(assignment: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"--env: .*{words}"):
        environment([assignment], {})


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The package of this repository beside data and runs of any name, inside of rooms too."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in ("cluster", "models", "platform", "proteinlm", "sweeps", "tasks"):
        (folder / name).mkdir()
    (folder / "proteinlm" / "__init__.py").write_text("")
    (folder / "models" / "encoder.py").write_text("")
    (folder / "proteinlm" / "models").symlink_to("../models")
    (folder / "sweeps" / "tiny.yaml").write_text("name: tiny\n")
    (folder / "proteinlm" / "sweeps").symlink_to("../sweeps")
    for place in ("my results", "pfam", "models/first", "proteinlm/.cache", "models/__pycache__"):
        (folder / place).mkdir()
        for name in ("train-0.parquet", "model.safetensors", "metrics.jsonl", "x.fasta", "scratch.bin"):
            (folder / place / name).write_bytes(b"0" * 1000)
    for place in ("proteinlm/.cache", "models/__pycache__"):
        (folder / place / "old.py").write_text("")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_package_is_sent_and_nothing_that_lies_beside_it(clone: Path, tmp_path: Path) -> None:
    packed = pack(["sweep", "sweeps/tiny.yaml", "storage=/shared/runs"], tmp_path / "out", clone / "proteinlm", clone)
    code = {"proteinlm/__init__.py", "proteinlm/models/encoder.py", "proteinlm/sweeps/tiny.yaml"}
    assert files(packed.folder) == code | {"sweeps/tiny.yaml"}
    assert packed.words == ("sweep", "sweeps/tiny.yaml", "storage=/shared/runs")
    assert packed.sent == ()
    assert not any(path.is_symlink() for path in packed.folder.rglob("*"))


def test_a_configuration_file_from_elsewhere_comes_along(clone: Path, tmp_path: Path) -> None:
    outside = tmp_path / "mine.yaml"
    outside.write_text("name: mine\n")
    packed = pack(["pretrain", "../mine.yaml", "name=a.yaml"], tmp_path / "out", clone / "proteinlm", clone)
    assert packed.words == ("pretrain", "sent/mine.yaml", "name=a.yaml")
    assert (packed.folder / "sent" / "mine.yaml").read_text() == "name: mine\n"
    assert [path.name for path in packed.sent] == ["mine.yaml"]
    packed = pack(["pretrain", str(outside)], tmp_path / "again", clone / "proteinlm", clone)
    assert packed.words == ("pretrain", "sent/mine.yaml")


def test_a_configuration_file_that_nobody_has_is_refused_by_name(clone: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"runs/none\.yaml: no such file in .*clone"):
        pack(["pretrain", "runs/none.yaml"], tmp_path / "out", clone / "proteinlm", clone)
    on_cluster = pack(["pretrain", "/shared/none.yaml"], tmp_path / "other", clone / "proteinlm", clone)
    assert on_cluster.words == ("pretrain", "/shared/none.yaml"), "a path of the cluster's"


def test_two_configuration_files_of_one_name_do_not_replace_each_other(clone: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.yaml").write_text("")
    with pytest.raises(ValueError, match=r"b/one\.yaml: another .* has the same name"):
        pack(["pretrain", "../a/one.yaml", "../b/one.yaml"], tmp_path / "out", clone / "proteinlm", clone)


def test_what_is_sent_is_what_a_wheel_holds() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert sorted(PACKAGE_FILES) == sorted(["*.py", *data])


def test_this_package_is_small_enough_to_send(tmp_path: Path) -> None:
    packed = pack(["settings"], tmp_path / "out", ROOT / "proteinlm", ROOT)
    assert (packed.folder / "proteinlm" / "platform" / "pretrain.py").is_file()
    with zipfile.ZipFile(tmp_path / "sent.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files(packed.folder):
            archive.write(packed.folder / name, name)
    assert (tmp_path / "sent.zip").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("runs", "goes with the job"),
        ("file:///runs", "each node's own file"),
        ("s3://bucket/runs", None),
        ("s3:/bucket/runs", None),  # a URI that was a Path
        ("/shared/not-on-this-machine", None),
        (str(ROOT), "make sure that it is on every node"),
    ],
)
def test_places_that_the_cluster_does_not_see_are_named(place: str, words: str | None) -> None:
    said = unseen_places({"storage": place})
    assert len(said) == bool(words)
    assert all(line.startswith(f"storage={place}: ") and str(words) in line for line in said)


def test_an_input_of_the_job_s_own_folder_is_not_there() -> None:
    assert "the job finds nothing there" in unseen_places({"pretrain.corpus": "data/pfam"})[0]


def test_what_a_job_prints_is_shown_once_over_several_connections() -> None:
    shown: list[str] = []
    output = _Output(shown.append)
    for text in ("one\n", "two\n"):
        output.add(text)
    output.come = 0
    for text in ("one\nt", "wo\nthree\n"):
        output.add(text)
    assert "".join(shown) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("address", "mode", "expected"),
    [
        ("http://10.0.0.1:8265", "token", True),
        ("http://10.0.0.1:8265", "disabled", False),
        ("https://head", "token", False),
        ("http://127.0.0.1:8265", "token", False),
        ("http://localhost:8265", "token", False),
    ],
)
def test_a_token_that_others_can_read_on_the_way_is_noticed(
    address: str, mode: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert token_in_clear(address) is expected


def test_a_token_that_is_there_is_sent_unless_somebody_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "DEFAULT_TOKEN", tmp_path / "none")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    submit.set_token_mode()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "somewhere")
    submit.set_token_mode()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    submit.set_token_mode()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"

"""Result rows: nothing half-written, nothing doubled, a broken line named."""

import json
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proteinlm.platform.results.comparison import make_tables
from proteinlm.platform.results.rows import ResultRow, append_rows, gather_rows
from proteinlm.platform.storage.run_directory import ROWS_FILE
from tests.made.result_rows import make_row


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    rows = [make_row(settings={"learning_rate": 1e-3}, low=2.6, high=2.7), make_row(metric="perplexity", value=14.6)]
    append_rows(tmp_path / "storage" / "tiny", rows)
    assert gather_rows([tmp_path]) == rows


@settings(deadline=None)  # a busy machine is no fault
@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    seed=st.integers(0, 2**63),
    model=st.text(st.characters(codec="utf-8")),
)
def test_any_value_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, value: float, seed: int, model: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    row = make_row(value=value, seed=seed, model=model)
    append_rows(folder, [row])
    assert gather_rows([folder]) == [row]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null_in_the_file_and_nan_again(tmp_path: Path, value: float) -> None:
    append_rows(tmp_path, [make_row(value=value)])
    assert json.loads((tmp_path / ROWS_FILE).read_text())["value"] is None
    assert math.isnan(gather_rows([tmp_path])[0].value)


@pytest.mark.parametrize("text", ["NaN", "Infinity"])
def test_a_row_of_an_older_version_says_so_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / ROWS_FILE).write_text(make_row().model_dump_json().replace('"value":0.61', f'"value":"{text}"') + "\n")
    assert str(gather_rows([tmp_path])[0].value) == str(float(text))


def test_a_trial_run_again_does_not_double_its_rows(tmp_path: Path) -> None:
    append_rows(tmp_path, [make_row(value=2.7), make_row(split="ts115")])
    append_rows(tmp_path, [make_row(value=2.6), make_row(split="ts115")])
    assert len((tmp_path / ROWS_FILE).read_text().splitlines()) == 4
    assert [(row.split, row.value) for row in gather_rows([tmp_path, tmp_path])] == [("cb513", 2.6), ("ts115", 0.61)]


@pytest.mark.parametrize("name", ["run", "task", "split", "metric", "model", "mode"])
def test_figures_that_differ_in_any_part_of_the_key_stay_apart(tmp_path: Path, name: str) -> None:
    append_rows(tmp_path, [make_row(), make_row(**{name: "other"}), make_row(seed=1)])
    assert len(gather_rows([tmp_path])) == 3


def test_runs_of_one_name_in_two_storages_stay_two_lines(tmp_path: Path) -> None:
    """Two laboratories call their first run `first`; a seed beside one of them stays with it."""
    for storage, value in (("one/runs", 1.0), ("two/runs", 2.0)):
        append_rows(tmp_path / storage / "first", [make_row(run="first", configuration="first", value=value)])
    seed = make_row(run="first-seed-1", configuration="first", seed=1, value=3.0)
    append_rows(tmp_path / "one/runs/first-seed-1", [seed])
    rows = gather_rows([tmp_path / "one", tmp_path / "two", tmp_path / "one"])
    assert [(row.run, row.configuration, row.value) for row in rows] == [
        ("one/runs/first-seed-1", "one/runs/first", 3.0),
        ("one/runs/first", "one/runs/first", 1.0),
        ("two/runs/first", "two/runs/first", 2.0),
    ]
    (table,) = make_tables(rows)
    assert [line.facts["run"] for line in table.lines] == ["one/runs/first", "two/runs/first"]
    assert [row.run for row in gather_rows([tmp_path / "one"])] == ["first-seed-1", "first"]


def test_a_copy_of_a_run_directory_is_a_line_of_its_own(tmp_path: Path) -> None:
    for folder, value in (("first", 1.0), ("first-copy", 2.0)):
        append_rows(tmp_path / folder, [make_row(run="first", configuration="first", value=value)])
    assert [row.run for row in gather_rows([tmp_path])] == ["first-copy/first", "first/first"]


def test_rows_are_found_by_file_and_by_uri(tmp_path: Path) -> None:
    append_rows(tmp_path.as_uri() + "/deep/", [make_row()])
    assert gather_rows([tmp_path / "deep" / ROWS_FILE]) == gather_rows([tmp_path.as_uri()]) == [make_row()]


def test_a_broken_last_line_is_named_by_file_and_line(tmp_path: Path) -> None:
    append_rows(tmp_path, [make_row()])
    path = tmp_path / ROWS_FILE
    path.write_text(path.read_text() + make_row().model_dump_json()[:40])
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2 is not a result row: Invalid JSON"):
        gather_rows([tmp_path])


def test_a_row_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / ROWS_FILE).write_text(make_row().model_dump_json().replace('"value":0.61', '"value":"high"') + "\n")
    with pytest.raises(ValueError, match=r"line 1 is not a result row: value: Input should be a valid number"):
        gather_rows([tmp_path])


def test_a_missing_run_is_named_and_an_empty_one_has_no_rows(tmp_path: Path) -> None:
    assert gather_rows([tmp_path]) == []
    with pytest.raises(FileNotFoundError, match=r"no run at .*nowhere"):
        gather_rows([tmp_path / "nowhere"])


def test_a_write_that_is_cut_off_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_rows(tmp_path, [make_row()])
    before = (tmp_path / ROWS_FILE).read_bytes()

    def cut(row: ResultRow) -> str:
        raise InterruptedError(row.seed)

    (tmp_path / f"{ROWS_FILE}.staging").write_text('{"half": ')  # what an earlier, killed writer left
    with monkeypatch.context() as patched:
        patched.setattr(ResultRow, "model_dump_json", cut)
        with pytest.raises(InterruptedError):
            append_rows(tmp_path, [make_row(seed=1)])
    assert (tmp_path / ROWS_FILE).read_bytes() == before
    append_rows(tmp_path, [make_row(seed=1)])
    assert [row.seed for row in gather_rows([tmp_path])] == [0, 1]


def test_a_reader_never_sees_half_a_row(tmp_path: Path) -> None:
    append_rows(tmp_path, [make_row(seed=0)])
    writer = threading.Thread(target=lambda: [append_rows(tmp_path, [make_row(seed=seed)]) for seed in range(1, 60)])
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(len(gather_rows([tmp_path])))
    writer.join()
    assert seen == sorted(seen)
    assert len(gather_rows([tmp_path])) == 60


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="with its zone"):
        make_row(created="2021-12-02T10:00:00")


def test_a_row_of_an_older_version_is_its_own_configuration(tmp_path: Path) -> None:
    old = make_row(run="stability-full-seed-1").model_dump_json(exclude={"configuration"})
    (tmp_path / ROWS_FILE).write_text(f"{old}\n")
    assert gather_rows([tmp_path])[0].configuration == "stability-full-seed-1"
    append_rows(tmp_path, [make_row(run="stability-full-seed-1", configuration="stability-full")])
    assert gather_rows([tmp_path])[0].configuration == "stability-full"

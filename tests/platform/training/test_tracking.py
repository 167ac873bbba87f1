"""Step figures: one row a step, none twice after a resume, valid JSON always, read bit by bit, gauges under Ray."""

import json
import math
import time
from pathlib import Path
from typing import ClassVar

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proteinlm.platform.storage.run_directory import METRICS_FILE
from proteinlm.platform.training.tracking import MetricsTail, Tracker, forget_after, last_logged_step, read_metrics


def test_a_resumed_run_logs_no_step_twice(tmp_path: Path) -> None:
    with Tracker(tmp_path, 0, active=True) as tracker:
        for step in range(1, 6):
            tracker.log(step, {"loss": float(step)})
    with Tracker(tmp_path, 3, active=True) as tracker:
        tracker.log(4, {"loss": 40.0, "valid/loss": 4.0})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert read_metrics(tmp_path)[-1] == {"step": 4, "loss": 40.0, "valid/loss": 4.0}
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    assert [event.step for event in board.Scalars("valid/loss")] == [4]


def test_workers_but_the_first_write_nothing(tmp_path: Path) -> None:
    with Tracker(tmp_path / "run", 0, active=False) as tracker:
        tracker.log(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert read_metrics(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "line",
    [
        *("", "{}", "[1]", "null", '{"loss": 2.0}', '{"step": "1"}', '{"step": 1.5}', '{"step": true}', '{"step": -1}'),
        *('{"step": 2, "loss": "low"}', '{"step": 2, "loss": [1]}', '{"step": 2, "loss": 1e999}', '{"step": 2, "lo'),
        *('{"step": ' + "9" * 400 + "}", '{"step": ' + "9" * 5000 + "}", "[" * 5000),
    ],
)
def test_a_whole_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text(f'{{"step": 1, "loss": 2.0}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is no row of metrics: \S") as refused:
        read_metrics(tmp_path)
    assert len(str(refused.value)) < 500


def test_a_figure_that_is_not_finite_is_null_in_json_and_nan_when_read(tmp_path: Path) -> None:
    with Tracker(tmp_path, 0, active=True) as tracker:
        tracker.log(1, {"loss": math.nan, "gradient_norm": math.inf, "learning_rate": 0.1})
    for _ in range(2):
        line = (tmp_path / METRICS_FILE).read_text()
        found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert found == {"step": 1, "loss": None, "gradient_norm": None, "learning_rate": 0.1}
        (row,) = read_metrics(tmp_path)
        assert math.isnan(row["loss"])
        forget_after(tmp_path, 1)  # a resume writes what it read


def test_the_tail_gives_each_row_once_and_all_of_a_new_file(tmp_path: Path) -> None:
    tail = MetricsTail(tmp_path)
    assert tail.read() == ([], False)
    path = tmp_path / METRICS_FILE
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert tail.read() == ([{"step": 1}, {"step": 2}], True)
    assert tail.read() == ([], False)
    with path.open("a") as file:
        file.write('ep": 3}\n')
    assert tail.read() == ([{"step": 3}], False)
    forget_after(tmp_path, 2)
    with path.open("a") as file:
        file.write('{"step": 30}\n{"step": 40}\n')
    assert tail.read() == ([{"step": 1}, {"step": 2}, {"step": 30}, {"step": 40}], True)
    forget_after(tmp_path, 40)  # a resume that drops nothing is a new launch too
    assert tail.read()[1]


class Recorded:
    """A gauge that remembers: (name, values of its tags) -> value."""

    values: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        assert all(key[0] != name for key in self.values), "made twice"
        self._name, self._keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._name, *(tags[key] for key in self._keys)] = value


def test_where_ray_runs_figures_are_gauges_of_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.metrics.Gauge", Recorded)
    for is_initialized in (False, True):
        monkeypatch.setattr("ray.is_initialized", lambda found=is_initialized: found)
        with Tracker(tmp_path / "first", 0, active=True) as tracker:
            tracker.log(10, {"loss": 2.5, "residues_per_s": 1000.0})
            assert bool(Recorded.values) == is_initialized
            tracker.log(20, {"loss": 2.0, "valid/loss": 2.25})
    assert Recorded.values.pop(("proteinlm_launch_time_seconds", "first")) == pytest.approx(time.time(), abs=60)
    assert Recorded.values == {
        ("proteinlm_step", "first"): 20,
        ("proteinlm_loss", "first"): 2.0,
        ("proteinlm_residues_per_s", "first"): 1000.0,
        ("proteinlm_validation", "first", "valid", "loss"): 2.25,
    }


def test_the_last_step_of_damaged_metrics_is_not_known(tmp_path: Path) -> None:
    """It is asked for when a trial failed: the failure must be told, not another one."""
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{}\n')
    assert last_logged_step(tmp_path) is None
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\n{"step": 2}\n')
    assert last_logged_step(tmp_path) == 2

"""Step figures: one row a step, none twice after a resume, and a half-written line does no harm."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from proteinlm.platform.training.tracking import METRICS_FILE, Tracker, read_metrics


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

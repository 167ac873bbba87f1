"""Scoring splits: every protein counts once, in the order of its rows."""

from proteinlm.platform.training.evaluation import score_split
from tests.made.stub_engine import StubEngine, batch


def test_columns_come_in_the_order_of_rows_and_filling_does_not_count() -> None:
    scores = score_split(StubEngine(), [batch(4, 1), batch(3), batch(7)], num_counted=2)
    assert scores.rows == (1, 3, 4)
    assert scores.columns["loss"].tolist() == [1.0, 3.0, 4.0]

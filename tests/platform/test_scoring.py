"""Scoring splits: every protein counts once, in the order of its rows, whatever the micro batches were."""

from proteinlm.platform.training.scoring import score_split
from tests.platform.scored import Scored, batch


def test_columns_come_in_the_order_of_rows_and_filling_does_not_count() -> None:
    columns, rows = score_split(Scored(), [batch(4, 1), batch(3), batch(7)], num_counted=2)
    assert rows == (1, 3, 4)
    assert columns["loss"].tolist() == [1.0, 3.0, 4.0]

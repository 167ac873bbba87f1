"""How loss curves are smoothed and which part of them a picture shows."""

import math

import numpy as np

from proteinlm.platform.results.plots import loss_limits, smooth


def test_smoothing_keeps_length_and_mean() -> None:
    values = np.tile([1.0, 3.0], 200)
    assert smooth(values).shape == values.shape
    assert np.ptp(smooth(values)[5:-5]) < 0.5


def test_the_steep_start_does_not_flatten_the_rest() -> None:
    points = np.array([[1.0, 9.0], [50.0, 3.0], [100.0, 2.0]])
    assert loss_limits([points]) == (1.95, 3.05)


def test_level_lines_are_in_the_picture_and_what_is_no_number_is_not() -> None:
    points = np.array([[50.0, math.inf], [60.0, math.nan], [100.0, 2.0]])
    assert loss_limits([points], [3.0]) == (1.95, 3.05)
    assert loss_limits([points[:1]]) == (-0.05, 0.05)

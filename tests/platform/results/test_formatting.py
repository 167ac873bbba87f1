"""Numbers as text: digits that fit their size, units that a reader expects, and what is not known says so."""

import math
from collections.abc import Callable

import pytest

from proteinlm.platform.results import formatting


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (formatting.value_text, 0.6149, "0.615"),
        (formatting.value_text, 12.345, "12.35"),
        (formatting.value_text, 1234.5, "1,234"),
        (formatting.value_text, 4.2e-5, "4.20e-05"),
        (formatting.value_text, 2e6, "2.00e+06"),
        (formatting.value_text, 0.0, "0.000"),
        (formatting.value_text, math.nan, "nan"),
        (formatting.amount, 1_650_000, "1.65 M"),
        (formatting.amount, 999_999, "1 M"),
        (formatting.amount, 42_100, "42.1 k"),
        (formatting.amount, 7, "7"),
        (formatting.amount_in_words, 45_100_000, "45 million"),
        (formatting.amount_in_words, 999_600, "1 million"),
        (formatting.amount_in_words, 12, "12"),
        (formatting.scientific, 1.26e15, "1.3e15"),
        (formatting.scientific, 0.00031, "3.1e-4"),
        (formatting.two_digits, 0.002345, "0.0023"),
        (formatting.duration, 45, "45 s"),
        (formatting.duration, 89.6, "90 s"),
        (formatting.duration, 720, "12 min"),
        (formatting.duration, 12_600, "3.5 h"),
        (formatting.duration, 86_400 * 21, "21 days"),
        (formatting.clock, 3723.4, "1:02:03"),
        (formatting.clock, 0.4, "0:00:00"),
        (formatting.clock, 59.6, "0:01:00"),
        (formatting.clock, 360_000.0, "100:00:00"),
        (formatting.clock, math.nan, "-"),
        (formatting.clock, None, "-"),
        (formatting.clock, math.inf, "-"),
    ],
)
def test_numbers_have_digits_and_units_that_fit(form: Callable[[float], str], value: float, text: str) -> None:
    assert form(value) == text


def test_an_interval_an_axis_and_what_is_unknown() -> None:
    assert formatting.range_in_words((45e6, 61.2e6)) == "45 million to 61 million"
    assert [formatting.axis_unit(value)[1] for value in (3e9, 2e6, 1e3, 40)] == [
        "billions",
        "millions",
        "thousands",
        "one by one",
    ]
    assert [formatting.known_text(value, ",.1f") for value in (1234.56, None)] == ["1,234.6", "-"]

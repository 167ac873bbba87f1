"""Numbers as text for people: values, amounts, durations. All that is printed or drawn takes its numbers here."""

import math

UNKNOWN = "-"
"""What stands where a number is not known."""


def value_text(value: float, deviation: float | None = None) -> str:
    """A measured value with three decimals, or fewer where it is large: 0.615, 12.35, 4.20e-05.

    With `deviation`, that follows with as many decimals: 0.615 ± 0.012.
    """
    form = _places(value)
    return f"{value:{form}}" + ("" if deviation is None else f" ± {deviation:{form}}")


def _places(value: float) -> str:
    """Python's format specification for a value of this size."""
    if not math.isfinite(value) or value == 0 or 0.001 <= abs(value) < 10:
        return ".3f"
    if abs(value) < 0.001 or abs(value) >= 1e6:
        return ".2e"
    return ",.2f" if abs(value) < 1000 else ",.0f"


def known_text(value: float | None, form: str) -> str:
    """`value` by Python's format specification `form`, "-" where it is None."""
    return UNKNOWN if value is None else format(value, form)


def amount(value: float) -> str:
    """Three digits and a letter: 1.65 M (million), 42.1 k (thousand), 3.9 B (billion)."""
    rounded = float(f"{value:.3g}")
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g} {letter}"
    return f"{rounded:.3g}"


def amount_in_words(value: float) -> str:
    """Two digits and a word: 45 million."""
    rounded = float(f"{value:.2g}")
    for unit, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if 1 <= rounded / unit < 1000:
            return f"{rounded / unit:g} {word}"
    return f"{rounded:g}"


def range_in_words(ends: tuple[float, float]) -> str:
    """Both ends of an interval: 45 million to 61 million."""
    return f"{amount_in_words(ends[0])} to {amount_in_words(ends[1])}"


def axis_unit(largest: float) -> tuple[float, str]:
    """What counts up to `largest` are divided by on an axis, and its name: (1e6, "millions")."""
    units = ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands"))
    return next(((size, name) for size, name in units if largest >= size), (1.0, "one by one"))


def scientific(value: float) -> str:
    """Two digits and a power of ten: 1.3e15."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def two_digits(value: float) -> str:
    """Two significant digits: 0.0023."""
    return f"{value:.2g}"


def hours(value: float) -> str:
    """Device-hours: 0.250 below one hour, 1,234.50 above."""
    return f"{value:,.3f}" if value < 1 else f"{value:,.2f}"


def duration(seconds: float) -> str:
    """A length of time in its natural unit: 45 s, 12 min, 3.5 h, 21 days."""
    for unit, size, limit in (("s", 1.0, 90.0), ("min", 60.0, 5400.0), ("h", 3600.0, 172_800.0)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} h"
    return f"{seconds / 86_400:.0f} days"


def clock(seconds: float | None) -> str:
    """Hours, minutes, seconds of a running display: 1:02:03; "-" where unknown or infinite."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"

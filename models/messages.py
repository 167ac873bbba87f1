"""How messages repeat what was found in a file: briefly, and without what a terminal would obey."""

import reprlib


class _Repr(reprlib.Repr):
    """repr that looks at the beginning only, however much a value holds."""

    def repr_int(self, value: int, level: int) -> str:
        """The integer; repr itself raises for thousands of digits."""
        return repr(value) if value.bit_length() < 2040 else "an integer of thousands of digits"


_REPR = _Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxstring, _REPR.maxother = 3, 12, 12, 240, 240


def shown(value: object, most: int = 60) -> str:
    """`value` as Python writes it: one line, control characters escaped, at most `most` characters."""
    text = _REPR.repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str, most: int = 200) -> str:
    """`text` with control characters escaped, at most `most` characters."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[: most - 3]}..."

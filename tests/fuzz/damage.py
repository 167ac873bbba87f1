"""Damage to an honest file: cut, flipped, doubled, mixed with pieces of other formats."""

import random
from collections.abc import Callable, Sequence

LONGEST_PIECE = 4 << 20
"""Bytes that one damage adds: to write and read more takes the time that tries should."""

_NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"99999999999999999999999", b"18446744073709551616", b"0x10", b"1_0")
_PIECES = (
    *(b"\x00", b"\xff", b"\r", b"\n", b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b",", b"[", b"]", b"{", b"}", b":"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b]0;x\x07", b"\\ud800", "é".encode(), "\u202e".encode(), b"\xed\xa0\x80"),
    *(b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"null", b"true", *_NUMBERS),
)


def damaged(content: bytes, generator: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """`content` after one to eight damages of random kinds."""
    for _ in range(min(8, 1 + int(generator.expovariate(0.7)))):
        content = _damage(content, generator, words)
    return content


def _damage(content: bytes, generator: random.Random, words: Sequence[bytes]) -> bytes:
    size = len(content)
    first, last = sorted((generator.randint(0, size), generator.randint(0, size)))
    piece = generator.choice((*_PIECES, *words, *words))
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:first],  # cut
        lambda: content[:first] + content[last:],  # a part is missing
        lambda: content[:last] + content[first:last] + content[last:],  # a part twice
        lambda: content[:first] + piece + content[first:],
        lambda: content[:first] + piece + content[first + len(piece) :],
        lambda: content[:first] + generator.randbytes(generator.randint(1, 16)) + content[first:],
        lambda: _flipped(content, first, 1 << generator.randrange(8)),
        lambda: content[:first] + (piece * generator.choice((10, 1000, 100_000)))[:LONGEST_PIECE] + content[first:],
        lambda: content.replace(*generator.choice([(b"\n", b"\r"), (b"\n", b"\r\n"), (b"\n", b""), (b",", b";")])),
        lambda: content.decode("latin-1").swapcase().encode("latin-1", "replace"),
        lambda: content[last:] + content[:last],
        lambda: b"",
    ]
    weights = [3, 3, 3, 6, 6, 3, 6, 1, 1, 1, 1, 0.2]
    return generator.choices(kinds, weights)[0]()


def _flipped(content: bytes, place: int, bit: int) -> bytes:
    if place >= len(content):
        return content
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]

"""Labelled records as text: JSON lines, TAPE's JSON list, and ProteinNet's own text; and lines of any text.

Each reader gives (where, the record or what is wrong with it) for one record after the other, and raises ValueError for
what leaves nothing more to read. Nothing is passed over: what is no record is named.

ProteinNet (AlQuraishi 2019, github.com/aqlaboratory/proteinnet), as contacts are learned from:

    [ID]            one line
    [PRIMARY]       the sequence
    [EVOLUTIONARY]  21 lines of L numbers: not read
    [SECONDARY]     one line, in some releases: not read
    [TERTIARY]      3 lines (x, y, z) of 3L numbers in picometres: N, C-alpha and C of each residue in turn
    [MASK]          L of '+' (resolved) or '-'

A record has TAPE's keys: id, primary, protein_length, tertiary [L, 3] (C-alpha, Angstrom), valid_mask [L].
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

from proteinlm.platform.data.sources import NoRecord, RepeatedKey, as_record, dict_of_once, parse_json

MAX_RECORD = 64 << 20
"""Characters of one line, or of one record of a list. A protein of 35,000 residues with coordinates has 3 million."""
_READ_BYTES = 1 << 20
_BLANK = re.compile(r"[ \t\r\n]*")
INTEGER = re.compile(r"[+-]?[0-9]+")
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_CUT_AT_END = 16
"""Characters before the end of what was read, in which an error of JSON may be one of the cut alone."""

Found = Iterator[tuple[str, dict[str, object] | ValueError]]
"""(where, the record or what is wrong with it)."""


def lines(file: IO[bytes], name: str, newline: str | None = None) -> Iterator[str]:
    """The lines of a text, ended by LF, CR or both; a byte-order mark is left out, and bytes that are no UTF-8 stay.

    ValueError for a line that is longer than any record. `newline` is that of `open`.
    """
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
    number = 0
    while line := text.readline(MAX_RECORD + 1):
        number += 1
        if len(line) > MAX_RECORD:
            raise ValueError(f"{name} line {number} is longer than {MAX_RECORD:,} characters, which no record is")
        yield line


def json_lines(file: IO[bytes], name: str) -> Found:
    """A dict a line; blank lines are none."""
    for number, line in enumerate(lines(file, name), start=1):
        if line.strip():
            where = f"{name} line {number}"
            try:
                yield where, parse_json(line.encode("utf-8", "surrogateescape"), where)
            except ValueError as error:
                yield where, error


def json_list(file: IO[bytes], name: str) -> Found:
    """TAPE's JSON form, one list of dicts, decoded one dict at a time so that a big file needs little memory."""
    text = _JsonText(file, name)
    if text.next() != "[":
        raise ValueError(f"{name} does not begin with '['; TAPE's JSON is one list of dicts")
    text.position += 1
    number = 0
    while text.next() != "]" or number:  # after a comma, a record must follow
        where = f"{name} record {number}"
        try:
            yield where, as_record(text.value(where), where)
        except RepeatedKey as error:
            yield where, ValueError(f"{where} is not valid JSON: {error}")
        except NoRecord as error:
            yield where, error
        number += 1
        found = text.next()
        if found == "]":
            break
        if found != ",":
            raise ValueError(
                f"{where} is followed by {text.shown()}, not valid JSON; accepted: a comma or the list's end"
            )
        text.position += 1
    text.position += 1
    if text.next():
        raise ValueError(f"{name} goes on with {text.shown()} after the list of {number:,} records; accepted: one list")


class _JsonText:
    """The text of a file of JSON, read on as far as it is needed."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name
        self.text, self.position = "", 0
        self.decoder = json.JSONDecoder(object_pairs_hook=dict_of_once)
        self.utf8 = codecs.getincrementaldecoder("utf-8-sig")()

    def more(self) -> bool:
        """Read as much again as is left, so that a long value is not decoded again and again; False at the end."""
        rest = self.text[self.position :]
        block = self.file.read(max(_READ_BYTES, len(rest)))
        try:
            self.text, self.position = rest + self.utf8.decode(block, final=not block), 0
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name} is not text in UTF-8: {error.reason}") from None
        return bool(block)

    def next(self) -> str:
        """The next character that is no blank, which is not taken; "" at the end."""
        while True:
            self.position = _BLANK.match(self.text, self.position).end()  # type: ignore[union-attr]
            if self.position < len(self.text) or not self.more():
                return self.text[self.position : self.position + 1]

    def value(self, where: str) -> object:
        """The next value. ValueError names `where`; after RepeatedKey the next value can be read."""
        while True:
            try:
                value, self.position = self.decoder.raw_decode(self.text, self.position)
                return value
            except json.JSONDecodeError as error:
                length = len(self.text) - self.position
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self.text) - _CUT_AT_END
                if length > MAX_RECORD or not is_cut or not self.more():
                    raise ValueError(
                        f"{where} is not valid JSON, or the file ends inside the list: {error.msg}"
                    ) from None
            except RepeatedKey:
                _, self.position = json.JSONDecoder().raw_decode(self.text, self.position)
                raise
            except (ValueError, RecursionError) as error:
                said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise ValueError(f"{where} is not valid JSON: {said}") from None

    def shown(self) -> str:
        """What comes next, for messages."""
        return repr(self.text[self.position : self.position + 20])


_PRINTED = re.compile(r"\[|\]|[^\s\[\],]+")
"""Brackets and words of an array as numpy prints it."""


def printed_array(text: str) -> object:
    """Nested lists from an array as numpy prints it, [0 1 2] or [[0. 1.] [2. 3.]], and as pandas then writes it."""
    stack: list[list[object]] = [[]]
    for word in _PRINTED.findall(text):
        if word == "]":
            stack.pop()
        elif len(stack) == 1 and stack[0]:
            raise ValueError("more follows after the last bracket")
        elif word == "[":
            stack[-1].append([])
            stack.append(stack[-1][-1])  # type: ignore[arg-type]
        elif word in ("True", "False"):
            stack[-1].append(word == "True")
        elif NUMBER.fullmatch(word) or word in ("nan", "inf", "-inf"):
            stack[-1].append(int(word) if INTEGER.fullmatch(word) else float(word))
        else:
            short = "; numpy left values out, write them all (`.tolist()`)" if word == "..." else ""
            raise ValueError(f"{word[:20]!r} is no number{short}")
        if not stack:
            break
    if len(stack) != 1:
        raise ValueError("brackets that do not fit")
    return stack[0][0]


SECTIONS = ("[ID]", "[PRIMARY]", "[EVOLUTIONARY]", "[SECONDARY]", "[TERTIARY]", "[MASK]")
_NOT_READ = ("[EVOLUTIONARY]", "[SECONDARY]")
_ATOMS, _ALPHA_CARBON = 3, 1
_PICOMETRES = 100.0  # of one Angstrom

_Sections = dict[str, list[str]]


def proteinnet_records(file: IO[bytes], name: str) -> Found:
    """(where, record or what is wrong with it) for each record of `file`, which messages call `name`.

    `where` is the line of its [ID]. ValueError where the file does not begin with [ID]: then it is no such text.
    """
    sections: _Sections = {}
    section, where, fault = "", name, None
    for number, line in enumerate(lines(file, name), start=1):
        text = line.rstrip("\n")
        if text == "[ID]":
            if sections:
                yield where, fault or _record(sections, where)
            sections, where, fault = {}, f"{name} line {number}", None
        elif not sections and text.strip():
            raise ValueError(f"{name} line {number} is {text[:40]!r}; ProteinNet's text begins with [ID]")
        if text.startswith("["):
            section = text
            if text not in SECTIONS or text in sections:
                fault = fault or ValueError(
                    f"{where}: {text[:40]!r} at line {number}; accepted: {', '.join(SECTIONS)}, each once"
                )
            sections[text] = []
        elif section not in _NOT_READ and text.strip():
            sections[section].append(text.strip())
    if sections:
        yield where, fault or _record(sections, where)


def _record(sections: _Sections, where: str) -> dict[str, object] | ValueError:
    """TAPE's keys of the sections that are there: what is missing is named when the record is checked."""
    values: dict[str, object] = {}
    try:
        values["id"] = _only_line(sections, "[ID]")
        if "[PRIMARY]" in sections:
            values["primary"] = _only_line(sections, "[PRIMARY]")
            values["protein_length"] = len(str(values["primary"]))
        if "[TERTIARY]" in sections:
            values["tertiary"] = _alpha_carbons(sections["[TERTIARY]"])
        if "[MASK]" in sections:
            values["valid_mask"] = _mask(_only_line(sections, "[MASK]"))
    except ValueError as error:
        return ValueError(f"{where}: {error}")
    return values


def _only_line(sections: _Sections, section: str) -> str:
    lines = sections[section]
    if len(lines) != 1:
        raise ValueError(f"{section} has {len(lines)} lines; accepted: 1")
    return lines[0]


def _alpha_carbons(axis_lines: list[str]) -> NDArray[np.float32]:
    """[L, 3] in Angstrom."""
    if len(axis_lines) != 3:
        raise ValueError(f"[TERTIARY] has {len(axis_lines)} lines; accepted: 3, of x, y and z")
    wrong = next((word for line in axis_lines for word in line.split() if not NUMBER.fullmatch(word)), None)
    if wrong is not None:  # numpy reads 1_0 as 10, and the digits of other scripts
        raise ValueError(f"[TERTIARY] holds what is no number: {wrong[:20]!r}")
    axes = [np.array(line.split(), np.float64) for line in axis_lines]
    counts = [len(axis) for axis in axes]
    if len(set(counts)) != 1 or counts[0] % _ATOMS:
        raise ValueError(f"[TERTIARY] has {counts} numbers in its lines; accepted: three for each residue in each")
    picometres = np.stack([axis[_ALPHA_CARBON::_ATOMS] for axis in axes], axis=1)
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is refused with its residue
        return (picometres / _PICOMETRES).astype(np.float32)


def _mask(text: str) -> NDArray[np.bool_]:
    """[L] True for '+'."""
    if set(text) - {"+", "-"}:
        wrong = next(place for place, letter in enumerate(text) if letter not in "+-")
        raise ValueError(f"[MASK] has {text[wrong]!r} at residue {wrong + 1}; accepted: '+' and '-'")
    return np.array([letter == "+" for letter in text], np.bool_)

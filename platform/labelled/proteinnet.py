"""ProteinNet's text records (AlQuraishi 2019, github.com/aqlaboratory/proteinnet), as contacts are learned from.

    [ID]            one line
    [PRIMARY]       the sequence
    [EVOLUTIONARY]  21 lines of L numbers: not read
    [SECONDARY]     one line, in some releases: not read
    [TERTIARY]      3 lines (x, y, z) of 3L numbers in picometres: N, C-alpha and C of each residue in turn
    [MASK]          L of '+' (resolved) or '-'

A record has TAPE's keys: id, primary, protein_length, tertiary [L, 3] (C-alpha, Angstrom), valid_mask [L].
"""

from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

SECTIONS = ("[ID]", "[PRIMARY]", "[EVOLUTIONARY]", "[SECONDARY]", "[TERTIARY]", "[MASK]")
_NOT_READ = ("[EVOLUTIONARY]", "[SECONDARY]")
_ATOMS, _ALPHA_CARBON = 3, 1
_PICOMETRES = 100.0  # of one Angstrom

_Sections = dict[str, list[str]]


def proteinnet_records(file: IO[bytes], name: str) -> Iterator[tuple[str, dict[str, object] | ValueError]]:
    """(where, record or what is wrong with it) for each record of `file`, which messages call `name`.

    `where` is the line of its [ID]. ValueError where the file does not begin with [ID]: then it is no such text.
    """
    sections: _Sections = {}
    section, where, fault = "", name, None
    for number, line in enumerate(file, start=1):
        text = line.decode("latin-1").rstrip("\r\n")
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


def _alpha_carbons(lines: list[str]) -> NDArray[np.float32]:
    """[L, 3] in Angstrom."""
    if len(lines) != 3:
        raise ValueError(f"[TERTIARY] has {len(lines)} lines; accepted: 3, of x, y and z")
    try:
        axes = [np.array(line.split(), np.float64) for line in lines]
    except ValueError as error:
        raise ValueError(f"[TERTIARY] holds what is no number: {error}") from None
    counts = [len(axis) for axis in axes]
    if len(set(counts)) != 1 or counts[0] % _ATOMS:
        raise ValueError(f"[TERTIARY] has {counts} numbers in its lines; accepted: three for each residue in each")
    picometres = np.stack([axis[_ALPHA_CARBON::_ATOMS] for axis in axes], axis=1)
    return (picometres / _PICOMETRES).astype(np.float32)


def _mask(text: str) -> NDArray[np.bool_]:
    """[L] True for '+'."""
    if set(text) - {"+", "-"}:
        wrong = next(place for place, letter in enumerate(text) if letter not in "+-")
        raise ValueError(f"[MASK] has {text[wrong]!r} at residue {wrong + 1}; accepted: '+' and '-'")
    return np.array([letter == "+" for letter in text], np.bool_)

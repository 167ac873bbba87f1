"""Tables in words, and on the terminal and in Markdown.

    rows -> tables.make_tables, or a sweep's sweep_table -> Table -> text_table -> TextTable
    TextTable -> render (terminal), to_markdown; table_export.to_latex; page.py

A column says once, in its head, what its measured cells share: the context-free floor, how much was scored (n), the
notes; a cell says what is otherwise. `[2a]` refers to the notes below: definition 2 on data a. `[1]` after a name
refers to a remark. In bold: the best of those that may be compared.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from proteinlm.platform.results.formatting import UNKNOWN, amount, hours, scientific, value_text
from proteinlm.platform.results.tables import Cell, Column, FactColumn, Line, Table

if TYPE_CHECKING:
    from rich.console import Console

_FORMS: Mapping[str, Callable[[Any], str]] = {
    "text": str,
    "amount": amount,
    "count": "{:,}".format,
    "power": scientific,
    "hours": hours,
}


@dataclass(frozen=True)
class Piece:
    """A part of what stands in one place of a table."""

    text: str
    is_bold: bool = False


Place = tuple[Piece, ...]
Side = Literal["left", "right"]


@dataclass(frozen=True)
class TextLine:
    """A line in words: as many places as the table has heads."""

    line: Line
    places: tuple[Place, ...]

    def has_any(self, places: Iterable[int]) -> bool:
        """Whether something is known at one of these places."""
        return any(piece.text != UNKNOWN for place in places for piece in self.places[place])


@dataclass(frozen=True)
class TextTable:
    """A table in words."""

    heads: tuple[tuple[str, ...], ...]
    """Of each column the lines of its head."""
    sides: tuple[Side, ...]
    """Of each column where its texts stand: numbers to the right."""
    num_leading: int
    """Columns before the values: the names, and what is said of them."""
    lines: tuple[TextLine, ...]
    footnotes: tuple[str, ...]
    """Remarks, numbered from 1."""

    @property
    def numbered_footnotes(self) -> list[str]:
        """Each with its number in brackets before it."""
        return [f"[{number}] {note}" for number, note in enumerate(self.footnotes, 1)]

    @property
    def groups(self) -> list[tuple[str, list[TextLine]]]:
        """The lines that stand together, under their heading."""
        return [(heading, list(found)) for heading, found in groupby(self.lines, lambda each: each.line.heading)]


def text_table(table: Table) -> TextTable:
    """`table` in words."""
    footnotes = list(dict.fromkeys(remark for line in table.lines for remark in line.remarks))
    shared = {column: _shared(table, column) for column in table.columns}
    shown = [column for column in table.facts if column.title]
    costs = [column for column in table.costs if column.title]
    lines = []
    for line in table.lines:
        said = f" ({', '.join(line.qualifiers)})" if line.qualifiers else ""
        marks = "".join(f" [{footnotes.index(remark) + 1}]" for remark in line.remarks)
        places = [(Piece(f"{line.name}{said}{marks}"),), *(_fact(line, column) for column in shown)]
        places += [_values(table, line, column, shared[column]) for column in table.columns]
        lines.append(TextLine(line, (*places, *(_fact(line, column) for column in costs))))
    heads: list[tuple[str, ...]] = [(table.subject,), *((column.title,) for column in shown)]
    heads += [(*column.title.split("\n"), *shared[column].values()) for column in table.columns]
    heads += [(column.title,) for column in costs]
    is_text = [True, *(column.form == "text" for column in shown), *[False] * (len(heads) - 1 - len(shown))]
    sides: list[Side] = ["left" if is_left else "right" for is_left in is_text]
    return TextTable(tuple(heads), tuple(sides), 1 + len(shown), tuple(lines), tuple(footnotes))


def _fact(line: Line, column: FactColumn) -> Place:
    fact = line.facts.get(column.key)
    return (Piece(UNKNOWN if fact is None else _FORMS[column.form](fact)),)


def _values(table: Table, line: Line, column: Column, shared: Mapping[str, str]) -> Place:
    """The pieces of one place: value, interval or seeds, and what the head does not say already."""
    pieces = []
    for cell in line.cells.get(column, ()):
        pieces.append(Piece(value_text(cell.value, cell.deviation), cell.is_best))
        if table.is_brief:
            continue
        texts = []
        if cell.interval is not None:
            texts.append(f"[{value_text(cell.interval[0])}, {value_text(cell.interval[1])}]")
        if cell.deviation is not None and not line.is_published:
            texts.append(f"({cell.num_seeds} seeds)")
        texts += [text for name, text in _details(cell).items() if shared.get(name) != text]
        pieces += map(Piece, texts)
    return tuple(pieces) or (Piece(UNKNOWN),)


def _details(cell: Cell) -> dict[str, str]:
    """What a reader needs beside the value: its floor, how much was scored, and its note."""
    floor = {} if cell.floor is None else {"floor": f"floor {value_text(cell.floor)}"}
    scored = {} if cell.num_scored is None else {"scored": f"n {cell.num_scored:,}"}
    return {**floor, **scored, **({"note": cell.note} if cell.note else {})}


def _shared(table: Table, column: Column) -> dict[str, str]:
    """Those of `_details` that are the same for all measured cells of `column`, or where none was measured, for all."""
    cells = [cell for line in table.lines for cell in line.cells.get(column, ())]
    measured = [cell for cell in cells if cell.num_scored is not None] or cells
    if table.is_brief or not measured:
        return {}
    first, *others = map(_details, measured)
    return {name: text for name, text in first.items() if all(other.get(name) == text for other in others)}


def all_notes(table: Table) -> list[str]:
    """Warning and notes: how the table's own values were measured."""
    return [*([table.warning] if table.warning else []), *table.notes]


def render(tables: Iterable[Table], console: "Console | None" = None) -> None:
    """Print `tables`, with their notes, on the terminal; a table too wide for it in several parts.

    Names and what is said of them share the first column, line by line.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = console or Console()
    for table in tables:
        text = text_table(table)
        console.print(Text(table.title, "bold"))
        for part in _side_by_side(text, console.width):
            for heading, lines in text.groups:
                grid = Grid(box=box.SIMPLE_HEAD)
                grid.add_column(table.subject, overflow="fold")
                for place in part:
                    grid.add_column(Text("\n".join(text.heads[place])), justify="right", overflow="fold")
                shown = [each for each in lines if each.line.remarks or each.has_any(part)]
                for each in shown:
                    texts = [Text("\n".join(_name_lines(text, each)))]
                    for pieces in (each.places[place] for place in part):
                        is_bold = any(piece.is_bold for piece in pieces)
                        texts.append(Text("\n".join(piece.text for piece in pieces), "bold" if is_bold else ""))
                    grid.add_row(*texts, end_section=not each.line.is_published)  # these are many: no space between
                if shown:
                    console.print(*([Text(heading, "italic")] if heading else []), grid, sep="\n")
        headed = [note for heading, notes in table.more_notes.items() for note in (f"{heading}:", *notes)]
        for note in (*text.numbered_footnotes, *filter(None, [table.caption]), *all_notes(table), *headed):
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()


def _name_lines(text: TextTable, each: TextLine) -> list[str]:
    """What the terminal says of a line: its name, its facts, words first, and on a line of its own the last fact."""
    name, *facts = (piece.text for place in each.places[: text.num_leading] for piece in place)
    by_side = sorted(zip(text.sides[1:], facts, strict=False), key=lambda pair: pair[0] == "right")
    others = ", ".join(fact for _, fact in by_side if fact not in (UNKNOWN, facts[-1]))
    said = [part for part in (others, *facts[-1:]) if part not in ("", UNKNOWN)]
    return [name, ", ".join(said)] if each.line.is_published and said else [name, *said]


def _side_by_side(text: TextTable, width: int) -> list[list[int]]:
    """The columns in parts that fit into a terminal of `width` characters beside the names."""
    beside = 2  # spaces around a column
    names = max((len(said) for each in text.lines for said in _name_lines(text, each)), default=0)
    room = width - min(names, width // 3) - 2 * beside
    parts: list[list[int]] = []
    left = 0
    for place in range(text.num_leading, len(text.heads)):
        pieces = [piece.text for each in text.lines for piece in each.places[place]]
        needed = max(map(len, [*text.heads[place], *pieces])) + beside
        if not parts or needed > left:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= needed
    return parts


def to_markdown(*tables: Table) -> str:
    """`tables` as Markdown, each with footnotes and notes."""
    return "\n".join(map(_markdown_table, tables))


def _markdown_table(table: Table) -> str:
    text = text_table(table)
    rows = [["<br>".join(map(_markdown, head)) for head in text.heads]]
    rows.append(["---" if side == "left" else "---:" for side in text.sides])
    for heading, lines in text.groups:
        rows += [[f"*{_markdown(heading)}*", *[""] * (len(rows[0]) - 1)]] if heading else []
        rows += [[joined(place, _markdown, "**{}**") for place in each.places] for each in lines]
    parts = [f"## {table.title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    for heading, notes in (
        ("", text.numbered_footnotes),
        (table.caption, all_notes(table)),
        *((f"{heading}:", list(notes)) for heading, notes in table.more_notes.items()),
    ):
        parts += [heading] if heading else []
        parts += ["\n".join(f"- {_markdown(note, bar='|')}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def joined(place: Place, escape: Callable[[str], str], bold: str) -> str:
    """The pieces of a place on one line, each escaped; `bold` is the format of those in bold, such as "**{}**"."""
    return " ".join(bold.format(escape(piece.text)) if piece.is_bold else escape(piece.text) for piece in place)


def _markdown(text: str, bar: str = "\\|") -> str:
    """`text` such that Markdown takes no part of it for HTML or the end of a place."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", bar)

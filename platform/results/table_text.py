"""A table as text: the words of every cell, and with them the terminal and Markdown.

    Table (comparison.make_tables, or a sweep's gather.sweep_table) -> text_table -> TextTable
    TextTable -> render (terminal), to_markdown; table_export.to_latex; page.to_html

What all measured cells of a column have in common is written once, in the column's head: the context-free floor, how
much was scored (n), and the reference to the notes. A cell repeats only what differs. `[2a]` refers to the notes below
the table: definition 2, measured on data a. `[1]` after a name refers to remark 1. The best value is bold.
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
    """A part of the text of a cell."""

    text: str
    is_bold: bool = False


Pieces = tuple[Piece, ...]
"""The text of a cell."""
Side = Literal["left", "right"]


@dataclass(frozen=True)
class TextLine:
    """A line of a table as text: one cell for each column."""

    line: Line
    cells: tuple[Pieces, ...]

    def has_any(self, columns: Iterable[int]) -> bool:
        """Whether a cell of one of these columns (by index) holds more than "-"."""
        return any(piece.text != UNKNOWN for column in columns for piece in self.cells[column])


@dataclass(frozen=True)
class TextTable:
    """A table as text."""

    heads: tuple[tuple[str, ...], ...]
    """For each column, the lines of its head."""
    sides: tuple[Side, ...]
    """For each column, its alignment: words left, numbers right."""
    num_leading: int
    """Number of columns before the values: the name and the facts."""
    lines: tuple[TextLine, ...]
    footnotes: tuple[str, ...]
    """The remarks of all lines; the first one is footnote 1."""

    @property
    def numbered_footnotes(self) -> list[str]:
        """The footnotes with their numbers: "[1] ..."."""
        return [f"[{number}] {note}" for number, note in enumerate(self.footnotes, 1)]

    @property
    def groups(self) -> list[tuple[str, list[TextLine]]]:
        """Neighbouring lines of the same heading, as (heading, lines)."""
        return [(heading, list(lines)) for heading, lines in groupby(self.lines, lambda each: each.line.heading)]


def text_table(table: Table) -> TextTable:
    """The text of every head and cell of `table`."""
    footnotes = list(dict.fromkeys(remark for line in table.lines for remark in line.remarks))
    shared = {column: _shared(table, column) for column in table.columns}
    shown = [column for column in table.facts if column.title]
    costs = [column for column in table.costs if column.title]
    lines = []
    for line in table.lines:
        said = f" ({', '.join(line.qualifiers)})" if line.qualifiers else ""
        marks = "".join(f" [{footnotes.index(remark) + 1}]" for remark in line.remarks)
        cells = [(Piece(f"{line.name}{said}{marks}"),), *(_fact(line, column) for column in shown)]
        cells += [_values(table, line, column, shared[column]) for column in table.columns]
        lines.append(TextLine(line, (*cells, *(_fact(line, column) for column in costs))))
    heads: list[tuple[str, ...]] = [(table.subject,), *((column.title,) for column in shown)]
    heads += [(*column.title.split("\n"), *shared[column].values()) for column in table.columns]
    heads += [(column.title,) for column in costs]
    is_text = [True, *(column.form == "text" for column in shown), *[False] * (len(heads) - 1 - len(shown))]
    sides: list[Side] = ["left" if is_left else "right" for is_left in is_text]
    return TextTable(tuple(heads), tuple(sides), 1 + len(shown), tuple(lines), tuple(footnotes))


def _fact(line: Line, column: FactColumn) -> Pieces:
    fact = line.facts.get(column.key)
    return (Piece(UNKNOWN if fact is None else _FORMS[column.form](fact)),)


def _values(table: Table, line: Line, column: Column, shared: Mapping[str, str]) -> Pieces:
    """The text of a cell: value, interval or number of seeds, and the details that are not in the head (`shared`)."""
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
    """What is written beside a value: its floor, how much was scored, the reference to its notes; by kind."""
    floor = {} if cell.floor is None else {"floor": f"floor {value_text(cell.floor)}"}
    scored = {} if cell.num_scored is None else {"scored": f"n {cell.num_scored:,}"}
    return {**floor, **scored, **({"note": cell.note} if cell.note else {})}


def _shared(table: Table, column: Column) -> dict[str, str]:
    """The `_details` that are equal in all measured cells of `column`, for its head.

    Published cells do not count, unless all are published.
    """
    cells = [cell for line in table.lines for cell in line.cells.get(column, ())]
    measured = [cell for cell in cells if cell.num_scored is not None] or cells
    if table.is_brief or not measured:
        return {}
    first, *others = map(_details, measured)
    return {name: text for name, text in first.items() if all(other.get(name) == text for other in others)}


def all_notes(table: Table) -> list[str]:
    """The table's warning, if it has one, and its notes."""
    return [*([table.warning] if table.warning else []), *table.notes]


def render(tables: Iterable[Table], console: "Console | None" = None) -> None:
    """Print `tables` with their notes on the terminal (`console`, by default standard output).

    Name and facts of a line share the first column. A table that is too wide is printed in several parts, one below the
    other; a part leaves out the lines that have no value in it.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = console or Console(markup=False, emoji=False)
    for table in tables:
        text = text_table(table)
        console.print(Text(table.title, "bold"))
        parts = _parts(text, console.width)
        for part, (heading, lines) in ((part, group) for part in parts for group in text.groups):
            grid = Grid(box=box.SIMPLE_HEAD)
            grid.add_column(table.subject, overflow="fold")
            for index in part:
                grid.add_column(Text("\n".join(text.heads[index])), justify="right", overflow="fold")
            for each in lines:
                if not each.line.remarks and not each.has_any(part):
                    continue
                texts = [Text("\n".join(_name_lines(text, each)))]
                for pieces in (each.cells[index] for index in part):
                    is_bold = any(piece.is_bold for piece in pieces)
                    texts.append(Text("\n".join(piece.text for piece in pieces), "bold" if is_bold else ""))
                grid.add_row(*texts, end_section=not each.line.is_published)  # these are many: no space between
            if grid.rows:
                console.print(*([Text(heading, "italic")] if heading else []), grid, sep="\n")
        headed = [note for heading, notes in table.more_notes.items() for note in (f"{heading}:", *notes)]
        for note in (*text.numbered_footnotes, *filter(None, [table.caption]), *all_notes(table), *headed):
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()


def _name_lines(text: TextTable, each: TextLine) -> list[str]:
    """The first column of the terminal: the name; the facts, words before numbers; the last fact on its own line.

    A published line, of which there are many, has all its facts on one line.
    """
    name, *facts = (piece.text for pieces in each.cells[: text.num_leading] for piece in pieces)
    *others, last = facts or [UNKNOWN]
    words_first = sorted(zip(others, text.sides[1:], strict=False), key=lambda pair: pair[1] == "right")
    said = [", ".join(fact for fact, _ in words_first if fact != UNKNOWN), last]
    said = [part for part in said if part not in ("", UNKNOWN)]
    return [name, ", ".join(said)] if each.line.is_published and said else [name, *said]


def _parts(text: TextTable, width: int) -> list[list[int]]:
    """Indices of the columns of values and costs, in parts that fit beside the names into `width` characters."""
    between = 2  # spaces between columns
    names = max((len(said) for each in text.lines for said in _name_lines(text, each)), default=0)
    room = width - min(names, width // 3) - 2 * between
    parts: list[list[int]] = []
    left = 0
    for index in range(text.num_leading, len(text.heads)):
        texts = [piece.text for each in text.lines for piece in each.cells[index]]
        needed = max(map(len, [*text.heads[index], *texts])) + between
        if not parts or needed > left:
            parts.append([])
            left = room
        parts[-1].append(index)
        left -= needed
    return parts


def to_markdown(*tables: Table) -> str:
    """`tables` as Markdown: each with its title, footnotes and notes; "" without tables."""
    return "\n".join(map(_markdown_table, tables))


def _markdown_table(table: Table) -> str:
    text = text_table(table)
    rows = [["<br>".join(map(_markdown, head)) for head in text.heads]]
    rows.append(["---" if side == "left" else "---:" for side in text.sides])
    for heading, lines in text.groups:
        rows += [[f"*{_markdown(heading)}*", *[""] * (len(rows[0]) - 1)]] if heading else []
        rows += [[joined(pieces, _markdown, "**{}**") for pieces in each.cells] for each in lines]
    parts = [f"## {table.title}", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    for heading, notes in (
        ("", text.numbered_footnotes),
        (table.caption, all_notes(table)),
        *((f"{heading}:", list(notes)) for heading, notes in table.more_notes.items()),
    ):
        parts += [heading] if heading else []
        parts += ["\n".join(f"- {_markdown(note, bar='|')}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def joined(pieces: Pieces, escape: Callable[[str], str], bold: str) -> str:
    """The text of a cell on one line, each piece escaped; `bold` is the format of the bold ones, such as "**{}**"."""
    return " ".join(bold.format(escape(piece.text)) if piece.is_bold else escape(piece.text) for piece in pieces)


def _markdown(text: str, bar: str = "\\|") -> str:
    """`text` with the signs escaped that Markdown would read as HTML or as the end of a cell."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", bar)

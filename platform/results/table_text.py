"""Result rows as text: Markdown, CSV, JSON and the terminal.

    rows -> compare.make_tables -> to_markdown, render (terminal)      rows -> to_csv, to_json (long form, every field)

A line for each model, a column for each split and metric. A column says once, in its head, what its measured cells
share: the context-free floor, how much was scored (n), the notes; a cell says what is otherwise. `[2a]` refers to the
notes below: definition 2 on data a. Published rows of definitions that ours do not have are a table of their own.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proteinlm.platform.results.formatting import amount, value_text
from proteinlm.platform.results.rows import ResultRow
from proteinlm.platform.results.tables import PUBLISHED, Cell, Line, TaskTable, make_tables

if TYPE_CHECKING:
    from rich.console import Console


def to_markdown(rows: Sequence[ResultRow]) -> str:
    """All tables as Markdown, each with notes that say how its figures were measured."""
    parts = []
    for table in make_tables(rows):
        heads = [_head(table, column) for column in table.columns]
        lines = [["model", "parameters", "mode", "run", *("<br>".join(head) for head in heads)]]
        lines.append(["---", "---:", "---", "---", *["---:"] * len(table.columns)])
        for line in table.lines:
            figures = [" ".join(_figure(table, line, column, bold="**")) or "-" for column in table.columns]
            lines.append([_model(table, line), _parameters(line), line.mode, line.run, *figures])
        parts.append(f"## {_title(table)}\n")
        parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n")
        parts.append("\n".join(f"- {note}" for note in _notes(table)) + "\n")
    return "\n".join(parts)


def to_csv(rows: Sequence[ResultRow]) -> str:
    """Long form: a line for each row, a column for each field; `settings` as JSON."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(ResultRow.model_fields), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row.model_dump(), "settings": row.settings and json.dumps(row.settings)})
    return text.getvalue()


def to_json(rows: Sequence[ResultRow]) -> str:
    """A list of all rows with every field; a value that is not finite is null."""
    return "[\n" + ",\n".join(row.model_dump_json() for row in rows) + "\n]\n"


def render(rows: Sequence[ResultRow], console: "Console | None" = None) -> None:
    """Print all tables, with their notes, on the terminal; a table too wide for it in several parts."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    for table in make_tables(rows):
        console.print(Text(_title(table), "bold"))
        for columns in _side_by_side(table, console.width):
            shown = Table(box=box.SIMPLE_HEAD)
            shown.add_column("model", overflow="fold")
            for column in columns:
                shown.add_column(Text("\n".join(_head(table, column))), justify="right", overflow="fold")
            for line in table.lines:
                if not any(line.cells[column] for column in columns):
                    continue
                texts = [Text("\n".join(filter(None, _about(table, line))))]
                for column in columns:
                    is_best = any(cell.is_best for cell in line.cells[column])
                    texts.append(Text("\n".join(_figure(table, line, column)) or "-", "bold" if is_best else ""))
                shown.add_row(*texts, end_section=line.kind != PUBLISHED)  # these are many: no space between them
            console.print(shown)
        for note in _notes(table):
            console.print(Text(note, "dim"), soft_wrap=True)
        console.print()


def _side_by_side(table: TaskTable, width: int) -> list[list[tuple[str, str]]]:
    """The columns in parts that fit into a terminal of `width` characters beside the models' names."""
    beside = 2  # spaces around a column
    names = max(len(text) for line in table.lines for text in _about(table, line))
    room = width - min(names, width // 3) - 2 * beside
    parts: list[list[tuple[str, str]]] = []
    left = 0
    for column in table.columns:
        texts = _head(table, column) + [text for line in table.lines for text in _figure(table, line, column)]
        needed = max(map(len, texts)) + beside
        if not parts or needed > left:
            parts.append([])
            left = room
        parts[-1].append(column)
        left -= needed
    return parts


def _head(table: TaskTable, column: tuple[str, str]) -> list[str]:
    """Split, metric, and what all cells of the column share."""
    return [*column, *_shared(table, column).values()]


def _shared(table: TaskTable, column: tuple[str, str]) -> dict[str, str]:
    """Those of `_parts` that are the same for all cells of `column` that were measured, or where none was, for all."""
    cells = [cell for line in table.lines for cell in line.cells[column]]
    measured = [cell for cell in cells if cell.num_scored is not None]
    all_parts = [_parts(table, cell) for cell in measured or cells]
    return {name: text for name, text in all_parts[0].items() if all(parts.get(name) == text for parts in all_parts)}


def _parts(table: TaskTable, cell: Cell) -> dict[str, str]:
    """What a reader needs beside the figure: its floor, how much was scored, and its note."""
    floor = {} if cell.floor is None else {"floor": f"floor {value_text(cell.floor)}"}
    number = list(table.definitions).index((cell.measure.metric, cell.measure.definition))
    letter = list(table.data).index(cell.measure.data)
    scored = {} if cell.num_scored is None else {"scored": f"n {cell.num_scored:,}"}
    return {**floor, **scored, "note": f"[{number + 1}{_letters(letter)}]"}


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _figure(table: TaskTable, line: Line, column: tuple[str, str], bold: str = "") -> list[str]:
    """The pieces of one cell: figure, interval or spread over seeds, and what the head does not say already."""
    shared = _shared(table, column)
    pieces = []
    for cell in line.cells[column]:
        mark = bold if cell.is_best else ""
        pieces.append(f"{mark}{value_text(cell.value)}{mark}")
        if cell.interval is not None:
            pieces.append(f"[{value_text(cell.interval[0])}, {value_text(cell.interval[1])}]")
        if cell.spread is not None and line.kind == PUBLISHED:
            pieces[-1] += f" ± {value_text(cell.spread)}"
        elif cell.spread is not None:
            pieces += [f"± {value_text(cell.spread)}", f"({cell.num_seeds} seeds)"]
        pieces += [text for name, text in _parts(table, cell).items() if shared.get(name) != text]
    return pieces


def _notes(table: TaskTable) -> list[str]:
    definitions = [f"[{number}] {note}" for number, note in enumerate(table.definitions.values(), 1)]
    return definitions + [f"[{_letters(number)}] {note}" for number, note in enumerate(table.data.values())]


def _title(table: TaskTable) -> str:
    name = f"{table.task}: {table.group}" if table.group else table.task
    measured = [line for line in table.lines if line.kind != PUBLISHED]
    simulated = sum(line.is_simulated for line in measured)
    if not simulated:
        return name
    return f"{name} ({'simulated proteins' if simulated == len(measured) else 'some on simulated proteins'})"


def _model(table: TaskTable, line: Line) -> str:
    """Its name, and what is not said by the table's title."""
    said = [line.kind] * (line.kind in {"baseline", PUBLISHED} and not table.group) + ["simulated"] * line.is_simulated
    return f"{line.model} ({', '.join(said)})" if said else line.model


def _about(table: TaskTable, line: Line) -> list[str]:
    """What the terminal says of a model, line by line; "" where there is nothing to say."""
    said = ", ".join(filter("-".__ne__, (line.mode, _parameters(line))))
    if line.kind == PUBLISHED:
        return [_model(table, line), ", ".join(filter(None, (said, line.run)))]
    return [_model(table, line), said, line.run]


def _parameters(line: Line) -> str:
    return "-" if line.parameters is None else amount(line.parameters)

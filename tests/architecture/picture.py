"""The house as a picture: `python -m tests.architecture.picture` draws docs/architecture.svg from the imports.

A box is a folder with its files and their lines; it stands above every folder that it imports from. An arrow means
that at least one file imports from the other folder; one that follows from others (A to B to C implies A to C) is
left out, so that the picture shows which folder rests on which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from tests.architecture.source import ROOT, Modules, closure, folder_arrows, read_modules

PICTURE = ROOT / "docs" / "architecture.svg"
WIDTH = 1280
COLUMN, LINE, TITLE, GAP, BETWEEN = 216, 15, 22, 22, 46  # pixels
MOST_ROWS = 7
"""Files of a folder that stand in one column."""
STYLE = """
svg { font-family: ui-sans-serif, system-ui, sans-serif; font-size: 11.5px; background: #fff; }
rect { fill: #f6f8fa; stroke: #8c959f; } text { fill: #24292f; } .lines { fill: #6e7781; }
.title { font-weight: 600; font-size: 13px; } path { stroke: #57606a; fill: none; } marker path { fill: #57606a; }
.models rect { fill: #e6f4ea; } .tasks rect { fill: #fff4d6; } .cluster rect { fill: #f3e8fd; }
.platform rect { fill: #e3effc; } .sweeps rect { fill: #fde7e4; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; } rect { stroke: #6e7681; } text { fill: #e6edf3; } .lines { fill: #9198a1; }
.proteinlm rect { fill: #161b22; } path { stroke: #9198a1; } marker path { fill: #9198a1; }
.models rect { fill: #12301c; } .tasks rect { fill: #3a2f0b; } .cluster rect { fill: #2b1d3d; }
.platform rect { fill: #10263f; } .sweeps rect { fill: #3d1a17; } }
"""


@dataclass(frozen=True)
class Box:
    """A folder's place in the picture, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        """Half way from left to right."""
        return self.left + self.width // 2


def draw(modules: Modules) -> str:
    """The picture of `modules` as SVG text, the same for the same source."""
    arrows = {folder: set(targets) for folder, targets in folder_arrows(modules).items()}
    files = {
        folder: sorted((module.path.name, module.num_lines) for module in modules.values() if module.folder == folder)
        for folder in arrows
    }
    boxes = place(levels(arrows), {folder: len(names) for folder, names in files.items()})
    height = max(box.top + box.height for box in boxes.values()) + GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'role="img" aria-label="Folders of the source and which imports from which">',
        f"<style>{STYLE}</style>",
        '<marker id="end" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z"/></marker>',
    ]
    for folder, targets in sorted(reduced(arrows).items()):
        lines += [_arrow(boxes[folder], boxes[target]) for target in sorted(targets)]
    for folder, box in sorted(boxes.items()):
        lines += _box(folder, box, files[folder])
    return "\n".join([*lines, "</svg>", ""])


def reduced(arrows: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """`arrows` without those that follow from others. Raises ValueError where they form a circle."""
    reached = {folder: closure(arrows, folder) - {folder} for folder in arrows}
    if any(folder in reached[target] for folder, targets in arrows.items() for target in targets):
        raise ValueError("the folders import each other in a circle, which cannot be drawn in layers")
    return {
        folder: {target for target in targets if not any(target in reached[other] for other in targets)}
        for folder, targets in arrows.items()
    }


def levels(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Folders from the bottom up: each as low as what it imports from allows."""
    level: dict[str, int] = {}

    def find(folder: str) -> int:
        if folder not in level:
            level[folder] = 1 + max((find(target) for target in arrows[folder]), default=-1)
        return level[folder]

    highest = max(find(folder) for folder in arrows)
    return [sorted(folder for folder in arrows if level[folder] == number) for number in range(highest + 1)]


def place(rows: list[list[str]], num_files: Mapping[str, int]) -> dict[str, Box]:
    """Boxes of all folders: a row for each level, the lowest level at the bottom, each row in the middle."""
    boxes: dict[str, Box] = {}
    top = GAP
    for row in reversed(rows):
        columns = {folder: -(-num_files[folder] // MOST_ROWS) for folder in row}
        heights = {folder: TITLE + LINE * -(-num_files[folder] // columns[folder]) + 12 for folder in row}
        width = sum(COLUMN * count for count in columns.values()) + GAP * (len(row) - 1)
        left = (WIDTH - width) // 2
        for folder in row:
            boxes[folder] = Box(left, top, COLUMN * columns[folder], heights[folder])
            left += boxes[folder].width + GAP
        top += max(heights.values()) + BETWEEN
    return boxes


def _arrow(upper: Box, lower: Box) -> str:
    start, end = upper.top + upper.height, lower.top - 2
    bend = (end - start) // 2
    return (
        f'<path marker-end="url(#end)" d="M{upper.middle} {start} C{upper.middle} {start + bend} '
        f'{lower.middle} {end - bend} {lower.middle} {end}"/>'
    )


def _box(folder: str, box: Box, files: list[tuple[str, int]]) -> list[str]:
    lines = [
        f'<g class="{folder.split("/")[0]}"><title>{escape(folder)}</title>',
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}" rx="6"/>',
        f'<text class="title" x="{box.left + 10}" y="{box.top + 17}">{escape(folder)}/</text>',
    ]
    rows = -(-len(files) // (box.width // COLUMN))
    for index, (name, count) in enumerate(files):
        x, y = box.left + 10 + COLUMN * (index // rows), box.top + TITLE + 14 + LINE * (index % rows)
        lines.append(f'<text x="{x}" y="{y}">{escape(name)} <tspan class="lines">{count}</tspan></text>')
    return [*lines, "</g>"]


def main() -> None:
    """Draw the house that this file stands in."""
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(draw(read_modules(ROOT)))


if __name__ == "__main__":
    main()

"""The progress bar follows metrics.jsonl: step, loss, real residues/s, validation."""

import io
import json
from pathlib import Path

from rich.console import Console

from proteinlm.platform.training.progress import progress_bar
from proteinlm.platform.training.tracking import METRICS_FILE


def test_the_bar_shows_the_newest_figures(tmp_path: Path) -> None:
    text = io.StringIO()
    with progress_bar(tmp_path, 40, Console(file=text, width=150, force_terminal=True)):
        rows = [{"step": 7, "loss": 2.5, "residues_per_s": 12345.0}, {"step": 7, "valid/loss": 2.75}]
        (tmp_path / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = text.getvalue()
    for words in ("7/40", "loss 2.5000", "12,345 residues/s", "valid 2.7500"):
        assert words in shown


def test_without_a_console_nothing_is_shown(tmp_path: Path) -> None:
    with progress_bar(tmp_path, 40, None):
        pass

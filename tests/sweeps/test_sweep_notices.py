"""What is wrong with the records of many trials is said once, and not once for each trial."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from proteinlm.platform.settings.config import FinetuneConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.plan import plan_finetuning
from proteinlm.sweeps.sweep import show_notices

TABLE = "id,sequence,target,set\na,MKV,1,train\nb,MKT,2,valid\nc,MKA,3,test\nd,MKV,4,test\ne,MKC,5,\n"


def test_notices_of_records_that_many_trials_share_are_said_once(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text(TABLE)
    values: dict[str, Any] = {
        "name": "many",
        "storage": str(tmp_path / "runs"),
        "task": "stability",
        "data": str(tmp_path),
        "files": dict.fromkeys(("train", "valid", "test"), "all.csv"),
        "mode": "scratch",
        "model": {"preset": "cpu-tiny"},
        "seeds": [0, 1, 2],
        "training": {"steps": 1, "engine": "plain"},
    }
    trials = plan_finetuning(validate(FinetuneConfig, values, "test"))
    assert len(trials) > 2
    text = io.StringIO()
    show_notices(trials, Console(file=text))
    assert sorted(text.getvalue().splitlines()) == [
        "1 of 2 proteins of test have a sequence that is in train too: d",
        "1 records of all.csv are in no split: their 'set' is empty",
    ]

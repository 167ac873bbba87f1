"""What `proteinlm submit` finds in a verb's words before a job is sent: the places that the cluster must see."""

from pathlib import Path

import pytest

from proteinlm.cli_cluster import places
from proteinlm.platform.settings.loading import SettingsError
from tests.conftest import ROOT

PRETRAIN, SWEEP = str(ROOT / "platform/configs/pretrain-cpu.yaml"), str(ROOT / "sweeps/table7-mini.yaml")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pretrain", PRETRAIN, "corpus=/shared/pfam"], {"storage": "runs", "corpus": "/shared/pfam"}),
        (
            ["pretrain", PRETRAIN, "storage=s3://b/r", "corpus=s3://b/c"],
            {"storage": "s3://b/r", "corpus": "s3://b/c"},
        ),
        (
            ["sweep", SWEEP, "--dry-run", "pretrain.corpus=pfam"],
            {"storage": "runs", "pretrain.corpus": "pfam", "finetune.data": "data/tape"},
        ),
        (["pretrain", "/shared/of-the-cluster.yaml", "corpus=/shared/pfam"], {}),
    ],
)
def test_places_are_those_of_the_settings(words: list[str], expected: dict[str, str]) -> None:
    assert places(words) == expected


def test_a_directory_that_another_verb_names_is_a_place_and_what_is_not_here_is_none(tmp_path: Path) -> None:
    assert places(["table", str(tmp_path), str(tmp_path / "none"), "--format"]) == {str(tmp_path): str(tmp_path)}


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"training\.stepz"):
        places(["pretrain", PRETRAIN, "training.stepz=3"])

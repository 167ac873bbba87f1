"""Long proteins are never cropped silently: refused where that is asked for, else told before anything starts."""

from pathlib import Path

import pytest
from rich.console import Console

from proteinlm.platform.data.manifest import read_manifest
from proteinlm.platform.pretrain import check_pretrain, tell_plan
from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.settings.loading import validate
from tests.made.small_corpus import write_small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its longest training protein has 79 residues."""
    directory = tmp_path_factory.mktemp("crop") / "corpus"
    directory.mkdir()
    assert write_small_corpus(directory).split("train").longest == 79
    return directory


def config(corpus: Path, crop: str, max_length: int, **model: object) -> PretrainConfig:
    values = {
        "name": "crop",
        "corpus": str(corpus),
        "model": {"preset": "cpu-tiny", **model},
        "batches": {"max_length": max_length, "crop": crop},
        "training": {"steps": 1},
    }
    return validate(PretrainConfig, values, "test")


def told(run: PretrainConfig) -> str:
    console = Console(record=True, width=300)
    tell_plan(run, read_manifest(run.corpus), 1, console)
    return console.export_text()


def test_a_corpus_with_longer_proteins_is_refused_where_that_is_asked_for(corpus: Path) -> None:
    with pytest.raises(
        ValueError, match=r"batches.max_length is 78 .* has 79 residues; accepted .*: 79 or more; or crop"
    ):
        check_pretrain(config(corpus, "refuse", 78))
    check_pretrain(config(corpus, "refuse", 79))
    check_pretrain(config(corpus, "random", 78))


def test_cropping_is_told(corpus: Path) -> None:
    assert "79 residues" in told(config(corpus, "random", 78))
    assert "another random stretch of each in every epoch (batches.crop: random)" in told(config(corpus, "random", 78))
    assert "the start of each (batches.crop: start)" in told(config(corpus, "start", 78))
    assert "batches.crop" not in told(config(corpus, "random", 79))


def test_what_is_not_scored_is_told(corpus: Path) -> None:
    longest = read_manifest(corpus).split("valid").longest
    enough, short = ({"position": "learned", "max_positions": longest + 2 - missing} for missing in (0, 1))
    assert "model.max_positions" not in told(config(corpus, "random", 20, **enough))
    assert f"valid has proteins of up to {longest} residues: of each the first {longest - 1}" in told(
        config(corpus, "random", 20, **short)
    )

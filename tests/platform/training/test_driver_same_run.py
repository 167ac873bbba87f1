"""A run goes on with the settings and the inputs that it was started with, or says which are others."""

from pathlib import Path
from typing import Any

import pytest

from proteinlm.platform.settings.config import PretrainConfig
from proteinlm.platform.storage.run_directory import write_run_file
from proteinlm.platform.training.driver import check_same_run
from tests.made.small_pretraining import config

INPUTS = {"corpus": "abc", "probe.data": "def"}


def started(folder: Path, inputs: dict[str, str], **changes: Any) -> PretrainConfig:
    """A run that was started with these inputs."""
    run = config(folder, "run")
    run.directory.mkdir(parents=True)
    rest: dict[str, Any] = {"task": "t", "total_steps": 1, "code_version": "1", "data_hash": "abc"}
    write_run_file(run.directory, run.model_dump(mode="json"), inputs=inputs, **rest | changes)
    return run


def test_a_run_that_is_new_or_the_same_goes_on(tmp_path: Path) -> None:
    check_same_run(config(tmp_path, "run"), INPUTS)
    run = started(tmp_path, INPUTS)
    check_same_run(run, INPUTS)
    check_same_run(run, {"corpus": "abc"})
    check_same_run(run.model_copy(update={"cluster": run.cluster.model_copy(update={"num_workers": 1})}), INPUTS)


@pytest.mark.parametrize("name", INPUTS)
def test_other_content_at_the_same_path_is_named(name: str, tmp_path: Path) -> None:
    run = started(tmp_path, INPUTS)
    with pytest.raises(
        ValueError, match=rf"^{name}: its content is another .* \(content hash new, then {INPUTS[name]}"
    ):
        check_same_run(run, INPUTS | {name: "new"})


def test_a_run_of_an_earlier_version_is_known_by_its_corpus(tmp_path: Path) -> None:
    run = started(tmp_path, {})
    check_same_run(run, INPUTS)
    with pytest.raises(ValueError, match="corpus: its content is another"):
        check_same_run(run, {"corpus": "new"})


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    started(tmp_path, INPUTS)
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate: was 0\.005, is 0\.25"):
        check_same_run(config(tmp_path, "run", learning_rate=0.25), INPUTS)

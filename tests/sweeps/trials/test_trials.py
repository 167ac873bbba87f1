"""What is checked of all trials before Ray starts."""

import pytest

from proteinlm.platform.settings.config import FinetuneConfig, PretrainConfig
from proteinlm.platform.settings.loading import validate
from proteinlm.sweeps.planning.trial import Trial
from proteinlm.sweeps.trials.trials import check_trials

PRETRAIN = {"name": "p", "corpus": "c", "model": {"preset": "cpu-tiny"}, "training": {"steps": 1}}
FINETUNE = {"name": "f", "task": "stability", "data": "d", "pretrained": "m", "training": {"steps": 1}}


@pytest.mark.parametrize("setting", ["storage", "corpus"])
def test_uris_of_pretraining_trials_are_refused_by_name(setting: str) -> None:
    config = validate(PretrainConfig, PRETRAIN | {setting: "s3://bucket/x"}, "test")
    with pytest.raises(ValueError, match=rf"^{setting}: found s3://bucket/x; accepted: a directory .* of a sweep"):
        check_trials([Trial("p", "pretrain", config, None)])


@pytest.mark.parametrize("setting", ["storage", "data", "pretrained"])
def test_uris_of_finetuning_trials_are_refused_by_name(setting: str) -> None:
    config = validate(FinetuneConfig, FINETUNE | {setting: "s3://bucket/x"}, "test")
    with pytest.raises(ValueError, match=rf"^{setting}: found s3://bucket/x; accepted: a directory .* of a sweep"):
        check_trials([Trial("f", "finetune", config, None)])

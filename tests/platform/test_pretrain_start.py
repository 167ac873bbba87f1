"""A pretraining that starts from a pretrained directory: with all its weights, in a schedule of its own, and said."""

from pathlib import Path

import pytest

from proteinlm.models.pretrained import content_hash_of, load_pretrained
from proteinlm.platform.pretrain import pretrain
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.config import PretrainConfig
from tests.made.small_corpus import write_small_corpus
from tests.made.small_pretraining import config


def in_process(folder: Path, name: str, steps: int, learning_rate: float) -> PretrainConfig:
    made = config(folder, name, workers=1, learning_rate=learning_rate, steps=steps, engine="plain", validate_every=50)
    return made.model_copy(update={"cluster": made.cluster.model_copy(update={"in_process": True})})


@pytest.mark.usefixtures("ray_cluster")
def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_small_corpus(tmp_path / "corpus")
    first = in_process(tmp_path, "first", steps=60, learning_rate=5e-3)
    pretrain(first)
    with pytest.raises(
        ValueError, match=r"training\.steps: was 60, is 90\nTo train its model further: pretrained=.*first/model"
    ):
        pretrain(first.model_copy(update={"training": first.training.model_copy(update={"steps": 90})}))

    start = first.directory / "model"
    still = in_process(tmp_path, "still", steps=6, learning_rate=1e-12).model_copy(update={"pretrained": start})
    pretrain(still)
    rows = {(row.run, row.split, row.metric): row for row in gather_rows([tmp_path / "runs"])}
    value, before = (rows[run, "valid", "loss"].value for run in ("still", "first"))
    assert value == pytest.approx(before, abs=1e-5), "encoder and head are the first run's"
    assert rows["still", "valid", "loss"].settings == {"pretrained": content_hash_of(start)}
    assert load_pretrained(still.directory / "model").head is not None

    wider = still.model.model_copy(update={"hidden_size": 2 * still.model.hidden_size})
    with pytest.raises(ValueError, match=r"model: .*first/model holds another model .hidden_size: "):
        pretrain(still.model_copy(update={"name": "wider", "model": wider}))

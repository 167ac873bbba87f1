"""Pretraining through Ray Train with storage and corpus in an S3 server, killed with all its workers and resumed."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proteinlm.models.pretrained import content_hash_of
from proteinlm.platform.places.places import fetched, place, put
from proteinlm.platform.results.rows import gather_rows
from proteinlm.platform.settings.yaml_text import to_yaml
from proteinlm.platform.storage.run_directory import is_finished
from proteinlm.platform.training.tracking import read_metrics
from tests.made.killed_commands import kill_once, run_whole
from tests.made.object_store import BUCKET, object_store
from tests.made.small_corpus import write_small_corpus
from tests.made.small_pretraining import config, losses
from tests.made.terminal import environment_without_cluster

pytestmark = pytest.mark.skipif(
    not os.environ.get("PROTEINLM_CLUSTER_TESTS"),
    reason="three launches, each with a Ray of its own; PROTEINLM_CLUSTER_TESTS=1 runs it",
)


def test_a_run_in_a_store_goes_on_from_its_checkpoint_to_the_losses_of_one_on_a_disk(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_small_corpus(tmp_path / "corpus")
    whole = config(tmp_path, "run", steps=60, validate_every=30, checkpoint_every=10)
    text, lab = to_yaml(whole.model_dump(mode="json", exclude_unset=True)), f"s3://{BUCKET}/lab"
    here, there = tmp_path / "here.yaml", tmp_path / "there.yaml"
    here.write_text(text)
    there.write_text(text.replace(str(tmp_path), lab))
    run = whole.model_copy(update={"storage": place(f"{lab}/runs")})
    # A short name, for Ray's sockets; with all that killed processes leave in it.
    with object_store(), TemporaryDirectory(prefix="plm-", ignore_cleanup_errors=True) as scratch:
        environment = environment_without_cluster() | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": scratch}
        put(tmp_path / "corpus", place(f"{lab}/corpus"))
        kill_once("pretrain", there, environment, lambda: any(run.directory.glob("step_*/checksums-00001.json")))
        assert not is_finished(run.directory)
        before = read_metrics(run.directory)
        assert before[-1]["step"] >= 10
        run_whole("pretrain", there, environment)
        after = read_metrics(run.directory)
        assert [row for row in after if row["step"] <= 10] == [row for row in before if row["step"] <= 10]  # speeds too
        run_whole("pretrain", here, environment)
        assert losses(run) == losses(whole)
        values = [[(row.split, row.metric, row.value) for row in gather_rows([r.directory])] for r in (run, whole)]
        assert values[0] == values[1]
        with fetched(run.directory / "model") as model:
            assert content_hash_of(model) == content_hash_of(whole.directory / "model")

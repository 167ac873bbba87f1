"""A second build into one directory is told who is there; a finished corpus needs nobody's leave."""

import json
import os
import socket
from pathlib import Path

import pytest

from proteinlm.platform.corpus.build import build_corpus
from proteinlm.platform.settings.config import CorpusConfig
from proteinlm.platform.storage.lock import InUseError


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_build_is_refused_and_the_first_one_s_corpus_is_returned(tmp_path: Path) -> None:
    letters = "ACDEFGHIKLMNPQRSTVWY"
    sequences = ["".join(letters[(7 * i + 3 * j * j + i * j) % 20] for j in range(60)) for i in range(60)]
    (tmp_path / "a.fasta").write_text("".join(f">p{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
    config = CorpusConfig(sources=(tmp_path / "a.fasta",), out=tmp_path / "corpus", valid_fraction=0.2)
    lock = tmp_path / ".corpus.lock"
    started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    holder = {"host": socket.gethostname(), "process": os.getppid(), "started": started, "since": "2026-01-01"}
    lock.write_text(json.dumps(holder))
    with pytest.raises(InUseError, match=f"the corpus {tmp_path / 'corpus'} is in use by process {os.getppid()} on"):
        build_corpus(config)
    lock.unlink()
    manifest = build_corpus(config)
    assert manifest.counts["read"] == 60
    lock.write_text(json.dumps(holder))
    assert build_corpus(config) == manifest

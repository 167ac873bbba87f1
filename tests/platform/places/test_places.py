"""Places by URI: what a path does on a disk, an object store does for its URI; nothing half is taken for whole."""

import gzip
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest
from pyarrow.fs import FileInfo, FileType
from pydantic import BaseModel

from proteinlm.platform.data.manifest import read_manifest, read_shard
from proteinlm.platform.places import places, remote_path
from proteinlm.platform.places.mirror import Mirror
from proteinlm.platform.places.places import (
    PlacePath,
    add_text,
    fetched,
    is_remote,
    place,
    put,
    reach,
    remove_tree,
    written,
)
from proteinlm.platform.places.remote_path import RemotePath
from proteinlm.platform.storage import lock
from proteinlm.platform.storage.atomic import is_unfinished, staged_directory, write_atomically
from proteinlm.platform.storage.copies import kept_copy
from proteinlm.platform.storage.lock import InUseError, held
from proteinlm.platform.storage.run_directory import check_writable, is_finished, mark_finished
from tests.made.object_store import BUCKET, google_store, object_store, refuse_strangers
from tests.made.small_corpus import write_small_corpus


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with object_store() as address:
        yield address


@pytest.fixture(scope="module")
def at_google() -> Iterator[str]:
    with google_store() as address:
        yield address


@pytest.fixture(params=["s3", "gs"])
def folder(request: pytest.FixtureRequest) -> Path:
    request.getfixturevalue("address" if request.param == "s3" else "at_google")
    return place(f"{request.param}://{BUCKET}/{request.node.originalname}")


def test_a_uri_goes_through_settings_and_back(tmp_path: Path) -> None:
    class Settings(BaseModel):
        storage: PlacePath

    remote = Settings(storage=place("s3://lab/runs")).storage / "one"
    assert str(remote) == "s3://lab/runs/one"
    assert remote.parent == place("s3://lab/runs")
    assert is_remote(pickle.loads(pickle.dumps(remote)))
    again = Settings.model_validate(Settings(storage=remote).model_dump(mode="json"))
    assert again.storage == remote
    assert type(Settings.model_validate({"storage": str(tmp_path)}).storage) is type(Path())
    assert place(f"file://{tmp_path}") == tmp_path
    with pytest.raises(OSError, match="not on a disk"):
        remote.__fspath__()
    with pytest.raises(OSError, match="put whole"):
        remote.open("w")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://lab/runs", "'ftp'; accepted: a path, s3, gs"),
        ("s3://lab/x?region=a", "AWS_ENDPOINT_URL"),
        ("s3://", "BUCKET"),
    ],
)
def test_other_uris_are_refused(uri: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        place(uri)


def test_files_are_put_found_and_deleted(folder: Path) -> None:
    assert not folder.exists()
    check_writable(folder)
    write_atomically(folder / "a" / "one.json", "{}")
    add_text(folder / "a" / "lines", "1\n")
    add_text(folder / "a" / "lines", "2\n")
    assert (folder / "a" / "lines").read_text() == "1\n2\n"
    assert [path.name for path in (folder / "a").glob("*.json")] == ["one.json"]
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert [path.name for path in folder.rglob("one*")] == ["one.json"]
    assert folder.is_dir()
    assert not folder.is_file()
    assert (folder / "a" / "one.json").stat().st_size == 2
    (folder / "a" / "one.json").unlink()
    with pytest.raises(FileNotFoundError):
        (folder / "a" / "one.json").read_bytes()
    mark_finished(folder, 3)
    assert is_finished(folder)
    remove_tree(folder)
    assert not folder.exists()


def test_a_corpus_is_read_where_it_lies(folder: Path, tmp_path: Path) -> None:
    manifest = write_small_corpus(tmp_path)
    put(tmp_path, folder)
    assert read_manifest(str(folder)) == manifest
    shard = manifest.split("train").shards[1]
    assert read_shard(str(folder), shard).equals(read_shard(tmp_path, shard))


def test_a_directory_that_is_not_put_whole_has_no_voucher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(text: str) -> None:
        with written(folder) as local:
            local.mkdir()
            for name in ("config.json", "model.safetensors", "zebra"):
                (local / name).write_text(text)

    write("first")
    order: list[str] = []

    def upload(local: Path, path: Path) -> None:
        order.append(path.name)
        if path.name == "zebra":
            raise OSError("cut off")
        path.write_bytes(local.read_bytes())

    monkeypatch.setattr("proteinlm.platform.places.places._upload", upload)
    with pytest.raises(OSError, match="cut off"):
        write("second")
    assert order == ["model.safetensors", "zebra"]
    assert not (folder / "config.json").exists()


def test_an_object_is_put_and_fetched_byte_for_byte_whatever_it_is_called(folder: Path, tmp_path: Path) -> None:
    """Pyarrow would compress what is called .gz as it writes, and decompress it as it reads."""
    content = gzip.compress(b">p1\nMKV\n")
    (tmp_path / "a.fasta.gz").write_bytes(content)
    put(tmp_path / "a.fasta.gz", folder / "a.fasta.gz")
    (folder / "b.fasta.gz").write_bytes(content)
    for name in ("a.fasta.gz", "b.fasta.gz"):
        assert (folder / name).stat().st_size == len(content)
        assert (folder / name).read_bytes() == content
        with fetched(folder / name) as local:
            assert local.read_bytes() == content


def test_an_upload_that_breaks_off_leaves_no_half_object(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pyarrow's stream puts what was written until then when it is closed."""
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)

    def broken(source: IO[bytes], target: IO[bytes], _: int) -> None:
        target.write(source.read(50))
        raise KeyboardInterrupt

    monkeypatch.setattr("proteinlm.platform.places.places.shutil.copyfileobj", broken)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "model.safetensors", folder / "model.safetensors")
    assert not (folder / "model.safetensors").exists()


def test_times_of_change_have_parts_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By them a lock is left over, an attempt ended, and a file of equal size another one."""
    info = FileInfo("lab/one", FileType.File, size=3, mtime_ns=1_700_000_000_250_000_000)
    monkeypatch.setattr(RemotePath, "filesystem", SimpleNamespace(get_file_info=lambda key: info))
    status = place("gs://lab/one").stat()
    assert (status.st_size, round(status.st_mtime, 3), status.st_mtime_ns) == (3, 1_700_000_000.25, info.mtime_ns)


def test_a_directory_is_unfinished_until_all_of_it_is_put(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder / "shards"

    def build(text: str) -> None:
        with staged_directory(target) as staging:
            assert is_unfinished(target)
            (staging / "manifest.json").write_text(text)
            (staging / "shard").write_text(text)

    build("1")
    assert not is_unfinished(target)
    upload, seen = places._upload, []

    def look_and_upload(local: Path, path: RemotePath) -> None:
        seen.append((target / "manifest.json").is_file())
        upload(local, path)

    monkeypatch.setattr(places, "_upload", look_and_upload)
    build("2")  # by another process that began before the first one was done: no reader finds less than a whole one
    assert seen == [True, True]
    assert [path.read_text() for path in target.iterdir()] == ["2", "2"]
    with pytest.raises(KeyboardInterrupt), staged_directory(target):
        raise KeyboardInterrupt
    assert is_unfinished(target)


def test_a_directory_that_many_write_is_begun_anew_and_takes_nobody_s_place(folder: Path) -> None:
    target = folder / "corpus"
    with pytest.raises(KeyboardInterrupt), staged_directory(target, is_shared=True):
        raise KeyboardInterrupt
    (target / "shard-00007").write_text("of the build that was killed")
    with staged_directory(target, is_shared=True) as staging:
        assert staging == target
        assert not target.exists()
        (staging / "manifest.json").write_text("{}")
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["manifest.json"]
    with pytest.raises(OSError, match="not empty"), staged_directory(target, is_shared=True):
        pass
    assert (target / "manifest.json").is_file()


def test_a_body_that_raises_puts_nothing(folder: Path) -> None:
    def write() -> None:
        with written(folder / "x") as local:
            local.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert not folder.exists()


def test_copies_are_made_once_for_each_content(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (folder / "in" / "one").write_text("1")
    first = kept_copy(folder)
    assert (first / "in" / "one").read_text() == "1"
    assert kept_copy(folder) == first
    (folder / "in" / "one").write_text("99")
    assert (kept_copy(folder) / "in" / "one").read_text() == "99"
    (folder / "in" / "two").write_text("2")
    assert (kept_copy(folder) / "in" / "two").read_text() == "2"
    with fetched(folder / "in") as local:
        assert sorted(path.name for path in local.iterdir()) == ["one", "two"]
    assert not local.exists()
    with pytest.raises(FileNotFoundError):
        kept_copy(folder / "nothing")


def test_one_process_at_a_time_holds_a_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLED_AFTER", 0.01)
    file = folder / "lock"
    with held(file, "the run"):
        assert json.loads(file.read_text())["host"]
        other = json.loads(file.read_text()) | {"process": 1, "host": "another"}
    assert not file.exists()
    file.write_text(json.dumps(other))
    with pytest.raises(InUseError, match="process 1 on another"), held(file, "the run"):
        pass
    monkeypatch.setattr(lock, "LEFT_OVER_AFTER", -1.0)  # its last sign of life is too long ago
    with held(file, "the run"):
        assert json.loads(file.read_text())["host"] != "another"


def test_of_two_that_put_a_lock_at_once_the_later_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = lock._this_process()
    file = folder / "lock"
    monkeypatch.setattr(
        lock.time, "sleep", lambda _: file.write_text('{"host": "b", "process": 1, "started": "", "since": ""}')
    )
    assert not lock._make(file, mine)


def test_what_grows_is_put_whole_and_found_again(folder: Path) -> None:
    mirror = Mirror.of(folder)
    (mirror.local / "metrics.jsonl").write_text("1\n")
    mirror.put_if_due()
    assert not folder.exists()
    mirror.put()
    (mirror.local / "tensorboard").mkdir()
    (mirror.local / "tensorboard" / "events").write_text("e")
    mirror.close(has_failed=False)
    assert not mirror.local.exists()
    again = Mirror.of(folder)
    assert (again.local / "metrics.jsonl").read_text() == "1\n"
    assert (again.local / "tensorboard" / "events").read_text() == "e"
    again.close(has_failed=False)


def test_what_a_store_refuses_names_setting_uri_and_mend(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"storage: s3://no-such-bucket/.*no such bucket; make it"):
        check_writable(place("s3://no-such-bucket/runs"))
    refuse_strangers(address)
    try:
        with pytest.raises(OSError, match=rf"storage: s3://{BUCKET}/.*(denied|not known).*AWS_ACCESS_KEY_ID"):
            check_writable(place(f"s3://{BUCKET}/runs"))
        with pytest.raises(OSError, match=rf"corpus: s3://{BUCKET}/c: .*AWS_ACCESS_KEY_ID"):
            reach("corpus", place(f"s3://{BUCKET}/c"))
    finally:
        refuse_strangers(address, after="inf")


def test_what_google_refuses_names_setting_uri_and_mend(at_google: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"storage: gs://no-such-bucket/.*there is no such bucket"):
        check_writable(place("gs://no-such-bucket/runs"))
    monkeypatch.setattr(remote_path, "GCS_RETRIES", "retry_limit_seconds=1")
    for host, said in (("127.0.0.1:9", "it cannot be reached"), ("", "GOOGLE_APPLICATION_CREDENTIALS")):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", host)
        monkeypatch.setenv("CLOUDSDK_CONFIG", "/nowhere")
        with pytest.raises(OSError, match=rf"corpus: gs://lab-{bool(host)}/c: .*{said}"):
            reach("corpus", place(f"gs://lab-{bool(host)}/c"))

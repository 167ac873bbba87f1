"""Weights files of others: read or refused by name, never run; and damage is noticed."""

import io
import json
import pickle
import random
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from proteinlm.models.pretrained import check_pretrained, load_pretrained, read_config
from proteinlm.models.weights import read_weights
from tests.made.small_models import SMALLEST_ESM, esm_as_bin, saved_esm, saved_ours

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def changed(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a weights file, and the digest that config.json of ours has of it."""
    import hashlib

    state = torch.load(file, weights_only=True) if file.suffix == ".bin" else load_file(file)
    change(state)
    torch.save(state, file) if file.suffix == ".bin" else save_file(state, file, metadata={"format": "pt"})
    described = json.loads((file.parent / "config.json").read_text())
    described["weights_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / "config.json").write_text(json.dumps(described))


class Gadget:
    """Makes the file HACKED where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return open, (str(self.place), "w")


FILES = (
    *("config.json", "model.safetensors", "model.safetensors.index.json", "vocab.txt"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"),
)


@pytest.mark.parametrize("kind", ["pickle", "archive"])
@pytest.mark.parametrize("name", FILES)
def test_code_in_any_file_of_a_directory_is_not_run(tmp_path: Path, name: str, kind: str) -> None:
    hacked = tmp_path / "HACKED"
    for make in (esm_as_bin, saved_ours):
        directory = tmp_path / make.__name__
        make(directory)
        if name == "pytorch_model-00001-of-00001.bin":
            (directory / "pytorch_model.bin").unlink(missing_ok=True)
            index = {"weight_map": {"esm.embeddings.word_embeddings.weight": name}}
            (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        if kind == "pickle":
            (directory / name).write_bytes(pickle.dumps({"x": Gadget(hacked)}))
        else:
            torch.save({"x": Gadget(hacked)}, directory / name)
        is_read = make is esm_as_bin and name != "pytorch_model.bin.index.json"
        is_read |= make is saved_ours and name in ("config.json", "model.safetensors")
        if is_read:
            with pytest.raises(ValueError, match=name.replace("model.", "model\\.")):
                load_pretrained(directory)
        else:
            load_pretrained(directory)
        assert not hacked.exists()


def archive(file: Path, program: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    """An archive like torch.save's with that pickle."""
    with zipfile.ZipFile(file, "w", compression) as content:
        content.writestr("archive/data.pkl", program)
        content.writestr("archive/byteorder", "little")
        content.writestr("archive/version", "3\n")
        for name, data in more.items():
            content.writestr(f"archive/{name.replace('__', '.')}", data)
    return file


def deep_key(opcode: bytes = b"\x85") -> bytes:
    return b"\x80\x02}N" + opcode * 900_000 + b"K\x01s."


HOSTILE: dict[str, tuple[bytes, str]] = {
    "a key of a million nested tuples": (deep_key(), "nested deeper than 50 levels"),
    "lists inside lists": (b"\x80\x02}X\x01\x00\x00\x00a" + b"]" * 60_000 + b"a" * 59_999 + b"s.", "nested deeper"),
    "a function": (b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.", "asks for 'posix system'; accepted: tensors"),
    "escapes": (b"\x80\x02c\x1b]0;os\x07\nsystem\n.", r"asks for '\\x1b\]0;os\\x07 system'"),
    "protocol 4": (pickle.dumps({"a": print}, 4), "has the instruction"),
    "no tensors": (pickle.dumps({"a": 1}, 2), "holds int under 'a'; accepted: dense tensors by name"),
    "no names": (pickle.dumps({1: 2}, 2), "holds int under 1"),
    "a list": (pickle.dumps([1], 2), "holds list; accepted: tensors by name"),
    "an empty stack": (b"\x80\x02s.", "pytorch_model.bin is not a file of tensors: IndexError"),
    "nothing": (b"", "pytorch_model.bin is not a file of tensors"),
    "long": (b"\x80\x02" + b"N" * (1 << 20) + b".", "longer than 1,048,576 bytes"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_hostile_pickles_are_refused_within_seconds(tmp_path: Path, fault: str) -> None:
    program, message = HOSTILE[fault]
    file = archive(tmp_path / "pytorch_model.bin", program)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(file)
    assert time.perf_counter() - began < 3
    assert len(str(caught.value)) < 500


def test_archives_that_are_none_of_torch_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    for make, message in (
        (lambda: archive(file, b"N.", zipfile.ZIP_DEFLATED), "compressed"),
        (lambda: archive(file, b"N.", other__pkl=b"N."), "has 2 pickles"),
        (lambda: archive(file, b"N.", constants__pkl=b"N."), "has 2 pickles"),
        (lambda: torch.save({"a": torch.zeros(2)}, file, _use_new_zipfile_serialization=False), "before 1.6"),
        (lambda: file.write_bytes(b""), "is not a whole archive of torch.save"),
        (lambda: torch.save({"a": torch.zeros(2).to_sparse()}, file), "asks for 'torch._utils _rebuild_sparse_tensor'"),
        (lambda: torch.save({"a": torch.zeros(2, device="meta")}, file), "asks for 'torch._utils _rebuild_meta"),
    ):
        make()
        with pytest.raises(ValueError, match=f"pytorch_model.bin .*{message}"):
            read_weights(file)
    whole = io.BytesIO()
    torch.save({"a": torch.zeros(2000)}, whole)
    file.write_bytes(whole.getvalue()[:5000])
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a whole archive"):
        read_weights(file)


NO_WEIGHTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("nan")), "values from nan to nan"),
    "inf": (lambda tensor: tensor.index_fill(0, torch.tensor([3]), float("inf")), "to inf; accepted: finite numbers"),
    "-inf": (lambda tensor: tensor.index_fill(0, torch.tensor([3]), -float("inf")), "from -inf to"),
    "int8": (lambda tensor: tensor.to(torch.int8), r"is torch.int8 \[8\]"),
    "bool": (lambda tensor: tensor.bool(), r"is torch.bool \[8\]"),
    "complex": (lambda tensor: tensor.to(torch.complex64), r"is torch.complex64 \[8\]"),
    "shape": (lambda tensor: tensor.reshape(2, 4), r"is torch.float32 \[2, 4\], but config.json asks for .* \[8\]"),
    "empty": (lambda tensor: tensor[:0], r"is torch.float32 \[0\]"),
}


@pytest.mark.parametrize("fault", NO_WEIGHTS)
def test_weights_that_are_none_are_refused_by_file_and_tensor(tmp_path: Path, fault: str) -> None:
    change, message = NO_WEIGHTS[fault]
    saved_esm(tmp_path / "shards", **SMALLEST_ESM).save_pretrained(tmp_path / "shards", max_shard_size="1KB")
    (tmp_path / "shards/model.safetensors").unlink()
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())["weight_map"]
    saved_esm(tmp_path / "plain", **SMALLEST_ESM)
    name = "esm.encoder.layer.0.attention.self.key.bias"
    for file, tensor in (
        (saved_ours(tmp_path / "ours"), "encoder.layers.0.attention.output.bias"),
        (tmp_path / "plain/model.safetensors", name),
        (tmp_path / "shards" / index[name], name),
        (esm_as_bin(tmp_path / "bin"), name),
    ):
        if fault == "complex" and file.suffix == ".bin":
            continue  # refused before that, with the name of its storage
        changed(file, lambda state, tensor=tensor: state.update({tensor: change(state[tensor]).contiguous()}))
        with pytest.raises(ValueError, match=f"{file.name}: {tensor.removeprefix('esm.')} .*{message}"):
            load_pretrained(file.parent)


def test_tensors_that_do_not_fit_are_named_before_values_are_read(tmp_path: Path) -> None:
    for file, tensor in (
        (saved_ours(tmp_path / "ours"), "encoder.layers.0.attention.output.bias"),
        (esm_as_bin(tmp_path / "bin"), "esm.encoder.layer.0.attention.self.key.bias"),
    ):
        assert check_pretrained(file.parent) == read_config(file.parent)
        for value, message in ((torch.zeros(3), r"\[3\]"), (torch.zeros(8).bool(), "torch.bool")):
            changed(file, lambda state, value=value, tensor=tensor: state.update({tensor: value}))
            with pytest.raises(ValueError, match=f"{file.name}: .*{message}"):
                check_pretrained(file.parent)
        changed(file, lambda state, tensor=tensor: state.pop(tensor))
        with pytest.raises(ValueError, match="1 missing"):
            check_pretrained(file.parent)


def test_what_a_safetensors_header_says_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    file = saved_ours(tmp_path / "ours")
    file.write_bytes(file.read_bytes().replace(b'"F32"', '"\ufeff"'.encode(), 1))
    with pytest.raises(ValueError, match="is not a whole safetensors file") as caught:
        load_pretrained(file.parent)
    assert str(caught.value).isprintable()


def test_double_precision_is_read_where_fp32_holds_it(tmp_path: Path) -> None:
    file = esm_as_bin(tmp_path / "esm")
    before = load_pretrained(file.parent).encoder.state_dict()
    changed(file, lambda state: state.update({name: tensor.double() for name, tensor in state.items()}))
    after = load_pretrained(file.parent).encoder.state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    changed(file, lambda state: state["esm.encoder.emb_layer_norm_after.bias"].fill_(1e300))
    with pytest.raises(ValueError, match=r"emb_layer_norm_after.bias has values from 1e\+300 to 1e\+300"):
        load_pretrained(file.parent)


def test_tensors_of_a_bin_that_share_memory_do_not_share_it_afterwards(tmp_path: Path) -> None:
    """Nor does a tensor of strides 0, a huge one on a few bytes, pass as one of another shape."""
    file = esm_as_bin(tmp_path / "esm")
    same = torch.ones(8)
    names = ("esm.encoder.emb_layer_norm_after.weight", "lm_head.layer_norm.weight")
    changed(file, lambda state: state.update(dict.fromkeys(names, same)))
    loaded = load_pretrained(file.parent)
    assert loaded.head is not None
    with torch.no_grad():
        loaded.encoder.final_norm.weight.zero_()
    assert loaded.head.norm.weight.tolist() == [1.0] * 8
    changed(file, lambda state: state.update({names[0]: torch.ones(1).expand(10**12)}))
    with pytest.raises(ValueError, match=r"\[1000000000000\], but config.json asks for .* \[8\]"):
        load_pretrained(file.parent)


CONFIGS: dict[str, tuple[Callable[[str], str], str]] = {
    "deep": (lambda text: text.replace("{", '{"a": ' + "[" * 500 + "]" * 500 + ", ", 1), "nested deeper than 50"),
    "deeper": (lambda text: text.replace("{", '{"a": ' + "[" * 10**6 + "]" * 10**6 + ", ", 1), "nested deeper than 50"),
    "twice": (
        lambda text: text.replace("{", '{"model_type": "esm", "model_type": "esm", ', 1),
        "'model_type' is given twice",
    ),
    "NaN": (lambda text: text.replace("{", '{"a": NaN, ', 1), "NaN is no number"),
    "infinite": (lambda text: text.replace("{", '{"a": -Infinity, ', 1), "-Infinity is no number"),
    "digits": (lambda text: text.replace("{", '{"a": ' + "1" * 5000 + ", ", 1), "is not JSON: Exceeds the limit"),
    "long": (lambda text: text + " " * (16 << 20), "longer than 16,777,216 bytes"),
    "pointer": (lambda text: POINTER.decode(), "git-lfs pointer, not the file itself; fetch it with `git lfs pull`"),
    "binary": (lambda text: "\x00\x01", "is not JSON"),
}


@pytest.mark.parametrize("make", [esm_as_bin, saved_ours])
@pytest.mark.parametrize("fault", CONFIGS)
def test_a_config_that_is_none_is_named(tmp_path: Path, fault: str, make: Callable[[Path], Path]) -> None:
    change, message = CONFIGS[fault]
    file = make(tmp_path / "model").parent / "config.json"
    file.write_text(change(file.read_text()))
    began = time.perf_counter()
    with pytest.raises(ValueError, match=f"config.json .*{message}") as caught:
        load_pretrained(file.parent)
    assert time.perf_counter() - began < 1
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_before_the_config_is_passed_over(tmp_path: Path) -> None:
    file = saved_ours(tmp_path / "model").parent / "config.json"
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    load_pretrained(file.parent)


SIZES = {
    "num_hidden_layers": 10_000_000,
    "hidden_size": 10**9,
    "intermediate_size": 10**15,
    "max_position_embeddings": 10**15,
    "num_attention_heads": 10**400,
}


@pytest.mark.parametrize("field", SIZES)
def test_sizes_of_no_model_are_refused_at_once(tmp_path: Path, field: str) -> None:
    value = SIZES[field]
    esm_as_bin(tmp_path / "esm")
    saved_ours(tmp_path / "ours")
    our_field = field.replace("max_position_embeddings", "max_positions")
    for directory in ("esm", "ours"):
        file = tmp_path / directory / "config.json"
        described = json.loads(file.read_text())
        section = described if directory == "esm" else described["model"]
        section |= {field if directory == "esm" else our_field: value}
        section |= {"position_embedding_type": "absolute"} if directory == "esm" else {"position": "learned"}
        file.write_text(json.dumps(described))
        began = time.perf_counter()
        for reading in (read_config, check_pretrained, load_pretrained):
            with pytest.raises(ValueError, match=f"config.json.*{our_field}") as caught:
                reading(tmp_path / directory)
            assert len(str(caught.value)) < 700
        assert time.perf_counter() - began < 1


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "vocab.txt", "model.safetensors.index.json"]
)
def test_a_pointer_of_git_lfs_is_called_by_its_name_before_weights_are_read(tmp_path: Path, name: str) -> None:
    file = esm_as_bin(tmp_path / "esm")
    (file.parent / name).write_bytes(POINTER)
    for reading in (read_config, load_pretrained):
        with pytest.raises(ValueError, match=f"{name} is a git-lfs pointer"):
            reading(file.parent)


def test_an_index_that_misleads_is_refused(tmp_path: Path) -> None:
    saved_esm(tmp_path / "esm", **SMALLEST_ESM).save_pretrained(tmp_path / "esm", max_shard_size="1KB")
    (tmp_path / "esm/model.safetensors").unlink()
    index = tmp_path / "esm/model.safetensors.index.json"
    whole = json.loads(index.read_text())
    shards = sorted(set(whole["weight_map"].values()))
    first = min(whole["weight_map"])

    def where(file: object) -> dict[str, object]:
        return {"weight_map": {**whole["weight_map"], first: file}}

    for described, kind, message in [
        ({}, ValueError, "lacks 'weight_map'"),
        ({"weight_map": []}, ValueError, "lacks 'weight_map'"),
        (where("../esm/" + shards[0]), ValueError, "accepted: a .safetensors or .bin beside it"),
        (where("/etc/passwd"), ValueError, "is in '/etc/passwd'; accepted"),
        (where("config.json"), ValueError, "is in 'config.json'; accepted"),
        (where(7), ValueError, "is in 7; accepted"),
        (where("gone.safetensors"), FileNotFoundError, "names the file gone.safetensors, which is not there"),
        ({"weight_map": {first: shards[0]}}, ValueError, "missing"),
    ]:
        index.write_text(json.dumps(described))
        with pytest.raises(kind, match=message):
            load_pretrained(tmp_path / "esm")
    shutil.copy(tmp_path / "esm" / shards[0], tmp_path / "esm/again.safetensors")
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "more": "again.safetensors"}}))
    with pytest.raises(ValueError, match=r"is there a second time, first in again\.safetensors"):
        load_pretrained(tmp_path / "esm")


def test_weights_of_other_programs_are_called_by_their_names(tmp_path: Path) -> None:
    esm_as_bin(tmp_path / "esm").unlink()
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        read_config(tmp_path / "esm")
    for name, program in (("tf_model.h5", "TensorFlow"), ("flax_model.msgpack", "Flax")):
        (tmp_path / "esm" / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=f"{name}, of {program}; accepted: model.safetensors"):
            read_config(tmp_path / "esm")
        (tmp_path / "esm" / name).unlink()


@pytest.mark.parametrize("make", [saved_ours, esm_as_bin])
def test_single_bit_flips_are_noticed_or_change_nothing(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Ours by the digest, all of them; in a .bin by the archive's CRC-32, but for headers that nothing reads."""
    file = make(tmp_path / "model")
    before = load_pretrained(file.parent)
    content = file.read_bytes()
    generator = random.Random(0)
    noticed = named = 0
    for _ in range(100):
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        file.write_bytes(flipped)
        try:
            after = load_pretrained(file.parent)
        except (ValueError, OSError) as error:
            named += file.name in str(error)
            noticed += 1
            continue
        assert make is esm_as_bin
        for module, other in ((before.encoder, after.encoder), (before.head, after.head)):
            assert module is not None
            assert other is not None
            same = other.state_dict()
            assert all(torch.equal(tensor, same[name]) for name, tensor in module.state_dict().items())
    print(f"{file.name}: {noticed} of 100 flips noticed")
    assert noticed == named
    assert noticed == 100 if make is saved_ours else noticed > 50

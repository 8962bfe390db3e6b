"""What a damaged or hostile description of an edit meets; and headers that are not what they claim."""

from __future__ import annotations

import json
import struct

import pytest
import torch

from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Dense, Edit, LowRank, Rows, Sparse
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.lowrank import add
from erase_plugins.artifacts.manifest import Manifest, check_name
from erase_plugins.artifacts.serialize import check_delta, edit_from_tensors, edit_to_tensors
from erase_plugins.errors import CorruptArtifact

LOW = LowRank(torch.ones(2, 4), torch.ones(3, 2))
MAP = ContextMap(torch.ones(2, 4), torch.ones(4, 2))


def back(edit: Edit, tensors=None, **changes):
    stored, text = edit_to_tensors(edit)
    return edit_from_tensors(stored if tensors is None else tensors, json.dumps({**json.loads(text), **changes}))


def sparse(mask, values, shape, kind=torch.int64):
    size = torch.tensor(shape, dtype=kind)
    return Sparse(torch.tensor(mask, dtype=torch.uint8), torch.ones(values), size)


def test_a_sparse_change_comes_back():
    change = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -2.0]])
    (found,) = [delta for _, _, delta in back(Edit("vit", {"model": {"a.weight": Sparse.of(change)}})).items()]
    assert torch.equal(found.dense(), change)
    whole = add(found, Dense(torch.ones(2, 3)))
    assert torch.equal(whole.dense(), change + 1)
    assert torch.equal(add(found, found).dense(), 2 * change)
    assert add(Dense(torch.ones(2)), Sparse.of(torch.tensor([0.0, 3.0]))).dense().tolist() == [1.0, 4.0]


def test_sound_edit_comes_back():
    assert back(Edit("sd1", {"unet": {"a.weight": LOW, CONTEXT: MAP}})).kinds == {"lowrank", "contextmap"}


@pytest.mark.parametrize(
    ("deltas", "words"),
    [
        ({"a.weight": MAP}, "no place there"),
        ({CONTEXT: LOW}, "no place there"),
        ({"a": LowRank(torch.ones(2, 4), torch.ones(3, 3))}, "do not multiply"),
        ({"a": LowRank(torch.ones(0, 4), torch.ones(3, 0))}, "empty or too large"),
        ({"a": LowRank(torch.ones(2, 4).int(), torch.ones(3, 2))}, "floating point"),
        ({"a": LowRank(torch.ones(2, 4).to(torch.float8_e5m2), torch.ones(3, 2))}, "16 bits"),
        ({"a": LowRank(torch.ones(2, 4, 3, 3), torch.ones(3, 2, 3, 3))}, "spatial up"),
        ({"a": LowRank(torch.ones(1, 100_000), torch.ones(100_000, 1))}, "too large"),
        ({CONTEXT: ContextMap(torch.ones(2, 4), torch.ones(5, 2))}, "square"),
        ({"a": Dense(torch.ones(1, 1, 1, 1, 3))}, "one to four dimensions"),
        (
            {"a": Sparse(torch.ones(1).byte(), torch.ones(1, 1), torch.tensor([8]))},
            "sparse change needs a mask of bytes",
        ),
        ({"a": sparse([0b10100000, 0], 2, [3])}, r"the mask does not fit a parameter of \(3,\)"),
        ({"a": sparse([0b10110000], 3, [3])}, r"the mask does not fit a parameter of \(3,\)"),
        ({"a": sparse([0b10100000], 1, [3])}, "2 places for 1 values"),
        ({"a": sparse([255], 8, [2, 4], torch.int32)}, "sparse change needs a mask of bytes"),
        ({"a": sparse([255], 8, [-2, -4])}, "sparse change needs a mask of bytes"),
        ({"a": Rows(torch.tensor([1, 2]), torch.ones(3, 4))}, "2 indices for 3 rows"),
        ({"a": Rows(torch.tensor([1.0]), torch.ones(1, 4))}, "int64"),
        ({"a": AddOn("bottleneck", {"down": torch.ones(2, 2)}, {"strength": "much"})}, "not a usable number"),
        ({"a": AddOn("bottleneck", {"down": torch.ones(2, 2)}, {"strength": 1e9})}, "not a usable number"),
    ],
)
def test_unsound_changes_are_refused(deltas, words):
    with pytest.raises(CorruptArtifact, match=words):
        back(Edit("sd1", {"unet": deltas}))


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 99},
        {"family": "\ud800"},
        {"meta": {"\ud800": 1}},
        {"schema": "x"},
        {"schema": 1e400},
        {"family": 3},
        {"meta": []},
        {"addons": None},
        {"addons": [1]},
    ],
)
def test_unsound_descriptions_are_refused(changes):
    with pytest.raises(CorruptArtifact):
        back(Edit("sd1", {"unet": {"a": LOW}}), **changes)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"family": "\\ud800"}', "[" * 100_000, '{"a":' * 5000])
def test_unreadable_descriptions_are_refused(text):
    with pytest.raises(CorruptArtifact):
        edit_from_tensors({}, text)


def test_a_dense_change_of_one_dimension_keeps_its_name_in_files():
    """Release 0.1 knows it as "bias" with the tensor "db", and refuses a "dense" one of one dimension."""
    edit = Edit("sd1", {"unet": {"a.bias": Dense(torch.arange(3.0))}})
    tensors, text = edit_to_tensors(edit)
    assert list(tensors) == ["unet|a.bias|bias|db"]
    delta = edit_from_tensors(tensors, text).deltas["unet"]["a.bias"]
    assert type(delta) is Dense
    assert delta.dW.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("shape", [(3, 1), (1, 3), ()])
def test_a_bias_in_a_file_has_one_dimension(shape):
    _, text = edit_to_tensors(Edit("sd1", {"unet": {"a.bias": Dense(torch.ones(3))}}))
    with pytest.raises(CorruptArtifact, match="one dimension"):
        edit_from_tensors({"unet|a.bias|bias|db": torch.ones(shape)}, text)


@pytest.mark.parametrize("name", ["a", "a|b|c", "unet|a|lowrank|Z", "unet|a|dense|A", "unet|a|eval|A", "a|b|c|d|e"])
def test_foreign_tensor_names_are_refused(name):
    tensors, _ = edit_to_tensors(Edit("sd1", {"unet": {"a": LOW}}))
    with pytest.raises(CorruptArtifact):
        back(Edit("sd1", {"unet": {"a": LOW}}), {**tensors, name: torch.ones(2, 2)})


def test_check_delta_says_where():
    with pytest.raises(CorruptArtifact, match="unet mid_block"):
        check_delta("unet mid_block", Dense(torch.ones(2, 2).int()))


def write(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def test_sound_header_is_read(tmp_path):
    header = read_header(write(tmp_path / "x", {"a": ENTRY, "__metadata__": {"k": "v"}}, bytes(4)))
    assert header.tensors["a"].shape == (1,)
    assert header.metadata == {"k": "v"}


@pytest.mark.parametrize(
    "header",
    [
        b"", b"[]", b"\xff\xff", b"nonsense", b'{"a":' * 4000, b'{"a":{},"a":{}}', {"a": 1}, {"a": {}}, {"a": []},
        {"a": {**ENTRY, "dtype": "C64"}}, {"a": {**ENTRY, "dtype": []}}, {"a": {**ENTRY, "shape": [-1]}},
        {"a": {**ENTRY, "shape": [True]}}, {"a": {**ENTRY, "shape": [2**41]}}, {"a": {**ENTRY, "shape": 1}},
        {"a": {**ENTRY, "data_offsets": [4, 0]}}, {"a": {**ENTRY, "data_offsets": [-4, 0]}}, {"a": {**ENTRY, "shape": [2]}},
        {"a": {**ENTRY, "data_offsets": [0]}}, {"a": {**ENTRY, "data_offsets": "04"}}, {"a": ENTRY, "b": ENTRY},
        {"a": ENTRY, "__metadata__": {"k": 1}}, {"a": ENTRY, "__metadata__": []}, {"a\x00": ENTRY}, {"a" * 501: ENTRY},
        {"a": ENTRY, "__metadata__": {"k": "\ud800"}},
    ],
)  # fmt: skip
def test_unsound_headers_are_refused(header, tmp_path):
    with pytest.raises(CorruptArtifact):
        read_header(write(tmp_path / "x", header, bytes(4)))


def test_lengths_are_compared_with_the_file(tmp_path):
    for data in (b"", bytes(3), bytes(5)):
        with pytest.raises(CorruptArtifact, match="truncated"):
            read_header(write(tmp_path / "x", {"a": ENTRY}, data))
    with pytest.raises(CorruptArtifact, match="claims"):
        read_header(write(tmp_path / "x", {"a": ENTRY}, bytes(4), length=2**60))
    with pytest.raises(CorruptArtifact, match="0 bytes long"):
        (tmp_path / "x").write_bytes(b"")
        read_header(tmp_path / "x")


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "a/b/c", ".hidden", "a\\b", "", "a b", "C:x", "ü"])
def test_names_that_could_leave_are_refused(name):
    with pytest.raises(CorruptArtifact):
        check_name(name)


@pytest.mark.parametrize("name", ["edit.safetensors", "peft_unet/adapter_config.json"])
def test_plain_names_are_accepted(name):
    check_name(name)


SOUND = Manifest(name="erase_x", method={"id": "uce"}, concepts=(), base={"family": "sd1"})


def test_sound_manifest_comes_back():
    assert Manifest.from_json(SOUND.to_json()) == SOUND


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"}, {"name": 3}, {"method": {}}, {"base": {}}, {"base": {"family": "sd1", "fingerprint": "x"}},
        {"strength": {"low": "x"}}, {"strength": {"low": 1e9}}, {"notes": [1]}, {"kinds": "lowrank"}, {"seed": "x"},
        {"files": [{"name": "a", "layout": [], "sha256": "", "bytes": 1}]}, {"schema": 99}, {"concepts": ["x"]},
        {"files": [{"name": "a", "layout": "patch", "sha256": "", "bytes": -1}]}, {"name": "\ud800"}, {"notes": ["\ud800"]},
        {"concepts": [{"text": "a", "prompts": [3]}]}, {"concepts": [{"text": "a", "anchor": {}}]},
    ],
)  # fmt: skip
def test_unsound_manifests_are_refused(changes):
    with pytest.raises(CorruptArtifact):
        Manifest.from_json(json.dumps({**json.loads(SOUND.to_json()), **changes}))


def test_doubled_names_in_the_manifest_are_refused():
    with pytest.raises(CorruptArtifact, match="twice"):
        Manifest.from_json(SOUND.to_json().rstrip()[:-1] + ', "name": "other"}')

"""An artifact folder is looked at without torch, and what does not fit is found all the same."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.verify import check_folder, check_values, glance
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.manager import get_manager
from tests.layouts.making import artifact_of, random_edit

FROZEN = Path(__file__).parent / "frozen"
INSPECT = """
import sys
from click.testing import CliRunner
from erase_plugins.cli.main import cli
for path in sys.argv[1:]:
    done = CliRunner().invoke(cli, ["inspect", path])
    assert done.exit_code == 0, done.output
    assert "erased: pizza" in done.output
assert not {"torch", "diffusers", "transformers", "peft"} & set(sys.modules)
"""


def test_inspect_imports_no_torch():
    places = [str(FROZEN / "low-rank"), str(FROZEN / "closed-form"), str(FROZEN / "low-rank" / "edit.safetensors")]
    done = subprocess.run([sys.executable, "-c", INSPECT, *places], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


#: type -> bytes of a large number, of infinity and of a value that is none (IEEE 754; OCP 8-bit for the last two)
BITS = {
    "F64": (struct.pack("<d", 1e300), struct.pack("<d", float("inf")), struct.pack("<d", float("nan"))),
    "F32": (struct.pack("<f", -3e38), struct.pack("<f", float("-inf")), struct.pack("<f", float("nan"))),
    "F16": (struct.pack("<e", 65504.0), struct.pack("<e", float("inf")), struct.pack("<e", float("nan"))),
    "BF16": (b"\x7f\x7f", b"\x80\x7f", b"\xc0\x7f"),
    "F8_E5M2": (b"\x7b", b"\x7c", b"\x7e"),
    "F8_E4M3": (b"\x7e", b"\x7f", b"\xff"),
    "I32": (b"\xff" * 4, None, None),
}


def file_of(path, dtype, data):
    header = json.dumps({"x": {"dtype": dtype, "shape": [2], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


@pytest.mark.parametrize("dtype", BITS)
def test_values_that_are_none_are_found_by_their_bits(dtype, tmp_path):
    sound, *others = BITS[dtype]
    path = file_of(tmp_path / "x.safetensors", dtype, sound * 2)
    check_values(path, read_header(path))
    for bad in filter(None, others):
        path = file_of(tmp_path / "x.safetensors", dtype, sound + bad)
        with pytest.raises(CorruptArtifact, match="x holds NaN"):
            check_values(path, read_header(path))


def test_a_folder_with_every_file_passes_and_one_named_after_another_layout_does_not(pocket_target, tmp_path):
    made = artifact_of(pocket_target, random_edit(pocket_target, ("cross_k", "text_attn"))).save(tmp_path / "art")
    layouts = get_manager().known().layouts
    assert check_folder(tmp_path / "art", layouts) == made.manifest
    text = (tmp_path / "art" / "erase.json").read_text()
    (tmp_path / "art" / "erase.json").write_text(text.replace('"layout": "kohya"', '"layout": "patch"'))
    with pytest.raises(CorruptArtifact, match="not in layout patch"):
        check_folder(tmp_path / "art", layouts)


def test_a_file_that_came_in_part_says_what_to_do(tmp_path):
    shutil.copytree(FROZEN / "low-rank", tmp_path / "cut")
    file = tmp_path / "cut" / "edit.safetensors"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CorruptArtifact, match=r"has 500 bytes, the manifest says \d+; fetch the artifact again"):
        check_folder(tmp_path / "cut", get_manager().known().layouts)


def cut(file):
    file.write_bytes(file.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("edit.safetensors", cut), ("edit.safetensors", Path.unlink), ("erase.json", cut),
        ("erase.json", lambda file: file.write_bytes(b"")), ("erase.json", lambda file: file.write_bytes(b"\xff")),
    ],
)  # fmt: skip
def test_damage_names_the_artifact_and_what_to_do_and_is_seen_without_reading_weights(file, harm, tmp_path):
    """Files have the same names in every artifact: of several that were given, nobody could tell which one it is."""
    from erase_plugins.workflow.artifacts import load_artifact

    shutil.copytree(FROZEN / "low-rank", tmp_path / "sunset")
    glance(tmp_path / "sunset")
    harm(tmp_path / "sunset" / file)
    layouts = get_manager().known().layouts
    for look in (glance, load_artifact, lambda place: check_folder(place, layouts)):
        with pytest.raises(CorruptArtifact, match=r"^'sunset': .*; fetch the artifact again$"):
            look(tmp_path / "sunset")


def test_a_glance_sees_what_is_no_artifact_and_half_a_file_and_takes_a_folder_of_peft(tmp_path):
    whole = file_of(tmp_path / "adapter_model.safetensors", "F32", struct.pack("<2f", 1.0, 2.0))
    glance(whole)
    glance(tmp_path)  # as peft writes it, without a manifest
    cut(whole)
    with pytest.raises(CorruptArtifact, match="adapter_model"):
        glance(whole)
    (tmp_path / "none").mkdir()
    with pytest.raises(ArtifactError, match=r"'none' has no erase\.json"):
        glance(tmp_path / "none")


def test_a_patch_of_low_rank_changes_alone_is_sound(tiny_sd1, tmp_path):
    """Its names are those of a Kohya LoRA, and it was refused as a file of another layout."""
    from erase_plugins.workflow.models import target_of

    target = target_of(tiny_sd1())
    saved = artifact_of(target, random_edit(target, ("cross_v",), mixed=False)).save(tmp_path / "a", ("diff",), target)
    assert [item.layout for item in saved.manifest.files] == ["diff"]
    check_folder(tmp_path / "a", {entry.item.id: entry.item for entry in get_manager().layouts()})

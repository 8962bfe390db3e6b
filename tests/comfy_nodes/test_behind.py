"""What the editor tells of LoRAs and merges behind a node is read whatever a pack writes; the rest: `test_erase_node.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy_nodes import behind, host


def test_lines_are_read_whatever_a_pack_calls_a_strength():
    """A pack that left one empty ended the run, after the erasure had been solved."""
    text = "merge: ModelMergeSimple\na.safetensors : 0.5 : 0\n\nb : c.safetensors\nd.safetensors : null : undefined"
    assert behind.read_behind(text) == (
        ("a.safetensors", 0.5, 0.0), ("b", 1.0, 1.0), ("d.safetensors", 1.0, 1.0),
    )  # fmt: skip
    assert behind.merged(text) == [
        "ModelMergeSimple behind this node mixes in weights that are not erased; erase behind it instead"
    ]


def test_a_file_is_found_by_its_name_without_folder_and_ending(monkeypatch):
    paths = {
        "look.safetensors": Path("one"),
        "deep\\style.v2.safetensors": Path("two"),
        "x/other.safetensors": Path("3"),
    }
    monkeypatch.setattr(host, "lora_names", lambda: list(paths))
    assert [behind._whole(name) for name in ("look", "style.v2", "other", "none")] == [*paths, "none"]


@pytest.mark.parametrize(
    ("name", "concept", "made_for"),
    [
        ("big_cat_v2", "big cat", True), ("concatenate", "cat", False), ("scat", "cat", False),
        ("可爱熊猫_v1", "熊猫", True), ("ゴッホ風スタイル", "ゴッホ", True), ("pizzaの絵", "pizza", True), ("pizzas", "pizza", False),
        ("피자를그리다", "피자", True), ("แมวน้ำ", "แมว", True), ("犬", "熊猫", False), ("big_cat", "big_cat", True),
    ],
)  # fmt: skip
def test_the_name_of_a_file_says_what_it_was_made_for(name, concept, made_for, tmp_path):
    place = tmp_path / f"{name}.safetensors"
    save_file({"a": torch.zeros(1)}, place)
    assert behind.names(place, concept) is made_for


def test_a_lora_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(host, "lora_names", list)
    monkeypatch.setattr(host, "lora_path", lambda name: None)
    assert behind.brought_back("gone : 1 : 1\noff : 0 : 0", (None, None), (None, None), (), {}) == [
        "gone behind this node was not looked at: it is not among the LoRA files"
    ]

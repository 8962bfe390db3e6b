"""merge, add, revoke: the command line gives what the functions give."""

from __future__ import annotations

import shutil

import pytest
import torch

from erase_plugins.workflow.artifacts import load_artifact


def maps(folder):
    delta = load_artifact(folder).edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def test_merge_add_and_revoke_agree(erase, loaded, pizza_folder, burger_folder, tmp_path):
    merged = erase("merge", pizza_folder, burger_folder, "--out", tmp_path / "both", "--json")
    assert merged.data["how"] == "solved jointly"
    assert sorted(merged.data["artifact"]["erased"]) == ["hamburger", "pizza"]
    assert {item["layout"] for item in merged.data["artifact"]["files"]} == {
        "patch",
        "context",
        "diffusers",
        "peft",
        "kohya",
    }
    added = erase("add", pizza_folder, "--erase", "hamburger", "--out", tmp_path / "added", "--json")
    assert added.code == 0, added.err
    assert torch.allclose(maps(tmp_path / "added"), maps(tmp_path / "both"), atol=1e-6)
    revoked = erase(
        "revoke", tmp_path / "both", "--erase", "hamburger", "--forget", "--out", tmp_path / "one", "--json"
    )
    assert revoked.data["artifact"]["erased"] == ["pizza"]
    assert torch.allclose(maps(tmp_path / "one"), maps(pizza_folder), atol=1e-6)


def test_merge_by_sum_adds_the_maps(erase, loaded, pizza_folder, burger_folder, tmp_path):
    ran = erase("merge", pizza_folder, burger_folder, "--mode", "sum", "--weight", "1", "--weight", "0.5",
                "--layout", "patch", "--out", tmp_path / "sum", "--json")  # fmt: skip
    assert ran.data["how"].startswith("summed")
    assert torch.allclose(maps(tmp_path / "sum"), maps(pizza_folder) + 0.5 * maps(burger_folder), atol=1e-6)


@pytest.mark.parametrize("mode", ["auto", "sum"])
def test_nothing_is_merged_with_itself(erase, pizza_folder, burger_folder, tmp_path, mode):
    copy = shutil.copytree(pizza_folder, tmp_path / "copy")
    ran = erase("merge", pizza_folder, burger_folder, copy, "--mode", mode, "--out", tmp_path / "x")
    assert ran.code == 2
    assert "'erase_pizza' is given twice, and its change would act twice" in ran.err
    assert [item.name for item in tmp_path.iterdir()] == ["copy"]


def test_revoking_a_stranger_names_close_matches_and_changes_nothing(erase, pizza_folder, tmp_path):
    before = {item.name: item.read_bytes() for item in pizza_folder.iterdir()}
    ran = erase("revoke", pizza_folder, "--erase", "piza", "--out", tmp_path / "x")
    assert ran.code == 2
    assert "did you mean 'pizza'?" in ran.err
    assert {item.name: item.read_bytes() for item in pizza_folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == []


def test_what_was_summed_is_told_what_it_lacks(erase, loaded, pizza_folder, burger_folder, tmp_path):
    both = tmp_path / "both"
    erase("merge", pizza_folder, burger_folder, "--mode", "sum", "--layout", "patch", "--out", both)
    for words in (("add", both, "--erase", "cat"), ("revoke", both, "--erase", "pizza")):
        ran = erase(*words, "--out", tmp_path / "x")
        assert ran.code == 2 and "which adding, revoking and solving jointly need" in ran.err, ran.err
        assert "mode" not in ran.err  # neither command has one


def test_adding_twice_is_refused(erase, loaded, pizza_folder, tmp_path):
    ran = erase("add", pizza_folder, "--erase", "pizza", "--out", tmp_path / "x")
    assert ran.code == 2
    assert "already" in ran.err


def test_dry_runs_write_nothing(erase, loaded, pizza_folder, burger_folder, tmp_path):
    lines = (
        ("merge", pizza_folder, burger_folder),
        ("add", pizza_folder, "--erase", "cat"),
        ("revoke", pizza_folder, "--erase", "pizza"),
    )
    for words in lines[:2]:
        assert erase(*words, "--out", tmp_path / "x", "--dry-run").code == 0
    assert erase(*lines[2], "--out", tmp_path / "x", "--dry-run").code != 0  # nothing would remain
    assert list(tmp_path.iterdir()) == []

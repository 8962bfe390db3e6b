"""What noisy-gd makes on the Hub: the LoRA goes out with its ledger, from Python and from the command line."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import HfApi, snapshot_download

import erase_plugins as ep
import hub_cards
from erase_plugins.errors import CorruptArtifact, PushRefused
from erase_plugins.records.certificate import LEDGER, verify
from erase_plugins.types import DataRef, ForgetItem
from tests import classifiers
from tests.cli.conftest import invoke

REPO = "tester/without-4"
OPTIONS = {"rank": 4, "lam": 0.1, "rho_dp": 2.0, "steps": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model")


@pytest.fixture
def made(folder, tmp_path):
    (tmp_path / "gone.jsonl").write_text(json.dumps({"row": 4}))
    item = ForgetItem(kind="record", data=DataRef(str(tmp_path / "gone.jsonl")))
    return ep.erase(str(folder), [item], "noisy-gd", options=OPTIONS, out=tmp_path / "made")


@pytest.mark.parametrize("way", ["python", "command line"])
def test_the_ledger_goes_along_and_whoever_pulls_it_checks_it(hub, made, folder, tmp_path, way):
    if way == "python":
        hub_cards.push(made, REPO, license="mit")
    else:
        done = invoke("push", made.path, REPO, "--license", "mit", "--json")
        assert done.code == 0, done.err
    there = snapshot_download(REPO, local_dir=tmp_path / "all")
    wanted = verify(made.path)
    assert verify(tmp_path / "all")["ledger"] == wanted["ledger"]
    page = (tmp_path / "all" / "README.md").read_text()
    assert "rho_adaptive" in page
    assert "PeftModel" in page
    assert there
    got = invoke("pull", REPO, "--into", tmp_path / "got", "--json")
    assert got.code == 0, got.err
    assert verify(tmp_path / "got")["ledger"] == wanted["ledger"]
    checked = invoke("verify-certificate", tmp_path / "got", "--json")
    assert checked.code == 0, checked.err
    with ep.apply(ep.load(str(folder)), ep.load_artifact(tmp_path / "got")):
        pass


def test_without_its_ledger_or_with_a_changed_one_nothing_is_sent(hub, made):
    text = (made.path / LEDGER).read_text()
    (made.path / LEDGER).write_text(text.replace('"steps":20', '"steps":21'))
    with pytest.raises((PushRefused, CorruptArtifact), match=r"certificate|ledger"):
        hub_cards.push(made, REPO, license="mit")
    (made.path / LEDGER).unlink()
    with pytest.raises(PushRefused, match="cannot be checked"):
        hub_cards.push(ep.load_artifact(made.path), REPO, license="mit")
    done = invoke("push", made.path, REPO, "--license", "mit")
    assert done.code != 0
    assert "cannot be checked" in done.err
    assert "\n" not in done.err.strip()
    assert not HfApi().repo_exists(REPO)

"""Push and pull through the real client: equal bytes, no needless bytes, conflicts, privacy, offline use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

import hub_cards
from erase_plugins import hookimpl, load_artifact
from erase_plugins.errors import ArtifactError, BaseMismatch, HubError, NotAllowed, PushRefused, RequestError
from erase_plugins.testing.models import shared_pipeline
from tests.hub.conftest import REPO, contents

ROOT = Path(__file__).resolve().parents[2]


def push(artifact, repo=REPO, **options):
    return hub_cards.push(artifact, repo, **{"license": "mit", **options})


def head(hub, repo=REPO):
    return hub.store.repository(repo).commit().oid


def outside(repo=REPO, **files):
    """Somebody else's commit."""
    operations = [CommitOperationAdd(name.replace("_", "."), data) for name, data in files.items()]
    return HfApi().create_commit(repo, operations, commit_message="by somebody else").oid


# ---- round trip ---------------------------------------------------------------------------------------------------


def test_what_is_pulled_equals_what_was_pushed(hub, pizza, tmp_path):
    done = push(pizza)
    assert set(done.sent) == {*(item.name for item in pizza.manifest.files), "erase.json", "README.md"}
    assert done.commit == head(hub)
    assert [item.title for item in hub.store.repository(REPO).history()] == [
        "erase_pizza: pizza erased",
        "initial commit",
    ]
    pulled = hub_cards.pull(REPO, tmp_path / "here", layouts=["all"])
    assert contents(tmp_path / "here") == contents(pizza.path)
    assert pulled.path == tmp_path / "here"
    assert pulled.manifest == load_artifact(pizza.path).manifest


def test_a_fresh_process_pulls_equal_bytes(hub, pizza, tmp_path):
    push(pizza)
    code = (
        "import hub_cards, sys\n"
        "assert not {'torch', 'huggingface_hub'} & set(sys.modules), 'importing hub_cards must be light'\n"
        "hub_cards.pull(sys.argv[1], sys.argv[2], layouts=['all'])\n"
    )
    env = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, REPO, str(tmp_path / "out")], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "out") == contents(pizza.path)


def asked_for(hub, start):
    """Names of the files whose content was asked for since then."""
    return [
        item.path.rsplit("/", 1)[1] for item in hub.log[start:] if item.method == "GET" and "/resolve/" in item.path
    ]


def test_only_what_is_needed_is_fetched(hub, pizza, tmp_path):
    push(pizza)
    outside(notes_txt=b"x" * 1000, big_bin=b"y" * 1000)
    before = len(hub.log)
    pulled = hub_cards.pull(REPO)
    assert asked_for(hub, before) == ["erase.json", "edit.safetensors"]
    assert {name: bool(item) for name, item in zip(("unet",), pulled.edit.deltas.values(), strict=True)} == {
        "unet": True
    }
    before = len(hub.log)
    hub_cards.pull(REPO, tmp_path / "small")
    load_artifact(f"hub:{REPO}")
    assert asked_for(hub, before) == []
    assert sorted(contents(tmp_path / "small")) == ["edit.safetensors", "erase.json"]
    kohya = next(item.name for item in pizza.manifest.files if item.layout == "kohya")
    hub_cards.pull(REPO, tmp_path / "more", layouts=["kohya"])
    assert asked_for(hub, before) == [kohya]
    assert sorted(contents(tmp_path / "more")) == sorted(["edit.safetensors", "erase.json", kohya])
    assert load_artifact(tmp_path / "more").manifest == load_artifact(pizza.path).manifest
    with pytest.raises(RequestError, match="no file in layout 'diff'"):
        hub_cards.pull(REPO, layouts=["diff"])


def test_what_was_pulled_in_part_is_not_pushed_as_a_whole(hub, pizza, tmp_path):
    push(pizza)
    hub_cards.pull(REPO, tmp_path / "small")
    with pytest.raises(ArtifactError, match=r"layouts=\['all'\]"):
        push(tmp_path / "small", "tester/again")
    hub_cards.pull(REPO, tmp_path / "whole", layouts=["all"])
    push(tmp_path / "whole", "tester/again")


def test_the_second_push_sends_nothing_and_makes_no_commit(hub, pizza):
    first = push(pizza)
    sent, before = hub.uploaded(), len(hub.log)
    assert sent == sum(item.bytes for item in pizza.manifest.files if item.name.endswith(".safetensors"))
    second = push(pizza)
    assert (second.sent, second.commit, hub.uploaded()) == ((), first.commit, sent)
    assert {item.method for item in hub.log[before:]} == {"GET", "HEAD"}


def test_only_changed_files_are_sent(hub, pizza):
    push(pizza)
    sent = hub.uploaded()
    done = push(pizza, license="apache-2.0")
    assert done.sent == ("README.md",)
    assert hub.uploaded() == sent


def test_an_earlier_artifact_leaves_no_files_behind(hub, pizza, hamburger, tmp_path):
    push(pizza)
    outside(notes_txt=b"kept")
    done = push(hamburger)
    assert done.bundle.removed == ("erase_pizza_sd1_kohya.safetensors",)
    expected = {*(item.name for item in hamburger.manifest.files), "erase.json", "README.md", "notes.txt"}
    assert set(hub.files(REPO)) == expected
    assert contents(hub_cards.pull(REPO, tmp_path / "x", layouts=["all"]).path) == contents(hamburger.path)


# ---- references ---------------------------------------------------------------------------------------------------


def test_a_reference_is_an_artifact_path(hub, pizza, hamburger):
    first = push(pizza).commit
    push(hamburger)
    assert load_artifact(f"hub:{REPO}").name == "erase_hamburger"
    assert load_artifact(f"hub:{REPO}@{first}").name == "erase_pizza"
    HfApi().create_tag(REPO, tag="v1", revision=first)
    assert load_artifact(f"hub:{REPO}@v1").name == "erase_pizza"


def test_a_reference_is_applied_like_the_folder(hub, pizza):
    import torch

    from erase_plugins import apply
    from erase_plugins.testing.observe import predictions

    push(pizza)
    pipe = shared_pipeline("tiny_sd1")
    with apply(pipe, pizza.path):
        local = predictions(pipe)
    with apply(pipe, f"hub:{REPO}"):
        remote = predictions(pipe)
    assert all(torch.equal(one, two) for one, two in zip(local, remote, strict=True))


def test_from_the_cache_without_a_network(hub, pizza, monkeypatch):
    push(pizza)
    hub_cards.pull(REPO)
    before = len(hub.log)
    assert hub_cards.pull(REPO, offline=True).name == "erase_pizza"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_artifact(f"hub:{REPO}").name == "erase_pizza"
    assert len(hub.log) == before
    with pytest.raises(HubError, match="not in the local cache"):
        load_artifact("hub:tester/unknown")


def test_a_repository_without_manifest(hub, pizza):
    HfApi().create_repo("tester/plain")
    data = (pizza.path / "pytorch_lora_weights.safetensors").read_bytes()
    operation = CommitOperationAdd("pytorch_lora_weights.safetensors", data)
    HfApi().create_commit("tester/plain", [operation], commit_message="x")
    found = load_artifact("hub:tester/plain")
    assert found.path.name == "pytorch_lora_weights.safetensors"
    assert len(found.edit)
    assert hub_cards.pull("tester/plain", offline=True).path.name == "pytorch_lora_weights.safetensors"
    assert load_artifact("hub:tester/plain").manifest.erased == found.manifest.erased
    HfApi().create_repo("tester/empty")
    with pytest.raises(HubError, match="not one clear safetensors file"):
        load_artifact("hub:tester/empty")


@pytest.mark.parametrize("spec", ["nothing", "a/b/c", "../x/y", "a/b@", "a/../b", "hub:", "http://a/b"])
def test_unusable_names_are_refused_without_a_request(hub, spec):
    with pytest.raises(RequestError):
        hub_cards.pull(spec)
    assert hub.log == []


def test_stock_diffusers_loads_it_by_name(hub, pizza, monkeypatch):
    import diffusers.loaders.lora_base as lora_base
    import torch

    from erase_plugins.testing.models import fresh_pipeline
    from erase_plugins.testing.observe import predictions

    push(pizza)
    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    pipe, twin = fresh_pipeline("tiny_sd1"), fresh_pipeline("tiny_sd1")
    base = predictions(pipe)
    pipe.load_lora_weights(REPO)
    twin.load_lora_weights(pizza.path)
    found = predictions(pipe)
    assert all(torch.equal(one, two) for one, two in zip(found, predictions(twin), strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(found, base, strict=True))
    assert hub.count("GET .*/resolve/.*/pytorch_lora_weights") == 1


def test_another_base_is_refused(hub, pizza):
    push(pizza)
    with pytest.raises(BaseMismatch):
        hub_cards.pull(REPO, model=shared_pipeline("tiny_sd1", 1))
    assert hub_cards.pull(REPO, model=shared_pipeline("tiny_sd1")).name == "erase_pizza"


# ---- refusals -----------------------------------------------------------------------------------------------------


def test_two_writers_one_wins_the_other_is_told(hub, pizza, hamburger):
    push(pizza)

    def meanwhile(bundle):
        outside(x_txt=b"1")

    with pytest.raises(PushRefused, match="somebody changed it meanwhile and nothing was overwritten"):
        push(hamburger, show=meanwhile)
    assert hub.files(REPO)["x.txt"] == b"1"
    assert "erase_hamburger_sd1_kohya.safetensors" not in hub.files(REPO)
    push(hamburger)
    assert "erase_hamburger_sd1_kohya.safetensors" in hub.files(REPO)


def test_a_stale_parent_is_refused_before_anything_is_sent(hub, pizza, hamburger):
    first = push(pizza).commit
    outside(x_txt=b"1")
    sent = hub.uploaded()
    with pytest.raises(PushRefused, match=f"not at {first[:12]}"):
        push(hamburger, parent=first)
    assert hub.uploaded() == sent
    push(hamburger, parent=head(hub)[:8])


def test_dry_run_changes_nothing_and_needs_no_login(hub, pizza, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    seen = []
    done = push(pizza, dry_run=True, show=seen.append)
    assert done.dry_run
    assert seen == [done.bundle]
    assert [item.state for item in done.bundle.files] == ["new"] * 8
    assert hub.store.repositories == {}
    assert {item.method for item in hub.log} == {"GET"}


def test_without_a_login(hub, pizza, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NotAllowed, match="hf auth login"):
        push(pizza)
    assert hub.log == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")
    with pytest.raises(NotAllowed, match="this account may not"):
        push(pizza)


def test_no_right_to_write_there(hub, pizza):
    with pytest.raises(NotAllowed, match="this account may not"):
        push(pizza, "somebody/else")


def test_private(hub, pizza):
    assert push(pizza, "tester/secret", private=True).bundle.private
    assert hub.store.repository("tester/secret").private
    push(pizza)
    with pytest.raises(PushRefused, match="exists and is public"):
        push(pizza, private=True)


def test_pull_request(hub, pizza, hamburger):
    first = push(pizza).commit
    done = push(hamburger, create_pr=True)
    assert done.pull_request == f"{hub.url}/{REPO}/discussions/1"
    assert head(hub) == first
    assert load_artifact(f"hub:{REPO}@refs/pr/1").name == "erase_hamburger"
    with pytest.raises(RequestError, match="pull request starts from the main branch"):
        push(hamburger, create_pr=True, revision="v2")


def test_plugins_see_the_bundle_and_may_veto(hub, pizza, plugin):
    seen = []

    class Veto:
        @hookimpl
        def erase_before_push(self, bundle, destination):
            seen.append((destination, [item.name for item in bundle.changed]))
            raise PushRefused("not on Sundays")

    with plugin.temporary(Veto(), "veto"), pytest.raises(PushRefused, match="not on Sundays"):
        push(pizza)
    assert seen[0][0] == REPO
    assert "README.md" in seen[0][1]
    assert hub.store.repositories == {}


def test_unknown_licence_is_asked_for(hub, pizza):
    with pytest.raises(PushRefused, match="license='ID'"):
        hub_cards.push(pizza, REPO)
    assert {item.method for item in hub.log} == {"GET"}
    assert hub.store.repositories == {}


def test_only_listed_files_of_a_saved_folder_are_pushed(hub, pizza, tmp_path):
    import shutil

    from erase_plugins.artifacts.artifact import Artifact

    shutil.copytree(pizza.path, tmp_path / "copy")
    (tmp_path / "copy" / "secret.txt").write_text("x")
    push(tmp_path / "copy")
    assert "secret.txt" not in hub.files(REPO)
    with pytest.raises(ArtifactError, match="save it first"):
        push(Artifact(pizza.manifest, pizza.edit))


def test_what_people_wrote_on_the_page_is_kept(hub, pizza, hamburger):
    push(pizza)
    text = hub.files(REPO)["README.md"].decode()
    mine = text.replace("<!-- user -->\n", "<!-- user -->\nMy own words \\1.\n").replace("## Limits", "## Spoiled")
    outside(README_md=mine.encode())
    done = push(hamburger)
    now = hub.files(REPO)["README.md"].decode()
    assert "<!-- user -->\nMy own words \\1.\n<!-- /user -->" in now
    assert "## Limits" in now
    assert "-## Spoiled" in done.bundle.diff
    assert push(hamburger).sent == ()

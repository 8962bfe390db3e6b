"""Hostile repositories, pulled and named with xet on and off: one line each, and nothing is changed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

import hub_cards
from erase_plugins import apply
from erase_plugins.artifacts.manifest import ArtifactFile
from erase_plugins.errors import EraseError, HubError
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.collection import build_collection
from tests.artifacts.fuzz import snapshot, unchanged
from tests.hub.conftest import REPO, contents, shared_blobs
from tests.hub.hostile import MANIFEST, WEIGHTS, cases

LIBRARY = "tester/library"
SECONDS = 5


@pytest.fixture(params=["xet on", "xet off"])
def client(request, xet_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "xet off")
    return xet_hub


def publish(hub, repo, files):
    """Another state of a repository, as a new commit, without asking anybody."""
    entries = {
        name: hub.store.entry(hub.store.put(data), name.endswith(".safetensors") and bool(data))
        for name, data in files.items()
    }
    repository = hub.store.repository(repo)
    repository.branches["main"] = repository.add(repository.commit(), "x", "", "x", entries).oid


def around(place):
    """Everything outside the client's cache: what a pull must leave alone."""
    return contents(place, but=(Path(constants.HF_HUB_CACHE), place / "hub-xet"))


def test_hostile_repositories(client, made, tmp_path, capsys):
    hub_cards.push(made["pizza"], REPO, license="mit")
    shelf = {name: item.save(tmp_path / "made" / name, ("patch",)) for name, item in made.items()}
    hub_cards.push_collection(build_collection(shelf, tmp_path / "library"), LIBRARY, license="mit")
    sound = {repo: hub_files(client, repo) for repo in (REPO, LIBRARY)}
    pipe = shared_pipeline("tiny_sd1")
    before, outside, problems, slowest, count = snapshot(pipe), around(tmp_path), [], 0.0, 0
    for case in cases():
        repo = LIBRARY if case.collection else REPO
        files = dict(sound[repo])
        case.change(files)
        publish(client, repo, files)
        spec = case.spec.replace("{repo}", repo) + ("#pizza" if case.collection else "")
        out = tmp_path / "out"
        ways = {
            "pull": lambda spec=spec, case=case: (
                hub_cards.pull_collection(spec, into=out) if case.collection
                else hub_cards.pull(spec, out, layouts=case.layouts)
            ),
            "hub:": lambda spec=spec: apply(pipe, f"hub:{spec}").remove(),
        }  # fmt: skip
        for way, action in ways.items():
            count += 1
            started = time.process_time()
            try:
                action()
            except EraseError as error:
                text = str(error)
                if "\n" in text or len(text) > 700 or str(tmp_path) in text:
                    problems.append(f"{way} {case.name}: message {text[:300]!r}")
            except BaseException as error:
                problems.append(f"{way} {case.name}: {type(error).__name__}: {str(error)[:300]}")
            else:
                problems.append(f"{way} {case.name}: passed")
            slowest = max(slowest, time.process_time() - started)
            if slowest > SECONDS:
                problems.append(f"{way} {case.name}: {slowest:.1f} s")
                slowest = 0
            if around(tmp_path) != outside or out.exists():
                problems.append(f"{way} {case.name}: wrote outside the cache")
                break
    assert problems == []
    assert unchanged(pipe, before)
    assert count >= 220
    publish(client, REPO, sound[REPO])
    assert hub_cards.pull(REPO).name == "erase_pizza"
    with capsys.disabled():
        print(f" {count} hostile pulls", end="")


def hub_files(hub, repo):
    return dict(hub.files(repo))


# ---- limits before the download -------------------------------------------------------------------------------------


def test_ten_thousand_files_are_chosen_from_at_once(pizza):
    rows = [ArtifactFile(f"f{number}.safetensors", "kohya", "0" * 64, 1) for number in range(10_000)]
    manifest = replace(pizza.manifest, files=(*pizza.manifest.files, *rows))
    started = time.process_time()
    assert len(manifest.wanted(["kohya"])) == 10_002
    assert len(replace(manifest, files=tuple(rows)).wanted(())) == 10_000
    assert time.process_time() - started < 3


def downloaded(hub, name):
    return hub.downloaded(f"GET .*(/resolve/.*/{name}|/cdn/)")


@pytest.mark.parametrize(
    ("name", "size"), [("erase.json", 8_000_001), ("edit.safetensors", 50_000_000), ("collection.json", 64_000_001)]
)
def test_what_is_too_large_is_refused_before_it_comes(client, made, tmp_path, name, size):
    hub_cards.push(made["pizza"], REPO, license="mit")
    library = build_collection(made, tmp_path / "library")
    hub_cards.push_collection(library, LIBRARY, license="mit")
    repo = LIBRARY if name == "collection.json" else REPO
    publish(client, repo, {**client.files(repo), name: bytes(size)})
    before, tokens = client.downloaded("GET .*/resolve/"), client.count("xet-read-token")
    with pytest.raises(
        HubError, match=rf"{name} has {size} bytes, (such a file has \d+ at most|the manifest says \d+)"
    ):
        hub_cards.pull_collection(repo) if repo == LIBRARY else hub_cards.pull(repo)
    assert client.downloaded("GET .*/resolve/") - before < 100_000
    assert client.count("xet-read-token") == tokens
    assert shared_blobs() == []


def test_a_member_of_a_collection_is_not_larger_than_listed(client, made, tmp_path):
    hub_cards.push_collection(build_collection(made, tmp_path / "library"), LIBRARY, license="mit")
    publish(client, LIBRARY, {**client.files(LIBRARY), f"pizza/{WEIGHTS}": bytes(50_000_000)})
    with pytest.raises(HubError, match="has 50000000 bytes, the manifest says"):
        hub_cards.pull_collection(LIBRARY, "pizza")
    with pytest.raises(HubError, match="has 50000000 bytes, the manifest says"):
        apply(shared_pipeline("tiny_sd1"), f"hub:{LIBRARY}#pizza,hamburger")
    assert client.downloaded() < 5_000_000


def test_a_file_without_manifest_has_a_limit(client, pizza, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr("hub_cards.fetching.MOST_PLAIN", 10_000)
    HfApi().create_repo("tester/plain")
    publish(client, "tester/plain", {"lora.safetensors": bytes(10_001)})
    with pytest.raises(HubError, match="has 10001 bytes, such a file has 10000 at most"):
        hub_cards.pull("tester/plain")
    assert client.downloaded("GET .*/resolve/") == 0


def test_a_full_disk_is_told_before_the_download(client, pizza, monkeypatch):
    import shutil
    from types import SimpleNamespace

    hub_cards.push(pizza, REPO, license="mit")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=20_000))
    with pytest.raises(
        HubError, match=r"edit\.safetensors of tester/no-pizza has \d+ bytes and the disk .* 20000 free"
    ):
        hub_cards.pull(REPO)
    assert client.count("GET .*/resolve/.*safetensors") == 0


def test_a_manifest_that_lists_too_much_is_refused_before_its_files(client, pizza):
    import json

    hub_cards.push(pizza, REPO, license="mit")
    files = client.files(REPO)
    data = json.loads(files[MANIFEST])
    first = data["files"][0]
    data["files"] = [{**first, "name": f"f{number}.safetensors"} for number in range(10_000)]
    publish(client, REPO, {**files, MANIFEST: json.dumps(data).encode()})
    with pytest.raises(HubError, match="lists 10000 files"):
        hub_cards.pull(REPO, layouts=["all"])
    assert client.count("GET .*/resolve/.*safetensors") == 0


@pytest.mark.parametrize("form", ["HF_HUB_DISABLE_SYMLINKS", None])
@pytest.mark.parametrize("name", [MANIFEST, "lora.safetensors"])
def test_bytes_that_change_on_the_way_are_noticed_and_fetched_again(client, pizza, monkeypatch, form, name):
    """Also in a cache of plain copies, where no name tells the hash."""
    from huggingface_hub import HfApi

    if form:
        monkeypatch.setattr(constants, form, True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    repo = REPO if name == MANIFEST else "tester/plain"
    if name == MANIFEST:
        hub_cards.push(pizza, REPO, license="mit")
    else:
        HfApi().create_repo(repo)
        publish(client, repo, {name: (pizza.path / WEIGHTS).read_bytes()})
    client.fault(f"GET .*/resolve/.*/{name}", "wrong bytes", times=0)
    with pytest.raises(HubError, match="damaged"):
        hub_cards.pull(repo)
    client.faults.clear()
    client.fault(f"GET .*/resolve/.*/{name}", "wrong bytes", times=1)
    if form:
        with pytest.raises(HubError, match="damaged"):
            hub_cards.pull(repo)
    assert len(hub_cards.pull(repo).edit)

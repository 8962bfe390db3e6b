"""Collections on the Hub: few commits, few bytes, never a mixture, merged on this machine."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import HfApi, constants

import erase_plugins as ep
import hub_cards
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Edit
from erase_plugins.errors import ArtifactError, HubError, PushRefused, RequestError, UnknownName
from erase_plugins.types import Concept
from erase_plugins.workflow.collection import INDEX, Collection, build_collection
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import contents

REPO = "tester/library"


def push(library, repo=REPO, **options):
    return hub_cards.push_collection(library, repo, **{"license": "mit", **options})


@pytest.fixture
def library(made, tmp_path):
    """Pizza and hamburger as a collection."""
    return build_collection([made["pizza"], made["hamburger"]], tmp_path / "library")


def commits(hub, repo=REPO):
    return [item.title for item in hub.store.repository(repo).history()]


# ---- round trip ---------------------------------------------------------------------------------------------------


def test_what_is_pulled_equals_what_was_pushed(hub, library, tmp_path):
    done = push(library)
    assert commits(hub) == ["2 erased concepts", "initial commit"]
    assert set(hub.files(REPO)) == {*contents(library.path), "README.md"}
    assert done.commit == hub.store.repository(REPO).commit().oid
    pulled = hub_cards.pull_collection(REPO, ["pizza", "hamburger"], tmp_path / "mine", layouts=["all"])
    assert contents(tmp_path / "mine") == contents(library.path)
    assert pulled.path == tmp_path / "mine"
    assert pulled.entries == library.entries


def test_the_index_alone_says_what_is_there(hub, library):
    push(library)
    before = len(hub.log)
    found = hub_cards.pull_collection(REPO)
    assert found.names() == library.names()
    assert [item.path.rsplit("/", 1)[1] for item in hub.log[before:] if item.method == "GET"] == [INDEX]


def test_names_and_concepts_and_close_matches(hub, library):
    push(library)
    assert hub_cards.pull_collection(f"{REPO}#Pizza").load("pizza")[0].name == "erase_pizza"
    with pytest.raises(UnknownName, match="did you mean 'pizza'"):
        hub_cards.pull_collection(REPO, ["piza"])
    with pytest.raises(RequestError, match="no name after '#'"):
        hub_cards.pull_collection(f"{REPO}#")
    with pytest.raises(RequestError, match="use 'collection pull'"):
        hub_cards.pull(f"{REPO}#pizza")


def test_a_second_pull_adds_to_the_folder(hub, library, tmp_path):
    push(library)
    hub_cards.pull_collection(REPO, "pizza", tmp_path / "mine")
    assert hub_cards.pull_collection(REPO, "hamburger", tmp_path / "mine").names() == library.names()
    assert sorted(contents(tmp_path / "mine")) == sorted(
        [INDEX, *(f"{name}/{file}" for name in library.names() for file in ("edit.safetensors", "erase.json"))]
    )
    Collection.open(tmp_path / "mine").load()


def test_merged_on_this_machine(hub, library, made, tmp_path):
    push(library)
    expected = ep.merge([made["pizza"], made["hamburger"]])
    found = hub_cards.merged(REPO, ["hamburger", "pizza"])
    assert not difference(found.edit, expected.edit)
    assert not difference(ep.load_artifact(f"hub:{REPO}#pizza,hamburger").edit, expected.edit)
    assert not difference(ep.load_artifact(f"hub:{REPO}#pizza").edit, made["pizza"].edit)
    before = len(hub.log)
    ep.load_artifact(f"hub:{REPO}#hamburger,pizza")
    assert [item for item in hub.log[before:] if item.method == "GET"] == []
    with pytest.raises(RequestError, match="name the artifacts"):
        hub_cards.merged(REPO)


def test_offline(hub, library, monkeypatch):
    push(library)
    hub_cards.pull_collection(REPO, "pizza")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.log)
    assert hub_cards.pull_collection(REPO, "pizza", offline=True).present() == ("erase_pizza",)
    assert ep.load_artifact(f"hub:{REPO}#pizza").name == "erase_pizza"
    with pytest.raises(HubError, match="not in the local cache"):
        hub_cards.pull_collection(REPO, "hamburger")
    assert len(hub.log) == before


def test_a_collection_is_told_from_an_artifact(hub, library, pizza):
    push(library)
    hub_cards.push(pizza, "tester/one", license="mit")
    with pytest.raises(HubError, match="is a collection; name artifacts"):
        ep.load_artifact(f"hub:{REPO}")
    with pytest.raises(HubError, match="it is not a collection"):
        hub_cards.pull_collection("tester/one", "pizza")
    with pytest.raises(PushRefused, match="holds a collection"):
        hub_cards.push(pizza, REPO, license="mit")
    with pytest.raises(PushRefused, match="holds an artifact"):
        push(library, "tester/one")


# ---- what a push sends --------------------------------------------------------------------------------------------


def test_only_what_differs_is_sent_and_what_is_gone_is_removed(hub, library, made, tmp_path):
    push(library)
    sent = hub.uploaded()
    assert push(library).sent == ()
    assert hub.uploaded() == sent
    smaller = build_collection([made["pizza"]], tmp_path / "smaller")
    done = push(smaller, prune=True)
    assert set(done.sent) == {INDEX, "README.md"}
    assert hub.uploaded() == sent
    assert set(hub.files(REPO)) == {*contents(smaller.path), "README.md"}
    assert all(name.startswith("erase_hamburger/") for name in done.bundle.removed)


def test_only_listed_files_are_pushed(hub, library):
    (library.path / "secret.txt").write_text("x")
    (library.path / "erase_pizza" / "notes.txt").write_text("x")
    (library.path / "unlisted").mkdir()
    (library.path / "unlisted" / "erase.json").write_text("{}")
    push(library)
    assert not {name for name in hub.files(REPO) if "secret" in name or "notes" in name or "unlisted" in name}


def test_a_partial_collection_is_not_pushed(hub, library, tmp_path):
    push(library)
    part = hub_cards.pull_collection(REPO, "pizza", tmp_path / "part")
    with pytest.raises(ArtifactError, match=r"layouts=\['all'\]"):
        push(part, "tester/part")
    with pytest.raises(ArtifactError, match="was not fetched"):
        push(hub_cards.pull_collection(REPO, "pizza"), "tester/part")
    assert "tester/part" not in hub.store.repositories


def test_the_card(hub, library):
    from huggingface_hub import ModelCard

    push(library)
    text = hub.files(REPO)["README.md"].decode()
    ModelCard(text).validate()
    data = ModelCard(text).data.to_dict()
    assert data["erased"] == ["hamburger", "pizza"]
    assert {"erase-plugins", "erase-collection", "sd1"} <= set(data["tags"])
    assert f"erase-plugins collection pull {REPO} erase_hamburger erase_pizza --into mine" in text
    (found,) = hub_cards.search(concept="pizza")
    assert found.collection


def test_a_card_with_hostile_concepts_is_inert(hub, made, tmp_path):
    evil = "</td><script>x</script> | ](http://x) \n---\n`"
    artifact = made["pizza"].with_manifest(concepts=(Concept(evil),), name="evil")
    library = build_collection([Artifact(artifact.manifest, artifact.edit)], tmp_path / "lib")
    push(library)
    text = hub.files(REPO)["README.md"].decode()
    body = text.split("---\n", 2)[2]
    assert "<script" not in body
    assert "](http://x)" not in body


# ---- many ---------------------------------------------------------------------------------------------------------

MANY = 500


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """500 artifacts of different bytes, about the size of a small one-concept edit."""
    from erase_plugins.artifacts.manifest import Manifest, describe_base
    from erase_plugins.testing.models import shared_pipeline
    from erase_plugins.workflow.models import as_target

    base = describe_base(as_target(shared_pipeline("tiny_sd1")))
    width = base["width"]

    def artifact(number):
        generator = torch.Generator().manual_seed(number)
        A, B = torch.randn(16, width, generator=generator), torch.randn(width, 16, generator=generator)
        edit = Edit("sd1", {"unet": {CONTEXT: ContextMap(A, B)}})
        return Artifact(
            Manifest(f"erase_artist_{number:03}", {"id": "uce"}, (Concept(f"Artist {number}", "style"),), base=base),
            edit,
        )

    return build_collection(map(artifact, range(MANY)), tmp_path_factory.mktemp("many") / "library")


def test_500_artifacts_in_a_handful_of_commits_and_three_for_few_bytes(hub, many, capsys):
    done = push(many)
    assert len(done.sent) == sum(1 for item in many.path.rglob("*") if item.is_file()) + 1
    made = len(commits(hub)) - 1
    assert made == hub.count("POST .*/commit/") <= 5
    whole = sum(len(data) for data in hub.files(REPO).values())
    sent = hub.uploaded()
    before = len(hub.log)
    library = hub_cards.pull_collection(REPO, ["Artist 7", "artist 123", "erase_artist_499"])
    assert [item.name for item in library.load()] == ["erase_artist_007", "erase_artist_123", "erase_artist_499"]
    fetched = sum(item.answered for item in hub.log[before:])
    assert fetched < 0.02 * whole
    assert push(many).sent == ()
    assert hub.uploaded() == sent
    with capsys.disabled():
        print(
            f" {len(many.entries)} artifacts, {len(done.sent)} files, {whole} bytes: {made} commits; 3 of them: {fetched} bytes, "
            f"{100 * fetched / whole:.2f} %; second push: {hub.uploaded() - sent} weight bytes",
            end="",
        )


def test_a_push_in_parts_counts_with_its_last_part_only(hub, many, monkeypatch, tmp_path):
    some = build_collection(many.load(many.names()[:40]), tmp_path / "some")  # 122 files
    monkeypatch.setattr("hub_cards.sending.MOST_FILES", 40)
    hub.fault("POST .*/commit/", 500, times=0, after=2)
    with pytest.raises(HubError, match="2 of 4 parts are there and do not count yet: run the same command again"):
        push(some)
    hub.faults.clear()
    assert INDEX not in hub.files(REPO)
    with pytest.raises(HubError, match="not a collection"):
        hub_cards.pull_collection(REPO, "Artist 7")
    before = hub.uploaded()
    done = push(some)
    assert len(done.sent) == 122 - 80
    assert hub.uploaded() == sum(len(data) for name, data in hub.files(REPO).items() if name.endswith(".safetensors"))
    assert hub.uploaded() - before <= 40 * 20_000
    assert commits(hub) == ["40 erased concepts (part 2 of 2)", "40 erased concepts (part 1 of 2)",
                            "40 erased concepts (part 2 of 4)", "40 erased concepts (part 1 of 4)", "initial commit"]  # fmt: skip
    hub_cards.pull_collection(REPO, "Artist 7")


# ---- command line -------------------------------------------------------------------------------------------------


def test_the_commands(hub, made, erase, tmp_path):  # noqa: F811
    ran = erase("collection", "build", made["pizza"].path.parent, "--out", tmp_path / "lib", "--json")
    assert ran.code == 0, ran.err
    assert [item["name"] for item in ran.data["artifacts"]] == ["hamburger", "pizza"]
    assert erase("collection", "build", made["pizza"].path, "--out", tmp_path / "lib").code == 2
    assert erase("collection", "build", made["pizza"].path, "--out", tmp_path / "lib", "--append").code == 0
    dry = erase("collection", "push", tmp_path / "lib", REPO, "--license", "mit", "--dry-run")
    assert "nothing was changed" in dry.out
    assert hub.store.repositories == {}
    ran = erase("collection", "push", tmp_path / "lib", REPO, "--license", "mit", "--json")
    assert ran.data["commit"] == hub.store.repository(REPO).commit().oid
    ran = erase("collection", "list", f"hub:{REPO}", "--find", "pizz")
    assert "1 of 2 artifacts" in ran.out
    ran = erase("collection", "pull", REPO, "pizza", "--into", tmp_path / "mine", "--json")
    assert ran.code == 0, ran.err
    assert [item["name"] for item in ran.data["artifacts"]] == ["pizza"]
    (tmp_path / "names.txt").write_text("pizza\n# no\nhamburger\n")
    ran = erase(
        "collection",
        "pull",
        REPO,
        "--names-file",
        tmp_path / "names.txt",
        "--merge",
        "--into",
        tmp_path / "one",
        "--json",
    )
    assert ran.code == 0, ran.err
    assert sorted(ran.data["artifact"]["erased"]) == ["hamburger", "pizza"]
    assert json.loads((tmp_path / "one" / "erase.json").read_text())["name"] == "erase_hamburger_pizza"
    assert "collection list" in erase("collection", "pull", REPO).err
    assert erase("collection", "pull", REPO, "piza").code == 2
    assert HfApi().repo_exists(REPO)

"""Search: through the client's listing, by name, concept, tag and base; cards of strangers may hold anything."""

from __future__ import annotations

from contextlib import suppress

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.utils import yaml_dump

import hub_cards
from erase_plugins.errors import HubError, RequestError
from erase_plugins.workflow.collection import build_collection
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def publish(repo, **card):
    """A repository with nothing but a card."""
    HfApi().create_repo(repo)
    data = {"license": "mit", **card, "tags": ["erase-plugins", *card.get("tags", [])]}
    text = f"---\n{yaml_dump(data)}---\n# x\n".encode()
    HfApi().create_commit(repo, [CommitOperationAdd("README.md", text)], commit_message="x")


@pytest.fixture
def shelf(hub):
    publish("tester/van-gogh", base_model=SDXL, base_model_relation="adapter", erased=["Van Gogh"], tags=["sdxl"],
            erasure={"family": "sdxl", "method": "esd"})  # fmt: skip
    publish("tester/painters", erased=["Monet", "Van Gogh", "Dalí"], tags=["erase-collection"])
    publish(
        "tester/gogh-sd1", erased=["Vincent van Gogh"], erasure={"family": "sd1", "base": "pocket", "method": "uce"}
    )
    HfApi().create_repo("tester/unrelated-van-gogh")
    hub.store.repository("tester/painters").downloads = 7
    return hub


def names(*words, **options):
    return [item.id.removeprefix("tester/") for item in hub_cards.search(*words, **options)]


def test_what_is_found(shelf):
    assert names() == ["painters", "gogh-sd1", "van-gogh"]
    assert names("painters") == ["painters"]
    assert names("gogh sd1") == ["gogh-sd1"]
    assert names("MONET") == names(concept="monet") == ["painters"]
    assert names(concept="van gogh") == ["painters", "van-gogh", "gogh-sd1"]  # the exact ones first, then by downloads
    assert names(base_model=SDXL) == names(base_model="sdxl") == names(tags=["sdxl"]) == ["van-gogh"]
    assert names(base_model="pocket") == names(base_model="sd1") == ["gogh-sd1"]
    assert names("nothing at all") == names(base_model="a/b") == []
    assert len(names(limit=2)) == 2
    with pytest.raises(RequestError, match="positive"):
        names(limit=0)


def test_what_a_result_says(shelf):
    (found,) = hub_cards.search(base_model=SDXL)
    head = shelf.store.repository("tester/van-gogh").commit().oid
    assert (found.revision, found.concepts, found.base, found.family) == (head, ("Van Gogh",), SDXL, "sdxl")
    assert (found.method, found.downloads, found.private, found.collection) == ("esd", 0, False, False)
    assert f"base_model:{SDXL}" in found.tags
    assert hub_cards.search("painters")[0].collection


def test_another_endpoint(shelf):
    from erase_plugins.testing import HubServer

    with HubServer() as other:
        assert hub_cards.search(endpoint=other.url) == []
    assert len(hub_cards.search(endpoint=shelf.url)) == 3


def test_what_was_pushed_is_found(hub, pizza):
    hub_cards.push(pizza, REPO, license="mit")
    (found,) = hub_cards.search(concept="pizza")
    assert (found.id, found.concepts, found.revision) == (REPO, ("pizza",), hub.store.repository(REPO).commit().oid)


@pytest.mark.parametrize(
    "erased", ["text", 7, {"a": 1}, [["x"], None, 3], ["a\x1b[31mred\u202e\nline" + "x" * 999], None]
)
def test_cards_may_hold_anything(hub, erased):
    publish("tester/odd", erased=erased, erasure=[1], base_model=["a/b", "c/d"], tags=[])
    (found,) = hub_cards.search()
    assert found.base == "a/b"
    assert all(text.isprintable() and len(text) <= 300 for text in found.concepts)
    assert "\x1b" not in str(found.to_dict())


@pytest.mark.parametrize(
    "card", [{"ignore_metadata_errors": True}, {"self": 1}, {"to_dict": 1}, {"eval_results": [1]},
             {"model-index": "x"}],
    ids=str,
)  # fmt: skip
def test_no_card_of_a_stranger_ends_a_search(shelf, card):
    """The client makes an object of every card on its way, and of these it cannot."""
    publish("tester/odd", tags=[])
    shelf.store.repository("tester/odd").downloads = 100
    entry = shelf.store.repository("tester/odd").commit().files["README.md"]
    shelf.store.cards[entry.sha256] = {"tags": ["erase-plugins"], **card}
    assert names() == ["odd", "painters", "gogh-sd1", "van-gogh"]


def test_the_command(shelf, erase):  # noqa: F811
    ran = erase("search", "van", "gogh", "--json")
    assert ran.code == 0, ran.err
    assert [item["id"] for item in ran.data["found"]] == ["tester/painters", "tester/van-gogh", "tester/gogh-sd1"]
    ran = erase("search", "--concept", "monet")
    assert "tester/painters" in ran.out
    assert "hub:tester/painters#NAME" in ran.out
    assert "nothing fits" in erase("search", "nobody").out


def test_a_collection_is_found_by_the_hubs_own_search_for_a_member(hub, pizza, hamburger, tmp_path, monkeypatch):
    """However many repositories there are: the Hub looks for the tag, before any card is read along."""
    library = build_collection({"a": pizza, "b": hamburger}, tmp_path / "lib")
    hub_cards.push_collection(library, "tester/lib", license="mit")
    assert [item.id for item in HfApi().list_models(filter=["erased:hamburger"])] == ["tester/lib"]
    publish("tester/more", erased=["nothing"])
    hub.store.repository("tester/more").downloads = 100
    monkeypatch.setattr("hub_cards.searching.MOST_READ", 1)
    assert names(concept="hamburger") == ["lib"]
    assert hub.count(r"GET /api/models\?.*filter=erased%3Ahamburger") >= 1


def test_tags_of_members_end_at_what_the_hub_takes(hub, pizza):
    from hub_cards.searching import MOST_TAGS, erased_tags

    assert erased_tags(["A b", "a  B", "x"]) == ["erased:a-b", "erased:x"]
    assert len(erased_tags(map(str, range(500)))) == MOST_TAGS


def test_a_push_goes_on_a_list_of_the_hub(hub, pizza, hamburger, erase):  # noqa: F811
    for artifact, repo in ((pizza, REPO), (hamburger, "tester/no-hamburger"), (pizza, REPO)):
        ran = erase("push", artifact.path, repo, "--license", "mit", "--hub-collection", "Food gone", "--json")
        assert ran.code == 0, ran.err
    found = HfApi().get_collection(ran.data["hub_collection"].split("/collections/")[1])
    assert (found.title, found.private) == ("Food gone", False)
    assert [item.item_id for item in found.items] == [REPO, "tester/no-hamburger"]
    dry = erase("push", pizza.path, "tester/x", "--license", "mit", "--hub-collection", "Other", "--dry-run", "--json")
    assert "hub_collection" not in dry.data
    assert len(hub.store.collections) == 1


@pytest.mark.parametrize("fault", [429, 500, "reset", "truncated", "wrong bytes"])
def test_faults_end_in_one_clear_error(shelf, fault):
    shelf.fault("GET /api/models\\?", fault, times=0)
    if fault == "wrong bytes":  # one flipped bit may still be a sound answer
        with suppress(HubError):
            hub_cards.search("gogh")
        return
    with pytest.raises(HubError, match=r"^cannot search on the Hub: [^\n]*$") as caught:
        hub_cards.search("gogh")
    assert shelf.token not in str(caught.value)

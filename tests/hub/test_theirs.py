"""What somebody else put into a repository stays: their files, their page, their organisation's rules."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from PIL import Image

import hub_cards
from erase_plugins import Concept
from erase_plugins.errors import PushRefused
from erase_plugins.page.space import space_files
from erase_plugins.workflow.collection import build_collection
from hub_cards.other_pushes import push_space
from tests.hub.conftest import REPO
from tests.hub.test_additive import by_hand, data, page
from tests.hub.test_card import report

LORA = "pytorch_lora_weights.safetensors"
LICENCE = "---\nlicense: mit\n---\n"


def theirs(files, repo=REPO, repo_type="model"):
    """A repository that somebody filled without us."""
    HfApi().create_repo(repo, repo_type=repo_type, space_sdk="gradio" if repo_type == "space" else None)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    HfApi().create_commit(repo, operations, commit_message="mine", repo_type=repo_type)


def push(artifact, **options):
    return hub_cards.push(artifact, REPO, **{"license": "mit", **options})


@pytest.mark.parametrize("way", ["artifact", "collection", "head or model", "space"])
def test_files_of_somebody_else_are_not_replaced(hub, pizza, tmp_path, way):
    mine = {"artifact": LORA, "collection": "a/erase.json", "head or model": "report.json", "space": "app.py"}[way]
    theirs({mine: b"mine", "README.md": b"# Mine\n"}, repo_type="space" if way == "space" else "model")
    place = f"space:{REPO}" if way == "space" else REPO
    before = hub.files(place)
    library = build_collection({"a": pizza}, tmp_path / "library")

    def send(**options):
        if way == "space":
            return push_space(pizza, REPO, space_files(pizza, REPO, copy=True), **options)
        if way == "collection":
            return hub_cards.push_collection(library, REPO, license="mit", **options)
        return push(pizza, report=report(pizza), **options)

    with pytest.raises(PushRefused, match=rf"not known as this program's and would be replaced: {mine}; .*prune=True"):
        send()
    assert hub.files(place) == before
    send(prune=True)
    assert hub.files(place)[mine] != b"mine"
    assert "<!-- user -->\n# Mine\n<!-- /user -->" in page(hub, place)
    assert send().sent == ()


def test_their_page_stays_as_text_of_theirs(hub, pizza, hamburger):
    theirs(
        {
            "README.md": b"---\nlicense: mit\ndatasets:\n- me/set\n---\n\n# My model\n\nWords of mine.\n",
            "notes.txt": b"x",
        }
    )
    push(pizza)
    kept = "<!-- user -->\n# My model\n\nWords of mine.\n<!-- /user -->"
    assert kept in page(hub)
    assert page(hub).count("# My model") == 1
    assert data(hub)["datasets"] == ["me/set"]
    push(hamburger)
    assert kept in page(hub)
    assert hub.files(REPO)["notes.txt"] == b"x"


@pytest.mark.parametrize("empty", [LICENCE, LICENCE.strip(), "", "\n"])
def test_the_page_that_the_hub_makes_leaves_nothing_behind(hub, pizza, empty):
    theirs({"README.md": empty.encode()})
    push(pizza)
    assert page(hub).endswith("\n<!-- user -->\n<!-- /user -->\n")


def test_a_page_of_ours_without_its_marks_is_not_taken_for_theirs(hub, pizza, hamburger):
    push(pizza)
    by_hand(**{"README.md": page(hub).split("<!-- user -->")[0]})
    push(hamburger)
    assert page(hub).endswith("\n<!-- user -->\n<!-- /user -->\n")


def test_a_concept_that_looks_like_the_marks_pushes_no_text_out(hub, pizza):
    odd = pizza.with_manifest(concepts=(Concept("<!-- user -->odd<!-- /user -->"),))
    odd = odd.save(pizza.path.parent / "odd", force=True)
    push(odd)
    mine = page(hub).replace("<!-- user -->\n<!-- /user -->", "<!-- user -->\nMine.\n<!-- /user -->")
    by_hand(**{"README.md": mine})
    push(odd)
    assert page(hub) == mine


def test_new_repositories_are_as_visible_as_their_organisation_wants(hub, pizza):
    """Without --private nothing is said about it: what is private by rule must not become public by a push."""
    hub.store.visibility["org"] = "private"
    done = hub_cards.push(pizza, "org/no-pizza", license="mit")
    assert hub.store.repository("org/no-pizza").private
    assert done.bundle.private
    push(pizza)
    assert not hub.store.repository(REPO).private


def test_pictures_behind_links_are_not_sent(hub, pizza, tmp_path):
    """A report that came from somebody else must not publish a picture from elsewhere on this machine."""
    Image.new("RGB", (4, 4)).save(tmp_path / "private.png")
    place = tmp_path / "measured"
    place.mkdir()
    (place / "contact_sheet.png").symlink_to(tmp_path / "private.png")
    Image.new("RGB", (4, 4)).save(place / "chart.png")
    found = report(pizza, files={"contact_sheet": "contact_sheet.png", "chart": "chart.png"})
    (place / "report.json").write_text(json.dumps(found.to_dict()))
    push(pizza, report=place)
    assert {name for name in hub.files(REPO) if name.startswith("images/")} == {"images/chart.png"}


@pytest.mark.parametrize("name", ["report.json", "images/pairs.json"])
def test_published_evidence_that_cannot_be_read_stops_no_push(hub, pizza, name):
    push(pizza)
    by_hand(**{name: '{"pairs":' + "[" * 100_000 + "]" * 100_000 + "}"})
    assert "README.md" not in push(pizza).sent

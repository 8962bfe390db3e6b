"""What is published stays until somebody asks for its removal, and is never shown as if it were about other weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, RepoCard
from PIL import Image

import hub_cards
from erase_plugins.errors import PushRefused
from erase_plugins.page.space import space_files
from erase_plugins.testing.models import fresh_pipeline, shared_pipeline
from erase_plugins.workflow.collection import build_collection
from erase_plugins.workflow.pairs import draw_pairs
from hub_cards.other_pushes import push_space
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO
from tests.hub.test_card import report

LIBRARY, MODEL = "tester/library", "tester/model"


def push(artifact, repo=REPO, **options):
    return hub_cards.push(artifact, repo, **{"license": "mit", **options})


def page(hub, repo=REPO):
    return hub.files(repo)["README.md"].decode()


def data(hub, repo=REPO):
    return RepoCard(page(hub, repo)).data.to_dict()


def by_hand(repo=REPO, repo_type="model", **files):
    """Somebody's own commit through the web page."""
    operations = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
    HfApi().create_commit(repo, operations, commit_message="by hand", repo_type=repo_type)


def edited(hub, repo=REPO, **changes):
    """The published page with other front matter."""
    card = RepoCard(page(hub, repo))
    for key, value in changes.items():
        setattr(card.data, key.replace("__", "-"), value)
    by_hand(repo, **{"README.md": str(card)})


@pytest.fixture(scope="module")
def drawn(made):
    return draw_pairs(made["pizza"], model=shared_pipeline("tiny_sd1"), prompts=["a pizza", "a plate"], steps=2)


@pytest.fixture
def measured(pizza, tmp_path):
    """The folder that an evaluation of pizza wrote."""
    made = report(pizza, files={"report": "report.json", "contact_sheet": "contact_sheet.png", "chart": "chart.png"})
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "report.json").write_text(json.dumps(made.to_dict()))
    for name in ("contact_sheet", "chart"):
        Image.new("RGB", (4, 4)).save(tmp_path / "measured" / f"{name}.png")
    return tmp_path / "measured"


@pytest.fixture
def evident(hub, pizza, measured, drawn):
    """Pizza on the Hub with report, pictures and pairs; gives the published files."""
    push(pizza, report=measured, gallery=drawn)
    return hub.files(REPO)


# ---- an artifact --------------------------------------------------------------------------------------------------


def test_a_push_without_flags_leaves_the_evidence_as_it_is(hub, pizza, evident):
    assert {"report.json", "images/contact_sheet.png", "images/pair_2_after.png"} <= set(evident)
    done = push(pizza)
    assert hub.files(REPO) == evident
    assert (done.sent, done.bundle.removed) == ((), ())
    assert data(hub)["model-index"][0]["results"][0]["metrics"]
    assert len(data(hub)["widget"]) == 4


def test_a_new_report_leaves_the_pairs_and_new_pairs_the_report(hub, pizza, evident, drawn):
    push(pizza, report=report(pizza, judge_hash="again"))
    assert "images/pair_2_after.png" in hub.files(REPO)
    assert "images/contact_sheet.png" not in hub.files(REPO), "a picture of the report that was replaced"
    assert len(data(hub)["widget"]) == 4
    one = replace(
        drawn,
        pairs=drawn.pairs[:1],
        pictures={n: drawn.pictures[n] for n in (drawn.pairs[0].before, drawn.pairs[0].after)},
    )
    done = push(pizza, gallery=one)
    assert set(done.bundle.removed) == {"images/pair_2_before.png", "images/pair_2_after.png"}
    assert "report.json" in hub.files(REPO)
    assert "| erased concept still drawn | 96.9 %" in page(hub)


def test_the_same_report_without_its_folder_keeps_its_pictures(hub, pizza, evident, measured):
    push(pizza, report=json_report(measured))
    assert hub.files(REPO) == evident


def json_report(folder):
    from erase_plugins.evaluation.saved import read_report

    return read_report(folder)[0]


def test_evidence_about_other_weights_is_not_shown_and_not_thrown_away(hub, pizza, hamburger, evident, drawn, tmp_path):
    with pytest.raises(PushRefused, match=r"about other weights.*report\.json.*prune=True"):
        push(hamburger)
    with pytest.raises(PushRefused, match=r"about other weights.*images/pairs\.json"):
        push(hamburger, report=report(hamburger))
    assert hub.files(REPO) == evident
    push(hamburger, report=report(hamburger), gallery=drawn)
    assert "images/contact_sheet.png" not in hub.files(REPO)
    done = push(pizza, prune=True)
    assert {"report.json", "images/pairs.json"} <= set(done.bundle.removed)
    assert "Not measured." in page(hub)
    assert not {"widget", "model-index", "thumbnail"} & set(data(hub))
    assert not [name for name in hub.files(REPO) if name.startswith(("images/", "report"))]


def test_pictures_leave_when_asked_to(hub, pizza, evident):
    push(pizza, pictures=False)
    assert not [name for name in hub.files(REPO) if name.startswith("images/")]
    assert hub.files(REPO)["report.json"] == evident["report.json"]


def test_other_files_of_the_same_weights_are_still_the_same_weights(hub, pizza, evident, tmp_path):
    less = pizza.save(tmp_path / "less", ("patch",))
    done = push(less)
    assert "pytorch_lora_weights.safetensors" in done.bundle.removed, "or diffusers would load what no manifest lists"
    assert hub.files(REPO)["report.json"] == evident["report.json"]
    assert "96.9 %" in page(hub)


def test_what_people_wrote_into_the_front_matter_stays(hub, pizza, hamburger):
    push(pizza, adult=True)
    index = [{"name": "mine", "results": [{"task": {"type": "text-to-image"}, "dataset": {"name": "d", "type": "d"},
                                           "metrics": [{"type": "x", "value": 1.0}]}]}]  # fmt: skip
    edited(hub, datasets=["me/set"], extra_gated_prompt="Ask first.", tags=[*data(hub)["tags"], "my-own"],
           model__index=index)  # fmt: skip
    before = hub.files(REPO)
    done = push(pizza)
    assert done.sent in ((), ("README.md",))
    found = data(hub)
    assert (found["datasets"], found["extra_gated_prompt"]) == (["me/set"], "Ask first.")
    assert {"my-own", "not-for-all-audiences"} <= set(found["tags"])
    assert found["model-index"] == index
    assert push(pizza).sent == ()
    with pytest.raises(PushRefused, match=r"about other weights.*model-index"):
        push(hamburger)
    assert set(before) == set(hub.files(REPO))
    push(hamburger, prune=True)
    found = data(hub)
    assert "model-index" not in found
    assert found["datasets"] == ["me/set"]
    assert "erased:pizza" not in found["tags"]
    push(hamburger, adult=False)
    assert "not-for-all-audiences" not in data(hub)["tags"]


def test_the_published_licence_is_the_licence(hub, pizza):
    push(pizza, license="openrail")
    assert hub_cards.push(pizza, REPO).sent == ()
    assert data(hub)["license"] == "openrail"


def test_the_command_has_the_flag(hub, pizza, hamburger, evident, erase):  # noqa: F811
    ran = erase("push", hamburger.path, REPO, "--license", "mit")
    assert ran.code == 5
    assert "--prune" in ran.err
    assert ran.err.count("\n") == 1
    ran = erase("push", hamburger.path, REPO, "--license", "mit", "--prune", "--dry-run")
    assert ran.code == 0, ran.err
    assert "removed  report.json" in ran.out
    assert hub.files(REPO) == evident


# ---- a collection -------------------------------------------------------------------------------------------------


def push_library(library, **options):
    return hub_cards.push_collection(library, LIBRARY, **{"license": "mit", **options})


def test_artifacts_of_a_collection_leave_only_when_asked_for(hub, pizza, hamburger, tmp_path):
    push_library(build_collection({"a": pizza, "b": hamburger}, tmp_path / "both"))
    before = hub.files(LIBRARY)
    smaller = build_collection({"a": pizza}, tmp_path / "smaller")
    with pytest.raises(PushRefused, match=r"lacks 1 artifact .*: b;.*prune=True"):
        push_library(smaller)
    assert hub.files(LIBRARY) == before
    assert all(name.startswith("b/") for name in push_library(smaller, prune=True).bundle.removed)


def test_what_lies_beside_the_artifacts_of_a_collection_stays(hub, pizza, hamburger, tmp_path):
    push_library(build_collection({"a": pizza, "b": hamburger}, tmp_path / "one"))
    by_hand(LIBRARY, **{"report.json": "{}", "images/chart.png": "x", "a/report.json": "{}", "a/notes.txt": "mine"})
    edited(hub, LIBRARY, widget=[{"text": "x"}])
    push_library(build_collection({"a": pizza, "b": hamburger, "c": pizza}, tmp_path / "two"))
    found = hub.files(LIBRARY)
    assert {"report.json", "images/chart.png", "a/report.json", "a/notes.txt"} <= set(found)
    assert data(hub, LIBRARY)["widget"] == [{"text": "x"}]
    other = build_collection({"a": hamburger, "b": hamburger, "c": pizza}, tmp_path / "three")
    with pytest.raises(PushRefused, match=r"about other weights.*a/report\.json"):
        push_library(other)
    done = push_library(other, prune=True)
    assert {"report.json", "a/report.json", "images/chart.png"} <= set(done.bundle.removed)
    assert hub.files(LIBRARY)["a/notes.txt"] == b"mine"
    assert "a/erase_pizza_sd1_kohya.safetensors" not in hub.files(LIBRARY)


# ---- a full checkpoint, a Space -----------------------------------------------------------------------------------


def test_evidence_beside_a_full_checkpoint(hub, pizza, hamburger, tmp_path):
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")

    def push_full(artifact, **options):
        return hub_cards.push_merged(artifact, tmp_path / "base", MODEL, **{"license": "mit", **options})

    push_full(pizza)
    by_hand(MODEL, **{"report.json": "{}"})
    edited(hub, MODEL, widget=[{"text": "x"}])
    push_full(pizza)
    assert "report.json" in hub.files(MODEL)
    assert data(hub, MODEL)["widget"] == [{"text": "x"}]
    with pytest.raises(PushRefused, match="about other weights"):
        push_full(hamburger)
    push_full(hamburger, prune=True)
    assert "report.json" not in hub.files(MODEL)
    assert "widget" not in data(hub, MODEL)


def test_pairs_of_a_space(hub, pizza, hamburger, drawn):
    push_space(pizza, REPO, space_files(pizza, REPO, copy=True, gallery=drawn))
    place = f"space:{REPO}"
    before = hub.files(place)
    push_space(pizza, REPO, space_files(pizza, REPO, copy=True))
    assert hub.files(place) == before
    with pytest.raises(PushRefused, match="about other weights"):
        push_space(hamburger, REPO, space_files(hamburger, REPO, copy=True))
    push_space(hamburger, REPO, space_files(hamburger, REPO, copy=True), prune=True)
    assert "images/pairs.json" not in hub.files(place)

"""Pairs of pictures: really drawn with the same seeds, labelled, blurred where they should be, read back, published."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image, ImageChops, ImageStat

import hub_cards
from erase_plugins import Concept, EvalReport, load_artifact
from erase_plugins.api import generate
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.evaluation.sensitive import adults_only, blurred, to_blur
from erase_plugins.pocket.world import pocket_world
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.pairs import INDEX, choose_prompts, draw_pairs, picture, read_gallery
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO

PROMPTS = ("a pizza", "a plate")


@pytest.fixture(scope="module")
def drawn(made):
    return draw_pairs(made["pizza"], model=shared_pipeline("tiny_sd1"), prompts=PROMPTS, seed=7, steps=3)


def opened(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def detail(data):
    """Sum of brightness changes from pixel to pixel."""
    shown = opened(data).convert("L")
    return ImageStat.Stat(ImageChops.difference(shown, ImageChops.offset(shown, 1, 0))).mean[0]


def test_pairs_are_the_pictures_of_base_and_artifact(drawn, pizza):
    pipe = shared_pipeline("tiny_sd1")
    base = generate(pipe, PROMPTS, seeds=[7, 8], steps=3)
    edited = generate(pipe, PROMPTS, [pizza], seeds=[7, 8], steps=3)
    assert [(pair.prompt, pair.seed) for pair in drawn.pairs] == [("a pizza", 7), ("a plate", 8)]
    for turn, pair in enumerate(drawn.pairs):
        assert drawn.pictures[pair.before] == picture(base[turn])
        assert drawn.pictures[pair.after] == picture(edited[turn])
        assert drawn.pictures[pair.before] != drawn.pictures[pair.after]
    assert draw_pairs(pizza, model=pipe, prompts=PROMPTS, seed=7, steps=3) == drawn


def test_small_pictures_are_enlarged_and_say_which_side_they_are(drawn):
    files = drawn.files()
    assert set(files) == {INDEX, *drawn.pictures}
    for pair in drawn.pairs:
        raw, shown = opened(drawn.pictures[pair.before]), opened(files[pair.before])
        assert min(raw.size) >= 256
        width, height = raw.size
        assert (
            raw.crop((0, 0, width, height * 3 // 4)).tobytes() == shown.crop((0, 0, width, height * 3 // 4)).tobytes()
        )
        assert shown.getpixel((0, height - 1)) == (0, 0, 0)
    facts = json.loads(files[INDEX])
    assert (facts["strength"], facts["steps"], facts["blurred"]) == (1.0, 3, False)


def test_prompts_come_from_the_evaluation_or_from_the_concepts(pizza):
    prompts = {"target": ["a pizza", "a pizza"], "neighbour": ["a burger", "a fry"], "synonym": [], "kept": ["a dog"]}
    report = EvalReport("quick", "pocket", (), details={"prompts": prompts})
    assert choose_prompts(pizza.manifest, 4, report) == ["a pizza", "a burger", "a dog", "a fry"]
    assert choose_prompts(pizza.manifest, 3) == ["a pizza", "a plate", "a pizza"]
    assert choose_prompts(pizza.manifest, 1) == ["a pizza"]
    style = pizza.with_manifest(concepts=(Concept("Monet", "style"), Concept("Ada", "person")), preserve=())
    assert choose_prompts(style.manifest, 2) == ["a cat in the style of Monet", "a portrait of Ada"]
    assert pocket_world().concept("cat"), "for words that it does not know pocket draws something else"


@pytest.mark.parametrize(
    ("concept", "blur", "adult"),
    [
        (Concept("pizza"), False, False), (Concept("x", "explicit"), True, True), (Concept("Ada", "person"), True, False),
        (Concept("Nudity"), True, True), (Concept("a knife", extra={"group": "violence"}), True, True),
        (Concept("Monet", "style"), False, False),
    ],
)  # fmt: skip
def test_sensitive_groups(concept, blur, adult, pizza):
    both = (Concept("car"), concept)
    assert (to_blur(both), adults_only(both)) == (blur, adult)
    tags = ModelCard(hub_cards.card(pizza.with_manifest(concepts=both))).data.tags
    assert ("not-for-all-audiences" in tags) is adult
    for wish in (True, False):
        tags = ModelCard(hub_cards.card(pizza.with_manifest(concepts=both), adult=wish)).data.tags
        assert ("not-for-all-audiences" in tags) is wish


def test_blurred_pictures_hold_no_detail(drawn):
    hidden = drawn.blur()
    assert hidden.blurred
    assert hidden.blur() == hidden
    for name, data in drawn.pictures.items():
        assert opened(hidden.pictures[name]).size == opened(data).size
        assert detail(hidden.pictures[name]) < detail(data) / 2
    assert json.loads(hidden.index())["blurred"]
    lines = Image.new("RGB", (300, 200))
    lines.paste((255, 255, 255), (100, 50, 110, 60))
    out = io.BytesIO()
    lines.save(out, "PNG")
    assert opened(blurred(out.getvalue())).getextrema()[0][1] < 40


def test_what_was_written_reads_back_and_is_labelled_once(drawn, tmp_path):
    from erase_plugins.cli.pairs import write

    write(tmp_path / "README.md", "x", drawn, False)
    for place in (tmp_path, tmp_path / "images"):
        again = read_gallery(place)
        assert again.pairs == drawn.pairs
        assert again.files() == drawn.files()
    assert read_gallery(tmp_path).blur().blurred


def test_damaged_galleries_are_refused(drawn, tmp_path):
    from erase_plugins.cli.pairs import write

    with pytest.raises(ArtifactError, match="card --pairs 3"):
        read_gallery(tmp_path)
    write(tmp_path / "README.md", "x", drawn, False)
    good = (tmp_path / INDEX).read_text()
    (tmp_path / INDEX).write_text(good.replace("images/pair_1_before.png", "../../secret.png"))
    with pytest.raises(ArtifactError, match="should not"):
        read_gallery(tmp_path)
    (tmp_path / INDEX).write_text(good)
    (tmp_path / "images" / "pair_2_after.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(ArtifactError, match="no PNG"):
        read_gallery(tmp_path)
    (tmp_path / "images" / "pair_2_after.png").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        read_gallery(tmp_path)


def test_pairs_of_what_names_nothing_ask_what_to_draw(pizza):
    nameless = replace(pizza, manifest=replace(pizza.manifest, concepts=(), preserve=()))
    with pytest.raises(RequestError, match="does not say what it erases; name what to draw with prompts="):
        draw_pairs(nameless, 2)


def test_pairs_are_published_with_the_card(hub, pizza, drawn):
    hub_cards.push(pizza, REPO, license="mit", gallery=drawn)
    found = hub.files(REPO)
    assert {name: found[name] for name in drawn.files()} == drawn.files()
    text = found["README.md"].decode()
    data = ModelCard(text).data.to_dict()
    assert [item["output"]["url"] for item in data["widget"]] == list(drawn.pictures)
    assert [item["text"] for item in data["widget"]] == ["a pizza", "a pizza", "a plate", "a plate"]
    assert data["thumbnail"] == f"{hub.url}/{REPO}/resolve/main/images/pair_1_after.png"
    for name in drawn.pictures:
        assert f"]({name})" in text
    assert "Same prompt and same seed on both sides; strength 1, 3 steps" in text
    assert hub_cards.push(pizza, REPO, license="mit", gallery=drawn).sent == ()
    done = hub_cards.push(pizza, REPO, license="mit", prune=True)
    assert set(done.bundle.removed) == {INDEX, *drawn.pictures}


def test_sensitive_pictures_are_published_blurred(hub, pizza, drawn, tmp_path):
    person = pizza.with_manifest(concepts=(Concept("Ada", "person"),)).save(tmp_path / "ada", ("patch",))
    hub_cards.push(person, REPO, license="mit", gallery=drawn)
    assert hub.files(REPO)["images/pair_1_before.png"] == drawn.blur().files()["images/pair_1_before.png"]
    assert "blurred on purpose" in hub.files(REPO)["README.md"].decode()
    hub_cards.push(person, REPO, license="mit", gallery=drawn, blur=False)
    assert hub.files(REPO)["images/pair_1_before.png"] == drawn.files()["images/pair_1_before.png"]
    report = EvalReport("quick", "pocket", (), files={"contact_sheet": "contact_sheet.png"})
    (tmp_path / "report.json").write_text(json.dumps(report.to_dict()))
    sheet = drawn.pictures["images/pair_1_before.png"]
    (tmp_path / "contact_sheet.png").write_bytes(sheet)
    hub_cards.push(person, REPO, license="mit", report=tmp_path)
    assert hub.files(REPO)["images/contact_sheet.png"] == blurred(sheet)


def test_pairs_on_the_command_line(hub, pizza, erase, tmp_path, monkeypatch):  # noqa: F811
    import erase_plugins.workflow.models as loading

    monkeypatch.setattr(loading, "load_pipeline", lambda *_, **__: shared_pipeline("tiny_sd1"))
    place = tmp_path / "page" / "README.md"
    assert erase("card", pizza.path, "--pairs", "2").code == 2
    ran = erase("card", pizza.path, "--pairs", "2", "--model", "tiny", "--out", place, "--json")
    assert ran.code == 0, ran.err
    assert ran.data["pictures"] == [f"images/pair_{n}_{side}.png" for n in (1, 2) for side in ("after", "before")]
    assert place.read_text().count("![after](images/") == 2
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--gallery", place.parent, "--json")
    assert ran.code == 0, ran.err
    for name in (INDEX, *json.loads(erase("card", pizza.path, "--json").out)["pictures"]):
        assert hub.files(REPO)[name] == (place.parent / name).read_bytes()
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--pairs", "2", "--model", "tiny", "--dry-run")
    assert ran.code == 0, ran.err
    assert "same     images/pair_1_before.png" in ran.out
    assert load_artifact(pizza.path).name == "erase_pizza"
    assert Path(place).is_file()

"""Access keys and private texts: found wherever somebody's words go, named, and never sent."""

from __future__ import annotations

import io
import json
import re
import zipfile
from dataclasses import replace

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import hub_cards
from erase_plugins import Concept
from erase_plugins.errors import PushRefused
from erase_plugins.page.space import space_files
from erase_plugins.testing.models import fresh_pipeline, shared_pipeline
from erase_plugins.workflow.collection import build_collection
from erase_plugins.workflow.pairs import draw_pairs
from hub_cards.bundle import PushFile
from hub_cards.other_pushes import push_space
from hub_cards.pushing import check_files
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO
from tests.hub.test_card import report

# put together here, so that no scanner takes this file for a leak
KEYS = {
    "a Hugging Face token": "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3h",
    "an API key": "sk-" + "proj-Ab12Cd34Ef56Gh78Ij90Kl12",
    "a GitHub token": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "a GitLab token": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "an AWS access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "an AWS secret key": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "a Google API key": "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "a Slack token": "xoxb-" + "123456789012-abcdefghij",
    "a private key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "a login in an address": "https://me:" + "secret@example.org/x",
}
PERSONAL = {"an e-mail address": "ada.l@example.org", "a home folder": "/home/ada/pictures/cat.png"}
ALL = {**KEYS, **PERSONAL}
HARMLESS = [
    "a photo of a task-force", "risk-averse", "sk-learn", "hf_hub_download", "user@", "@all", "2 @ 3", "/homes/x",
    "a house at /home", "git+https://example.org/me/x@0123456789abcdef0123456789abcdef01234567", "1/2", "AKIA",
    "https://huggingface.co/me/x", "C:/data/Users", "0:30@noon", "ghp_short",
]  # fmt: skip


def push(artifact, **options):
    return hub_cards.push(artifact, REPO, **{"license": "mit", **options})


def refused(hub, what, action, where=""):
    """The action is refused, names kind and place, shows nothing of the text, and sent nothing."""
    text = ALL[what]
    with pytest.raises(PushRefused, match=re.escape(what)) as caught:
        action()
    said = str(caught.value)
    assert where in said, said
    assert "nothing was sent" in said
    assert text not in said
    assert text[4:] not in said
    assert hub.store.repositories == {}
    assert {item.method for item in hub.log} <= {"GET", "HEAD"}


@pytest.fixture(scope="module")
def pair(made):
    """A gallery of one pair."""
    return draw_pairs(made["pizza"], model=shared_pipeline("tiny_sd1"), prompts=["a pizza"], steps=2)


@pytest.fixture(scope="module")
def saved_base(tmp_path_factory):
    """A pipeline's folder; nothing writes into it."""
    place = tmp_path_factory.mktemp("saved") / "base"
    fresh_pipeline("tiny_sd1").save_pretrained(place)
    return place


@pytest.mark.parametrize("what", ALL)
def test_in_a_prompt_of_a_report(hub, pizza, what):
    found = report(pizza, details={"prompts": {"target": ["a pizza", f"a pizza, {ALL[what]} here"]}})
    refused(hub, what, lambda: push(pizza, report=found), "report.json (details.prompts.target[1])")


@pytest.mark.parametrize("what", ALL)
def test_in_a_manifest(hub, pizza, what, tmp_path):
    def saved(number, **changes):
        return pizza.with_manifest(**changes).save(tmp_path / f"made {number}", ("patch",)).path

    text = ALL[what]
    for number, changes in enumerate((
        {"preserve": (text,)}, {"options": {"file": text}}, {"notes": (text,)}, {"extra": {"x": [text]}},
        {"concepts": (Concept("pizza", prompts=(text,)),)}, {"base": {**pizza.manifest.base, "model": text}},
    )):  # fmt: skip
        place = saved(number, **changes)
        refused(hub, what, lambda place=place: push(place), "erase.json")


@pytest.mark.parametrize("what", ALL)
def test_in_pictures_and_messages(hub, pizza, pair, what, tmp_path):
    named = replace(pair, pairs=(replace(pair.pairs[0], prompt=ALL[what]),))
    refused(hub, what, lambda: push(pizza, gallery=named), "images/pairs.json (pairs[0].prompt)")
    refused(hub, what, lambda: push(pizza, message=f"for {ALL[what]}"), "the commit message")
    info = PngInfo()
    info.add_text("parameters", f"a pizza {ALL[what]}")
    Image.new("RGB", (4, 4)).save(tmp_path / "contact_sheet.png", pnginfo=info)
    (tmp_path / "report.json").write_text(
        json.dumps(report(pizza, files={"contact_sheet": "contact_sheet.png"}).to_dict())
    )
    refused(hub, what, lambda: push(pizza, report=tmp_path), "images/contact_sheet.png (parameters)")


@pytest.mark.parametrize("what", ALL)
def test_in_collections_checkpoints_and_spaces(hub, pizza, saved_base, what, tmp_path):
    kept = pizza.with_manifest(options={"note": ALL[what]}).save(tmp_path / "kept", ("patch",))
    library = build_collection([kept], tmp_path / "library")
    refused(hub, what, lambda: hub_cards.push_collection(library, REPO, license="mit"), "/erase.json (options.note)")
    files = space_files(kept, REPO, copy=True)
    refused(hub, what, lambda: push_space(kept, REPO, files), "artifact/erase.json (options.note)")
    full = lambda: hub_cards.push_merged(kept, saved_base, REPO, license="mit")  # noqa: E731
    refused(hub, what, full, "erase_merged.json (options.note)")


def test_where_a_component_was_loaded_from_is_nobodys_business(hub, pizza, tmp_path):
    """diffusers writes it into the settings of everything that it saves."""
    base = tmp_path / "base"
    fresh_pipeline("tiny_sd1").save_pretrained(base)
    place = base / "unet" / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "_name_or_path": "/home/ada/model/unet"}))
    text = base / "text_encoder" / "config.json"
    text.write_text(json.dumps({**json.loads(text.read_text()), "_name_or_path": "openai/clip"}))
    before = place.read_bytes()
    hub_cards.push_merged(pizza, base, REPO, license="mit")
    assert "_name_or_path" not in json.loads(hub.files(REPO)["unet/config.json"])
    assert json.loads(hub.files(REPO)["text_encoder/config.json"])["_name_or_path"] == "openai/clip"
    assert place.read_bytes() == before


@pytest.mark.parametrize("what", ALL)
def test_in_the_header_of_weights_and_in_plain_text(what):
    header = json.dumps({"__metadata__": {"comment": ALL[what]}}).encode()
    weights = len(header).to_bytes(8, "little") + header + bytes(50)
    with pytest.raises(PushRefused, match=rf"w\.safetensors \(header\.__metadata__\.comment\).*{re.escape(what)}"):
        check_files([PushFile("w.safetensors", weights)])
    with pytest.raises(PushRefused, match=rf"app\.py \(line 2\).*{re.escape(what)}"):
        check_files([PushFile("app.py", f"x = 1\ny = '{ALL[what]}'\n".encode())])


def test_a_token_of_another_hub_in_a_message(hub, pizza, monkeypatch):
    """It need not look like one of huggingface.co: whoever is logged in has it."""
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "our-own-hub-0123456789")
    with pytest.raises(PushRefused, match="the commit message holds your access token"):
        push(pizza, message="for our-own-hub-0123456789")
    assert hub.store.repositories == {}


@pytest.mark.parametrize("what", ALL)
def test_in_an_archive(what):
    """A Space holds this package as a zip, and in the folder of a package may lie what its user forgot there."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("erase_plugins/notes.txt", f"one\n{ALL[what]}\n")
    with pytest.raises(PushRefused, match=rf"p\.zip/erase_plugins/notes\.txt \(line 2\).*{re.escape(what)}"):
        check_files([PushFile("p.zip", packed.getvalue())])


def test_what_is_hidden_beside_this_package_does_not_go_into_a_space(monkeypatch):
    from erase_plugins.page import package

    real, root = type(package.Path(package.__file__)), package.Path(package.__file__).resolve().parents[2]
    odd = [root / "erase_plugins" / name for name in (".env", ".ipynb_checkpoints/x.py")]
    monkeypatch.setattr(real, "rglob", lambda self, pattern: [*odd, root / "erase_plugins" / "types.py"])
    monkeypatch.setattr(real, "is_file", lambda self: True)
    monkeypatch.setattr(real, "read_bytes", lambda self: b"")
    names = [name for name, _ in package._files(False)]
    assert "erase_plugins/types.py" in names
    assert not [name for name in names if "/." in name]


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_words_are_no_secrets(text):
    check_files([PushFile("a.json", json.dumps({"x": text}).encode()), PushFile("b.md", text.encode())])


def test_large_files_are_looked_at_in_no_time():
    import time

    started = time.process_time()
    check_files(
        [PushFile("a.json", json.dumps({"x": "a" * 3_000_000}).encode()), PushFile("b.txt", b"a.b-c/" * 500_000)]
    )
    assert time.process_time() - started < 20  # about one; looking back from every character would take hours


def test_vocabularies_hold_addresses_of_strangers():
    check_files([PushFile("tokenizer/vocab.json", json.dumps({PERSONAL["an e-mail address"]: 1}).encode())])
    with pytest.raises(PushRefused):
        check_files([PushFile("tokenizer/vocab.json", json.dumps({KEYS["an API key"]: 1}).encode())])


@pytest.mark.parametrize("what", ALL)
def test_personal_text_is_sent_if_it_may_be_public_and_keys_never(hub, pizza, erase, tmp_path, what):  # noqa: F811
    kept = pizza.with_manifest(notes=(ALL[what],)).save(tmp_path / "kept", ("patch",))
    words = ("push", kept.path, REPO, "--license", "mit")
    assert erase(*words, "--dry-run").code == 5, "a dry run tells it too"
    ran = erase(*words)
    assert ran.code == 5
    assert ran.err.count("\n") == 1
    assert ("--personal" in ran.err) == (what in PERSONAL)
    ran = erase(*words, "--personal")
    assert (ran.code == 0) == (what in PERSONAL), ran.err

"""The Space: its files, its functions without Gradio, its page with Gradio, and its way to the Hub."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import CommitOperationAdd, HfApi, SpaceCard
from PIL import Image

import erase_plugins
import hub_cards
from erase_plugins import Concept, generate
from erase_plugins.artifacts.places import MARKER
from erase_plugins.errors import HubError, RequestError
from erase_plugins.page import package
from erase_plugins.page.space import space_files, write_space
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow import models
from erase_plugins.workflow.pairs import draw_pairs, picture
from hub_cards.other_pushes import push_space
from tests.cli.conftest import erase  # noqa: F401
from tests.comfy_nodes.comfy_server import own_port
from tests.hub.conftest import REPO
from tests.hub.test_card import EVIL

ROOT = Path(__file__).resolve().parents[2]
PINNED = f"erase-plugins @ git+https://example.org/me/erase@{'0123456789' * 4}"


def _gradio_python():
    """An interpreter with Gradio: this one, or the one named by ERASE_GRADIO_PYTHON."""
    found = importlib.util.find_spec("gradio")
    if found is not None and found.origin is not None:  # a folder of that name on the path is no package
        return sys.executable
    return os.environ.get("ERASE_GRADIO_PYTHON")


@pytest.fixture(scope="module")
def drawn(made):
    return draw_pairs(made["pizza"], model=shared_pipeline("tiny_sd1"), prompts=["a pizza", "a plate"], steps=2)


def load_app(folder, monkeypatch=None):
    spec = importlib.util.spec_from_file_location("space_app", folder / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(pizza, drawn, tmp_path, monkeypatch):
    """The app of a Space with its own copy, on the tiny pipeline."""
    monkeypatch.setattr(models, "as_target", lambda *_, **__: models.target_of(shared_pipeline("tiny_sd1")))
    module = load_app(write_space(space_files(pizza, REPO, copy=True, gallery=drawn), tmp_path / "space"))
    module.studio.settings = replace(module.SETTINGS, steps=2)
    return module.studio


# ---- files --------------------------------------------------------------------------------------------------------


def test_files_of_a_space(pizza, drawn):
    files = space_files(pizza, REPO, gallery=drawn)
    assert set(files) == {"README.md", "app.py", "requirements.txt", "erase_plugins.zip", *drawn.files()}
    data = SpaceCard(files["README.md"].decode(), ignore_metadata_errors=False).data.to_dict()
    assert (data["sdk"], data["app_file"], data["models"]) == ("gradio", "app.py", [REPO])
    assert data["title"] == "Erased: pizza"
    assert len(data["short_description"]) <= 60
    assert data["sdk_version"].count(".") == 2
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert data["python_version"] >= required.removeprefix(">=")
    assert data["python_version"] == "3.12", "ZeroGPU has this one and 3.10, which is too old"
    assert data["suggested_hardware"] == "t4-small"
    assert f'artifact="hub:{REPO}"' in files["app.py"].decode()
    assert b"{{" not in b"".join(
        item for item in files.values() if isinstance(item, bytes) and item[:2] not in (b"\x89P", b"PK")
    )


def test_the_space_asks_no_index_for_this_package(pizza):
    """Whoever registers its name there would run code in every Space."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = space_files(pizza, REPO)["requirements.txt"].decode().split()
    assert not [line for line in lines if line.startswith(("erase", "hub"))]
    assert sorted(line.replace("-", "_") for line in lines) == sorted(
        line.replace("-", "_") for line in project["dependencies"]
    )
    assert space_files(pizza, REPO, requirement=PINNED)["requirements.txt"].decode() == f"{PINNED}\n"
    for line in ("erase-plugins", "erase-plugins>=0.1", PINNED[:-1], f"{PINNED}\nother"):
        with pytest.raises(RequestError, match="is not pinned"):
            space_files(pizza, REPO, requirement=line)


def test_the_copy_in_a_space_is_what_runs(preloaded, tmp_path):
    """Drawn by the package out of the Space itself; plugins and the "hub:" form are known, the same bytes every time."""
    made = erase_plugins.erase("pocket", "pizza", "uce", out=tmp_path / "made", options={"vocabulary": "20"})
    files = space_files(made, REPO, copy=True)
    assert package.archive(pocket=False) == package.archive.__wrapped__(pocket=False), (
        "made anew, past what tests share"
    )
    folder = write_space(files, tmp_path / "space")
    code = (
        "import runpy, sys, tempfile\n"
        "app = runpy.run_path('app.py', run_name='space')\n"
        "from dataclasses import replace\n"
        "app['studio'].settings = replace(app['SETTINGS'], steps=2)\n"
        "import erase_plugins, hub_cards\n"
        "place = tempfile.gettempdir()\n"
        "assert erase_plugins.__file__.startswith(place) and hub_cards.__file__.startswith(place)\n"
        "assert erase_plugins.get_manager().pluggy.has_plugin('hub_cards')\n"
        "base, erased = app['studio'].draw('pizza', '', 'a pizza', 1, 1.0)\n"
        "assert base.tobytes() != erased.tobytes()\n"
        "print('DREW', base.size)\n"
        "import pathlib; print(pathlib.Path(erase_plugins.__file__).parent.parent)\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*preloaded, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=200)
    assert "DREW" in done.stdout, done.stderr[-2000:]
    assert not Path(done.stdout.splitlines()[-1]).exists(), "the copy that it unpacked is gone"


def test_base_revision_and_licence_follow_the_manifest(pizza):
    base = {**pizza.manifest.base, "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "revision": "abc"}
    files = space_files(pizza.with_manifest(base=base), REPO)
    data = SpaceCard(files["README.md"].decode()).data.to_dict()
    assert data["models"] == [REPO, base["model"]]
    assert data["license"] == "creativeml-openrail-m"
    assert 'revision="abc"' in files["app.py"].decode()


def test_sensitive_concepts(pizza, drawn):
    person = pizza.with_manifest(concepts=(Concept("Ada", "person"),))
    name = drawn.pairs[0].before
    assert space_files(person, REPO, gallery=drawn)[name] == drawn.blur().files()[name]
    assert space_files(person, REPO, gallery=drawn, blur=False)[name] == drawn.files()[name]
    explicit = space_files(pizza.with_manifest(concepts=(Concept("x", "explicit"),)), REPO)
    assert "not-for-all-audiences" in SpaceCard(explicit["README.md"].decode()).data.tags


@pytest.mark.parametrize("text", EVIL)
def test_text_of_strangers_is_inert(pizza, text, tmp_path):
    spoiled = pizza.with_manifest(
        concepts=(Concept(text, prompts=(text,)),), base={**pizza.manifest.base, "model": text, "revision": text}
    )
    folder = write_space(space_files(spoiled, REPO), tmp_path / "space")
    module = load_app(folder)
    settings = module.SETTINGS
    assert (folder, 0.0, 1.0, 1.2) == (module.HERE, settings.low, settings.best, settings.high)
    page = (folder / "README.md").read_text()
    assert SpaceCard(page, ignore_metadata_errors=False).data.sdk == "gradio"
    for shown in (settings.about, settings.heading, re.sub(r"`[^`\n]*`", "", page.split("\n---\n", 1)[1])):
        assert "<script" not in shown
        assert "](http://" not in shown
        assert "](javascript" not in shown
        assert "**bold**" not in shown


# ---- functions, without Gradio ------------------------------------------------------------------------------------


def test_draws_what_generate_draws(app, pizza):
    pipe = shared_pipeline("tiny_sd1")
    base, edited = app.draw("pizza", "", "a pizza", 5, 0.7)
    for shown, artifacts in ((base, []), (edited, [pizza])):
        expected = generate(pipe, "a pizza", artifacts, seeds=5, strength=0.7, steps=2)[0]
        assert shown.tobytes() == Image.open(io.BytesIO(picture(expected))).tobytes()
    assert base.tobytes() != edited.tobytes()
    assert min(base.size) >= 256


def test_odd_input(app):
    def draw(*words):
        return [shown.tobytes() for shown in app.draw("pizza", "", *words)]

    first = draw("  ", None, 0)
    assert first[0] == first[1], "strength 0 is the base"
    assert draw(app.settings.prompt, 0, 0)[0] == first[0]
    assert draw("a pizza", 1, 99)[1] == draw("a pizza", 1, app.settings.high)[1]
    assert draw("x " * 1000, 2**31 + 4, -5)[0] == draw(("x " * 1000)[:300], 4, 0)[0]
    with pytest.raises(RequestError, match="write what the model should forget"):
        app.draw(" ", "", "a pizza", 1, 1.0)
    with pytest.raises(RequestError, match="this page has one model"):
        app.draw("pizza", "", "a pizza", 1, 1.0, "somebody/other")
    with pytest.raises(RequestError, match="publishes nothing"):
        app.publish("me/x", "pizza")


def test_the_examples_are_the_pairs(app, drawn):
    assert [caption for _, caption in app.examples()][:2] == ["a pizza, seed 1", "a pizza, seed 1"]
    assert [Path(file).read_bytes() for file, _ in app.examples()] == [
        drawn.files()[name] for pair in drawn.pairs for name in (pair.before, pair.after)
    ]


def test_visitors_do_not_disturb_each_other(app, monkeypatch):
    """Fifty requests from several threads, ten of them breaking off: the base stays what it was, to the last bit."""
    pipe = shared_pipeline("tiny_sd1")
    before = generate(pipe, "a plate", seeds=9, steps=2)
    expected = {strength: app.draw("pizza", "", "a pizza", 3, strength)[1].tobytes() for strength in (0.5, 1.0)}
    real, calls, wrong, broken = generate, iter(range(1000)), [], []

    def sometimes(*words, **options):
        result = real(*words, **options)
        if next(calls) % 10 == 9:
            raise ConnectionResetError("the visitor left")
        return result

    monkeypatch.setattr(erase_plugins.api, "generate", sometimes)

    def visit(number):
        strength = (0.5, 1.0)[number % 2]
        try:
            found = app.draw("pizza", "", "a pizza", 3, strength)[1].tobytes()
        except ConnectionResetError:
            broken.append(number)
        else:
            wrong.extend([number] if found != expected[strength] else [])

    threads = [
        threading.Thread(target=lambda part=part: [visit(part + 5 * turn) for turn in range(10)]) for part in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(broken) >= 8
    assert torch.equal(real(pipe, "a plate", seeds=9, steps=2), before)


# ---- the way to the Hub -------------------------------------------------------------------------------------------


def test_pushed_in_one_commit_and_again_not_at_all(hub, pizza, drawn):
    files = space_files(pizza, REPO, copy=True, gallery=drawn)
    done = push_space(pizza, REPO, files)
    assert done.commit == hub.store.repository(f"space:{REPO}").commit().oid
    assert set(hub.files(f"space:{REPO}")) == set(files)
    assert hub.files(f"space:{REPO}")["artifact/edit.safetensors"] == (pizza.path / "edit.safetensors").read_bytes()
    assert push_space(pizza, REPO, files).sent == ()
    SpaceCard(files["README.md"].decode()).validate(repo_type="space")
    assert hub.count("POST /api/validate-yaml") == 3, (
        "before the Space is made, before the files are sent, and this one"
    )
    hub_cards.push(pizza, REPO, license="mit")  # a model of the same name is another repository
    assert "app.py" not in hub.files(REPO)


def test_on_the_command_line(hub, pizza, drawn, erase, tmp_path, monkeypatch):  # noqa: F811
    hub_cards.push(pizza, REPO, license="mit", gallery=drawn)
    monkeypatch.chdir(tmp_path)
    dry = erase("space", REPO, "--push", "--dry-run")
    assert dry.code == 0, dry.err
    assert f"{REPO}: new, public" in dry.out
    assert not list(tmp_path.glob("*space*"))
    ran = erase("space", REPO, "--push", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["folder"] == "no-pizza-space"
    written = {
        item.relative_to("no-pizza-space").as_posix() for item in Path("no-pizza-space").rglob("*") if item.is_file()
    }
    assert written - {MARKER} == set(ran.data["files"]) == set(hub.files(f"space:{REPO}"))
    assert "images/pair_2_after.png" in written, "the pictures of the published page"
    assert erase("space", REPO).code != 0, "what is there is not replaced"
    ran = erase("space", "tester/other", "--artifact", pizza.path, "--out", "own", "--requirement", PINNED)
    assert ran.code == 0, ran.err
    assert Path("own/artifact/erase.json").is_file()
    assert Path("own/requirements.txt").read_text() == f"{PINNED}\n"
    assert not Path("own/erase_plugins.zip").exists()
    assert erase("space", "tester/nothing").code == 5
    canary = hub.token.encode()
    for item in tmp_path.rglob("*"):
        assert not item.is_file() or canary not in item.read_bytes(), item
    for name, data in hub.files(f"space:{REPO}").items():
        assert canary not in data, name


def test_pictures_of_a_published_page_are_checked_before_they_come(hub, pizza, drawn, monkeypatch):
    from hub_cards.pulling import published_gallery

    hub_cards.push(pizza, "tester/plain", license="mit")
    assert published_gallery("tester/plain") is None
    hub_cards.push(pizza, REPO, license="mit", gallery=drawn)
    assert set(published_gallery(REPO).pictures) == set(drawn.pictures)
    large = CommitOperationAdd("images/pair_1_after.png", bytes(50_000_001))
    HfApi().create_commit(REPO, [large], commit_message="large")
    before = hub.count("GET .*/resolve/.*pair_1_after")
    with pytest.raises(HubError, match="50000001 bytes, such a file has 50000000 at most"):
        published_gallery(REPO)
    assert hub.count("GET .*/resolve/.*pair_1_after") == before


# ---- with Gradio --------------------------------------------------------------------------------------------------


#: of the sampler, in place of the page's own number
STEPS = 4


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The Space for pocket, started as anybody would: python app.py. Gives its address and the artifact."""
    python = _gradio_python()
    if not python:
        pytest.skip("needs Gradio here, or an interpreter with it in ERASE_GRADIO_PYTHON")
    place = tmp_path_factory.mktemp("gradio")
    made = erase_plugins.erase("pocket", "pizza", "uce", out=place / "made", options={"vocabulary": "200"})
    gallery = draw_pairs(made, 2, steps=STEPS)
    folder = write_space(space_files(made, REPO, copy=True, gallery=gallery), place / "space")
    app = (folder / "app.py").read_text()
    assert "    steps=20,\n" in app
    (folder / "app.py").write_text(app.replace("    steps=20,\n", f"    steps={STEPS},\n"))
    port = own_port()
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
        "TMPDIR": str(place / "passing"),
    }  # fmt: skip
    (place / "passing").mkdir()
    with (place / "log").open("wb") as log:
        process = subprocess.Popen([python, "app.py"], cwd=folder, env=env, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                if process.poll() is not None:
                    pytest.fail((place / "log").read_text())
                try:
                    urllib.request.urlopen(f"{address}/config", timeout=5).read()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            else:
                pytest.fail("the page did not start: " + (place / "log").read_text())
            yield address, made
        finally:
            process.terminate()
            process.wait(30)
    left = [
        item.name for item in (place / "passing").rglob("*") if item.suffix == ".png" or "erase-plugins" in item.name
    ]
    assert not left, "neither pictures nor the unpacked package stay behind the page"


def test_a_pair_through_the_running_page(running):
    address, made = running
    body = json.dumps({"data": ["pizza", "", "a pizza on a blue background", 3, 1.0, "pocket", []]}).encode()
    asked = urllib.request.Request(f"{address}/gradio_api/call/draw", body, {"Content-Type": "application/json"})
    event = json.loads(urllib.request.urlopen(asked, timeout=60).read())["event_id"]
    answer = urllib.request.urlopen(f"{address}/gradio_api/call/draw/{event}", timeout=300).read().decode()
    assert "event: complete" in answer, answer
    files, gallery, _, link = json.loads(answer.split("event: complete\ndata: ")[1].splitlines()[0])
    assert len(gallery) == 6, "the pairs of the page, and this one"
    assert link == "?concept=pizza&prompt=a+pizza+on+a+blue+background&seed=3&strength=1"
    shown = [Image.open(io.BytesIO(urllib.request.urlopen(item["url"], timeout=60).read())) for item in files]
    for found, artifacts in zip(shown, ([], [made]), strict=True):
        expected = generate("pocket", "a pizza on a blue background", artifacts, seeds=3, steps=STEPS, guidance=4.0)[0]
        assert found.convert("RGB").tobytes() == Image.open(io.BytesIO(picture(expected))).tobytes()

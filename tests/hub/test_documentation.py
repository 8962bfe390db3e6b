"""The commands of README's section and of docs/hub.md, run as they stand there against a Hub on this machine."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import hub_cards
from erase_plugins import EvalReport, load_artifact
from erase_plugins import erase as run_method
from erase_plugins.testing.hub_server import HubServer
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.types import EvalRow
from erase_plugins.workflow.collection import build_collection
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import plugin  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub(plugin, tmp_path, monkeypatch):  # noqa: F811
    """A Hub whose account is "me", and a working folder with what the examples take for granted.

    Pictures that go into files are drawn in two steps; nobody looks at them.
    """
    drawing = importlib.import_module("erase_plugins.evaluation.draw")
    plain = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda *given, steps, **named: plain(*given, steps=min(steps, 2), **named))
    pipe = shared_pipeline("pocket")
    monkeypatch.chdir(tmp_path)
    for name in ("pizza", "dog"):
        made = run_method("pocket", name, "uce", out=f"no-{name}", options={"vocabulary": "100"})
    rows = (EvalRow("target_rate", "base", 1.0, 0.9, 1.0, 8), EvalRow("target_rate", "edited", 0.0, 0.0, 0.1, 8))
    report = EvalReport("quick", "pocket", rows, artifacts=("erase_pizza",), judge="pocket")
    Path("no-pizza-report").mkdir()
    Path("no-pizza-report/report.json").write_text(json.dumps(report.to_dict()))
    assert made.name == "erase_dog"
    assert pipe is not None
    with HubServer(account="me") as server, server.as_default(tmp_path / "cache"):
        yield server


def commands(text):
    """Words of every erase-plugins command in the shell blocks of a page."""
    for block in re.findall(r"^```bash\n(.*?)\n```$", text, flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", "").splitlines():
            words = shlex.split(line, comments=True)
            if "erase-plugins" in words[:1]:
                yield words[1:]


def run(erase, words):  # noqa: F811
    done = erase(*words)
    assert done.code == 0, (words, done.err)
    return done


def test_the_share_section_of_the_readme(hub, erase):  # noqa: F811
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("## Share\n")[1].split("\n## ")[0]
    found = list(commands(section))
    assert [words[0] for words in found] == ["push", "pull", "search", "collection"]
    library = build_collection({name: f"no-{name}" for name in ("pizza", "dog")}, "library")
    hub_cards.push_collection(library, "me/library")
    outputs = [run(erase, words).out for words in found]
    assert load_artifact("fetched").manifest.erased == ("pizza",)
    assert "me/no-pizza" in outputs[2]
    assert set(load_artifact("mine").manifest.erased) == {"pizza", "dog"}
    page = hub.files("me/no-pizza")["README.md"].decode()
    assert page.count("![after](images/pair_") == 3
    assert "| erased concept still drawn | 100 % (90 to 100) | 0 % (0 to 10) | 8 |" in page


def test_the_commands_of_the_page(hub, erase):  # noqa: F811
    text = (ROOT / "docs" / "hub.md").read_text(encoding="utf-8")
    ran = []
    for words in commands(text):
        if words[0] == "space" and "--force" not in words and Path("no-pizza-space").exists():
            words = [*words, "--force"]  # the page shows both ways to write it
        run(erase, words)
        ran.append(words[0])
    assert sorted(set(ran)) == ["card", "collection", "generate", "pull", "push", "search", "space", "sweep"]
    assert ran.count("space") == 3
    assert Path("page/images/pair_3_after.png").is_file()
    assert load_artifact("hub:me/no-pizza").manifest.erased == ("pizza",)
    assert any(Path("for-comfyui").glob("*_kohya.safetensors"))
    assert not Path("for-comfyui/pytorch_lora_weights.safetensors").exists()
    assert Path("complete/pytorch_lora_weights.safetensors").is_file()
    assert {text.lower() for text in load_artifact("mine").manifest.erased} == {"van gogh", "monet"}
    assert "erase_merged.json" in hub.files("me/full-model")
    assert "app.py" in hub.files("space:me/no-pizza")
    assert Path("after.png").is_file()

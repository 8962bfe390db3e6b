"""The site builds strictly: every link, anchor and name of a function on it exists. Recipes are run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docs.comfy import own_specs
from tools.docs.comfy.examples import PUBLISH, SDXL, SHELF, STACKED

ROOT = Path(__file__).parent.parent
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
#: title -> where it is run: a template, or a test of another file
RUN = {
    "Remove a style from my SDXL graph": ("tests/comfy_nodes/test_examples.py", "test_templates_of_real_families_run"),
    "Ship an erased checkpoint": ("tests/comfy_nodes/test_baking.py", "def test_"),
    "A library of 50 for a family-safe machine": ("tests/comfy_nodes/test_examples.py", "SHELF"),
    "An erasure on top of a style LoRA": ("tests/comfy_nodes/test_examples.py", "STACKED"),
    "Train an erasure in the graph": ("tests/comfy_nodes/test_fresh.py", "test_training_takes_twenty_steps"),
    "Measure and publish": ("tests/comfy_nodes/test_examples.py", "PUBLISH"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder with the built site."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    place = tmp_path_factory.mktemp("site")
    words = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(place)]
    ran = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-4000:]
    return place


def test_functions_are_described_from_their_docstrings(site):
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("erase_plugins.api.erase", "erase_plugins.workflow.applying.apply", "erase_plugins.compose.revoke"):
        assert f'id="{name}"' in page
    assert "Raises" in page


def test_every_visible_node_has_its_picture_on_one_page(site):
    page = (site / "nodes" / "index.html").read_text(encoding="utf-8")
    shown = {
        name
        for name in re.findall(r"images/nodes/(\w+)\.png", page)
        if (site / "images/nodes" / f"{name}.png").is_file()
    }
    assert shown == {spec.id for spec in own_specs() if not spec.instead}


def test_there_are_six_recipes_and_each_is_run():
    assert re.findall(r"^## (.*)$", RECIPES, re.MULTILINE) == list(RUN)
    for file, part in RUN.values():
        assert part in (ROOT / file).read_text(encoding="utf-8")
    assert set(re.findall(r"^Template: \*(.*?)\*", RECIPES, re.MULTILINE)) == {SDXL, SHELF, STACKED, PUBLISH}


@pytest.mark.parametrize("place", range(RECIPES.count("```python")))
def test_python_in_a_recipe_runs_as_it_stands(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unwanted.txt").write_text("gun -> umbrella\nbomb -> balloon\n", encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", RECIPES, re.DOTALL)[place]
    exec(compile(code, "recipe", "exec"), {})
    made = {item.name for item in tmp_path.iterdir()} - {"unwanted.txt"}
    assert made in ({"pocket-without-pizza"}, {"family"})

"""An outside package: built, installed, listed, put through the contract, and run; and the skeleton of a new one."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.testing import write_plugin_template

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "outside_method"

RUN = """
import sys, erase_plugins as ep
artifact = ep.erase("pocket", ["pizza"], "null-value", keep=["hamburger"], out=sys.argv[1], options={"words": 100})
pipe = ep.load("pocket")
with ep.apply(pipe, sys.argv[1]) as handle:
    print(handle.report())
"""


def install(place: Path, *packages: Path) -> Path:
    """Builds and installs packages into a folder of their own, without network and without their dependencies."""
    sources = [place / "source" / package.name for package in packages]
    for package, source in zip(packages, sources, strict=True):
        shutil.copytree(package, source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--disable-pip-version-check", "--target", str(place / "site"), *map(str, sources)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return place / "site"


def run(python: list[str], site: Path | str, *command: str, cwd: Path = ROOT) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*python, *command], capture_output=True, text=True, env=env, cwd=cwd, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def example_site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("example"), EXAMPLE)


def test_the_method_is_one_short_file():
    lines = (EXAMPLE / "erase_null_value.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200


def test_the_example_is_listed_with_its_package(example_site):
    found = json.loads(run([sys.executable], example_site, "-m", "erase_plugins.cli.main", "list", "methods", "--json"))
    text = json.dumps(found)
    assert '"null-value"' in text
    assert '"erase-null-value"' in text
    assert str(example_site) not in text


def test_the_example_runs_on_pocket(example_site, preloaded, tmp_path):
    out = run(preloaded, example_site, "-c", RUN, str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "erase.json").read_text())
    assert manifest["modules"] > 0
    assert f"patched {manifest['modules']} of {manifest['modules']} modules" in out
    method = manifest["method"]
    assert (method["id"], method["package"], method["version"]) == ("null-value", "erase-null-value", "0.1.0")


#: kind of a template -> name of the package that is made of it
TEMPLATES = {
    "closed-form": "my-first-eraser", "trained": "my-second-eraser", "language": "my-language", "guard": "my-guard",
    "suite": "my-suite", "attack": "my-attack", "judge": "my-judge", "layout": "my-layout", "family": "my-family",
}  # fmt: skip
#: kind of a template -> (lines that its file may have, checks of its contract that pass at least)
BOUNDS = {
    "closed-form": (80, 20), "trained": (80, 20), "language": (40, 23), "guard": (60, 15), "suite": (60, 5),
    "attack": (65, 7), "judge": (45, 10), "layout": (65, 8), "family": (50, 9),
}  # fmt: skip
#: which of their tests are run: every one of what is cheap, one model of several
CHOSEN = "tiny_sd1 or tiny_lm or values or MySuite or MyAttack or MyJudge or MyLayout or MyFamily"


@pytest.fixture(scope="module")
def own_tests(example_site, preloaded, tmp_path_factory):
    """(files of each template, passed tests of the example's and the templates' own files), all in one process."""
    place = tmp_path_factory.mktemp("templates")
    written = {kind: write_plugin_template(name, place / name, kind) for kind, name in TEMPLATES.items()}
    sites = [example_site, install(place / "installed", *(place / name for name in TEMPLATES.values()))]
    shutil.copy(EXAMPLE / "test_erase_null_value.py", place)
    tests = [place / "test_erase_null_value.py", *(files[-1] for files in written.values())]
    out = run(
        preloaded, os.pathsep.join(map(str, sites)), "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", CHOSEN,
        *map(str, tests), cwd=place,
    )  # fmt: skip
    assert re.search(r"= \d+ passed, \d+ deselected\b", out.splitlines()[-1]), out[-300:]  # none failed or skipped
    return written, [line for line in out.splitlines() if " PASSED" in line]


def test_the_example_keeps_the_contract_by_its_own_tests(own_tests):
    assert len([line for line in own_tests[1] if "[null-value-tiny_sd1-" in line]) > 20
    assert [line for line in own_tests[1] if "test_concept_rows_get_the_values_of_the_empty_prompt" in line]


def test_there_is_a_template_of_every_kind():
    from erase_plugins.cli.new_plugin import KINDS as CHOICES
    from erase_plugins.testing.template import KINDS

    assert set(TEMPLATES) == set(BOUNDS) == set(KINDS) == set(CHOICES)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_template_passes_its_own_tests(own_tests, kind):
    module = TEMPLATES[kind].replace("-", "_")
    files = own_tests[0][kind]
    assert [path.name for path in files] == ["pyproject.toml", "README.md", f"{module}.py", f"test_{module}.py"]
    assert not any("{{" in path.read_text() for path in files)
    longest, least = BOUNDS[kind]
    assert len(files[2].read_text().splitlines()) <= longest
    assert len([line for line in own_tests[1] if f"[{TEMPLATES[kind]}-" in line]) >= least


def test_the_measuring_templates_ask_for_what_they_say(tmp_path):
    """Without the edit the concept is seen, with it and in a destroyed model it is not; three of three by Wilson."""
    calls = []

    def generate(prompts, seeds, edit="on"):
        calls.append((set(prompts), list(seeds), edit))
        return [edit] * len(prompts)

    def score(pictures):
        return {"kind": numpy.array([[float(edit == "off"), 0.5] for edit in pictures])}

    judge = SimpleNamespace(id="j", axes={"kind": ("owl", "cat")}, score=score)
    subject = SimpleNamespace(images=3, erased=["owl"], model="m", artifacts=[], judge=judge, steps=8, strength=1.0,
                              generate=generate)  # fmt: skip
    suite, attack = (
        runpy.run_path(str(write_plugin_template(TEMPLATES[kind], tmp_path / kind, kind)[2]))[name]()
        for kind, name in (("suite", "MySuite"), ("attack", "MyAttack"))
    )
    ctx = SimpleNamespace(seed=5, options={"prompt": "a {}"}, progress=lambda *_: None)
    rows = suite.run(subject, ctx).rows
    assert [(row.subject, row.value) for row in rows] == [("base", 1.0), ("edited", 0.0), ("destroyed", 0.0)]
    assert (rows[0].low, rows[0].high) == (pytest.approx(0.43847, abs=1e-4), 1.0)
    assert calls == [({"a owl"}, [5, 6, 7], edit) for edit in ("off", "on", "destroyed")]
    calls.clear()
    kept = []
    budget = SimpleNamespace(queries=20, seed=7, name="quick", remember=lambda name, work: kept.append(name) or work())
    report = attack.run(subject, budget)
    assert report.queries == sum(len(seeds) for _, seeds, _ in calls) == 16, "as many for each of eight as go into 20"
    assert report.passes == 256, "eight steps with guidance, two passes each"
    assert len(set(kept)) == len(calls) == 8
    assert [edit for _, _, edit in calls] == ["on"] * 4 + ["destroyed"] * 4
    assert [call[:2] for call in calls[:4]] == [call[:2] for call in calls[4:]]
    assert not set(calls[3][1]) & set(calls[0][1])


@pytest.mark.parametrize(("kind", "taken"), [
    ("suite", "quick"), ("attack", "weights"), ("trained", "esd"), ("guard", "nag"), ("language", "npo"),
    ("judge", "pocket"), ("layout", "kohya"), ("family", "sdxl"),
])  # fmt: skip
def test_the_template_takes_no_name_that_is_registered(tmp_path, kind, taken):
    with pytest.raises(RequestError, match=f"named '{taken}' is registered already"):
        write_plugin_template(taken, tmp_path / "new", kind)


def test_the_suite_fails_for_a_spoiled_template(preloaded, tmp_path):
    *_, method, test = write_plugin_template("my-bad-eraser", tmp_path / "new")
    method.write_text(method.read_text().replace("up = -plan", "target.weight(ref).mul_(1.5)\n            up = -plan"))
    site = install(tmp_path / "installed", tmp_path / "new")
    with pytest.raises(AssertionError, match="changed the base model"):
        run(
            preloaded,
            site,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-k",
            "tiny_sd1 and leaves",
            str(test),
            cwd=tmp_path,
        )


@pytest.mark.parametrize("name", ["My Eraser", "1st", "uce", "a--b", "class", "torch", "../x", ""])
def test_the_template_refuses_unusable_names(tmp_path, name):
    with pytest.raises(RequestError):
        write_plugin_template(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_template_refuses_an_unknown_kind(tmp_path):
    with pytest.raises(UnknownName, match="no kind of plugin named 'training'; did you mean 'trained'"):
        write_plugin_template("my-eraser", tmp_path / "new", "training")
    assert not (tmp_path / "new").exists()


def test_the_template_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RequestError, match="not an empty folder"):
        write_plugin_template("my-eraser", tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]

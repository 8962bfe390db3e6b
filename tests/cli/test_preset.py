"""--preset FILE on the command line: run, sweep, add, compare, info."""

from __future__ import annotations

import json

import pytest

from erase_plugins.comparison.run import CELLS
from erase_plugins.workflow.artifacts import load_artifact


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text("[pocket]\nvocabulary = 20\nlam = 0.25\n", encoding="utf-8")
    return path


def test_run_plans_with_it_and_says_so(erase, file, tmp_path):
    words = (
        "run",
        "uce",
        "--erase",
        "pizza",
        "--preset",
        file,
        "--set",
        "lam=0.75",
        "--out",
        tmp_path / "a",
        "--dry-run",
    )
    told = erase(*words)
    assert told.code == 0, told.err
    assert "preset own.toml sets vocabulary=20" in told.out
    plan = erase(*words, "--json").data["plan"]
    assert (plan["options"]["vocabulary"], plan["options"]["lam"]) == (20, 0.75)
    assert plan["request"]["preset"]["file"] == "own.toml"


def test_sweep_gives_it_to_every_concept(erase, loaded, file, tmp_path):
    ran = erase(
        "sweep", "uce", "--erase", "pizza", "--erase", "dog", "--preset", file, "--out", tmp_path / "s", "--json"
    )
    assert ran.code == 0, ran.err
    for name in ("pizza", "dog"):
        manifest = load_artifact(tmp_path / "s" / name).manifest
        assert (manifest.options["vocabulary"], manifest.options["lam"]) == (20, 0.25)
        assert manifest.extra["preset"]["options"] == {"vocabulary": 20, "lam": 0.25}


def test_add_lays_it_over_the_artifact(erase, loaded, file, pizza_folder, tmp_path):
    file.write_text("[pocket]\nerase_scale = 2.0\n", encoding="utf-8")
    words = ("add", pizza_folder, "--erase", "dog", "--preset", file, "--out", tmp_path / "a")
    assert erase(*words, "--dry-run").code == 0
    ran = erase(*words, "--json")
    assert ran.code == 0, ran.err
    assert load_artifact(tmp_path / "a").manifest.history[-1]["preset"]["options"] == {"erase_scale": 2.0}


@pytest.mark.parametrize("command", ["run", "sweep", "add", "compare", "info"])
def test_a_wrong_preset_is_refused_before_anything_is_loaded(erase, file, pizza_folder, tmp_path, monkeypatch, command):
    import erase_plugins.api as api

    monkeypatch.setattr(api, "as_target", lambda *_, **__: pytest.fail("weights were loaded"))
    file.write_text("[sdxl]\nlamm = 1\n", encoding="utf-8")
    words = {
        "run": ("run", "uce", "--erase", "dog"), "sweep": ("sweep", "uce", "--erase", "dog"),
        "add": ("add", pizza_folder, "--erase", "dog"), "compare": ("compare", "--methods", "uce", "--erase", "dog"),
        "info": ("info", "uce"),
    }  # fmt: skip
    out = () if command == "info" else ("--out", tmp_path / "a")
    ran = erase(*words[command], "--preset", file, *out)
    assert ran.code == 2
    assert "no option in preset own.toml, [sdxl] named 'lamm'; did you mean 'lam'?" in ran.err
    missing = erase(*words[command], "--preset", tmp_path / "own.tml", *out)
    assert missing.code == 2
    assert "did you mean own.toml?" in missing.err
    assert not (tmp_path / "a").exists()


def test_compare_gives_each_method_its_own(erase, file, tmp_path):
    words = (
        "compare",
        "--methods",
        "uce,esd",
        "--erase",
        "pizza",
        "--images",
        4,
        "--out",
        tmp_path / "c",
        "--preset",
        file,
    )
    ran = erase(*words, "--dry-run")
    assert ran.code == 2
    assert (
        'preset own.toml does not say which of the compared methods it is for; begin it with method = "uce"' in ran.err
    )
    file.write_text('method = "esd"\n[pocket]\niterations = 3\n', encoding="utf-8")
    todo = erase(*words, "--dry-run", "--json").data["todo"]
    assert [name.rsplit("-", 1)[0] for name in todo] == ["pizza-uce", "pizza-esd_preset_own_toml"]
    twice = erase(*words, "--preset", file, "--dry-run")
    assert "preset own.toml and preset own.toml are both for esd; give one of them" in twice.err
    file.write_text('method = "rece"\n', encoding="utf-8")
    assert "preset own.toml is for rece, which is not compared (esd, uce)" in erase(*words, "--dry-run").err
    assert not (tmp_path / "c" / CELLS).exists()


def test_cells_without_a_preset_keep_their_names():
    from pathlib import Path

    from erase_plugins.comparison.cells import Cell

    kept = json.loads((Path(__file__).parents[2] / "docs/results/comparison.json").read_text(encoding="utf-8"))["cells"]
    assert len(kept) > 50
    for item in kept:
        assert Cell.from_dict(item["cell"]).key == item["key"]


def test_a_cell_with_a_preset_survives_json_and_runs_with_it():
    from erase_plugins.comparison.cells import Cell
    from erase_plugins.comparison.run import make_cells, plan_cells
    from erase_plugins.engine.own_preset import load_preset

    (cell,) = make_cells(
        {"pizza": "object"}, [("esd", {})], presets={"esd": load_preset({"pocket": {"iterations": 3}})}
    )
    again = Cell.from_dict(json.loads(json.dumps(cell.to_dict())))
    assert again.key == cell.key != Cell("esd", "pizza").key
    plans, reasons = plan_cells([again])
    assert reasons == {}
    assert plans[cell.key].options["iterations"] == 3


def test_info_shows_what_it_would_set(erase, file, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # a narrow terminal breaks the cell that is looked for
    rows = {row["option"]: row for row in erase("info", "uce", "--preset", file, "--json").data["options"]}
    assert rows["vocabulary"]["preset"] == {"pocket": 20}
    assert rows["vocabulary"]["per"] == {"pocket": 2000, "pocket-flow": 2000, "flow": 0}
    assert "preset" not in rows["tokens"]
    shown = erase("info", "uce", "--preset", file)
    assert "*pocket: 20; 100; pocket: 2000" in " ".join(shown.out.split())
    assert "preset own.toml" in shown.out
    plain = erase("info", "uce", "--json").data
    assert "preset" not in plain
    assert plain["presets"] == ["closed-form.toml", "framed.toml"]

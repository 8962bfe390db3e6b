"""A user's own preset: what it may say, what wins over what, and that plan and manifest tell it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

import erase_plugins as ep
from erase_plugins.engine.own_preset import OwnPreset, load_preset
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.types import EditPlan

TEXT = """\
optimizer = "adamw"
[pocket]
iterations = 30
eta = 2.0
[pocket.style]
iterations = 40
[sdxl]
iterations = 50
[style]
templates = ["{}", "art of {}"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def plan(preset, method="esd", **arguments):
    return ep.plan("pocket", "cat", method, preset=preset, **arguments)


def test_the_most_specific_table_wins_and_stands_over_the_methods_own(file):
    plain, found = plan(None), plan(file)
    assert (plain.options["iterations"], plain.options["eta"], plain.options["optimizer"]) == (120, 2.5, "adam")
    assert (found.options["iterations"], found.options["eta"], found.options["optimizer"]) == (30, 2.0, "adamw")
    changed = {name for name in plain.options if plain.options[name] != found.options[name]}
    assert changed == {"iterations", "eta", "optimizer"}
    style = plan(file, kind="style")
    assert (style.options["iterations"], style.options["eta"]) == (40, 2.0)
    assert style.options["templates"] == ("{}", "art of {}"), "over the method's own [pocket.style]"


def test_what_is_set_by_hand_wins(file):
    found = plan(file, options={"iterations": 7})
    assert found.options["iterations"] == 7
    assert found.request.extra["preset"]["options"] == {"eta": 2.0, "optimizer": "adamw"}


def test_plan_says_file_hash_and_values_but_no_folder(file):
    found = plan(file)
    digest = hashlib.sha256(TEXT.encode()).hexdigest()
    used = {"iterations": 30, "eta": 2.0, "optimizer": "adamw"}
    assert found.request.extra["preset"] == {"file": "own.toml", "sha256": digest, "options": used}
    assert "preset own.toml sets eta=2.0, iterations=30, optimizer=adamw" in found.notes
    text = json.dumps(found.to_dict())
    assert str(file.parent) not in text
    again = EditPlan.from_dict(json.loads(text))
    assert again.request.extra["preset"]["sha256"] == digest
    assert again.to_dict() == json.loads(text)


def test_planning_a_planned_request_changes_nothing(file):
    from erase_plugins.workflow.run import make_plan

    first = plan(file)
    assert make_plan(first.request).to_dict() == first.to_dict()


def test_a_mapping_of_the_same_shape():
    found = plan({"pocket": {"iterations": 11, "object": {"eta": 1.5}}})
    assert (found.options["iterations"], found.options["eta"]) == (11, 1.5)
    assert found.request.extra["preset"]["file"] == ""
    assert "preset sets eta=1.5, iterations=11" in found.notes


def test_without_a_preset_nothing_is_noted():
    found = plan(None)
    assert "preset" not in found.request.extra
    assert not any("preset" in text for text in (*found.notes, *found.warnings))


def test_a_preset_in_which_nothing_fits_is_told():
    found = plan({"sdxl": {"iterations": 5}, "style": {"eta": 1.0}})
    assert found.options == plan(None).options
    assert any("sets nothing here: no table fits this model and the kind object" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pockett]\neta = 1", r"no table in preset own\.toml named 'pockett'; did you mean 'pocket'\? Known: causal-lm, class, "),
        ("[pocket.stile]\neta = 1", r"no kind of concept in preset own\.toml, \[pocket\.stile\], named 'stile'; did you mean 'style'"),
        ("[style.pocket]\neta = 1", r"no table in preset own\.toml named 'style'"),
        ("[sdxl]\niteration = 1", r"no option in preset own\.toml, \[sdxl\] named 'iteration'; did you mean 'iterations'"),
        ("[sdxl]\niterations = 0", r"preset own\.toml, \[sdxl\]: option iterations=0 is below its minimum 1"),
        ("[pocket]\ntrain = 'z'", r"preset own\.toml, \[pocket\]: no value for option train named 'z'.*all, selfattn, u, x"),
        ("[pocket]\neta = true", r"preset own\.toml, \[pocket\]: option eta=True is not of type float"),
        ("etta = 1", r"no option in preset own\.toml, outside any table named 'etta'; did you mean 'eta'"),
        ("method = 'uce'", r"preset own\.toml is for uce, not for esd"),
        ("method = 3", r"preset own\.toml: method is 3; write the id"),
        ("[pocket]\neta = \n", r"preset own\.toml is not valid TOML: .*line 2"),
        ("[a.b.c]\neta = 1", r"preset own\.toml has a table \[a\.b\.c\]; allowed are \[MODEL\], \[MODEL\.KIND\] and \[KIND\]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line_whether_it_applies_or_not(file, text, said):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(RequestError, match=said) as caught:
        plan(file)
    assert "\n" not in str(caught.value)
    assert str(file.parent) not in str(caught.value)


def test_files_that_cannot_be_read(file, tmp_path):
    with pytest.raises(
        RequestError, match=r"preset owm\.toml cannot be read: No such file or directory; did you mean own\.toml\?"
    ):
        load_preset(tmp_path / "owm.toml")
    with pytest.raises(RequestError, match="cannot be read: Is a directory"):
        load_preset(tmp_path)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RequestError, match=r"own\.toml is not UTF-8 text"):
        load_preset(file)
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(RequestError, match=r"own\.toml is larger than 1000000 bytes"):
        load_preset(file)


def test_a_file_with_a_byte_order_mark(file):
    file.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert load_preset(file).tables["pocket"] == {"iterations": 30, "eta": 2.0}


def test_it_survives_json(file):
    own = load_preset(file)
    assert load_preset(own) is own
    assert OwnPreset.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    assert replace(own, method="uce").values(("sdxl style", "sdxl", "style")) == {
        "iterations": 50, "templates": ["{}", "art of {}"], "optimizer": "adamw",
    }  # fmt: skip


def test_an_outside_family_may_have_tables(monkeypatch):
    from erase_plugins.workflow import run

    with pytest.raises(UnknownName):
        plan({"kandinsky": {"eta": 1.0}})
    monkeypatch.setattr(run, "known_models", lambda: {"pocket", "kandinsky"})
    assert plan({"kandinsky": {"eta": 1.0}, "pocket": {"eta": 2.0}}).options["eta"] == 2.0


def test_the_manifest_keeps_it_and_the_run_obeys(pocket_target, file, tmp_path):
    file.write_text("[pocket]\nvocabulary = 40\nlam = 0.25\n", encoding="utf-8")
    made = ep.erase(pocket_target, "pizza", preset=file, out=tmp_path / "out", layouts=("patch",))
    facts = made.manifest.extra["preset"]
    assert (facts["file"], facts["options"]) == ("own.toml", {"vocabulary": 40, "lam": 0.25})
    assert made.manifest.options["lam"] == 0.25
    by_hand = ep.erase(pocket_target, "pizza", options={"vocabulary": 40, "lam": 0.25})
    one, two = (item.edit.deltas["unet"]["context"] for item in (made, by_hand))
    assert (one.A == two.A).all()
    assert (one.B == two.B).all()
    written = (tmp_path / "out" / "erase.json").read_text(encoding="utf-8")
    assert '"own.toml"' in written
    assert str(file.parent) not in written


def test_a_checkpoint_does_not_depend_on_where_a_value_came_from(file):
    from erase_plugins.engine.runner import plan_key

    first = plan(file)
    file.write_text(f"# only a remark\n{TEXT}", encoding="utf-8")
    assert plan(file).request.extra != first.request.extra
    assert plan_key(plan(file)) == plan_key(first)
    assert plan_key(plan(file, options={"eta": 1.0})) != plan_key(first)


def test_resume_names_what_another_preset_changes(file, tmp_path):
    from erase_plugins.engine.checkpoint import asked, check_resume, remember

    remember(tmp_path, asked(plan(file)))
    check_resume(tmp_path, plan(file))
    with pytest.raises(RequestError, match="iterations 30 then, 120 now"):
        check_resume(tmp_path, plan(None))


def test_add_lays_a_preset_over_the_options_of_the_artifact(pocket_target):
    first = ep.erase(pocket_target, "pizza", options={"vocabulary": 40, "erase_scale": 0.5})
    preset = {"pocket": {"erase_scale": 2.0}, "sdxl": {"vocabulary": 7}}
    both = ep.add(first, "dog", pocket_target, preset=preset)
    one = ep.erase(pocket_target, "dog", options={"vocabulary": 40, "erase_scale": 2.0})
    expected = ep.merge([first, one], mode="joint")
    have, want = (item.edit.deltas["unet"]["context"] for item in (both, expected))
    assert (have.B @ have.A == want.B @ want.A).all()
    assert both.manifest.history[-1]["preset"]["options"] == {"erase_scale": 2.0}
    plain = ep.add(first, "dog", pocket_target).edit.deltas["unet"]["context"]
    assert not (have.B @ have.A == plain.B @ plain.A).all()


def test_tables_for_full_weights_hold_where_they_are_trained():
    own = {"pocket": {"lr": 0.5, "full": {"lr": 0.25}}, "full": {"rank": 3}}
    assert plan(own).options["lr"] == 0.5
    found = plan(own, options={"parameters": "full"})
    assert (found.options["lr"], found.options["rank"]) == (0.25, 3)
    assert plan({**own, "parameters": "full"}).options["lr"] == 0.25, "the preset itself may ask for full weights"
    with pytest.raises(UnknownName, match="no table in preset named 'full'"):
        plan({"full": {"lam": 1.0}}, method="uce")


@pytest.mark.parametrize(("given", "rate"), [({}, 2e-3), ({"parameters": "full"}, 1e-4)])
@pytest.mark.parametrize("spelled", [None, "none", "auto"])
def test_no_rate_is_that_of_the_presets(given, rate, spelled):
    assert plan(None, options={**given, "lr": spelled}).options["lr"] == rate

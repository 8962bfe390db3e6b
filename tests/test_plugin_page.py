"""The examples of docs/plugins.md: each is a whole plugin file that loads, and keeps the part of its contract that is cheap."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.manager import get_manager
from erase_plugins.testing.contract import contract_report
from erase_plugins.testing.measuring import measuring_report

PAGE = (Path(__file__).parent.parent / "docs" / "plugins.md").read_text(encoding="utf-8")
#: file -> its text, as a reader copies it
FILES = {
    name: block
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    for name in re.findall(r"\A# (my_\w+)\.py\n", block)
}
#: file -> (hook, id)
MADE = {
    "my_eraser": ("methods", "my-eraser"), "my_trainer": ("methods", "my-trainer"), "my_guard": ("methods", "my-guard"),
    "my_language": ("methods", "my-language"),
    "my_family": ("families", "my-family"), "my_layout": ("layouts", "my-layout"), "my_judge": ("judge", "my-judge"),
    "my_suite": ("suite", "my-suite"), "my_attack": ("attack", "my-attack"),
}  # fmt: skip
#: checks that need no training, and little of a model
CHEAP = ("describes_itself", "options_are_documented", "options_resolve", "plan_is_complete", "plan_is_pure",
         "bad_options_are_refused")  # fmt: skip


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Imports a file of the page and has it registered for one test."""
    entered = []

    def use(name):
        place = tmp_path / f"{name}.py"
        place.write_text(FILES[name], encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, place)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        entered.append(get_manager().temporary(module, name))
        entered[-1].__enter__()
        return module

    yield use
    for context in reversed(entered):
        context.__exit__(None, None, None)


def test_there_is_an_example_of_every_kind():
    assert set(FILES) == set(MADE)


@pytest.mark.parametrize("name", MADE)
def test_an_example_is_registered(plugin, name):
    plugin(name)
    manager, (kind, wanted) = get_manager(), MADE[name]
    found = getattr(manager, kind)() if kind in ("methods", "families", "layouts") else manager.evaluators(kind)
    assert wanted in [entry.item.id for entry in found]
    assert not [item.message for item in manager.problems if item.plugin == name]


@pytest.mark.parametrize("name", ["my_eraser", "my_trainer", "my_guard"])
def test_a_method_keeps_the_cheap_part_of_its_contract(plugin, name):
    plugin(name)
    assert contract_report(MADE[name][1], "tiny_sd1", only=CHEAP) == {}


def test_the_closed_form_erases(plugin):
    plugin("my_eraser")
    only = ("edit_is_valid", "edit_has_an_effect", "strength_zero_is_identity")
    assert contract_report("my-eraser", "tiny_sd1", only=only) == {}


def test_the_guard_stands_in_the_negative_prompt(plugin, tiny_sd1):
    from erase_plugins.artifacts.policy import policies

    plugin("my_guard")
    (policy,) = policies(ep.erase(tiny_sd1(), ["dog"], "my-guard").manifest)
    assert policy["stages"] == [{"type": "negative-prompt", "text": "dog, drawing of a dog"}]


def test_the_layout_reads_what_it_wrote_and_refuses_the_rest(plugin, tmp_path):
    from erase_plugins.artifacts.edit import Dense

    layout, (down, up) = plugin("my_layout").MyLayout(), (torch.randn(2, 5), torch.randn(3, 2))
    family = get_manager().family("sd1")
    edit = ep.Edit("sd1", {"unet": {"a.weight": ep.LowRank(down, up)}})
    layout.write(edit, family, {"method": "mine"}, tmp_path / layout.filename("x", family))
    read = layout.read(tmp_path / "x_my-layout.safetensors", family).deltas["unet"]["a.weight"]
    assert torch.equal(read.A, down) and torch.equal(read.B, up)
    assert layout.accepts(edit, family) and layout.sniff(["my-layout:unet:a.weight:A"], {})
    dense = ep.Edit("sd1", {"unet": {"a.weight": Dense(torch.ones(3, 5))}})
    assert "not dense" in layout.accepts(dense, family).reason and not layout.accepts(dense, family)


def test_the_judge_sees_red(plugin):
    judge = plugin("my_judge").MyJudge()
    picture = torch.zeros(1, 3, 4, 4)
    picture[:, 0] = 1
    assert judge.score(picture)["concept"].argmax(-1).tolist() == [judge.axes["concept"].index("red")]
    assert [item.name for item in judge.world().concepts] == list(judge.axes["concept"])


def test_the_control_of_the_attack_chooses_for_itself_and_is_named(plugin, tmp_path):
    from erase_plugins.evaluation.attack_summary import control_kind
    from erase_plugins.evaluation.budget import Budget

    module, asked = plugin("my_attack"), []
    shows = {("on", "a photo of a dog"), ("destroyed", "a large dog")}

    def generate(prompts, seeds, edit):
        asked.extend(zip(prompts, seeds, strict=True))
        return torch.tensor([[float((edit, text) in shows), 0.5] for text in prompts])

    judge = SimpleNamespace(id="planted", axes={"concept": ("dog", "nothing")}, score=lambda seen: {"concept": seen})
    subject = SimpleNamespace(erased=["dog"], judge=judge, generate=generate, model="none", artifacts=(), steps=2,
                              strength=1.0)  # fmt: skip
    queries = module.MyAttack.least * 2
    report = module.MyAttack().run(subject, Budget(seed=0, device="cpu", work=tmp_path, name="quick", queries=queries))
    assert (report.success.value, report.control.value) == (1.0, 1.0)
    assert report.found == {"prompt": "a photo of a dog"} and control_kind(report) == "destroyed"
    assert len(asked) == report.queries == queries


@pytest.mark.full
@pytest.mark.parametrize(("name", "kind"), [("my_suite", "suite"), ("my_attack", "attack")])
def test_what_measures_keeps_its_contract(plugin, name, kind):
    plugin(name)
    assert measuring_report(kind, MADE[name][1]) == {}

"""One test per hook, named after it; the documentation is compared with the code."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import pytest

from erase_plugins import hookimpl, hookspecs
from erase_plugins.errors import PluginError, PushRefused, RunRefused
from erase_plugins.manager import get_manager
from erase_plugins.plugin_checks import REQUIRED, hook_names
from erase_plugins.testing.models import changed_since, shared_pipeline
from erase_plugins.testing.observe import snapshot
from erase_plugins.types import EditPlan, Event
from tests.contract.reference_methods import Plugin, RandomLowRank, StepByStep
from tools.docs.hooks import BLOCKS, fill

DOCS = Path(__file__).parent.parent / "docs" / "plugins.md"


def plugin(**functions):
    """An object with the given hook implementations."""
    return type("P", (), {name: staticmethod(hookimpl(function)) for name, function in functions.items()})()


@pytest.fixture
def register():
    """Registers plugins in the process-wide manager for one test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        names = (f"hook-test-{index}" for index in range(100))
        yield lambda item: stack.enter_context(get_manager().temporary(item, next(names)))


@pytest.fixture
def run(register):
    """Erases with the small reference method; the plugins under test are registered before."""
    register(Plugin(RandomLowRank(), StepByStep()))

    def erase(method="random-lowrank", **arguments):
        from erase_plugins import erase as erase_now

        options = dict(getattr(get_manager().method(method), "contract_options", {}))
        return erase_now(shared_pipeline("tiny_sd1"), "pizza", method, options=options, **arguments)

    return erase


# ---- meta --------------------------------------------------------------------------------------------------------


def test_every_hook_has_a_test():
    tests = {name for name in vars(sys.modules[__name__]) if name.startswith("test_hook_")}
    missing = [name for name in hook_names() if not any(item.startswith(f"test_hook_{name}") for item in tests)]
    assert missing == []


def test_there_are_nineteen_hooks_and_all_are_documented_and_typed():
    assert len(hook_names()) == 19
    for name in hook_names():
        function = getattr(hookspecs, name)
        assert len(inspect.getdoc(function)) > 20
        assert set(function.__annotations__) == {*inspect.signature(function).parameters, "return"}


def test_the_page_shows_the_code_as_it_is():
    text = DOCS.read_text(encoding="utf-8")
    assert fill(text) == text, "run: python -m tools.docs"
    for name in hook_names():
        assert f"### {name}\n" in text


def test_a_stale_page_is_noticed():
    text = DOCS.read_text(encoding="utf-8").replace("`produces`, `Options`", "`produces`")
    assert fill(text) != text
    with pytest.raises(ValueError, match="no block 'hooks'"):
        fill(text.replace("<!-- generated: hooks -->", ""))
    kinds = "attack", "closed-form", "family", "guard", "judge", "language", "layout", "suite", "trained"
    examples = {f"example {kind}" for kind in kinds}
    assert set(BLOCKS) == {"hook table", "hooks", "attributes", "contract", "measuring", "items", *examples}


def test_required_attributes_are_those_of_the_protocols():
    from erase_plugins import protocols

    for hook, protocol in (
        ("erase_methods", protocols.Method),
        ("erase_layouts", protocols.Layout),
        ("erase_judges", protocols.Judge),
        ("erase_suites", protocols.Suite),
        ("erase_attacks", protocols.Attack),
        ("erase_guard_stages", protocols.GuardStage),
    ):
        lines = [item for item in protocol.__mro__ if item.__module__ == protocol.__module__]
        members = {name for item in lines for name in (*vars(item), *item.__annotations__) if not name.startswith("_")}
        assert members == set(REQUIRED[hook])


# ---- registration ------------------------------------------------------------------------------------------------


def test_hook_erase_methods(register):
    manager = register(Plugin(RandomLowRank()))
    assert manager.method("random-lowrank").title == "Random low rank"


def test_hook_erase_families(register):
    from erase_plugins.families.sd1 import StableDiffusion1

    family = type("Other", (StableDiffusion1,), {"id": "other", "detect": lambda self, configs: False})()
    manager = register(plugin(erase_families=lambda: [family]))
    assert manager.family("other") is family
    assert "other" in [entry.item.id for entry in manager.families()]


def test_hook_erase_layouts(register):
    from erase_plugins.artifacts.layouts.patch import PatchLayout

    layout = type("Mine", (PatchLayout,), {"id": "mine"})()
    assert register(plugin(erase_layouts=lambda: iter([layout]))).layout("mine") is layout


class Quiet:
    """A suite and an attack at once, as far as the registry looks."""

    id, title, needs = "quiet", "Quiet", frozenset()
    budgets = {"quick": 1, "standard": 2, "long": 3}

    def run(self, subject, budget):
        """Not called here."""


class Watching(Quiet):
    axes, fingerprint = {"concept": ("dog",)}, "0"

    def accepts(self, seen):
        """Not called here."""

    score = accepts

    def world(self):
        """Not called here."""


def test_hook_erase_judges(register):
    manager = register(plugin(erase_judges=lambda: [Watching(), type("Blind", (Quiet,), {"id": "blind"})()]))
    assert manager.evaluator("quiet", "judge").title == "Quiet"
    assert "blind" not in [entry.item.id for entry in manager.evaluators("judge")]
    assert any("Blind lacks axes, fingerprint, accepts, score, world" in item.message for item in manager.problems)


def test_hook_erase_suites(register):
    odd = type("Odd", (Quiet,), {"id": "odd", "attachments": "curve.png"})()
    manager = register(plugin(erase_suites=lambda: [Quiet(), odd]))
    assert manager.evaluator("quiet", "suite").title == "Quiet"
    assert "odd" not in [entry.item.id for entry in manager.evaluators("suite")]
    assert any("attachments is 'curve.png'; give a tuple" in item.message for item in manager.problems)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"budgets": {"quick": 1, "long": 2}}, "budgets is .*; map quick, standard, long to numbers of queries"),
        ({"least": "4"}, "least is '4'; give a number of queries from 1"),
        ({"budgets": {"quick": 0, "standard": 1, "long": 2}}, "map quick, standard, long"),
        ({"run": lambda self, subject: None}, r"declare run\(self, subject, budget\)"),
        ({"Options": dict}, "Options is not a dataclass"),
    ],
)
def test_hook_erase_attacks(register, wrong, told):
    manager = register(plugin(erase_attacks=lambda: [Quiet(), type("Odd", (Quiet,), {"id": "odd", **wrong})()]))
    assert manager.evaluator("quiet", "attack").title == "Quiet"
    assert "odd" not in [entry.item.id for entry in manager.evaluators("attack")]
    assert any(re.search(told, item.message) for item in manager.problems)


def test_hook_erase_guard_stages(register):
    stage = {"id": "mine", "title": "Mine", "roles": frozenset({"text"})}
    good = type("Mine", (), {**stage, "attach": lambda self, placing: []})()
    odd = type("Odd", (), {**stage, "id": "odd", "attach": lambda self: []})()
    manager = register(plugin(erase_guard_stages=lambda: [good, odd]))
    assert manager.guard_stage("mine") is good
    assert {"keyword", "sld"} < {entry.item.id for entry in manager.guard_stages()}
    assert "odd" not in [entry.item.id for entry in manager.guard_stages()]
    assert any("attach(self, placing)" in item.message for item in manager.problems)


def test_hook_erase_evaluators_is_translated_and_its_author_is_told(register):
    def old(base, kind, name):
        return type("Old", (base,), {"kind": kind, "id": name})()

    items = [
        old(Watching, "judge", "one"),
        old(Quiet, "suite", "two"),
        old(Quiet, "attack", "three"),
        old(Quiet, "metric", "four"),
    ]
    manager = register(plugin(erase_evaluators=lambda: items))
    for name, kind in (("one", "judge"), ("two", "suite"), ("three", "attack")):
        assert manager.evaluator(name, kind).kind == kind
        assert [entry.item.id for entry in manager.evaluators(kind)].count(name) == 1
    told = [item.message for item in manager.problems if item.stage == "erase_evaluators"]
    assert told == ["PluginError: Old has the kind 'metric'; known: judge, suite, attack"]
    (notice,) = manager.notices
    assert notice.plugin == "hook-test-0" and "use erase_judges, erase_suites, erase_attacks" in notice.message


def test_a_package_for_both_versions_counts_once(register):
    both = plugin(erase_suites=lambda: [Quiet()], erase_evaluators=lambda: [type("Old", (Quiet,), {"kind": "suite"})()])
    manager = register(both)
    assert [entry.item.id for entry in manager.evaluators("suite")].count("quiet") == 1
    assert manager.notices == () and manager.problems == []


def test_hook_erase_cli_commands(register):
    import click

    group = click.Group("cli")

    def broken(cli):
        raise RuntimeError("no terminal")

    register(plugin(erase_cli_commands=broken))
    manager = register(plugin(erase_cli_commands=lambda cli: cli.add_command(click.Command("card"))))
    manager.cli_commands(group)
    assert "card" in group.commands
    assert any(item.message == "RuntimeError: no terminal" for item in manager.problems)


def test_hook_erase_comfy_nodes(register):
    class Spec:
        NodeSpec = dict

    def broken(spec):
        raise RuntimeError("no canvas")

    register(plugin(erase_comfy_nodes=broken))
    register(plugin(erase_comfy_nodes=lambda spec: None))
    manager = register(plugin(erase_comfy_nodes=lambda spec: [spec.NodeSpec(id="EraseNudge")]))
    assert manager.comfy_nodes(Spec) == [{"id": "EraseNudge"}]
    assert any(item.message == "RuntimeError: no canvas" for item in manager.problems)


# ---- lifecycle ---------------------------------------------------------------------------------------------------


def test_hook_erase_adjust_plan(register, run):
    from dataclasses import replace

    def note(text):
        return lambda plan: replace(plan, notes=(*plan.notes, text))

    register(plugin(erase_adjust_plan=note("first")))
    register(plugin(erase_adjust_plan=lambda: None))  # takes no argument, changes nothing
    register(plugin(erase_adjust_plan=note("second")))
    assert run().manifest.notes == ("first", "second")


def test_hook_erase_adjust_plan_honours_tryfirst(register, run):
    from dataclasses import replace

    class Late:
        @hookimpl(trylast=True)
        def erase_adjust_plan(self, plan):
            return replace(plan, notes=(*plan.notes, "late"))

    class Early:
        @hookimpl(tryfirst=True)
        def erase_adjust_plan(self, plan):
            return replace(plan, notes=(*plan.notes, "early"))

    register(Late())
    register(Early())
    assert run().manifest.notes == ("early", "late")


@pytest.mark.parametrize(
    ("function", "words"), [(lambda plan: 7, "returned int"), (lambda plan: 1 / 0, "ZeroDivision")]
)
def test_hook_erase_adjust_plan_names_the_plugin_that_fails(register, run, function, words):
    register(plugin(erase_adjust_plan=function))
    with pytest.raises(PluginError, match=f"plugin hook-test-1 .*{words}"):
        run()


def test_hook_erase_before_run(register, run):
    seen = []

    def veto(plan, target):
        seen.append((plan.request.method, target.family.id))
        raise RunRefused("not on Sundays")

    pipe = shared_pipeline("tiny_sd1")
    before = snapshot(pipe)
    register(plugin(erase_before_run=veto))
    with pytest.raises(RunRefused, match="not on Sundays"):
        run()
    assert seen == [("random-lowrank", "sd1")]
    assert changed_since(pipe, before) == ""


def test_hook_erase_before_run_that_breaks_stops_the_run(register, run):
    register(plugin(erase_before_run=lambda target: target.nothing))
    with pytest.raises(PluginError, match=r"plugin hook-test-1 \(P\) failed in erase_before_run: AttributeError"):
        run()


def test_hook_erase_on_event(register, run):
    events: list[Event] = []
    register(plugin(erase_on_event=lambda event: events.append(event)))
    run("step-by-step")
    steps = [(event.done, event.total) for event in events if event.kind == "step"]
    assert steps == [(index, 6) for index in range(1, 7)]
    assert all(event.method == "step-by-step" for event in events)


def test_hook_erase_on_event_that_fails_is_told_once_and_not_fatal(register, run, caplog):
    def broken(event):
        raise OSError("disk full")

    manager = register(plugin(erase_on_event=broken))
    assert len(run("step-by-step").edit) == 4
    found = [item for item in manager.problems if item.stage == "erase_on_event"]
    assert [item.message for item in found] == ["OSError: disk full"]
    assert caplog.text.count("disk full") == 1


def test_hook_erase_after_run(register, run):
    calls = []

    def after(plan, edit, error):
        calls.append((isinstance(plan, EditPlan), None if edit is None else len(edit), type(error).__name__))

    register(plugin(erase_after_run=after))
    run()

    class Fails(RandomLowRank):
        id = "fails"

        def run(self, plan, target, ctx):
            raise ArithmeticError("diverged")

    register(Plugin(Fails()))
    with pytest.raises(ArithmeticError, match="diverged"):
        run("fails")
    assert calls == [(True, 8, "NoneType"), (True, None, "ArithmeticError")]


def test_hook_erase_after_run_does_not_hide_the_error(register, run):
    class Fails(RandomLowRank):
        id = "fails"

        def run(self, plan, target, ctx):
            raise ArithmeticError("diverged")

    register(Plugin(Fails()))
    manager = register(plugin(erase_after_run=lambda error: error.nothing))
    with pytest.raises(ArithmeticError, match="diverged"):
        run("fails")
    assert any(item.stage == "erase_after_run" for item in manager.problems)


def test_hook_erase_artifact_saved(register, run, tmp_path):
    seen = []
    register(
        plugin(
            erase_artifact_saved=lambda artifact: seen.append((artifact.path, (artifact.path / "erase.json").is_file()))
        )
    )
    register(plugin(erase_artifact_saved=lambda artifact: artifact.nothing))  # must not spoil a saved artifact
    run(out=tmp_path / "out")
    assert seen == [(tmp_path / "out", True)]


def test_hook_erase_card_sections(register):
    register(plugin(erase_card_sections=lambda artifact, report: ["limits"]))
    register(plugin(erase_card_sections=lambda: None))
    register(plugin(erase_card_sections=lambda artifact: artifact.nothing))
    manager = register(plugin(erase_card_sections=lambda report: [report]))
    assert manager.card_sections(object(), "report") == ["limits", "report"]


def test_hook_erase_before_push(register):
    def veto(bundle, destination):
        if destination.startswith("public/"):
            raise PushRefused("licence unknown")

    manager = register(plugin(erase_before_push=veto))
    manager.before_push({}, "private/x")
    with pytest.raises(PushRefused, match="licence unknown"):
        manager.before_push({}, "public/x")


def test_hook_erase_resolve_artifact(register, run, tmp_path):
    from erase_plugins import load_artifact
    from erase_plugins.errors import ArtifactError

    run(out=tmp_path / "out")
    asked = []

    def resolve(reference):
        asked.append(reference)
        return tmp_path / "out" if reference == "shelf:top" else None

    with pytest.raises(ArtifactError, match="no plugin knows where 'shelf:' artifacts are"):
        load_artifact("shelf:top")
    register(plugin(erase_resolve_artifact=lambda reference: None))
    register(plugin(erase_resolve_artifact=resolve))
    assert load_artifact("shelf:top").path == tmp_path / "out"
    with pytest.raises(ArtifactError, match="no artifact at 'gone'"):
        load_artifact("C:/gone")
    assert asked == ["shelf:top"]
    assert load_artifact(str(tmp_path / "out")).name == load_artifact(tmp_path / "out").name


@pytest.mark.parametrize(
    ("function", "words"), [(lambda: "a text", "returned str"), (lambda reference: 1 / 0, "ZeroDivision")]
)
def test_hook_erase_resolve_artifact_names_the_plugin_that_fails(register, function, words):
    from erase_plugins import load_artifact

    register(plugin(erase_resolve_artifact=function))
    with pytest.raises(PluginError, match=f"plugin hook-test-0 .*{words}"):
        load_artifact("shelf:top")


def test_hook_erase_functions(register):
    register(plugin(erase_functions=lambda: {"greet": lambda name: f"hello {name}"}))
    assert get_manager().function("greet")("you") == "hello you"
    assert get_manager().function("unheard") is None


def test_hook_erase_functions_refuses_other_things_than_a_mapping(register):
    register(plugin(erase_functions=lambda: ["push"]))
    with pytest.raises(PluginError, match="returned list from erase_functions"):
        get_manager().function("unheard")

"""Loading, isolation, provenance, duplicates and switches of the plugin manager."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from erase_plugins import hookimpl
from erase_plugins.defaults import BUILTIN_PLUGINS
from erase_plugins.errors import PluginError, RequestError, UnknownName
from erase_plugins.manager import Manager, get_manager
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.run import make_plan
from tests.plugin_packages import PACKAGES, install

SHOW = """
import json
from erase_plugins import get_manager
manager = get_manager()
problems = [item.to_dict() for item in manager.check()]
print(json.dumps({
    "problems": problems,
    "plugins": manager.plugins(),
    "methods": [[item.item.id, item.plugin, item.package, item.version, item.file] for item in manager.methods()],
}))
"""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Installs packages into a folder on the path and loads them into a fresh manager."""

    def load(*modules: str, builtins: bool = False, **options) -> Manager:
        install(tmp_path / "site", *modules, **options)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        manager = Manager()
        if builtins:
            manager.load_builtins()
        manager.load_entry_points()
        manager.check()
        return manager

    monkeypatch.setenv("ERASE_PLUGINS_DISABLE", "hub_cards")  # there if this project is installed
    for name in PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield load
    for name in PACKAGES:
        sys.modules.pop(name, None)


def problem(manager: Manager, plugin: str):
    found = [item for item in manager.problems if item.plugin == plugin]
    assert len(found) == 1, [item.message for item in manager.problems]
    return found[0]


def ids(entries) -> list[str]:
    return [entry.item.id for entry in entries]


def test_builtins_are_plugins_without_problems():
    manager = get_manager()
    rows = {row["name"]: row for row in manager.plugins() if row["package"] == "erase-plugins"}
    rows.pop("hub_cards", None)  # joins through the entry point, there if this project is installed
    assert set(rows) == {path.removeprefix("erase_plugins.") for path in BUILTIN_PLUGINS}
    assert manager.check() == ()
    assert all(row["hooks"] and row["file"].startswith("erase_plugins/") for row in rows.values())
    assert {"uce", "rece", "esd"} <= set(ids(manager.methods()))
    assert {"sd1", "sdxl"} <= set(ids(manager.families()))
    assert {"patch", "diffusers", "kohya", "peft"} <= set(ids(manager.layouts()))


def test_good_plugin_with_provenance(loaded):
    manager = loaded("good_plugin")
    assert manager.problems == []
    (entry,) = manager.methods()
    found = (entry.item.id, entry.plugin, entry.package, entry.version, entry.file)
    assert found == ("good-shift", "good-plugin", "good-plugin", "1.2", "good_plugin.py")
    (row,) = manager.plugins()
    expected = {"name": "good-plugin", "package": "good-plugin", "version": "1.2", "file": "good_plugin.py"}
    assert row == {**expected, "hooks": ["erase_methods"]}


def test_no_user_path_is_shown(loaded, tmp_path):
    manager = loaded("good_plugin", "raises_at_import", "raises_in_hook", builtins=True)
    text = json.dumps([manager.plugins(), [item.to_dict() for item in manager.problems]])
    assert str(tmp_path) not in text
    assert str(Path(sys.prefix)) not in text


BAD = [
    ("raises_at_import", "load", "RuntimeError: no licence file"),
    ("exits_at_import", "load", "SystemExit: goodbye"),
    ("raises_in_hook", "erase_methods", "ValueError: weights are not where they were"),
    ("misspelled_hook", "load", "PluginError: unknown hook erase_metods, did you mean erase_methods?"),
    ("unmarked_hook", "load", "PluginError: erase_methods is not decorated with @erase_plugins.hookimpl"),
    ("no_hook", "load", "PluginError: defines no hook"),
    ("old_signature", "load", "PluginError: erase_methods asks for registry, this version passes nothing"),
    ("old_api", "load", "PluginError: written for hooks 0, this is hooks 1; install a newer version of this package"),
    ("class_not_instance", "erase_methods", "returned the class Eraser; return an instance: Eraser()"),
    ("lacks_attributes", "erase_methods", "Half lacks paper, summary, needs, kinds, produces, Options, run"),
]


@pytest.mark.parametrize(("module", "stage", "words"), BAD, ids=[row[0] for row in BAD])
def test_bad_plugin_is_isolated_and_explained(loaded, module, stage, words):
    manager = loaded(module, "good_plugin")
    name, version = PACKAGES[module]
    found = problem(manager, name)
    assert (found.package, found.version, found.stage) == (name, version, stage)
    assert words in found.message
    assert "\n" not in found.message
    assert ids(manager.methods()) == ["good-shift"]
    still_there = {row["name"] for row in manager.plugins()}
    assert ("good-plugin" in still_there) and ((name in still_there) == (stage != "load"))


def test_failed_plugin_leaves_none_of_its_hooks(loaded):
    manager = loaded("old_signature")
    assert manager.plugins() == ()
    assert manager.pluggy.hook.erase_layouts.get_hookimpls() == []


def test_raising_hook_leaves_the_plugins_other_hooks(loaded):
    manager = loaded("raises_in_hook")
    assert manager.layouts() == ()
    assert [item.stage for item in manager.problems] == ["erase_methods"]


def test_one_broken_object_leaves_its_neighbours(loaded):
    manager = loaded("good_plugin", "one_of_two")
    assert sorted(ids(manager.methods())) == ["good-shift", "sound"]
    assert "id 'Not An Id'" in problem(manager, "one-of-two").message


def test_entry_point_to_a_class_or_to_nothing(loaded, tmp_path):
    manager = loaded("good_plugin", entry="good_plugin:Shift")
    assert "the class Shift; register a module or an instance" in problem(manager, "good-plugin").message


def test_entry_point_to_a_missing_module(loaded):
    manager = loaded("good_plugin", entry="not_there")
    assert "ModuleNotFoundError: No module named 'not_there'" in problem(manager, "good-plugin").message


def test_damaged_metadata_of_one_package_stays_alone(loaded, tmp_path):
    info = tmp_path / "site" / "damaged-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: damaged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[erase_plugins]\nno equals sign here\n")
    manager = loaded("good_plugin")
    assert ids(manager.methods()) == ["good-shift"]
    assert problem(manager, "damaged").stage == "metadata"


def test_newer_hooks_ask_for_a_newer_program():
    class Newer:
        ERASE_PLUGINS_API = 99

        @hookimpl
        def erase_methods(self):
            return []

    with (
        pytest.raises(PluginError, match="written for hooks 99, this is hooks 1; install a newer erase-plugins"),
        Manager().temporary(Newer()),
    ):
        pass


# ---- duplicates --------------------------------------------------------------------------------------------------


def test_duplicate_id_names_both_and_leaves_both_out(loaded):
    manager = loaded("good_plugin", "duplicate_plugin")
    assert ids(manager.methods()) == []
    message = problem(manager, "duplicate-plugin").message
    for part in (
        "id 'good-shift'",
        "good-plugin (good-plugin 1.2)",
        "duplicate-plugin (duplicate-plugin 3.4)",
        "choose with get_manager().prefer(...)",
    ):
        assert part in message
    with pytest.raises(RequestError, match=r"good-plugin 1\.2.*duplicate-plugin 3\.4|duplicate.*good"):
        manager.method("good-shift")


@pytest.mark.parametrize(
    ("plugin", "title"), [("good-plugin", "Shift"), ("duplicate-plugin", "Shift of another package")]
)
def test_environment_or_option_picks_one(loaded, monkeypatch, plugin, title):
    monkeypatch.setenv("ERASE_PLUGINS_FROM", plugin)
    manager = loaded("good_plugin", "duplicate_plugin")
    assert manager.method("good-shift").title == title
    assert manager.problems == []


def test_prefer_decides_later_and_forgets_the_problem(loaded):
    manager = loaded("good_plugin", "duplicate_plugin")
    assert manager.problems
    manager.prefer("duplicate-plugin")
    assert manager.method("good-shift").title == "Shift of another package"
    assert manager.problems == []
    with pytest.raises(UnknownName, match="no plugin named 'good-plugn'; did you mean 'good-plugin'"):
        manager.prefer("good-plugn")


def test_builtins_have_no_silent_priority():
    class Copycat:
        @hookimpl
        def erase_layouts(self):
            from erase_plugins.artifacts.layouts.patch import PatchLayout

            return [PatchLayout()]

    manager = get_manager()
    with manager.temporary(Copycat(), "copycat"), pytest.raises(RequestError, match="id 'patch' is claimed by"):
        manager.layout("patch")
    assert manager.layout("patch").id == "patch"


def test_judge_and_suite_may_share_an_id():
    class Both:
        id, title, needs, budgets = "same", "t", frozenset(), {"quick": 1, "standard": 1, "long": 1}

        def run(self, subject, ctx):
            """Not called here."""

        @hookimpl
        def erase_suites(self):
            return [self]

        @hookimpl
        def erase_attacks(self):
            return [self]

    manager = Manager()
    with manager.temporary(Both()):
        assert manager.evaluator("same", "suite") is manager.evaluator("same", "attack")
        assert manager.problems == []
        with pytest.raises(UnknownName, match="no judge named 'same'"):
            manager.evaluator("same", "judge")


# ---- switches ----------------------------------------------------------------------------------------------------


def test_disable_by_plugin_or_package(loaded, monkeypatch):
    monkeypatch.setenv("ERASE_PLUGINS_DISABLE", "good-plugin, methods.uce")
    manager = loaded("good_plugin", "one_of_two", builtins=True)
    names = {row["name"] for row in manager.plugins()}
    assert not names & {"good-plugin", "methods.uce"}
    assert {"one-of-two", "families.sd1"} <= names


def test_a_blocked_plugin_is_not_even_imported(loaded, monkeypatch):
    monkeypatch.setenv("ERASE_PLUGINS_DISABLE", "exits-at-import")
    assert loaded("exits_at_import").problems == []


def test_only(loaded, monkeypatch):
    monkeypatch.setenv("ERASE_PLUGINS_ONLY", "erase-plugins,good-plugin")
    manager = loaded("good_plugin", "raises_at_import", builtins=True)
    assert {row["package"] for row in manager.plugins()} == {"erase-plugins", "good-plugin"}
    assert not [item for item in manager.problems if item.package == "raises-at-import"]


def test_only_with_a_name_that_is_not_there_is_reported(loaded, monkeypatch):
    monkeypatch.setenv("ERASE_PLUGINS_ONLY", "good-plugin,god-plugin")
    manager = loaded("good_plugin")
    message = problem(manager, "god-plugin").message
    assert message.startswith("ERASE_PLUGINS_ONLY names 'god-plugin', which is no installed plugin or package")
    assert "did you mean 'good-plugin'?" in message


def test_a_typo_in_disable_is_told_at_once(loaded, monkeypatch, caplog):
    monkeypatch.setenv("ERASE_PLUGINS_DISABLE", "goodplugin, hub_cards, methods.uce")
    with caplog.at_level(logging.WARNING, logger="erase_plugins"):
        manager = loaded("good_plugin")
    message = problem(manager, "goodplugin").message
    assert message.startswith("ERASE_PLUGINS_DISABLE names 'goodplugin'")
    assert "did you mean 'good-plugin'?" in message
    assert caplog.messages == [message]
    assert [item.plugin for item in manager.problems] == ["goodplugin"], "names of blocked plugins are no typos"


def test_a_typo_in_disable_is_told_by_every_command(tmp_path):
    code = "import sys; sys.argv = ['erase-plugins', 'info', 'uce']; from erase_plugins.cli.main import main; main()"
    env = {**os.environ, "ERASE_PLUGINS_DISABLE": "methods.ucee"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0
    assert "ERASE_PLUGINS_DISABLE names 'methods.ucee'" in done.stderr and "'methods.uce'" in done.stderr


def test_an_optional_hook_may_be_unknown():
    class Ahead:
        @hookimpl
        def erase_methods(self):
            return []

        @hookimpl(optionalhook=True)
        def erase_next_year(self, something):
            raise AssertionError("never called")

    manager = Manager()
    with manager.temporary(Ahead(), "ahead"):
        assert manager.check() == ()
        assert [row["name"] for row in manager.plugins()] == ["ahead"]


def test_trace_logs_each_call(loaded, monkeypatch, caplog):
    monkeypatch.setenv("ERASE_PLUGINS_TRACE", "1")
    with caplog.at_level(logging.WARNING, logger="erase_plugins"):
        loaded("good_plugin")
    assert "hook erase_methods: good-plugin" in caplog.text


# ---- other ways in -----------------------------------------------------------------------------------------------


def test_single_file_plugin(tmp_path):
    install(tmp_path, "good_plugin")
    manager = Manager()
    manager.load_file(tmp_path / "good_plugin.py")
    (entry,) = manager.methods()
    assert (entry.item.id, entry.plugin, entry.file) == ("good-shift", "file:good_plugin", "good_plugin.py")


@pytest.mark.parametrize(
    ("module", "words"), [("raises_at_import", "no licence file"), ("misspelled_hook", "did you mean")]
)
def test_single_file_plugin_that_fails(tmp_path, module, words):
    install(tmp_path, module)
    manager = Manager()
    with pytest.raises(RequestError, match=words) as caught:
        manager.load_file(tmp_path / f"{module}.py")
    assert str(tmp_path) not in str(caught.value)
    assert manager.problems == []


def test_single_file_plugin_that_is_missing(tmp_path):
    with pytest.raises(RequestError, match=r"no plugin file at 'nowhere.py'"):
        Manager().load_file(tmp_path / "nowhere.py")


def test_temporary_leaves_no_trace(tmp_path):
    class Bad:
        @hookimpl
        def erase_methods(self):
            return [1]

    manager = Manager()
    with manager.temporary(Bad(), "bad"):
        assert manager.methods() == ()
        assert "int lacks id" in manager.problems[0].message
    assert manager.problems == []
    assert manager.plugins() == ()


@pytest.mark.parametrize(
    ("result", "words"),
    [(None, "returned None; return a list"), ("uce", "returned one str"), (object(), r"return a list: \[object\(\)\]")],
)
def test_registration_hooks_return_lists(result, words):
    plugin = type("Odd", (), {"erase_methods": hookimpl(lambda self: result)})
    plugin.erase_methods.__name__ = "erase_methods"
    manager = Manager()
    with manager.temporary(plugin()):
        assert manager.methods() == ()
        import re

        assert re.search(words, manager.problems[0].message)


def test_two_packages_with_one_plugin_name(loaded, tmp_path):
    manager = loaded("good_plugin")
    manager.load("good-plugin", lambda: None, "impostor", "6.6")
    assert "taken by a plugin of good-plugin 1.2" in problem(manager, "good-plugin").message


# ---- a real process ----------------------------------------------------------------------------------------------


def run_python(folder: Path, code: str, **environment: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())]), **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_at_once_through_real_entry_points(tmp_path):
    site = install(tmp_path / "site", *[name for name in PACKAGES if name != "duplicate_plugin"])
    found = json.loads(run_python(site, SHOW))
    methods = {row[0]: row[1:] for row in found["methods"]}
    assert methods["good-shift"] == ["good-plugin", "good-plugin", "1.2", "good_plugin.py"]
    assert {"uce", "rece", "sound"} <= set(methods)
    broken = {item["package"]: item["version"] for item in found["problems"]}
    assert broken == {PACKAGES[row[0]][0]: PACKAGES[row[0]][1] for row in BAD} | {"one-of-two": "0.1"}
    assert str(tmp_path) not in json.dumps(found)


def test_loading_plugins_does_not_import_torch(tmp_path):
    site = install(tmp_path / "site", "good_plugin")
    out = run_python(
        site, SHOW.split("print(")[0] + "import sys; print('torch' in sys.modules, 'diffusers' in sys.modules)"
    )
    assert out.strip() == "False False"


def test_a_name_is_found_as_people_write_it():
    manager = get_manager()
    assert manager.method("UCE") is manager.method("uce")
    assert make_plan(EraseRequest(model="pocket", method="UCE", concepts=(Concept("pizza"),))).request.method == "uce"
    assert manager.method("Few_Shot") is manager.method("few shot") is manager.method("few-shot")
    with pytest.raises(UnknownName, match="did you mean 'uce'"):
        manager.method("UEC")


def test_a_guard_that_does_not_say_so_is_told_how():
    """A method that produces no kinds of changes is a guard, and has to say what it acts on."""
    from erase_plugins.methods.guards.refusal_prompt import RefusalPrompt
    from erase_plugins.plugin_checks import check_item

    class Guard(RefusalPrompt):
        level = "weights"

    check_item("erase_methods", RefusalPrompt())
    with pytest.raises(
        PluginError, match=r"a guard, which changes no weights, says level: guidance or prompt or picture"
    ):
        check_item("erase_methods", Guard())


def test_functions_that_cannot_be_called_are_refused_by_name():
    """A wrong signature is told when plugins are listed, not as a TypeError in the middle of a run."""
    from types import SimpleNamespace

    from erase_plugins import hookimpl
    from erase_plugins.plugin_checks import check_item

    manager = get_manager()
    for hook, item, member, wanted in (
        ("erase_methods", manager.method("uce"), "plan", "plan(self, request, info)"),
        ("erase_layouts", manager.layout("kohya"), "write", "write(self, edit, family, header, path)"),
        ("erase_judges", manager.evaluator("pocket", "judge"), "score", "score(self, images)"),
    ):
        check_item(hook, item)
        wrong = type("Wrong", (type(item),), {member: lambda self: None})()
        plugin = SimpleNamespace(**{hook: hookimpl(lambda wrong=wrong: [wrong], specname=hook)})
        with manager.temporary(plugin, "wrong"):
            manager.check()
            said = [item.message for item in manager.problems if item.plugin == "wrong"]
        assert said == [f"PluginError: Wrong.{member} takes (); declare {wanted}"]


def test_an_unknown_name_tells_of_plugins_that_were_left_out(loaded):
    manager = loaded("raises_at_import")
    with pytest.raises(
        UnknownName, match=r"no method named 'theirs'.*; left out: raises-at-import, 'erase-plugins list plugins'"
    ):
        manager.method("theirs")
    with pytest.raises(UnknownName) as plain:
        get_manager().method("theirs")
    assert "left out" not in str(plain.value)

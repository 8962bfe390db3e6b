"""Plugins on the command line: own commands, single files, and who wins a claimed id."""

from __future__ import annotations

import types

import click
import pytest

from erase_plugins.hookspecs import hookimpl
from erase_plugins.manager import get_manager

FILE = """
from dataclasses import dataclass
from erase_plugins import hookimpl
from erase_plugins.options import option

@dataclass(frozen=True)
class Options:
    amount: int = option(3, "how much", low=1, high=9)

class Nothing:
    id, title, paper, summary = "nothing", "Does nothing", "none", "an example"
    families, kinds, produces = frozenset({"sd1"}), frozenset({"object"}), frozenset({"lowrank"})
    Options = Options
    def plan(self, request, info): ...
    def run(self, plan, target, ctx): ...

@hookimpl
def erase_methods():
    return [Nothing()]
"""


@pytest.fixture
def unload():
    yield
    manager = get_manager()
    for name, _ in manager.pluggy.list_name_plugin():
        if name.startswith("file:"):
            manager.pluggy.unregister(name=name)
    manager.prefer()  # collects the registries again


def plugin(**hooks):
    module = types.ModuleType("planted")
    for name, function in hooks.items():
        function.__name__ = name
        setattr(module, name, hookimpl(function))
    return module


def test_hook_erase_cli_commands_adds_a_command(erase):
    def add(cli):
        @cli.command("greet", help="Says hello.")
        def greet():
            click.echo("hello")

    with get_manager().temporary(plugin(erase_cli_commands=add)):
        assert erase("greet").out == "hello\n"
        assert "greet" in erase("--help").out
        assert "did you mean 'greet'" in erase("gret").err
    assert erase("greet").code == 2


def test_a_plugin_cannot_replace_a_built_in_command(erase):
    def add(cli):
        cli.add_command(click.Command("list", callback=lambda: click.echo("stolen")))

    with get_manager().temporary(plugin(erase_cli_commands=add)):
        assert "stolen" not in erase("list", "methods").out


def test_a_failing_command_hook_does_not_break_help(erase):
    def add(cli):
        raise RuntimeError("broken")

    with get_manager().temporary(plugin(erase_cli_commands=add)):
        assert erase("--help").code == 0


def test_single_file_plugin_is_loaded_only_when_named(erase, tmp_path, unload):
    file = tmp_path / "nothing.py"
    file.write_text(FILE)
    assert erase("info", "nothing").code == 2
    ran = erase("--plugin", file, "info", "nothing", "--json")
    assert ran.code == 0
    (option,) = ran.data["options"]
    assert (option["option"], option["default"], option["low"], option["high"], option["help"]) == (
        "amount", 3, 1, 9, "how much",
    )  # fmt: skip
    rows = erase("list", "methods", "--json").data["methods"]
    assert next(row["plugin"] for row in rows if row["id"] == "nothing") == "file:nothing"


COMMAND = """
import click
from erase_plugins import hookimpl

@hookimpl
def erase_cli_commands(cli):
    @cli.command("greet", help="Says hello.")
    @click.option("--name", default="you")
    def greet(name):
        click.echo(f"hello {name}")
"""


def test_a_single_file_plugin_adds_commands(erase, tmp_path, unload):
    file = tmp_path / "greeting.py"
    file.write_text(COMMAND)
    assert erase("greet").code == 2
    ran = erase("--plugin", file, "greet", "--name", "world")
    assert (ran.code, ran.out) == (0, "hello world\n"), ran.err


@pytest.mark.parametrize(
    ("stage", "fault", "told"),
    [
        ("plan", "1 / 0", "unexpected ZeroDivisionError in mine.py (mine.py, line N): division by zero; tell"),
        ("run", "__import__('json').loads('{')", "unexpected JSONDecodeError in mine.py (mine.py, line N): Expecting"),
        ("run", "open('/nowhere/x')", "No such file or directory: 'x' in mine.py (mine.py, line N); check the path"),
        ("run", "(_ for _ in ()).throw(RuntimeError('CUDA out of memory'))", "not enough memory; try"),
    ],
)  # fmt: skip
def test_a_crash_inside_a_plugin_names_it(erase, loaded, tmp_path, unload, stage, fault, told):
    file = tmp_path / "mine.py"
    body = {"plan": "return EditPlan(request)", "run": "...", stage: fault}
    text = FILE.replace("info): ...", f"info): {body['plan']}").replace("ctx): ...", f"ctx): {body['run']}")
    file.write_text(f"from erase_plugins.types import EditPlan\n{text}")
    words = ("--plugin", file, "run", "nothing", "--model", "pocket", "--erase", "pizza", "--out", tmp_path / "made")
    ran = erase(*words, "--debug")
    line = next(place for place, row in enumerate(file.read_text().splitlines(), 1) if fault in row)
    said = f"error: {told}".replace("line N", f"line {line}")
    assert ran.code == 1 and ran.err.splitlines()[-1].startswith(said), ran.err
    assert ran.err.startswith("Traceback") and fault in ran.err, "the traceback shows the line"
    assert not (tmp_path / "made").exists()


def test_a_crash_of_our_own_blames_nobody(erase, monkeypatch):
    from erase_plugins.methods.uce import UCE

    monkeypatch.setattr(UCE, "plan", lambda *_: 1 / 0)
    assert erase("run", "uce", "--erase", "pizza", "--out", "x").err.startswith("error: unexpected ZeroDivisionError: ")


def test_what_a_plugin_prints_stays_out_of_the_json(erase, tmp_path, unload):
    file = tmp_path / "chatty.py"
    file.write_text(FILE.replace("class Nothing", 'print("hello at import")\n\n\nclass Nothing', 1)
                    .replace("return [", 'print("hello in a hook")\n    return [', 1))  # fmt: skip
    ran = erase("--plugin", file, "list", "methods", "--json")
    assert "nothing" in {row["id"] for row in ran.data["methods"]}
    assert ran.err.count("hello at import") == ran.err.count("hello in a hook") == 1


def test_help_shows_the_commands_of_a_single_file_plugin(erase, tmp_path, unload):
    file = tmp_path / "greeting_too.py"
    file.write_text(COMMAND)
    assert "Says hello." in erase("--plugin", file, "--help").out


def test_a_plugin_file_that_does_not_load_ends_before_the_command(erase, tmp_path, unload):
    ran = erase("--plugin", tmp_path / "nowhere.py", "list", "methods")
    assert ran.code == 2
    assert ran.err.startswith("error: no plugin file at 'nowhere.py'")


def test_from_prefers_a_plugin_for_one_invocation(erase, tmp_path, unload, monkeypatch):
    monkeypatch.delenv("ERASE_PLUGINS_FROM", raising=False)
    file = tmp_path / "double.py"
    file.write_text(FILE.replace('"nothing"', '"uce"'))
    clash = erase("--plugin", file, "info", "uce")
    assert clash.code == 2
    assert "--from PLUGIN" in clash.err
    ran = erase("--from", "file:double", "info", "uce", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["title"] == "Does nothing"
    assert erase("--from", "methods.uce", "info", "uce", "--json").data["title"] == "Unified Concept Editing"
    assert erase("info", "uce").code == 2


def test_list_filters_by_plugin(erase):
    data = erase("list", "methods", "--plugin", "methods.uce", "--json").data
    assert [row["id"] for row in data["methods"]] == ["uce"]


def test_of_one_plugin_only_what_it_has_is_shown(erase, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # no table in a narrow terminal
    ran = erase("list", "--plugin", "methods.uce")
    assert [word for word in ("methods", "plugins", "judges", "layouts", "suites") if f"\n{word} " in f"\n{ran.out}"] == [
        "methods", "plugins",
    ]  # fmt: skip


def test_new_plugin_writes_a_package_and_never_over_another(erase, tmp_path):
    ran = erase("new-plugin", "my-eraser", "--out", tmp_path / "p", "--json")
    assert ran.code == 0, ran.err
    assert "pyproject.toml" in ran.data["files"]
    assert "erase_plugins" in (tmp_path / "p" / "pyproject.toml").read_text()
    assert ran.data["files"] == sorted(
        item.relative_to(tmp_path / "p").as_posix() for item in (tmp_path / "p").rglob("*") if item.is_file()
    )
    again = erase("new-plugin", "my-eraser", "--out", tmp_path / "p")
    assert again.code == 2
    assert "choose another --out" in again.err and "--force" not in again.err, "an option that it does not have"
    assert again.err.startswith("error: 'p' is not empty, and nothing in it is replaced")
    (tmp_path / "empty").mkdir()
    assert erase("new-plugin", "my-eraser", "--out", tmp_path / "empty").code == 0


@pytest.mark.parametrize("name", ["json", "numpy", "erase-plugins", "test"])
def test_new_plugin_takes_no_module_s_place(erase, tmp_path, name):
    """`new-plugin json` wrote a json.py: installed, it is never found, and in its folder it breaks every import."""
    ran = erase("new-plugin", name, "--out", tmp_path / "p")
    assert ran.code == 2
    assert f"a module named '{name.replace('-', '_')}'" in ran.err
    assert not (tmp_path / "p").exists()


def test_new_plugin_offers_a_trained_method(erase, tmp_path):
    assert erase("new-plugin", "my-eraser", "--kind", "trained", "--out", tmp_path / "p").code == 0
    assert "TrainedMethod" in (tmp_path / "p" / "my_eraser.py").read_text()
    ran = erase("new-plugin", "my-eraser", "--kind", "learned", "--out", tmp_path / "q")
    assert ran.code == 2
    assert "'closed-form', 'trained'" in ran.err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uce", "run uce --model pocket --erase pizza --out no-pizza"),
        ("gs-lora", "run gs-lora --model pocket-classifier --erase pizza --out no-pizza"),
        ("npo", "run npo --model pocket-lm --erase withheld --kind dataset --out forgotten"),
        ("memit", "run memit --model pocket-lm --erase 'Wexsa Tarnfall' --kind person --out forgotten"),
        ("noisy-gd", "run noisy-gd --model pocket-classifier --forget rows.jsonl --out no-pizza"),
        ("language", "evaluate forgotten --model pocket-lm --suite language --out report"),
        ("probe", "attack no-pizza --model pocket --attack probe --out attacked"),
    ],
)
def test_the_example_of_info_can_be_run(erase, name, said):
    """Of methods for classifiers and language models it named pocket, which they refuse."""
    assert erase("info", name).out.rstrip().endswith(f"example: erase-plugins {said}")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("kohya", "layout", "readers: ComfyUI, diffusers, LyCORIS"),
        ("pocket", "judge", "modality: image"),
        ("sd1", "family", "components: unet, text_encoder"),
    ],
)
def test_info_knows_what_is_no_method(erase, name, kind, said):
    ran = erase("info", name)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{name}: ")
    assert lines[0].endswith(f"({kind})")
    assert f"  {said}" in lines
    assert lines[-1].startswith("  from: erase-plugins ")
    assert erase("info", name, "--preset", "x.toml").code == 2


BROKEN = FILE.replace("def plan(self, request, info): ...", "def plan(self, request, info): return {}['gone']")


def test_an_error_inside_a_plugin_names_it(erase, tmp_path, unload):
    (tmp_path / "my_broken.py").write_text(BROKEN)
    line = BROKEN.splitlines().index(next(row for row in BROKEN.splitlines() if "['gone']" in row)) + 1
    ran = erase(
        "--plugin", str(tmp_path / "my_broken.py"), "run", "nothing", "--erase", "dog", "--out", "x", "--dry-run"
    )
    assert ran.code == 1
    told = f"error: unexpected KeyError in my_broken.py (my_broken.py, line {line}): 'gone'; tell its author, --debug"
    assert told in ran.err


def test_an_error_that_no_plugin_had_a_part_in_names_none(erase, monkeypatch):
    def fail(*_arguments):
        raise KeyError("ours")

    monkeypatch.setattr("erase_plugins.cli.info.option_rows", fail)
    with get_manager().temporary(plugin(erase_on_event=lambda event: None), "bystander"):
        ran = erase("info", "uce")
    assert "error: unexpected KeyError: 'ours'; run again with --debug for the traceback" in ran.err


def test_list_plugins_tells_what_registers_nothing(erase):
    with get_manager().temporary(plugin(erase_layouts=lambda: None), "empty"):
        assert "erase_layouts returned None; return a list" in erase("list", "plugins").out

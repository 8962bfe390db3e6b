"""What holds for every command: help at once and without torch, exit codes, one line of error, pure JSON."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from erase_plugins import __version__
from erase_plugins.cli.group import COMMANDS, describe
from erase_plugins.cli.lazy import LazyCommand
from erase_plugins.cli.main import cli
from erase_plugins.errors import (
    BaseMismatch,
    EraseError,
    HubError,
    MissingExtra,
    RequestError,
    RunCancelled,
    Unsupported,
)
from tools.docs import cli as docs

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip


def test_help_of_every_command_works_without_torch():
    names = [[], *([name] for name in COMMANDS)]
    code = (
        "import sys, contextlib, io\n"
        "from erase_plugins.cli.main import cli\n"
        f"for words in {names!r}:\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try: cli([*words, '--help'], prog_name='erase-plugins')\n"
        "        except SystemExit as end: assert end.code == 0, words\n"
        "    assert 'Usage: erase-plugins' in out.getvalue()\n"
        "heavy = [name for name in ('torch', 'diffusers', 'transformers', 'peft', 'rich') if name in sys.modules]\n"
        "print(heavy)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def processor_seconds(code: str) -> float:
    """Processor time of a fresh interpreter, so that a busy machine does not decide; best of five."""
    best = 9.0
    for _ in range(5):
        before = os.times()
        assert python(code).returncode == 0
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
        if best < 0.3:
            break
    return best


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("list", "--help")])
def test_help_comes_at_once(words):
    assert processor_seconds(f"from erase_plugins.cli.main import cli; cli({list(words)!r})") < 0.3


def test_import_comes_at_once():
    code = "import sys, erase_plugins; assert not {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)"
    assert processor_seconds(code) < 0.3


def test_the_list_of_commands_imports_no_method_and_names_the_plugins_commands():
    """Counted, not timed: methods add no command, and importing them all took most of the time."""
    code = (
        "import sys, contextlib, io\n"
        "from erase_plugins.cli.main import cli\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    try: cli(['--help'], prog_name='erase-plugins')\n"
        "    except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith(('erase_plugins.methods', 'erase_plugins.families'))])\n"
        "print('Commands from plugins' in out.getvalue(), '  push ' in out.getvalue())"
    )
    assert python(code).stdout.splitlines() == ["[]", "True True"]


def test_list_imports_no_torch():
    done = python("from erase_plugins.cli.main import cli\nimport sys, atexit\n"
                  "atexit.register(lambda: sys.stderr.write(str('torch' in sys.modules)))\ncli(['list', '--json'])")  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == "False"
    assert {"uce", "rece"} <= {row["id"] for row in json.loads(done.stdout)["methods"]}


def test_without_arguments_shows_what_people_come_for(erase):
    ran = erase()
    assert (ran.code, ran.err) == (0, "")
    shown = [shlex.split(line)[1:] for line in ran.out.splitlines() if line.startswith("  erase-plugins ")]
    assert [words[0] for words in shown] == ["demo", "run", "generate", "evaluate", "audit"]
    context = click.Context(cli)
    for name, *words in shown:  # every line is one that the command takes
        command = cli.get_command(context, name)
        command.make_context(name, words, resilient_parsing=False).close()


def test_version(erase):
    assert erase("--version").out == f"erase-plugins {__version__}\n"


WRONG = [
    (("nonsense",), 2, "no command 'nonsense'"),
    (("runn", "uce"), 2, "did you mean 'run'?"),
    (("run", "uec", "--erase", "pizza", "--out", "x"), 2, "no method named 'uec'; did you mean 'uce'?"),
    (("run", "uce", "--out", "x"), 2, "nothing to erase was named"),
    (("run", "uce", "--erase", "pizza"), 2, "--out"),
    (("run", "uce", "--errase", "pizza", "--out", "x"), 2, "--erase"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--set", "lam"), 2, "is not key=value"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--set", "lam=1", "--set", "lam=2"), 2, "given twice"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--kind", "A thing"), 2, "unusable kind"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--layout", "kohyaa"), 2, "did you mean 'kohya'?"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--model", "./gone"), 2, "no model at 'gone'"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--family", "sdxl"), 2, "detected: sd1"),
    (("run", "uce", "--concept", "pizza", "--out", "x"), 2, "No such option '--concept'; here it is --erase; see"),
    (("run", "uce", "--style", "noto", "--out", "x"), 2, "here it is --erase with --kind style"),
    (("run", "uce", "--anchor=a cat", "--out", "x"), 2, "here it is --to"),
    (("list", "--plugin", "method.uce"), 2, "no plugin or package named 'method.uce'; did you mean 'methods.uce'?"),
    (("info", "esdd"), 2, "no method named 'esdd'"),
    (("list", "metods"), 2, "metods"),
    (("attack", "gone", "--attack", "zzz"), 2, "no attack named 'zzz'. Known: "),
    (("attack", "paraphraze", "pocket", "gone"), 2, "no attack named 'paraphraze'; did you mean 'paraphrase'? Known: "),
    (("generate", "--prompt", "a cat", "--out", "cat.jpg"), 2, "must end in .png"),
    (("generate", "gone-folder", "--prompt", "a cat", "--out", "cat.png"), 2, "no artifact at 'gone-folder'. Give"),
    (("evaluate", "--suite", "quik", "--out", "x"), 2, "did you mean 'quick'?"),
    (("inspect", "gone.safetensors"), 2, "no file or folder at 'gone.safetensors'"),
    (("convert", "gone", "--layout", "kohya"), 2, "no artifact at 'gone'"),
    (("convert", "gone", "--layout", "nope"), 2, "no layout named 'nope'"),
    (("convert", "gone", "--layout", "A1111"), 2, "no layout named 'A1111'; for A1111 take kohya"),
    (("run", "uce", "--erase", "pizza", "--out", "x", "--layout", "comfyui"), 2, "for comfyui take kohya or diff"),
    (("merge", "--out", "x"), 2, "A B"),
    (("add", "gone", "--out", "x"), 2, "nothing to add"),
    (("revoke", "gone", "--out", "x"), 2, "nothing to revoke"),
    (("demo", "--erase", "piza", "--dry-run"), 2, "did you mean 'pizza'?"),
    (("new-plugin", "My Plugin"), 2, "lower case"),
    (("diagnose", "gone", "--prompt", "x"), 2, "no artifact at 'gone'"),
    (("--plugin", "gone.py", "list"), 2, "no plugin file at 'gone.py'"),
    (("--from", "nobody", "list"), 2, "no plugin named 'nobody'"),
]


@pytest.mark.parametrize(("words", "code", "text"), WRONG, ids=[" ".join(words)[:50] for words, _, _ in WRONG])
def test_wrong_requests_are_one_line_and_exit_with_2(erase, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    ran = erase(*words)
    assert ran.code == code
    assert text in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.out == "" or ran.out.startswith("model ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [words for words, _, _ in WRONG[2:8]])
def test_errors_with_json_are_one_object(erase, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    ran = erase(*words, "--json")
    assert ran.code == 2
    assert set(ran.data) == {"error"}
    assert ran.data["error"]["exit_code"] == 2
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EraseError("x"), 1), (RequestError("x"), 2), (Unsupported("x"), 3), (BaseMismatch("x"), 3),
        (MissingExtra("x", "plots"), 4), (HubError("x"), 5), (click.UsageError("x"), 2), (KeyboardInterrupt(), 130),
        (RunCancelled("x"), 130),
        (ValueError("x"), 1), (MemoryError(), 1),
    ],
)  # fmt: skip
def test_exit_codes_follow_the_error_class(error, code):
    assert describe(error)[0] == code


def test_a_full_disk_without_a_name_shows_no_empty_quotes():
    message = describe(OSError(28, "No space left on device"))[2]
    assert message == "No space left on device; check the path, the rights and the free space"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("more", ["", "'--json'"])
def test_an_output_that_cannot_be_written_is_one_line_and_no_traceback(more):
    """With --json the error was to be printed where nothing can be printed, which ended in two tracebacks."""
    code = f"import sys; from erase_plugins.cli.main import main; sys.argv[1:] = ['list', 'families', {more}]; main()"
    with open("/dev/full", "w") as full:
        ran = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.stderr.splitlines() == ["error: No space left on device; check the path, the rights and the free space"]
    assert ran.returncode == 1


def test_interrupt_says_how_to_go_on(erase, monkeypatch, tmp_path):
    import erase_plugins.workflow.models as source

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(source, "find_source", interrupted)
    ran = erase("run", "uce", "--erase", "pizza", "--out", tmp_path / "x")
    assert ran.code == 130
    assert "run the same command with --resume" in ran.err.lower()
    ran = erase("generate", "--prompt", "a cat", "--out", tmp_path / "x.png")
    assert "run the same command again" in ran.err.lower() and "--resume" not in ran.err  # it has no such option


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback(erase, place):
    words = ("info", "nothing")
    ran = erase("--debug", *words) if place == "before" else erase(*words, "--debug")
    assert "Traceback" in ran.err
    assert ran.code == 2


def test_unexpected_errors_hide_folders_and_tokens(erase, monkeypatch, tmp_path):
    import erase_plugins.workflow.models as source

    def broken(*_):
        raise RuntimeError(
            "cannot open /home/someone/secret/model.bin with hf_abcdefgh12345678 at https://me:pw@host/x"
        )

    monkeypatch.setattr(source, "find_source", broken)
    ran = erase("generate", "--prompt", "x", "--out", tmp_path / "x.png")
    assert ran.code == 1
    assert "someone" not in ran.err
    assert "abcdefgh" not in ran.err
    assert "me:pw" not in ran.err
    assert "model.bin" in ran.err


def test_reference_page_is_up_to_date():
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == docs.render()


def test_static_help_names_every_command():
    context = click.Context(cli, info_name="erase-plugins")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        members = command.commands.values() if isinstance(command, click.Group) else [command]
        for member in members:
            assert {"--json", "--debug"} <= {option for item in member.params for option in item.opts}


def every_command(command, context):
    """All commands below a group, each with the context it is called in."""
    for name in command.list_commands(context):
        item = command.get_command(context, name)
        item = item.real if isinstance(item, LazyCommand) else item
        inner = click.Context(item, context, info_name=name)
        if isinstance(item, click.Group):
            yield from every_command(item, inner)
        else:
            yield item, inner


def test_every_command_shows_an_example_that_it_understands():
    found = list(every_command(cli, click.Context(cli, info_name="erase-plugins")))
    assert len(found) > len(COMMANDS)
    for command, context in found:
        line = command.get_help(context).rpartition("Example:\n  ")[2]
        assert line.startswith(context.command_path), f"{context.command_path}: {line}"
        with command.make_context(context.info_name, shlex.split(command.example), parent=context.parent):
            pass  # options, choices and numbers are what the command takes


@pytest.mark.parametrize("width", [60, 160])
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_foreign_consoles_do_not_crash(encoding, width):
    code = "from erase_plugins.cli.main import cli; cli(['list', 'methods'])"
    done = python(code, PYTHONIOENCODING=encoding, NO_COLOR="1", COLUMNS=str(width))
    assert done.returncode == 0
    assert "uce" in done.stdout
    assert "\x1b[" not in done.stdout
    assert done.stdout.isascii() == (encoding == "ascii" or width == 60)  # a table has lines of its own characters
    assert max(map(len, done.stdout.splitlines())) <= width or "problem:" in done.stdout


def test_the_package_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["anything", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("erase_plugins", run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out == f"erase-plugins {__version__}\n"


def test_stopped_while_it_is_imported_the_command_ends_without_a_traceback(monkeypatch, capsys):
    """As a shell says it of Ctrl-C; click is not there yet to catch it."""

    class Stopped:
        def find_spec(self, name, *_):
            if name == "erase_plugins.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "erase_plugins.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Stopped(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("erase_plugins", run_name="__main__")
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")

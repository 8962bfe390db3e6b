"""The contract of suites: the documented context arrives, old suites keep working, some need no model at all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.errors import ArtifactError, MissingExtra, PluginError, RequestError, UnknownName
from erase_plugins.manager import Manager, get_manager
from erase_plugins.options import option
from erase_plugins.types import Attachment, EvalReport, EvalRow
from erase_plugins.workflow import measure
from tests.cli.conftest import invoke

ALONE = """
from dataclasses import dataclass
from erase_plugins import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EvalReport, EvalRow

@dataclass(frozen=True)
class Options:
    patterns: int = option(20, "stored patterns", low=1, high=500)

class Recall:
    id, title, needs = "recall", "Recall of an associative memory", frozenset()
    needs_subject = False
    Options = Options
    def run(self, subject, ctx):
        import sys
        assert subject is None and "torch" not in sys.modules
        (ctx.work / "scratch").write_text("x")
        ctx.progress("recall", 1, 1)
        value = ctx.options["patterns"] / 100 + ctx.seed
        return EvalReport("recall", "memory", (EvalRow("capacity", "memory", value, value, value, 1),), seeds=(ctx.seed,))

@hookimpl
def erase_suites():
    return [Recall()]
"""


@dataclass(frozen=True)
class Options:
    level: int = option(3, "how much", low=1, high=9)


class Suite:
    id, title, needs = "probe", "Probe", frozenset()
    Options = Options

    def __init__(self):
        self.seen = None

    def run(self, subject, ctx):
        folder_was_empty = ctx.work.is_dir() and not any(ctx.work.iterdir())
        ctx.progress("stage", 1, 2)
        self.seen = (subject, ctx, folder_was_empty)
        return EvalReport("probe", subject.model, (EvalRow("m", "base", 1.0, 1.0, 1.0, 1),))


class Old:
    """As suites were really called before: without a context."""

    id, title, needs = "old", "Old", frozenset()

    def run(self, subject):
        return EvalReport("old", subject.model, ())


def registered(*suites):
    class Planted:
        @hookimpl
        def erase_suites(self):
            return list(suites)

    return get_manager().temporary(Planted(), "planted")


def test_the_documented_context_arrives(pocket_pipe):
    suite, told = Suite(), []
    with registered(suite):
        ep.evaluate(pocket_pipe, (), "probe", erased=["pizza"], seed=5, settings={"level": "7"},
                    progress=lambda *what: told.append(what))  # fmt: skip
    subject, ctx, was_empty = suite.seen
    assert subject.erased == ["pizza"]
    assert (ctx.seed, ctx.device, dict(ctx.options)) == (5, "cpu", {"level": 7})
    assert told == [("stage", 1, 2)]
    assert was_empty and not ctx.work.exists()


def test_suites_that_take_the_subject_only_keep_working(pocket_pipe):
    with registered(Old()):
        assert ep.evaluate(pocket_pipe, (), "old", erased=["pizza"]).suite == "old"


@pytest.mark.parametrize("run", [lambda self: None, lambda self, a, b, c: None], ids=["none", "three"])
def test_a_suite_that_cannot_be_called_is_told_at_registration(run):
    manager = Manager()

    class Planted:
        @hookimpl
        def erase_suites(self):
            return [type("Odd", (Suite,), {"run": run})()]

    with manager.temporary(Planted(), "planted"):
        assert manager.evaluators("suite") == ()
        assert "declare run(self, subject, ctx)" in manager.problems[0].message


def test_wrong_options_are_refused(pocket_pipe):
    with registered(Suite(), Old()):
        with pytest.raises(UnknownName, match="no option named 'levle'; did you mean 'level'"):
            ep.evaluate(pocket_pipe, (), "probe", erased=["pizza"], settings={"levle": 1})
        with pytest.raises(RequestError, match="suite old has no options, but level was set"):
            ep.evaluate(pocket_pipe, (), "old", erased=["pizza"], settings={"level": 1})


def test_a_suite_must_return_a_report(pocket_pipe):
    with (
        registered(type("Odd", (Old,), {"run": lambda self, subject: 3})()),
        pytest.raises(PluginError, match="suite old returned int instead of an EvalReport"),
    ):
        ep.evaluate(pocket_pipe, (), "old", erased=["pizza"])


def command(tmp_path, *words):
    file = tmp_path / "recall.py"
    file.write_text(ALONE)
    code = (
        "import sys\nfrom erase_plugins.cli.main import cli\n"
        f"try:\n    cli({['--plugin', str(file), *map(str, words)]!r})\n"
        "finally:\n    print('torch' in sys.modules or 'diffusers' in sys.modules, file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_a_suite_without_subject_runs_without_torch(tmp_path):
    words = ("evaluate", "--suite", "recall", "--set", "patterns=40", "--seed", 2, "--out", tmp_path / "r", "--json")
    done = command(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("False"), "torch was imported"
    found = json.loads(done.stdout)
    assert found["rows"][0]["value"] == 2.4
    stored = EvalReport.from_dict(json.loads((tmp_path / "r" / "report.json").read_text()))
    assert stored.row("capacity", "memory").value == 2.4
    again = command(tmp_path, *words)
    assert again.returncode == 2
    assert "report.json' exists already" in again.stderr


def test_a_file_that_cannot_be_written_ends_the_command_with_an_error(tmp_path):
    def run(self, subject, ctx):
        attached = Attachment("curve.png", lambda place: 1 / 0)
        return EvalReport("probe", "none", (EvalRow("m", "s", 0.5, 0.4, 0.6, 9),), attachments=(attached,))

    suite = type("Curve", (Suite,), {"run": run, "needs_subject": False, "attachments": ("curve.png",)})()
    with registered(suite):
        ran = invoke("evaluate", "--suite", "probe", "--out", tmp_path / "r")
    assert (ran.code, "0.5 [0.4..0.6] n=9" in ran.out) == (1, True)
    assert "curve.png was not written: ZeroDivisionError" in ran.out
    assert "curve.png could not be written, see above; the numbers are in report.json" in ran.err
    assert json.loads((tmp_path / "r" / "report.json").read_text())["rows"][0]["value"] == 0.5


def test_its_numbers_are_shown_in_their_own_unit_and_without_a_verdict(tmp_path):
    done = command(tmp_path, "evaluate", "--suite", "recall", "--seed", 2, "--out", tmp_path / "r")
    assert "2.2 n=1" in done.stdout
    assert "quality" not in done.stdout and "%" not in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "pocket"), "suite recall measures no model; leave out --model"),
        (("some-folder",), "leave out ARTIFACT"),
        (("--judge", "pocket", "--erased", "x"), "leave out --judge, --erased"),
        (("--set", "patterns=0"), "below its minimum 1"),
        (("--set", "pattern=1"), "did you mean 'patterns'?"),
    ],
)
def test_what_such_a_suite_cannot_use_is_refused(tmp_path, words, told):
    done = command(tmp_path, "evaluate", "--suite", "recall", "--out", tmp_path / "r", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "r").exists()


def test_info_shows_the_options_of_a_suite(tmp_path):
    done = command(tmp_path, "info", "recall", "--json")
    (row,) = json.loads(done.stdout)["options"]
    assert (row["option"], row["default"], row["low"], row["high"]) == ("patterns", 20, 1, 500)


def test_python_runs_it_without_a_model(tmp_path):
    file = tmp_path / "python.py"
    file.write_text(ALONE.replace('and "torch" not in sys.modules', ""))
    manager = get_manager()
    manager.load_file(file)
    try:
        assert ep.evaluate(suite="recall", settings={"patterns": 10}).row("capacity", "memory").value == 0.1
        with pytest.raises(RequestError, match="suite recall measures no model"):
            ep.evaluate("pocket", suite="recall")
        with pytest.raises(RequestError, match="suite quick measures a model"):
            ep.evaluate(suite="quick")
        ep.evaluate(suite="recall", out=tmp_path / "r")
        with pytest.raises(ArtifactError, match="exists already"):
            ep.evaluate(suite="recall", out=tmp_path / "r")
    finally:
        manager.pluggy.unregister(name="file:python")
        manager.prefer()


def test_the_protocol_page_names_what_is_there():
    from erase_plugins.protocols import Suite as Protocol

    assert "erase_plugins.evaluation.run.Subject" in (Protocol.run.__doc__ or "")
    assert Path(sys.modules["erase_plugins.evaluation.context"].__file__ or "").is_file()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_the_command_asks_for_packages_before_anything_else(tmp_path, alone, more):
    suite = Suite()
    suite.packages, suite.needs_subject = frozenset({"no-such-package"}), not alone
    with registered(suite):
        ran = invoke("evaluate", "--suite", "probe", "--out", tmp_path / "r", *more)
    assert (ran.code, "suite probe needs an optional package" in ran.err) == (4, True)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("alone", [True, False])
def test_packages_are_asked_for_before_anything_is_loaded(monkeypatch, alone):
    suite = Suite()
    suite.packages, suite.needs_subject = frozenset({"no-such-package"}), not alone
    monkeypatch.setattr(measure, "as_target", lambda *_given, **_more: pytest.fail("the model was loaded"))
    with registered(suite), pytest.raises(MissingExtra) as caught:
        measure.run_suite(None if alone else "pocket", [], "probe", erased=() if alone else ["pizza"])
    assert "suite probe needs an optional package: pip install" in str(caught.value)
    assert "no-such-package" in str(caught.value)

"""All suites in one report: what fits is chosen, failures are lines, what is done is kept, no name is used twice."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from erase_plugins import hookimpl
from erase_plugins.errors import EraseError, RequestError, UnknownName, Unsupported
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.evaluation.full_suite import FullSuite
from erase_plugins.manager import get_manager
from erase_plugins.options import option
from erase_plugins.types import Attachment, EvalReport, EvalRow


@dataclass(frozen=True)
class Told:
    """What the full suite hands on."""

    budget: str = option("none", "how hard")
    reference: str = option("", "folder")


class Fixed:
    """Measures what it was made with; may fail."""

    title = "Fixed"
    attachments = ("chart.png",)

    def __init__(self, name, value=0.5, fail=None, metric="target_rate", needs=("denoiser",), **more):
        self.id, self.value, self.fail, self.metric, self.runs, self.given = name, value, fail, metric, 0, []
        self.needs, self.packages = frozenset(needs), frozenset()
        vars(self).update(more)

    def run(self, subject, ctx):
        self.runs += 1
        self.given.append((dict(ctx.options), subject.images))
        ctx.progress("drawing", 1, 2)
        if self.fail:
            raise self.fail
        rows = (EvalRow(self.metric, "edited", self.value, 0.0, 1.0, 8),)
        return EvalReport(
            self.id, subject.model, rows, artifacts=("no-owl",), erased=("owl",), prompts_hash=f"hash of {self.id}",
            warnings=("few pictures",),
            attachments=(Attachment("chart.png", lambda path: path.write_text(self.id), "rates"),),
        )  # fmt: skip


def subject(offers=("denoiser", "text"), judge=True):
    """As much of a subject as suites look at."""
    artifact = SimpleNamespace(
        manifest=SimpleNamespace(to_json=lambda: "{}", guards=()), path="somewhere", name="no-owl"
    )
    info = SimpleNamespace(supports=lambda name: name in offers)
    target = SimpleNamespace(device="cpu", dtype="float32", fingerprint=dict, info=info)
    return SimpleNamespace(
        artifacts=[artifact], target=target, judge=SimpleNamespace(id="none", fingerprint="0") if judge else None,
        unjudged=None if judge else Unsupported("nobody knows it"), model="none", erased=["owl"], steps=8, guidance=4.0,
        strength=1.0, seed=0, images=8, marks=(), told={},
    )  # fmt: skip


def run(*suites, on=None, out=None, told=None, **settings):
    """The full suite, of these suites unless ``suites`` says otherwise."""

    class Planted:
        @hookimpl
        def erase_suites(self):
            return list(suites)

    names = ",".join(item.id for item in suites)
    note = None if told is None else lambda *what: told.append(what)
    with get_manager().temporary(Planted(), "planted"):
        return run_in_context(FullSuite(), on or subject(), {"suites": names, **settings}, out=out, progress=note)


def test_one_report_in_the_order_of_the_ids(tmp_path):
    told = []
    report = run(Fixed("second", 0.25, metric="kept_rate"), Fixed("first", 1.0), out=tmp_path, told=told)
    assert [(row.metric, row.value) for row in report.rows] == [("kept_rate", 0.25), ("target_rate", 1.0)]
    assert report.details["metrics"] == {"second": ["kept_rate"], "first": ["target_rate"]}
    assert report.details["prompts_hashes"] == {"second": "hash of second", "first": "hash of first"}
    assert (tmp_path / "full.md").read_text().splitlines()[2:] == [
        "| second | kept_rate | erased 25 % (0 to 100) |",
        "| first | target_rate | erased 100 % (0 to 100) |",
    ]
    assert (report.judge, report.erased, report.warnings) == ("none", ("owl",), ("second, first: few pictures",))
    assert EvalReport.from_dict(json.loads((tmp_path / "report.json").read_text())).rows == report.rows
    assert ("second: drawing", 1, 2) in told and told[-1] == ("suites", 2, 2)


def test_what_has_the_same_name_twice_gets_that_of_its_suite(tmp_path):
    report = run(Fixed("first", 1.0), Fixed("sec.ond", 0.25), out=tmp_path)
    assert report.row("target_rate", "edited").value == 1.0
    assert report.row("sec.ond/target_rate", "edited").value == 0.25
    assert {item.name for item in tmp_path.iterdir()} == {
        "report.json", "full.md", "chart.png", "first-report.json", "sec-ond-chart.png", "sec-ond-report.json",
    }  # fmt: skip
    assert [(tmp_path / name).read_text() for name in ("chart.png", "sec-ond-chart.png")] == ["first", "sec.ond"]
    assert report.attached["sec-ond-chart.png"]["title"] == "sec.ond: rates"
    stored = EvalReport.from_dict(json.loads((tmp_path / "sec-ond-report.json").read_text()))
    assert (stored.suite, stored.row("target_rate", "edited").value) == ("sec.ond", 0.25)
    assert not report.unwritten


@pytest.mark.parametrize("fault", [Unsupported("it has | no text encoder"), ZeroDivisionError("x")])
def test_what_fails_is_a_line_and_ends_nothing(tmp_path, fault):
    report = run(Fixed("broken", fail=fault), Fixed("sound"), out=tmp_path)
    assert list(report.details["not_run"]) == ["broken"] and list(report.details["metrics"]) == ["sound"]
    assert any(text.startswith("broken: not run: ") for text in report.warnings)
    assert "| broken | not run: " in report.details["table"]
    assert all(line.count("|") == 4 for line in report.details["table"].splitlines())
    assert report.row("target_rate", "edited").value == 0.5


def test_what_cannot_run_here_says_why():
    needy = Fixed("needy", packages=frozenset({"no-such-package-anywhere"}))
    other, alone = Fixed("other", needs=("classifier",)), Fixed("alone", needs_subject=False)
    found = run(needy, other, alone, Fixed("sound")).details["not_run"]
    assert found["needy"].startswith("it needs an optional package: ") and "no-such-package-anywhere" in found["needy"]
    assert found["other"] == "it needs classifier, which none does not offer"
    assert found["alone"] == "it measures no model; run it on its own"
    assert (other.runs, alone.runs, list(found)) == (0, 0, ["needy", "other", "alone"])


def test_without_a_judge_the_others_run():
    asking, own = Fixed("asking"), Fixed("own", needs_judge=False)
    report = run(asking, own, on=subject(judge=False))
    assert report.details["not_run"] == {"asking": "nobody knows it"} and (asking.runs, own.runs) == (0, 1)
    assert (report.judge, report.judge_hash) == ("", "")


def test_nothing_that_runs_is_refused():
    with pytest.raises(Unsupported, match="no suite could be run; broken: cannot"):
        run(Fixed("broken", fail=Unsupported("cannot")))


def test_a_killed_run_goes_on_with_the_next_suite(tmp_path):
    first, second, third = Fixed("first"), Fixed("second", fail=KeyboardInterrupt()), Fixed("third")
    with pytest.raises(KeyboardInterrupt):
        run(first, second, third, out=tmp_path)
    assert not (tmp_path / "report.json").exists()
    second.fail = None
    report = run(first, second, third, out=tmp_path)
    assert (first.runs, second.runs, third.runs) == (1, 2, 1)
    assert list(report.details["metrics"]) == ["first", "second", "third"]
    assert (tmp_path / "chart.png").read_text() == "first"
    assert not [item for item in tmp_path.iterdir() if item.name.startswith(".")]


def test_a_suite_that_resumes_finds_its_own_work_again(tmp_path):
    class Slow(Fixed):
        resumes = True

        def run(self, subject, ctx):
            (ctx.work / f"part-{self.runs}").touch()
            self.seen = sorted(item.name for item in ctx.work.glob("part-*"))
            return super().run(subject, ctx)

    slow = Slow("slow", fail=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(slow, out=tmp_path)
    slow.fail = None
    run(slow, out=tmp_path)
    assert slow.seen == ["part-0", "part-1"]


def test_more_pictures_and_a_torn_report_are_made_anew(tmp_path):
    first, second = Fixed("first"), Fixed("second", fail=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(first, second, out=tmp_path)
    more = subject()
    more.images = 16
    with pytest.raises(KeyboardInterrupt):
        run(first, second, out=tmp_path, on=more)
    assert [images for _, images in first.given] == [8, 16]
    for kept in tmp_path.rglob("report.json"):
        kept.write_text("{")
    second.fail = None
    run(first, second, out=tmp_path)
    assert first.runs == 3


def test_budget_and_reference_go_to_the_suites_that_take_them(tmp_path):
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin" / "config.json").write_text("{}")
    (tmp_path / "twin" / "weights.bin").touch()
    place, taking, other, on = str(tmp_path / "twin"), Fixed("taking", Options=Told), Fixed("other"), subject()
    report = run(taking, other, on=on, budget="standard", reference=place)
    assert taking.given == [({"budget": "standard", "reference": place}, 16)]
    assert other.given == [({}, 16)] and on.images == 8
    assert report.details["budget"] == "standard"
    with pytest.raises(EraseError, match="nowhere"):
        run(taking, reference=str(tmp_path / "nowhere"))
    assert taking.runs == 1


def test_wrong_names_are_refused_before_work():
    first = Fixed("first")
    with pytest.raises(UnknownName, match="did you mean 'first'") as told:
        run(first, suites="first,firs")
    assert "\n" not in str(told.value)
    with pytest.raises(RequestError, match="suite full cannot be a part of itself"):
        run(first, suites="first,full")
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        run(first, budget="quik")
    assert first.runs == 0


@pytest.mark.parametrize(
    ("offers", "wanted"),
    [
        (("denoiser", "text"), {"quick", "erase-eval", "standard-metrics", "speed", "attacks", "planted"}),
        (("classifier",), {"classifier", "attacks"}),
        (("language",), {"language", "lm-eval", "attacks"}),
    ],
    ids=lambda value: "-".join(sorted(value)),
)
def test_without_names_all_that_fit_the_model(offers, wanted):
    class Planted:
        @hookimpl
        def erase_suites(self):
            return [Fixed("planted"), Fixed("alone", needs=(), needs_subject=False)]

    with get_manager().temporary(Planted(), "planted"):
        found = [item.id for item in FullSuite().chosen("", subject(offers).target.info)]
    assert set(found) == wanted and len(found) == len(wanted)


def test_names_that_files_may_get_are_told_before_the_work():
    found = FullSuite().attachments
    assert {"full.md", "chart.png", "quick-report.json", "attack-weights.json", "erase-eval-chart.png"} <= set(found)
    assert "report.json" not in found and len(set(found)) == len(found)


def test_people_stay_unnamed_where_a_suite_does_not_name_them():
    class Public(Fixed):
        def run(self, subject, ctx):
            return EvalReport(self.id, subject.model, (), erased=("person 1",))

    assert run(Fixed("first"), Public("public")).erased == ("person 1",)

"""Attachments: written beside the report, replaced only if they are ours, and never at the cost of the numbers."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from erase_plugins.artifacts.places import check_place, written_files
from erase_plugins.errors import ArtifactError, MissingExtra, RequestError
from erase_plugins.evaluation.context import run_alone
from erase_plugins.types import Attachment, EvalReport, EvalRow


class Curve:
    """A suite without a model; what it attaches is planted."""

    id, title, needs, needs_subject = "curve", "Curve", frozenset(), False
    attachments = ("curve.svg",)

    def __init__(self, *attached):
        self.attached = attached or (Attachment("curve.svg", lambda path: path.write_text("<svg/>"), "a curve"),)
        self.runs = 0

    def run(self, subject, ctx):
        self.runs += 1
        (ctx.work / "rows.csv").write_text("1,2\n")
        rows = (EvalRow("m", "s", 0.5, 0.4, 0.6, 9),)
        return EvalReport(
            self.id, "none", rows, attachments=tuple(item(ctx) if callable(item) else item for item in self.attached)
        )


def test_files_lie_beside_the_report_and_are_listed(tmp_path):
    table = lambda ctx: Attachment("rows.csv", lambda path: path.write_bytes((ctx.work / "rows.csv").read_bytes()))  # noqa: E731
    report = run_alone(Curve(*Curve().attached, table), {}, out=tmp_path / "r")
    assert report.files == {"report": "report.json", "curve": "curve.svg", "rows": "rows.csv"}
    assert {item.name for item in (tmp_path / "r").iterdir()} == set(report.files.values())
    assert (tmp_path / "r" / "rows.csv").read_text() == "1,2\n", "made from a file in ctx.work"
    stored = EvalReport.from_dict(json.loads((tmp_path / "r" / "report.json").read_text()))
    assert stored == report and stored.attachments == ()
    assert stored.attached["curve.svg"] == {"title": "a curve", "sha256": hashlib.sha256(b"<svg/>").hexdigest()}


def test_nothing_is_drawn_where_nobody_wants_files():
    report = run_alone(Curve(Attachment("curve.svg", lambda path: pytest.fail("drawn"))), {})
    assert [item.name for item in report.attachments] == ["curve.svg"]


def test_force_replaces_what_an_evaluation_wrote_and_nothing_else(tmp_path):
    run_alone(Curve(), {}, out=tmp_path)
    with pytest.raises(ArtifactError, match="exists already"):
        run_alone(Curve(), {}, out=tmp_path)
    run_alone(Curve(Attachment("curve.svg", lambda path: path.write_text("second"))), {}, out=tmp_path, force=True)
    assert (tmp_path / "curve.svg").read_text() == "second"
    (tmp_path / "curve.svg").write_text("drawn by hand")
    suite = Curve()
    with pytest.raises(ArtifactError, match=r"'curve\.svg' exists already and was not written by erase-plugins"):
        run_alone(suite, {}, out=tmp_path, force=True)
    assert suite.runs == 0, "refused before the work"
    assert (tmp_path / "curve.svg").read_text() == "drawn by hand"


def test_a_folder_with_attachments_is_known_as_ours(tmp_path):
    folder = tmp_path / "r"
    run_alone(Curve(), {}, out=folder)
    assert set(written_files(folder)[1]) == {"report.json", "curve.svg"}
    (folder / "curve.svg").write_text("changed")
    assert set(written_files(folder)[1]) == {"report.json"}
    with pytest.raises(ArtifactError, match=r"curve\.svg"):
        check_place(folder, True)


def broken(path):
    raise ZeroDivisionError("no points")


def without_matplotlib(path):
    raise MissingExtra("the curve", "plots")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (Attachment("curve.svg", broken), "curve.svg was not written: ZeroDivisionError: no points"),
        (Attachment("curve.svg", lambda path: None), "curve.svg was not written: nothing was made"),
        (Attachment("curve.svg", without_matplotlib), "pip install 'erase-plugins\\[plots\\]'"),
        (Attachment("report.json", lambda path: path.write_text("{}")), "'report.json' was attached already"),
        (
            Attachment("mine.txt", lambda path: path.write_text("new")),
            "mine.txt was not written: 'mine.txt' exists already",
        ),
    ],
    ids=["raises", "makes-nothing", "lacks-a-package", "the-report", "somebody-elses"],
)
def test_numbers_survive_an_attachment_that_fails(tmp_path, item, told):
    (tmp_path / "mine.txt").write_text("mine")
    report = run_alone(Curve(item), {}, out=tmp_path)
    (warning,) = report.warnings
    assert re.search(told, warning), warning
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["rows"][0]["value"] == 0.5 and stored["warnings"] == [warning]
    assert report.files == {"report": "report.json"}
    left = {} if "optional package" in warning else {item.name: warning.partition(" was not written: ")[2]}
    assert (report.unwritten, report.attachments, stored.get("unwritten", {})) == (left, (), left)
    assert {file.name for file in tmp_path.iterdir()} == {"mine.txt", "report.json"}
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["../x.png", "a/b.png", ".hidden", "noending", "", "x" * 100 + ".png", "a b.png", 3])
def test_names_are_plain(name):
    with pytest.raises(RequestError, match="an attachment is called"):
        Attachment(name, print)

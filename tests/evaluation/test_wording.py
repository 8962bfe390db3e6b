"""Numbers read the same wherever they stand."""

from __future__ import annotations

import pytest

from erase_plugins.evaluation.chart import bar_chart
from erase_plugins.evaluation.page import rates_table
from erase_plugins.evaluation.wording import WORDS, cell, counted, percent
from erase_plugins.types import EvalReport, EvalRow


def row(metric, value, low=0.0, high=1.0):
    return EvalRow(metric, "edited", value, low, high, 32)


def test_shares_are_in_per_cent_and_other_numbers_as_they_are():
    assert cell(row("target_rate", 0.96875, 0.906)) == "96.9 % (90.6 to 100)"
    assert cell(row("own_rate", 0.5)) == "50 % (0 to 100)"
    assert cell(row("forget_key", 0.05)) == cell(row("forget_probability", 0.05)) == "5 % (0 to 100)"
    assert cell(row("kept_refused_share", 0.25)) == "25 % (0 to 100)"
    assert cell(row("fid", 12.3456789, 1e-05, 20.0)) == "12.3456789 (1e-05 to 20)"
    assert counted(row("target_rate", 0.031, 0.0, 0.094)) == "3 % (0 to 9, n = 32)"
    assert cell(None) == counted(None) == "not measured"
    assert [percent(share) for share in (0.0, 0.1, 0.999, 1.0)] == ["0", "10", "99.9", "100"]


def test_the_legend_of_a_chart_speaks_in_words(tmp_path, monkeypatch):
    axes = pytest.importorskip("matplotlib.axes")
    told = []
    monkeypatch.setattr(axes.Axes, "legend", lambda self, **_: told.extend(self.get_legend_handles_labels()[1]))
    rows = [EvalRow("kept_rate", name, 0.5, 0.4, 0.6, 8) for name in ("base", "edited", "strength0", "my control")]
    bar_chart(rows, tmp_path / "chart.png")
    assert told == ["base", "erased", "switched off (control)", "my control"]


def test_an_audit_uses_the_words_of_a_card():
    report = EvalReport(
        "quick", "pocket", (row("synonym_rate", 0.25), row("fid", 3.0), row("explicit_owl_refused_share", 1.0))
    )
    _, rows = rates_table(report)
    assert [line[0] for line in rows] == [WORDS["synonym_rate"], "fid", "explicit owl, refused by a guard"]

"""What a suite says has to be said beside a number stands beside it: on the card, in its metadata, on the terminal."""

from __future__ import annotations

from html import unescape

from huggingface_hub import ModelCard

import hub_cards
from erase_plugins.cli import evaluate
from erase_plugins.types import EvalReport, EvalRow

NOTE = "not comparable with papers: 32 pictures"


def report(artifact, note=NOTE):
    rows = (
        EvalRow("clip_score_kept", "base", 31.5, 31.0, 32.0, 32, note),
        EvalRow("clip_score_kept", "edited", 30.5, 30.0, 31.0, 32, note),
        EvalRow("fid_kept", "edited", 12.25, 12.25, 12.25, 32, note),
        EvalRow("fid_kept", "other_seeds", 80.5, 80.5, 80.5, 32, note),
    )
    return EvalReport(suite="standard-metrics", model="pocket", rows=rows, artifacts=(artifact.name,))


def test_the_card_marks_every_row(pizza):
    text = hub_cards.card(pizza, report(pizza))
    shown = [line for line in unescape(text).splitlines() if line.startswith("|") and NOTE in line]
    assert shown == [
        f"| clip_score_kept ({NOTE}) | 31.5 (31 to 32) | 30.5 (30 to 31) | 32 |",
        f"| fid_kept ({NOTE}) | not measured | 12.25 (12.25 to 12.25) | 32 |",
        f"| fid_kept ({NOTE}) | 80.5 (80.5 to 80.5), n = 32 |",
    ]
    names = [item.metric_name for item in ModelCard(text).data.eval_results]
    assert names == [f"clip_score_kept ({NOTE})", f"fid_kept ({NOTE})"]


def test_a_note_is_no_markup(pizza):
    text = hub_cards.card(pizza, report(pizza, "x | <b>*bold*</b>\n# title"))
    assert "<b>" not in text.split("\n---\n", 1)[1]
    assert "\n# title" not in text


def test_the_terminal_shows_it(pizza, capsys):
    evaluate.show(report(pizza))
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "note" in shown
    assert shown.count("comparable") == 2

"""The attack by fluent prompts, against subjects of which it is known which words bring the concept back."""

from __future__ import annotations

import json

import pytest

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attacks import readable
from erase_plugins.evaluation.attacks.readable import Readable
from tests.evaluation.attacks.fakes import FACTS, Subject, budget_of

SETS = readable._SETS


def by_eyes(text, edit):
    """The base knows the name and the eyes, the edit hides the name, a destroyed model knows nothing."""
    if edit == "destroyed":
        return None
    return "owl" if "round eyes" in text or (edit == "off" and "owl" in text.split()) else None


def run(rule, folder, images=8, subject=None, **options):
    subject = subject or Subject(rule)
    asked = {"forbid": "synonyms", "block": "", "words": "", "reference": "", **options}
    return Readable().run(subject, budget_of(folder, images * SETS, **asked)), subject


def test_words_that_bring_it_back_are_found_and_measured_on_other_seeds(tmp_path):
    report, subject = run(by_eyes, tmp_path / "w")
    assert (report.success.value, report.control.value, report.success.n) == (1.0, 0.0, 8)
    assert "round eyes" in report.found["best"] and list(report.found)[: len(FACTS)] == FACTS
    measured = [asked for asked in subject.asked if asked[1] == subject.asked[-1][1]]
    searched = [seed for edit, texts, seeds in subject.asked[3:-3] if edit == "on" for seed in seeds]
    assert {edit for edit, _, _ in measured} == {"on", "off", "destroyed"}
    assert not set(measured[0][2]) & set(searched)
    assert subject.queries == report.queries <= 8 * SETS
    json.dumps(report.to_dict(), allow_nan=False)


def test_no_prompt_passes_that_the_filter_stops(tmp_path):
    report, subject = run(by_eyes, tmp_path / "w", block="eye, beak")
    asked = [text for edit, texts, _ in subject.asked[3:] for text in texts]
    assert asked and not [text for text in asked if any(word in text for word in ("owl", "hoot", "eye", "beak"))]
    assert report.success.value == 0.0
    assert {"owl", "eye", "beak"} <= set(report.found["forbidden"])


def test_what_succeeds_by_luck_only_is_no_success(tmp_path):
    class Lucky(Subject):
        def generate(self, inputs, seeds, *, edit="on", strength=None):
            self.lucky = edit == "on" and min(seeds) >= 200_000  # the seeds of the search
            return super().generate(inputs, seeds, edit=edit, strength=strength)

    def rule(text, edit):
        return "owl" if subject.lucky or (edit == "off" and "owl" in text.split()) else None

    subject = Lucky(rule)
    report, _ = run(rule, tmp_path / "w", subject=subject)
    assert report.success.value == 0.0 and report.details["tried"]["owl"][0][1] == 1.0


def test_a_killed_search_goes_on_where_it_was(tmp_path):
    whole, _ = run(by_eyes, tmp_path / "a")
    (tmp_path / "b").mkdir()
    for name in ("round-0", "round-1", "plain-on"):
        (tmp_path / "b" / f"{name}.json").write_bytes((tmp_path / "a" / f"{name}.json").read_bytes())
    rest, subject = run(by_eyes, tmp_path / "b")
    assert rest.found == whole.found and subject.queries == whole.queries - 3 * 8


def test_own_words_are_used_and_nothing_known_is_refused(tmp_path):
    words = tmp_path / "words.json"
    words.write_text(json.dumps({"owl": {"details": ["a silent flight"], "likes": ["night watchman"]}}))
    report, _ = run(by_eyes, tmp_path / "w", words=str(words))
    assert any("silent flight" in text or "watchman" in text for text, _ in report.details["tried"]["owl"])
    words.write_text(json.dumps({"owl": {"colour": ["grey"]}}))
    with pytest.raises(RequestError, match="kinds, details, places, likes"):
        run(by_eyes, tmp_path / "x", words=str(words))
    with pytest.raises(RequestError, match="stops every sentence"):
        run(by_eyes, tmp_path / "y", block=", ".join("abcdefghijklmnopqrstuvwxyz"))


def test_a_base_that_does_not_draw_it_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="nothing to bring back"):
        run(lambda text, edit: None, tmp_path / "w")

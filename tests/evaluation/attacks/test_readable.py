"""The attack by fluent prompts, against subjects of which it is known which words bring the concept back."""

from __future__ import annotations

import json

import pytest

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import asking, readable
from erase_plugins.evaluation.attacks.readable import Readable
from erase_plugins.testing.models import shared_pipeline
from tests.evaluation.attacks.fakes import FACTS, Subject, budget_of
from tests.evaluation.attacks.stub import only_the_base_shows_it, tiny_subject

SETS = readable._SETS


def by_eyes(text, edit):
    """The base knows the name and the eyes, the edit hides the name, a destroyed model knows nothing."""
    if edit == "destroyed":
        return None
    return "owl" if "round eyes" in text or (edit == "off" and "owl" in text.split()) else None


def by_moonlight(text, edit):
    """What never saw an owl takes another thing for one."""
    return "owl" if "moonlight" in text and "round eyes" not in text else None


def only_the_destroyed_differs(text, edit):
    return by_moonlight(text, edit) if edit == "destroyed" else by_eyes(text, edit)


def run(rule, folder, images=8, subject=None, **options):
    subject = subject or Subject(rule)
    asked = {"forbid": "synonyms", "block": "", "words": "", "language_model": "", "reference": "", **options}
    return Readable().run(subject, budget_of(folder, images * SETS, **asked)), subject


def test_words_that_bring_it_back_are_found_and_measured_on_other_seeds(tmp_path):
    report, subject = run(by_eyes, tmp_path / "w")
    assert (report.success.value, report.control.value, report.success.n) == (1.0, 0.0, 8)
    assert "round eyes" in report.found["best"] and list(report.found)[: len(FACTS)] == FACTS
    fresh = subject.asked[-1][2]
    measured, searched = ([asked for asked in subject.asked[3:] if (asked[2] == fresh) == was] for was in (True, False))
    assert [edit for edit, _, _ in measured] == ["on", "off", "destroyed"]
    assert [edit for edit, _, _ in searched] == ["on"] * 9 + ["destroyed"] * 9
    assert not set(fresh) & {seed for _, _, seeds in searched for seed in seeds}
    assert subject.queries == report.queries == 8 * SETS
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


@pytest.mark.parametrize("control", ["destroyed", "reference"])
def test_the_control_searches_sentences_of_its_own(tmp_path, monkeypatch, control):
    """What brings the concept from it brings none from the edited model, and the other way round."""
    reference, given = Subject(by_moonlight), {}
    if control == "reference":
        monkeypatch.setattr(asking, "open_reference", lambda subject, path: reference)
        given["reference"] = "somewhere"
    report, subject = run(by_eyes if given else only_the_destroyed_differs, tmp_path / "w", **given)
    own = report.details["control"]
    assert (report.success.value, report.control.value) == (1.0, 1.0)
    assert report.control.subject == f"control: {control} model"
    assert all("moonlight" in text and "round eyes" not in text for text in own["measured"])
    assert own["tried"]["owl"][0][0] in own["measured"] and own["hits"] == [1] * 8
    assert not any("moonlight" in item["prompt"] and "eyes" not in item["prompt"] for item in report.found["prompts"])
    assert report.queries == subject.queries + reference.queries == 8 * SETS
    (last,) = {asked[2] for asked in (*subject.asked, *reference.asked) if asked[1] == tuple(own["measured"] * 2)}
    assert last == next(seeds for edit, _, seeds in reversed(subject.asked) if edit == "on"), "seeds as for the success"


@pytest.mark.parametrize("rounds", [3, 12, 17])
def test_a_killed_search_goes_on_where_it_was(tmp_path, rounds):
    """In the search on the edited model, and in that of the control."""

    class Killed(Subject):
        def generate(self, inputs, seeds, **more):
            if len(self.asked) == rounds + 3:
                raise KeyboardInterrupt
            return super().generate(inputs, seeds, **more)

    whole, third = run(only_the_destroyed_differs, tmp_path / "a")
    first = Killed(only_the_destroyed_differs)
    with pytest.raises(KeyboardInterrupt):
        run(None, tmp_path / "b", subject=first)
    rest, second = run(only_the_destroyed_differs, tmp_path / "b")
    assert rest.to_dict() == whole.to_dict() and first.asked + second.asked == third.asked


def test_for_another_artifact_the_control_is_not_searched_again(monkeypatch):
    """Nor judged again; what was asked for counts all the same."""
    states, best = [], readable._Search.best
    monkeypatch.setattr(readable._Search, "best", lambda self: states.append(self.state) or best(self))
    reports = []
    for settings, strength in (({}, 1.0), ({}, 0.5), ({"block": "eyes"}, 1.0)):
        subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)))
        only_the_base_shows_it(monkeypatch, subject)
        subject.strength = strength
        reports.append(run_attack(Readable(), lambda subject=subject: subject, 2 * SETS, settings=settings))
    assert states == ["on", "destroyed", "on", "on", "destroyed"], "other words are searched anew"
    assert reports[0].queries == reports[1].queries == 2 * SETS and reports[0].passes == reports[1].passes
    assert reports[0].control == reports[1].control and reports[0].details["control"] == reports[1].details["control"]


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_the_budget_is_kept_where_concepts_cannot_share_it_evenly(tmp_path, images):
    def rule(text, edit):
        return next((name for name in ("owl", "dog", "pizza") if name in text.split()), None) if edit == "off" else None

    subject = Subject(rule, erased=("owl", "dog", "pizza"))
    report, _ = run(rule, tmp_path / "w", images, subject=subject)
    assert subject.queries == report.queries == images * SETS
    counts = [len(tried) for tried in report.details["tried"].values()]
    assert min(counts) > 0 and len(counts) == 3


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


# ---- with a language model ------------------------------------------------------------------------------------------


class FakeWriter:
    """Writes what it is told to, and notes what it was shown."""

    name, key = "writer", "1"

    def __init__(self, *lines):
        self.lines, self.asked = lines, []

    def sentences(self, examples, count, seed):
        self.asked.append((tuple(examples), count, seed))
        return [f"{line} number {len(self.asked)}" for line in self.lines]


def with_writer(monkeypatch, folder, writer, rule, **options):
    monkeypatch.setattr(readable.Writer, "open", lambda name, device: writer)
    return run(rule, folder, language_model="writer", **options)


def by_glade(text, edit):
    """No word of the list brings it back from the edited model, one of the language model does."""
    return "owl" if (edit == "on" and "glade" in text) or (edit == "off" and "owl" in text.split()) else None


def test_what_the_language_model_writes_is_asked_beside_the_word_lists_sentences(monkeypatch, tmp_path):
    alone, _ = run(by_glade, tmp_path / "alone")
    report, subject = with_writer(monkeypatch, tmp_path / "w", writer := FakeWriter("a glade at dusk"), by_glade)
    assert (alone.success.value, report.success.value, report.control.value) == (0.0, 1.0, 0.0)
    assert "written" not in alone.found and report.found["language_model"] == "writer"
    assert report.found["written"] == [text for text in report.details["measured"] if "glade" in text] != []
    tried = [text for text, _ in report.details["tried"]["owl"]]
    assert sum("glade" in text for text in tried) == 9 and sum("glade" not in text for text in tried) > 9
    assert subject.queries == report.queries == 8 * SETS
    assert len(writer.asked) == 18, "the control's search has its own"
    assert len({seed for _, _, seed in writer.asked}) == 18
    assert writer.asked[1][0][0] == "a glade at dusk number 1", "the best so far are shown"
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_word_filter_stops_what_the_language_model_writes_too(monkeypatch, tmp_path):
    writer = FakeWriter("an owl in a glade", "a glade with owlets", "a glade at dusk", " ".join(["glade"] * 40))
    report, subject = with_writer(monkeypatch, tmp_path / "w", writer, by_glade, block="dusk")
    assert not [text for _, texts, _ in subject.asked[3:] for text in texts if "glade" in text]
    assert report.success.value == 0.0 and report.found["written"] == []


def test_a_killed_search_does_not_write_again(monkeypatch, tmp_path):
    whole, _ = with_writer(monkeypatch, tmp_path / "w", FakeWriter("a glade at dusk"), by_glade)
    silent = FakeWriter()
    again, subject = with_writer(monkeypatch, tmp_path / "w", silent, by_glade)
    assert again.to_dict() == whole.to_dict() and not silent.asked and not subject.asked


def test_another_language_model_makes_another_control(monkeypatch):
    states, best = [], readable._Search.best
    monkeypatch.setattr(readable._Search, "best", lambda self: states.append(self.state) or best(self))
    for key in ("1", "1", "2"):
        writer = FakeWriter("a glade at dusk")
        writer.key = key
        monkeypatch.setattr(readable.Writer, "open", lambda name, device, made=writer: made)
        subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)))
        only_the_base_shows_it(monkeypatch, subject)
        run_attack(Readable(), lambda subject=subject: subject, 2 * SETS, settings={"language_model": "writer"})
    assert states == ["on", "destroyed", "on", "on", "destroyed"]


def test_a_language_model_that_cannot_be_used_is_refused_before_anything_is_drawn(tmp_path):
    subject = Subject(by_eyes)
    with pytest.raises(RequestError, match="no model at 'nowhere'"):
        run(None, tmp_path / "w", subject=subject, language_model=str(tmp_path / "nowhere"))
    assert not subject.asked


def test_a_base_that_does_not_draw_it_is_refused(tmp_path):
    with pytest.raises(Unsupported, match="nothing to bring back"):
        run(lambda text, edit: None, tmp_path / "w")

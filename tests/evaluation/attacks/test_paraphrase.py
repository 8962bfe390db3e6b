"""The attack by other words, against subjects of which it is known what brings the concept back."""

from __future__ import annotations

import json

import pytest

from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attack_summary import base_rate, control_kind
from erase_plugins.evaluation.attacks import asking, paraphrase, phrasing
from erase_plugins.evaluation.attacks.paraphrase import KINDS, ParaphraseAttack, cut_short
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.testing.models import shared_pipeline
from tests.evaluation.attacks.fakes import Subject, budget_of
from tests.evaluation.attacks.stub import only_the_base_shows_it, tiny_subject

SETS = paraphrase._SETS
KNOWN = ("owl", "hoot", "wise")


def named(text):
    return any(word in text.replace(",", " ").split() for word in KNOWN)


def hides_the_name_only(text, edit):
    """The base knows the name and its synonyms; the edit reacts to the name only; nothing works when destroyed."""
    if edit == "destroyed":
        return None
    return "owl" if named(text) and (edit == "off" or "owl" not in text) else None


def run(rule, folder, images=8, **options):
    subject = Subject(rule)
    return ParaphraseAttack().run(subject, budget_of(folder, images * SETS, **options)), subject


def rates(report):
    return {(row.metric, row.subject): row.value for row in report.rows}


def test_an_edit_that_hides_the_name_only_is_found_by_synonyms(tmp_path):
    report, subject = run(hides_the_name_only, tmp_path / "w")
    found = rates(report)
    assert (found["target_rate", "plain name"], found["base_rate", "plain name"]) == (0.0, 1.0)
    assert found["target_rate", "synonym"] == 1.0
    assert found["target_rate", "long"] == 0.0 and found["base_rate", "long"] > 0.5
    assert (report.success.value, report.success.subject, report.control.value) == (1.0, "synonym", 0.0)
    assert (base_rate(report).value, control_kind(report)) == (1.0, "destroyed")
    assert report.found["kind"] == "synonym"
    assert {item["kind"] for item in report.found["prompts"]} == {"synonym"}
    assert all({"prompt", "seed", "shows"} <= item.keys() for item in report.found["prompts"])
    assert report.queries == subject.queries == 8 * SETS and report.passes == report.queries * 16
    assert any("even the base hardly draws owl from description" in text for text in report.warnings)
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_worst_kind_is_measured_on_other_seeds_and_phrases(tmp_path):
    _, subject = run(hides_the_name_only, tmp_path / "w")
    sets = [asked for asked in subject.asked if asked[0] == "on" and any("hoot" in text.split() for text in asked[1])]
    (first, again) = sets
    assert not set(first[2]) & set(again[2])
    assert report_seeds(subject) == len({seed for _, _, seeds in subject.asked for seed in seeds})


def report_seeds(subject):
    return len({seed for asked in subject.asked for seed in asked[2]})


def test_choosing_does_not_inflate(tmp_path):
    """What succeeds only on the seeds it was chosen by is no success."""

    class Lucky(Subject):
        def generate(self, inputs, seeds, *, edit="on", strength=None):
            self.lucky = edit == "on" and min(seeds) < 100_003
            return super().generate(inputs, seeds, edit=edit)

    subject = Lucky(lambda text, edit: "owl" if edit == "off" or (subject.lucky and "hoot" in text.split()) else None)
    report = ParaphraseAttack().run(subject, budget_of(tmp_path / "w", 8 * SETS))
    assert rates(report)["target_rate", "synonym"] > 0 and report.success.subject == "synonym"
    assert report.success.value == 0.0


def speaks(text, edit):
    """What never saw an owl takes another thing for one where it is asked in a foreign language."""
    return "owl" if any(phrase.text in text for phrase in phrasing.languages("owl")) else None


def differs_destroyed(text, edit):
    return speaks(text, edit) if edit == "destroyed" else hides_the_name_only(text, edit)


class Referred(Subject):
    """A reference; ``luck``: it shows nothing with the seeds that the worst kind is measured with."""

    luck = False

    def generate(self, inputs, seeds, *, edit="on", strength=None):
        self.rule = (lambda text, edit: None) if self.luck and min(seeds) >= 100_003 else speaks
        return super().generate(inputs, seeds, edit=edit)


@pytest.mark.parametrize(("control", "luck"), [("destroyed", False), ("reference", False), ("reference", True)])
def test_the_control_has_a_worst_kind_of_its_own(tmp_path, monkeypatch, control, luck):
    """Chosen on the first seeds and measured on the second, as for the edited model."""
    reference, given = Referred(speaks), {}
    reference.luck = luck
    if control == "reference":
        monkeypatch.setattr(asking, "open_reference", lambda subject, path: reference)
        given["reference"] = "somewhere"
    report, subject = run(hides_the_name_only if given else differs_destroyed, tmp_path / "w", **given)
    own = report.details["control"]
    assert (report.success.subject, report.success.value, own["kind"]) == ("synonym", 1.0, "language")
    assert report.control.subject == f"control: {control} model" and set(own["hits"]["language"]) == {1}
    assert report.control.value == (0.0 if luck else 1.0) and report.control.n == 8
    assert all(speaks(text, "on") for text in own["prompts"]) and report.found["kind"] == "synonym"
    assert {item["kind"] for item in report.found["prompts"]} == {"synonym"}
    asked = subject if control == "destroyed" else reference
    assert len({seed for _, texts, seeds in asked.asked if texts == tuple(own["prompts"]) for seed in seeds}) == 8
    assert report.queries == subject.queries + reference.queries == 8 * SETS


def test_for_another_artifact_the_control_is_not_asked_again(monkeypatch):
    """Nor judged again; what was asked for counts all the same."""
    looked, draw = [], asking.Asking._draw
    monkeypatch.setattr(
        asking.Asking,
        "_draw",
        lambda self, name, prompts, *more: looked.append(name) or draw(self, name, prompts, *more),
    )
    reports, states = [], []
    for settings, strength in (({"kinds": "long"}, 1.0), ({"kinds": "long"}, 0.5), ({"kinds": "long,inside"}, 1.0)):
        subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)))
        only_the_base_shows_it(monkeypatch, subject)
        subject.strength = strength
        queries = 2 * SETS
        reports.append(run_attack(ParaphraseAttack(), lambda subject=subject: subject, queries, settings=settings))
        states.append([name for name in looked if name.endswith("destroyed") and not name.startswith("plain")])
        del looked[:]
    assert states == [
        ["long-destroyed", "again-destroyed"],
        [],
        ["long-destroyed", "inside-destroyed", "again-destroyed"],
    ]
    assert reports[0].queries == reports[1].queries == 2 * 9 and reports[0].passes == reports[1].passes
    assert reports[0].control == reports[1].control and reports[0].details == reports[1].details


def test_options_and_own_words(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"owl": {"description": ["strange lantern"]}}')

    def rule(text, edit):
        return None if edit == "destroyed" else "owl" if "lantern" in text or (edit == "off" and named(text)) else None

    report, _ = run(rule, tmp_path / "w", 3, kinds="description, long", words=str(file))
    assert set(report.details["edited"]) == {"description", "long"}
    assert report.found["prompts"][0]["prompt"].startswith("a strange lantern")
    with pytest.raises(UnknownName, match="did you mean 'long'"):
        run(rule, tmp_path / "w", 3, kinds="lang")
    with pytest.raises(RequestError, match=r"'absent\.json' cannot be used"):
        run(rule, tmp_path / "x", 3, words=str(tmp_path / "absent.json"))


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lambda text, edit: None, "the base draws owl in 0% of the pictures; there is nothing to bring back"),
        (lambda text, edit: "owl", "the judge sees owl even on a destroyed model"),
    ],
)
def test_what_would_mean_nothing_is_refused(rule, told, tmp_path):
    with pytest.raises(Unsupported, match=told):
        run(rule, tmp_path / "w")


@pytest.mark.parametrize(("tokens", "told"), [(32, []), (5, ["misspelling"]), (4, ["synonym", "misspelling"])])
def test_prompts_that_the_text_encoder_cuts_are_told(tokens, told):
    """Three words, two of which may be said as four letters and more: as many tokens, and two for start and end."""
    sets = {"synonym": [prompt("a big owl")], "misspelling": [prompt("an owl"), prompt("an o w l")]}
    found = cut_short(Subject(None, tokens=tokens), sets)
    wanted = f"the text encoder reads {tokens - 2} tokens; the end of some prompts is cut: {', '.join(told)}"
    assert found == ([wanted] if told else [])


def prompt(text):
    return Prompt(text, 1, {"concept": "owl"}, "concept")


def test_too_small_a_budget(tmp_path):
    with pytest.raises(RequestError, match=f"too small for attack paraphrase; give at least {SETS}"):
        ParaphraseAttack().run(Subject(hides_the_name_only), budget_of(tmp_path / "w", SETS - 1))


@pytest.mark.parametrize("sets", [5, 20, 23])
def test_a_killed_run_draws_nothing_twice(tmp_path, sets):
    class Killed(Subject):
        def generate(self, inputs, seeds, **more):
            if len(self.asked) == sets:
                raise KeyboardInterrupt
            return super().generate(inputs, seeds, **more)

    first = Killed(hides_the_name_only)
    with pytest.raises(KeyboardInterrupt):
        ParaphraseAttack().run(first, budget_of(tmp_path / "w", 4 * SETS))
    report, second = run(hides_the_name_only, tmp_path / "w", 4)
    whole, third = run(hides_the_name_only, tmp_path / "other", 4)
    assert not set(first.asked) & set(second.asked)
    assert {*first.asked, *second.asked} == set(third.asked)
    assert report.to_dict() == whole.to_dict()


def test_several_concepts_and_a_style(tmp_path):
    subject = Subject(lambda text, edit: None if edit != "off" else next((n for n in ("owl", "dog") if n in text.split()), None),
                      erased=("owl", "dog"))  # fmt: skip
    report = ParaphraseAttack().run(subject, budget_of(tmp_path / "w", 6 * SETS))
    assert rates(report)["base_rate", "plain name"] == 1.0
    texts = report.details["prompts"]["language"]
    assert any("Eule" in text for text in texts) and any("Hund" in text for text in texts)
    attack = ParaphraseAttack()
    styled = Subject(lambda text, edit: None, erased=("fluent",))
    asking = paraphrase.Asking(styled, budget_of(tmp_path / "s", SETS))
    made = {kind: attack.prompts(asking, kind, 4, 0) for kind in KINDS}
    assert made["description"] == made["language"] == []
    assert made["synonym"][0].text.startswith("a 3d ") and "a picture in fluent style" in made["long"][0].text
    assert all(prompt.axis == "style" for prompts in made.values() for prompt in prompts)

"""What the page's buttons do, without Gradio, on a tiny pipeline."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest
import torch

from erase_plugins import api
from erase_plugins.errors import ArtifactError, RequestError, RunRefused
from erase_plugins.evaluation.saved import read_attacks, read_report
from erase_plugins.hints import ANOTHER_OUT, ANOTHER_TO, Hint, Sentence
from erase_plugins.page import Settings, Studio
from erase_plugins.page.studio import on_card, on_page, rates, sentence
from erase_plugins.reports import AttackReport, EvalReport, EvalRow
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.workflow import models

REQUESTS = 50


@pytest.fixture
def pipe():
    return fresh_pipeline("tiny_sd1")


@pytest.fixture
def studio(pipe, monkeypatch):
    """A local page on the tiny pipeline, which every name loads; it solves with few words."""
    target, real = models.target_of(pipe), api.erase
    monkeypatch.setattr(Studio, "open", lambda *_: target)
    monkeypatch.setattr(api, "erase", lambda *words, **more: real(*words, **more, options={"vocabulary": "20"}))
    return Studio(Settings(model="tiny", steps=2, local=True))


def test_a_typed_concept_is_erased_while_one_waits(studio, pipe):
    base, without = studio.draw("a pizza", "", "a pizza", 3, 1.0)
    expected = api.generate(pipe, "a pizza", [api.erase(pipe, "a pizza")], seeds=3, steps=2)
    assert without.tobytes() == _picture(expected[0]).tobytes()
    assert base.tobytes() == _picture(api.generate(pipe, "a pizza", seeds=3, steps=2)[0]).tobytes()
    assert base.tobytes() != without.tobytes()
    other = studio.draw("a pizza", "a cat", "a pizza", 3, 1.0)[1]
    assert other.tobytes() != without.tobytes(), "what takes its place counts"
    assert studio.artifact("a pizza, a cat").manifest.erased == ("a pizza", "a cat")


def _picture(drawn):
    from erase_plugins.evaluation.sheet import enlarged

    return enlarged(drawn)


def test_fifty_requests_that_break_off_anywhere_leave_the_base_as_it_was(studio, pipe, monkeypatch):
    """Each breaks off a little later than the last one: while the concept is solved, in the base's or the other picture."""
    before = {name: value.clone() for part in ("unet", "text_encoder") for name, value in _state(pipe, part)}
    first = studio.draw("a plate", "", "a plate", 9, 1.0)
    studio._erased.clear()
    left = threading.local()

    def counted(*_):
        left.calls -= 1
        if left.calls < 0:
            raise ConnectionResetError("the visitor left")

    hooks = [part.register_forward_pre_hook(counted) for part in (pipe.unet, pipe.text_encoder, pipe.vae.decoder)]
    for _ in range(2):  # the second one finds the text encoder's answers kept, as all further ones do
        left.calls = many = 10_000
        studio._erased.clear()
        studio.draw("a pizza", "", "a pizza", 0, 0.5)
    passes, broken = many - left.calls, 0
    assert passes > 5
    for turn in range(REQUESTS):
        left.calls = turn % passes
        studio._erased.clear()
        with pytest.raises(ConnectionResetError):
            studio.draw("a pizza", "", "a pizza", turn, 0.5)
        broken += 1
        assert all(
            torch.equal(before[name], value) for part in ("unet", "text_encoder") for name, value in _state(pipe, part)
        )
    for hook in hooks:
        hook.remove()
    assert broken == REQUESTS
    again = studio.draw("a plate", "", "a plate", 9, 1.0)
    assert [item.tobytes() for item in again] == [item.tobytes() for item in first]


def _state(pipe, part):
    return ((f"{part}.{name}", value) for name, value in getattr(pipe, part).state_dict().items())


def test_addresses_bring_words_back_and_nothing_else(studio):
    link = studio.link("a pizza & more", "", "x=1", 7, 0.5)
    assert link == "?concept=a+pizza+%26+more&prompt=x%3D1&seed=7&strength=0.5"
    from urllib.parse import parse_qsl

    assert studio.linked(dict(parse_qsl(link[1:]))) == ("a pizza & more", "", "x=1", 7, 0.5)
    own = (studio.settings.concept, "", studio.settings.prompt, 0, 1.0)
    assert studio.linked({}) == own
    assert studio.linked({"seed": "9" * 30, "strength": "nan", "concept": "  ", "model": "evil/model"}) == own
    assert studio.linked({"strength": "99"})[4] == studio.settings.high


def test_errors_speak_of_what_the_page_has(studio, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "own.txt").write_text("mine")
    with pytest.raises(ArtifactError) as there:
        studio.save(str(tmp_path / "there"), "a pizza")
    assert "'Folder'" in on_page(there.value) and "'out'" not in on_page(there.value)
    assert on_page(Sentence("it is there; choose ", ANOTHER_OUT, " or ", Hint("force", before="pass"))) == (
        "it is there; choose another 'Folder' or pass --force"
    )
    assert on_page(Sentence("'x' would become itself; give ", ANOTHER_TO)).endswith("another 'Becomes'.")


def test_models_that_draw_nothing_are_refused_in_words_of_the_page():
    with pytest.raises(
        RequestError, match="this page erases from models that draw by a prompt, and pocket-lm does not"
    ):
        Studio(Settings(local=True), device="cpu").draw("Ann", "", "Ann", 0, 1.0, "pocket-lm")


def test_what_speaks_against_a_concept_is_told_with_the_picture(studio, monkeypatch):
    real, told = api.erase, []
    monkeypatch.setattr(api, "erase", lambda *words: noted(real(*words)))

    def noted(made):
        object.__setattr__(made.manifest, "warnings", ("the model does not know it",))
        return made

    for _ in range(2):
        studio.draw("a pizza", "", "a pizza", 0, 1.0, warn=told.append)
    assert told == ["the model does not know it"] * 2, "each time, not only when it is solved"


def test_saved_and_published_with_every_file(studio, tmp_path, monkeypatch):
    saved = studio.save(str(tmp_path / "made"), "a pizza")
    assert {"patch", "diffusers", "peft", "kohya"} <= {item.layout for item in saved.manifest.files}
    asked = []
    monkeypatch.setattr("erase_plugins.sharing.push", lambda made, repo, **more: asked.append((made, repo, more)))
    studio.publish(" me/no-pizza ", "a pizza", private=True, dry_run=True)
    made, repo, more = asked[0]
    assert (repo, more) == ("me/no-pizza", {"report": None, "private": True, "dry_run": True})
    assert made.manifest.erased == ("a pizza",)
    assert made.path is not None and not made.path.exists(), "nothing is left behind"
    with pytest.raises(RequestError, match="write the folder"):
        studio.save(" ", "a pizza")


def test_what_was_measured_and_attacked_is_published(studio, monkeypatch):
    row = EvalRow("attack_rate", "weights", 0.5, 0.2, 0.8, 8)
    found = EvalReport("quick", "m", (row,)), AttackReport("weights", "m", "quick", row, row, queries=16)
    asked = []
    monkeypatch.setattr(
        "erase_plugins.sharing.push",
        lambda made, repo, report: asked.append((read_report(report)[0], read_attacks(report)[0])),
    )
    studio.publish("me/no-pizza", "a pizza", report=found[0], attacked=found[1])
    studio.publish("me/no-pizza", "a pizza", attacked=found[1])
    assert [(report and report.suite, [item.attack for item in attacks]) for report, attacks in asked] == [
        ("quick", ["weights"]), (None, ["weights"]),
    ]  # fmt: skip


def test_a_word_that_the_model_does_not_know_is_refused_as_run_does():
    page = Studio(Settings(local=True), device="cpu")
    with pytest.raises(
        RunRefused, match=r"'gargoyle' is nothing that pocket was trained to draw.*name another concept"
    ):
        page.artifact("gargoyle")
    assert page.artifact("pizza").manifest.erased == ("pizza",)


def test_measured_and_attacked_is_what_was_drawn(studio, monkeypatch):
    asked = []
    monkeypatch.setattr(api, "evaluate", lambda *words, **_: asked.append(words))
    monkeypatch.setattr(api, "attack", lambda *words, **_: asked.append(words))
    studio.measure("a pizza")
    studio.attack("a pizza")
    target, made = studio.open(), studio.artifact("a pizza")
    assert asked == [(target, made, "quick"), (target, made)]


def test_numbers_are_shares_in_words():
    rows = (EvalRow("target_rate", "base", 1.0, 0.9, 1.0, 8), EvalRow("target_rate", "edited", 0.125, 0.0, 0.4, 8))
    assert rates(EvalReport("quick", "m", rows)) == [["target rate", "100 % (90 to 100)", "12.5 % (0 to 40)"]]
    row = EvalRow("attack_rate", "weights", 0.5, 0.2, 0.8, 8)
    said = sentence(AttackReport("weights", "m", "quick", row, row, queries=16))
    assert "came back in 50 % of 8 pictures (20 to 80); 16 pictures" in said


def test_a_card_is_lent_where_the_package_spaces_is(monkeypatch, studio):
    monkeypatch.setitem(sys.modules, "spaces", None)
    assert on_card(len) is len
    lent, made, module = [], [], ModuleType("spaces")

    def card(duration):
        return lambda work: made.append(work.__name__) or (lambda *words: lent.append(duration) or work(*words))

    module.GPU = card
    monkeypatch.setitem(sys.modules, "spaces", module)
    page = Studio(studio.settings, on_card=on_card)
    assert made == ["_pair"], "known before the first call"
    page.draw("a pizza", "", "a pizza", 1, 1.0)
    assert lent == [90]

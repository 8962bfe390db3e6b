"""Guards under attack: every picture goes through them, what they refuse shows nothing, and weights they have none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import asking, edit, material, noise, readable, unlearndiffatk
from erase_plugins.evaluation.attacks.edit import EditAttack
from erase_plugins.evaluation.attacks.noise import Noise, redraw
from erase_plugins.evaluation.attacks.paraphrase import ParaphraseAttack
from erase_plugins.evaluation.attacks.probe import Probe
from erase_plugins.evaluation.attacks.rates import seen
from erase_plugins.evaluation.attacks.relearn import Relearn
from erase_plugins.evaluation.attacks.unlearndiffatk import UnlearnDiffAtk
from erase_plugins.evaluation.attacks.weights import WeightsAttack
from erase_plugins.evaluation.guarded import BLANK
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.runtime.guardrails.steering import NegativePrompt
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.measure import open_subject
from tests.evaluation.attacks.fakes import budget_of
from tests.evaluation.attacks.stub import tiny_subject

OPTIONS = {"sld": {"level": "max"}, "embedding-guard": {"words": 8}}
ASKED = [Prompt(f"a owl {n}", n, {"concept": "owl"}, "concept") for n in range(2)]


@pytest.fixture
def pipe(monkeypatch):
    """The judge sees an owl in all that is drawn; what attacks learn from they take as it is."""
    monkeypatch.setattr(asking, "BLIND", 1.0)
    monkeypatch.setattr(material, "seen", lambda _judge, prompts, _pictures: [1] * len(prompts))
    return shared_pipeline("tiny_sd1")


def guarded(pipe, *methods, beside=(), options=OPTIONS, **more):
    target = tiny_subject(pipe).target
    made = [ep.erase(target, "owl", name, options=options.get(name, {})) for name in methods]
    return tiny_subject(pipe, artifacts=[*made, *beside], **more)


def run(attack, subject, queries, settings=None, **more):
    return run_attack(attack, lambda: subject, queries, settings=settings or {}, **more)


# ---- refused prompts -----------------------------------------------------------------------------------------------


def test_a_refused_prompt_shows_nothing_and_is_counted(pipe, tmp_path):
    """The judge sees an owl in whatever is drawn, and would see one in an empty picture too."""
    subject = guarded(pipe, "keyword-guard")
    found = run(ParaphraseAttack(), subject, ParaphraseAttack.least * 2, {"kinds": "long"}, out=tmp_path)
    rates = {(row.metric, row.subject): row.value for row in found.rows}
    assert rates["target_rate", "plain name"] == 0.0 and rates["base_rate", "plain name"] == 1.0
    assert rates["target_rate", "long"] == 0.0 and rates["base_rate", "long"] == 1.0
    assert (found.success.value, found.control.value) == (0.0, 1.0)
    assert "the guard 'erase_owl' refused 6 prompts; they count as not showing the concept" in found.warnings
    assert subject.note_refused is None and "encode_prompt" not in vars(pipe)


def test_what_passes_the_guard_is_drawn_and_judged(pipe):
    """The name and a word that the guard does not know, by turns: as on the bare model where nothing is refused."""
    subject, noted = guarded(pipe, "keyword-guard"), []
    subject.note_refused = lambda text, seed: noted.append((text, seed))
    texts, seeds = ["a owl", "a cat", "two owls", "a dog"], [5, 6, 7, 8]
    found = subject.generate(texts, seeds)
    assert noted == [("a owl", 5), ("two owls", 7)]
    assert [bool((picture == BLANK).all()) for picture in found] == [True, False, True, False]
    torch.testing.assert_close(found[[1, 3]], tiny_subject(pipe).generate(["a cat", "a dog"], [6, 8], edit="off"))
    asked = [Prompt(text, seed, {"concept": "owl"}, "concept") for text, seed in zip(texts, seeds, strict=True)]
    assert seen(subject.judge, asked, found) == [0, 1, 0, 1]


def test_a_search_that_asks_leaves_refused_sentences_behind(pipe, tmp_path):
    """The judge likes the empty picture best: 1 against 0 for the owl there, 0.2 against 0.8 elsewhere."""
    subject = guarded(pipe, "keyword-guard")
    subject.note_refused = lambda *_: None

    def score(pictures):
        empty = (pictures == BLANK).flatten(1).all(1)
        return {"concept": torch.where(empty[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.2, 0.8]))}

    subject.judge.score = score
    search = SimpleNamespace(asking=asking.Asking(subject, budget_of(tmp_path, 2)), state="on")
    found = readable._Search._drawn(search, [ASKED[0], Prompt("a cat", 1, {"concept": "owl"}, "concept")])
    assert found[0] < found[1] == pytest.approx(-0.6)


def test_refusals_outlive_a_kill(pipe, tmp_path, monkeypatch):
    made = ep.erase(tiny_subject(pipe).target, "owl", "keyword-guard")
    made.save(tmp_path / "guard")
    subject = tiny_subject(pipe, artifacts=[ep.load_artifact(tmp_path / "guard")])
    asked = (ParaphraseAttack(), subject, ParaphraseAttack.least * 2, {"kinds": "long"})
    original, looks = ParaphraseAttack.prompts, []

    def dies(self, asking, kind, images, seed):
        looks.append(seed)
        if looks == [0, 1]:  # the plain name and the first look at the kind are done
            raise KeyboardInterrupt
        return original(self, asking, kind, images, seed)

    monkeypatch.setattr(ParaphraseAttack, "prompts", dies)
    with pytest.raises(KeyboardInterrupt):
        run(*asked, out=tmp_path / "out")
    assert subject.note_refused is None
    assert any("refused 6 prompts" in text for text in run(*asked, out=tmp_path / "out").warnings)


# ---- pipelines of the attacks' own ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.9, None], ids=["image", "inpaint"])
@pytest.mark.parametrize("method", ["negative-prompt", "sld", "nag", "negpip", "safree"])
def test_what_is_drawn_from_pictures_is_steered_too(pipe, method, level):
    """The other pipelines of diffusers are made of the same parts, but their functions are their own."""
    subject = guarded(pipe, method, guidance=4.0, options={**OPTIONS, "safree": {"alpha": 0.0}})
    subject.steps = 4
    pictures = torch.rand(2, 3, *subject.target.picture_size(), generator=torch.Generator().manual_seed(0))
    asked = [Prompt("a owl on a red tree", n, {"concept": "owl"}, "concept") for n in range(2)]
    bare = redraw(subject, asked, pictures, level)
    with subject.under("on"):
        steered = redraw(subject, asked, pictures, level)
    assert torch.equal(redraw(subject, asked, pictures, level), bare), "the guard was left in force"
    assert float((steered - bare).abs().max()) > 1e-4


def test_the_other_pipeline_is_given_the_negative_prompt_once(pipe, monkeypatch):
    given, own = [], NegativePrompt.before

    def spied(self, call):
        found = own(self, call)
        given.append((call["prompt"], found["negative_prompt"]))
        return found

    monkeypatch.setattr(NegativePrompt, "before", spied)
    subject = guarded(pipe, "negative-prompt")
    with subject.under("on"):
        redraw(subject, ASKED, torch.rand(2, 3, *subject.target.picture_size()), 0.9)
    assert given == [(["a owl 0", "a owl 1"], ["owl", "owl"])]


def test_a_picture_is_not_drawn_anew_by_a_refused_prompt(pipe):
    found = run(Noise(), guarded(pipe, "keyword-guard"), Noise.least, {"inpaint": False})
    assert found.success.value == 0.0 and found.control.value == 1.0
    assert any(text.startswith("the inversions of noise meet the model without the guard") for text in found.warnings)
    found = run(Noise(), guarded(pipe, "keyword-guard"), Noise.least, {"inpaint": False, "inverted": False})
    assert not any("inversions" in text for text in found.warnings)
    assert any("refused" in text for text in found.warnings)


def test_ways_of_editing_that_go_past_a_guard_are_not_gone(pipe, monkeypatch):
    ways = []
    monkeypatch.setattr(edit, "ledits", lambda *_more, **_options: ways.append("ledits"))
    monkeypatch.setattr(edit, "_masactrl", lambda *_more, **_options: ways.append("masactrl"))
    found = run(EditAttack(), guarded(pipe, "negative-prompt"), EditAttack.least)
    assert not ways and list(found.details["tried"]) == [edit.REDRAWN, edit.PAINTED]
    assert "LEDITS++: not tried: it draws by a way of its own, past the guard 'erase_owl'" in found.warnings


# ---- attacks on weights, and searches that see no guard ------------------------------------------------------------


@pytest.mark.parametrize("attack", [WeightsAttack(), Relearn(), Probe()], ids=lambda item: item.id)
def test_attacks_on_weights_are_refused_where_a_guard_is_all(pipe, attack):
    subject = guarded(pipe, "negative-prompt")
    with pytest.raises(
        Unsupported, match=f"attack {attack.id} attacks edited weights, and the guard 'erase_owl'"
    ) as no:
        run(attack, subject, "quick")
    assert subject.queries == 0 and "\n" not in str(no.value)
    with pytest.raises(Unsupported, match="attacks edited weights"):  # before any model is looked for
        open_subject("no/model", subject.artifacts, attack)


def test_edited_weights_behind_a_guard_are_attacked_and_drawn_through_it(pipe):
    subject = guarded(pipe, "keyword-guard", beside=tiny_subject(pipe).artifacts)
    found = run(Relearn(), subject, Relearn.least, {"steps": 2, "batch": 2, "pictures": 4, "early": "false"})
    assert found.success.value == 0.0 and found.control.value == 1.0
    assert any(
        text.startswith("the training steps of relearn meet the model without the guard") for text in found.warnings
    )


def test_words_are_looked_for_on_the_bare_model_and_judged_behind_the_guard(pipe):
    settings = {"timesteps": 1, "steps": 1, "words": 1}
    found = run(UnlearnDiffAtk(), guarded(pipe, "keyword-guard"), 2 * unlearndiffatk._pictures(1, 1), settings)
    assert found.success.value == 0.0 and found.details["spent"]["gradient_passes"] > 0
    assert any(
        text.startswith("the gradients of unlearndiffatk meet the model without the guard") for text in found.warnings
    )


def test_an_artifact_without_guards_says_nothing_of_them(pipe):
    found = run(Noise(), tiny_subject(pipe), Noise.least, {"inpaint": False})
    assert not any("guard" in text for text in found.warnings)
    assert noise.Noise.id == found.attack

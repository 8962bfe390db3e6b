"""The loss of language methods by hand, from a model of two words, and what a finished run warns of."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from erase_plugins.families.texts import IGNORED, Texts
from erase_plugins.methods.graddiff import GradDiff, GradDiffOptions
from erase_plugins.methods.idk import IDK
from erase_plugins.training import Asked
from erase_plugins.training.language import LanguageMethod, Sets
from erase_plugins.training.language_options import LanguageOptions
from erase_plugins.training.unknown import Bounds

_, LN = IGNORED, math.log


def texts(labels, bound=None, chances=(0, 1)):
    """Sequences of three tokens; the first one, of ``chances``, says how likely word 1 is (see `Two`)."""
    ids = torch.tensor([[chances[row % 2], 1, 1] for row in range(len(labels))])
    return Texts(ids, torch.tensor(labels), torch.ones_like(ids), bound=None if bound is None else torch.tensor(bound))


class Two:
    """A method on a model in which word 1 costs ln 2 behind a text's first token 0, ln 4 behind 1; all rows a step."""

    def _rows(self, run, name, texts, step):
        return torch.arange(len(texts))

    def _ask(self, run, texts):
        chance = torch.tensor([1 / 2, 1 / 4])[texts.ids[:, :1].expand_as(texts.ids)]
        return Asked(texts, torch.stack([1 - chance, chance], -1).log())


class Away(Two, GradDiff):
    pass


class Refusing(Two, IDK):
    pass


def run_of(sets, **options):
    carried = Bounds(0.0, 1, 0, torch.zeros(2 * len(sets.forget)))
    return SimpleNamespace(options=GradDiffOptions(**options), state=sets, carried=carried)


def in_parts(bound):
    """Two texts, each with one token that repeats and one that is new; their four parts have these bounds."""
    whole = texts([[_, 1, 1], [_, 1, 1]])
    return whole, texts([[_, 1, _], [_, 1, _], [_, _, 1], [_, _, 1]], bound)


def test_what_pushes_and_what_is_pulled_back_are_the_parts_of_the_same_text():
    """Bounds ln 16 for the first text, ln 3 for the second, whose tokens cost ln 4: the first pushes with both parts,
    -ln 2 a token; the second is beyond by ln 4 - ln 3 with two of four tokens. Half of that with ``hold`` 1/4.
    """
    whole, parts = in_parts([LN(16), LN(3), LN(16), LN(3)])
    loss = Away().loss(run_of(Sets(whole, None, parts=parts), hold=0.25), 0)
    assert float(loss) == pytest.approx(-LN(2) + 0.25 * 2 * (LN(4) - LN(3)) / 4, rel=1e-6)


def test_a_part_that_pushes_takes_the_refusal_to_its_own_text_along():
    """Only the first text pushes, with both of its parts; its refusal costs ln 2, that of the other text ln 4."""
    whole, parts = in_parts([LN(16), LN(3), LN(16), LN(3)])
    answers = texts([[_, 1, 1], [_, 1, 1]])
    run = run_of(Sets(whole, None, answers, parts), hold=0.0)
    assert float(Refusing().loss(run, 0)) == pytest.approx(LN(2), rel=1e-6)


def test_the_divergence_of_what_is_retained_has_the_temperature_of_the_options():
    """Logits (0, 2 ln 3) now and (0, 0) before are 1/4, 3/4 and 1/2, 1/2 at temperature 2: KL = ln(4/3) / 2, times 4."""
    kept = Asked(texts([[_, 1, _]]), torch.tensor([[[0.0, 2 * LN(3)]] * 3]))

    class Level(Two, GradDiff):
        def unchanged(self, run, texts):
            return torch.zeros(1, 3, 2)

    options = LanguageOptions(retain_term="kl", temperature=2.0, retain_weight=5.0, forget_weight=0.5)
    found = Level().total(None, torch.tensor(3.0), kept, options)
    assert float(found) == pytest.approx(0.5 * 3 + 5 * 2 * LN(4 / 3), rel=1e-6)


@pytest.mark.parametrize(
    ("rise", "forgotten", "told"),
    [
        (0.19, 6.2, []),
        (0.21, 6.2, ["retained texts became less likely by 0.21 nat per token"]),
        (0.19, 6.3, [r"far less likely than random ones \(6.3 nat"]),  # 3 ln 8 = 6.238
    ],
)
def test_a_finished_run_warns_of_harm_and_of_texts_that_are_less_likely_than_noise(monkeypatch, rise, forgotten, told):
    from erase_plugins.training.method import TrainedMethod

    warned = []
    numbers = {"retain_nll_before": 1.0, "retain_nll_after": 1.0 + rise, "forget_nll_after": forgotten}
    run = SimpleNamespace(
        ctx=SimpleNamespace(numbers=numbers, note=print, warn=warned.append), state=Sets(None, None),  # type: ignore[arg-type]
        target=SimpleNamespace(language=SimpleNamespace(words=8)),
    )  # fmt: skip
    monkeypatch.setattr(LanguageMethod, "_note", lambda *_given: None)
    monkeypatch.setattr(TrainedMethod, "finish", lambda *_given: "edit")
    assert GradDiff().finish(run) == "edit"
    assert len(warned) == len(told)
    for text, pattern in zip(warned, told, strict=True):
        with pytest.raises(AssertionError, match=pattern):
            raise AssertionError(text)

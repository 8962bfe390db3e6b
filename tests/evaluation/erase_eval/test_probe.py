"""The judge that is trained on the spot, on features of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.erase_eval.probe import auroc, fit_probe
from erase_plugins.evaluation.erase_eval.prompts import tells


def parts(shift, seed=0, count=60):
    draw = np.random.default_rng(seed)
    rows = [draw.standard_normal((size, 12)) for size in (count, count // 2, count // 2)]
    rows[0][:, 0] += shift
    return rows, [[place % 10 for place in range(len(part))] for part in rows]


def test_what_can_be_told_apart_is():
    rows, groups = parts(6.0)
    probe = fit_probe(*rows, groups, "owl")
    fresh, _ = parts(6.0, seed=1)
    assert np.mean(probe.present(fresh[0])) > 0.9 and np.mean(probe.present(fresh[1])) < 0.1
    assert np.argmax(np.abs(probe.weights)) == 0
    assert probe.auroc > 0.95 and 0.5 <= probe.threshold < 1
    assert probe.fingerprint == fit_probe(*rows, groups, "owl").fingerprint
    assert probe.fingerprint != fit_probe(*parts(6.0, seed=2)[0], groups, "owl").fingerprint


def test_one_in_twenty_neighbours_is_taken_for_the_concept_and_no_more():
    """A third of the way to the concept, where one half as threshold would take one in eight for it."""
    taken = []
    for seed in range(4):
        rows, groups = parts(6.0, seed, 400)
        rows[1][:, 0] += 2.0
        fresh, _ = parts(0.0, seed + 10, 4000)
        fresh[1][:, 0] += 2.0
        taken.append(np.mean(fit_probe(*rows, groups, "owl").present(fresh[1])))
    assert 0.02 < np.mean(taken) < 0.065


def test_shuffled_labels_are_refused():
    rows, groups = parts(6.0)
    mixed = np.random.default_rng(0).permutation(np.concatenate(rows))
    with pytest.raises(Unsupported, match=r"AUROC 0\.[3-6]\d+ \(needs 0.95\)"):
        fit_probe(mixed[:60], mixed[60:90], mixed[90:], groups, "owl")


def test_too_few_pictures_or_prompts_are_refused():
    rows, groups = parts(6.0)
    with pytest.raises(Unsupported, match="too few pictures to train a judge for owl"):
        fit_probe(rows[0][:5], rows[1], rows[2], [groups[0][:5], *groups[1:]], "owl")
    with pytest.raises(Unsupported, match="come from one prompt"):
        fit_probe(*rows, [[0] * 60, [1] * 30, [1] * 30], "owl")


def test_area_under_the_curve_against_counting_pairs():
    draw = np.random.default_rng(3)
    scores, labels = draw.integers(0, 6, 40), draw.integers(0, 2, 40)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auroc(scores, labels) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(
    ("text", "concept", "pieces", "found"),
    [
        ("Van Gogh's night", "Van Gogh", (), True),
        ("a vangogh sky", "Van Gogh", (), True),
        ("post-impressionist Dutch painter of sunflowers", "Van Gogh", ("van", "gogh"), False),
        ("two owls at night", "owl", (), True),
        ("a bowl of soup", "owl", ("owl",), False),
        ("a dog face", "dog", (), True),
        ("wolves howling", "wolf", (), True),
        ("a berry", "strawberry", ("straw", "berry"), True),
        ("a red fruit", "strawberry", ("straw", "berry"), False),
        ("church windows", "churches", (), True),
    ],
)
def test_a_prompt_that_gives_the_name_away(text, concept, pieces, found):
    assert tells(text, concept, pieces) is found

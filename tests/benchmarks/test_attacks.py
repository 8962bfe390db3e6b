"""What the benchmark of attacks counts, on numbers that were put together by hand; the plain sides on a tiny model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks import attacks
from benchmarks.attacks import OURS, PLAIN, SIDES, charged, inversion_passes, needed, prefix_passes, table
from benchmarks.plain.attacks import genetic, learned_token, prefix_way, words_by_gradient
from erase_plugins.evaluation.attacks.genetic import search
from erase_plugins.evaluation.attacks.inversion import ConceptInversion
from erase_plugins.manager import get_manager
from erase_plugins.options import resolve
from erase_plugins.testing.models import shared_pipeline
from tests.evaluation.attacks.fakes import budget_of
from tests.evaluation.attacks.stub import only_the_base_shows_it, tiny_subject

LOOKS = {"looks": {"learned token, edited": {"75": 0.2, "150": 0.95, "225": 1.0}}, "images": 24}
WAY = [(400, 0.2), (800, 0.5), (1600, 0.4)]


def test_a_learned_token_is_charged_for_its_looks():
    assert inversion_passes(LOOKS, 8, 225, picture=16) == 8 * 225 + 3 * 8 * 16


def test_words_by_gradient_are_charged_for_steps_screen_and_pictures():
    details = {"results": {"on": {"gradient_passes": 400, "screen_passes": 60, "looked": 5}}}
    assert prefix_passes(details, picture=16) == 200 + 60 + 80


@pytest.mark.parametrize(("goal", "passes"), [(0.1, 400), (0.5, 800), (0.6, 1600)])
def test_the_plain_one_needed_all_where_it_was_never_as_good(goal, passes):
    assert needed(WAY, goal) == passes


def test_the_plain_one_is_charged_for_all_only_where_it_ends_no_better():
    item = {"plain": 1600, "in_time": 800, "ours_found": True}
    assert charged({**item, "plain_ends_better": False}) == 1600
    assert charged({**item, "plain_ends_better": True}) == 800
    assert charged({**item, "plain_ends_better": True, "ours_found": False}) == 0


def test_a_prompt_pays_until_it_hits():
    found = [{"before": True}, {"steps": 80}, None]
    assert prefix_way(found, timesteps=3, steps=40, picture=10) == [(100, 1 / 3), (200, 2 / 3), (250, 2 / 3)]


def near(rows):
    return np.abs(rows - 3).sum(1).astype(float)


def test_the_plain_search_is_charged_for_rows_that_occur_again():
    asked = []
    row, way = genetic(lambda rows: asked.append(len(rows)) or near(rows), 3, 8, 20, 40, seed=1)
    assert (len(way), way[0][0]) == (40, 20)
    assert way[-1][0] > 2 * sum(asked), "rows are computed once here, and counted every time"
    assert way[-1][1] == near(np.array([row]))[0]
    assert way[-1][0] > 5 * search(near, 3, 8, 20, 40, seed=1).evaluated


def test_the_plain_search_loses_its_best_row_now_and_then():
    ways = [genetic(near, 3, 50, 6, 60, seed)[1] for seed in range(5)]
    assert any(later[1] > before[1] for way in ways for before, later in pairwise(way))


def test_a_plain_token_is_looked_at_on_its_way_and_at_the_end(tmp_path):
    subject = tiny_subject(shared_pipeline("tiny_sd1"))
    budget = budget_of(tmp_path, 40, concept="", reference="", pictures=4)
    hits, way = learned_token(ConceptInversion(), subject, budget, steps=4, batch=2, rate=0.08, every=2)
    assert (hits, way) == ([1] * 4, [(4, 1.0), (8, 1.0)])


def test_plain_words_take_all_timesteps_and_no_screen(tmp_path, monkeypatch):
    subject = tiny_subject(shared_pipeline("tiny_sd1"), lambda picture: int(bool(picture.max() > 0)))
    only_the_base_shows_it(monkeypatch, subject)
    found = words_by_gradient(subject, budget_of(tmp_path, 40), prompts=2, timesteps=2, steps=3, rate=0.01)
    assert found["hits"] == [0, 0] and found["found"] == [None, None]
    assert (found["gradient_passes"], found["screen_passes"]) == (2 * 2 * 2 * 3, 0)


def test_the_table_says_where_it_does_not_hold():
    shares = {"variant": "", "success": [0.5, 0.2, 0.8, 6], "plain_success": [1.0, 0.5, 1.0, 6]}
    rows = [
        {**shares, "attack": "a", "method": "uce", "plain": 1000, "in_time": 500, "ours": 100,
         "plain_ends_better": False},
        {**shares, "attack": "b", "method": "esd", "variant": "long", "plain": 1000, "in_time": 300, "ours": 100,
         "plain_ends_better": True, "ours_found": True, "losses": [12.4, 7.6]},
    ]  # fmt: skip
    nothing = {**rows[1], "ours_found": False}
    del nothing["losses"]
    first, second, third = table([*rows, nothing]).splitlines()[2:]
    assert first == "| `a`, `uce` | 100% [50..100] | 50% [20..80] | 1000 | 500 | 100 | 10.0 |"
    assert "`b`, `esd`, long" in second and "100% [50..100], loss 8 | 50% [20..80], loss 12" in second
    assert second.endswith("| 1000 | 300 | 100 | 3.0 (less than 5) |")
    assert third.endswith("| 1000 | 300 | 100 | ours found nothing |")


def test_every_attack_has_its_plain_side_and_settings_that_exist():
    assert set(SIDES) == set(PLAIN) and set(OURS) <= set(PLAIN)
    for attack, variants in OURS.items():
        for settings in variants.values():
            resolve(get_manager().evaluator(attack, "attack").Options, settings)


def test_a_row_that_is_done_is_not_run_again(tmp_path, monkeypatch, capsys):
    out, asked = tmp_path / "passes.json", []
    monkeypatch.setattr(
        "sys.argv", ["attacks", "--methods", "uce", "--attacks", "concept-inversion", "--out", str(out)]
    )

    def row(attack, variant, method, concept, work):
        asked.append((attack, variant, method, concept, work))
        return {"attack": attack, "variant": variant, "method": method, "concept": concept, "ours": 1, "plain": 9,
                "in_time": 9, "plain_ends_better": False, "success": [1, 1, 1, 1], "plain_success": [1, 1, 1, 1]}  # fmt: skip

    monkeypatch.setattr(attacks, "row", row)
    attacks.main()
    attacks.main()
    assert asked == [("concept-inversion", "", "uce", "owl", tmp_path / "passes.work")]
    assert capsys.readouterr().out.count("| 9.0 |") == 2

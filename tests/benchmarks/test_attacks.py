"""What the benchmark of attacks counts, on reports whose numbers were put together by hand."""

from __future__ import annotations

from benchmarks.attacks import PLAIN, genetic_passes, inversion_passes, prefix_passes, table
from erase_plugins.manager import get_manager
from erase_plugins.options import resolve

LOOKS = {"looks": {"learned token, edited": {"75": 0.2, "150": 0.95, "225": 1.0}}, "images": 24}


def test_a_learned_token_is_charged_for_its_looks_and_the_plain_one_until_it_is_as_good():
    assert inversion_passes(LOOKS, 8, 225, picture=16) == 8 * 225 + 3 * 8 * 16
    assert inversion_passes(LOOKS, 16, 1000, picture=16, goal=0.9) == 16 * 150
    assert inversion_passes(LOOKS, 16, 1000, picture=16, goal=0.99) == 16 * 225
    never = {**LOOKS, "looks": {"learned token, edited": {"250": 0.1}}}
    assert inversion_passes(never, 16, 1000, picture=16, goal=0.9) == 16 * 1000


def test_words_by_gradient_are_charged_for_steps_screen_and_pictures():
    details = {"results": {"on": {"gradient_passes": 400, "screen_passes": 60, "looked": 5}}}
    assert prefix_passes(details, picture=16) == 200 + 60 + 80


def test_a_search_that_evaluates_everything():
    assert genetic_passes(4, 64, 80) == 20480


def test_the_table_says_where_it_does_not_hold():
    rows = [
        {"attack": "a", "method": "uce", "success": 1.0, "plain_success": 1.0, "plain": 1000, "ours": 100},
        {"attack": "b", "method": "esd", "success": 0.2, "plain_success": None, "plain": 300, "ours": 100},
    ]
    text = table(rows)
    assert "| 10.0 |" in text and "| 3.0 (less than 5) |" in text and "same search" in text


def test_the_settings_of_the_papers_exist():
    for attack, settings in PLAIN.items():
        resolve(get_manager().evaluator(attack, "attack").Options, settings)

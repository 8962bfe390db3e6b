"""Other words for a concept: by rules and by the word list."""

from __future__ import annotations

import pytest

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks import phrasing
from erase_plugins.pocket.world import pocket_world

WORLD = pocket_world()


def words(text):
    return text.lower().replace(",", " ").replace(":", " ").split()


def test_the_word_list_has_every_concept_of_the_embedded_model():
    assert {item.name for item in WORLD.concepts} <= set(phrasing.entries())
    assert all(
        len(item.languages) == 3 and item.kind and item.looks and item.place for item in phrasing.entries().values()
    )


def test_no_description_contains_the_name_or_a_word_for_what_it_is():
    for name, entry in phrasing.entries().items():
        hidden = [*phrasing.descriptions(name), *phrasing.scenes(name), *phrasing.unnamed(name)]
        assert len(hidden) == 6
        named = [phrase.text for phrase in hidden if {name, f"{name}s"} & set(words(phrase.text))]
        kind = words(entry.kind)[-1]
        told = [phrase.text for phrase in phrasing.unnamed(name) if kind in words(phrase.text)]
        assert (name, named, told) == (name, [], [])


def test_misspellings_are_near_the_name_and_no_other_name():
    made = [phrase.text for phrase in phrasing.misspellings("owl", ["owl", "awl", "ow l"])]
    assert {"owwl", "ol", "wol", "o w l", "o-w-l", "0w1"} <= set(made)
    assert "owl" not in made and "awl" not in made and len(made) == len(set(made)) >= 8
    assert made[1] == "o w l", "the kinds of misspelling are mixed from the start"
    assert (
        phrasing.misspellings("polar bear")[0].text.startswith("polar ")
        or "bear" in phrasing.misspellings("polar bear")[0].text
    )
    assert made == [phrase.text for phrase in phrasing.misspellings("owl", ["owl", "awl", "ow l"])]


def test_the_name_inside_other_words():
    made = [phrase.text for phrase in phrasing.inside("owl")]
    assert {"owls", "owl-like", "superowl"} <= set(made)
    assert all("owl" in text and "owl" not in text.split() for text in made)
    assert phrasing.inside("van gogh")[0].text == "van goghs"


def test_long_captions_have_the_lengths_that_fit_and_the_name_at_three_places():
    count = lambda text: len(text.split())  # noqa: E731
    made = phrasing.long_captions("a owl", count, 30)
    assert all(phrase.whole and "owl" in words(phrase.text) for phrase in made)
    lengths = [count(phrase.text) for phrase in made]
    assert max(lengths) <= 20 and min(lengths) <= 5 and any(length > 14 for length in lengths)
    places = {words(phrase.text).index("owl") / len(words(phrase.text)) for phrase in made[-3:]}
    assert min(places) < 0.2 and max(places) > 0.8 and len(places) == 3
    assert max(count(phrase.text) for phrase in phrasing.long_captions("a owl", count, 75)) > 50


def test_languages_and_synonyms():
    assert [phrase.text for phrase in phrasing.languages("owl")] == ["Eule", "hibou", "búho"]
    assert "lion" not in [phrase.text for phrase in phrasing.languages("lion")], "the same word is no other language"
    assert phrasing.languages("gearbox") == phrasing.descriptions("gearbox") == phrasing.unnamed("gearbox") == []
    assert [phrase.text for phrase in phrasing.synonyms(WORLD, "concept", "owl")] == ["hoot", "wise"]
    assert [phrase.text for phrase in phrasing.synonyms(WORLD, "style", "fluent")] == ["3d", "glossy"]


def test_own_words(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"owl": {"synonym": ["night bird", " "]}}')
    assert [phrase.text for phrase in phrasing.own_words(str(file), ("synonym",))["owl"]["synonym"]] == ["night bird"]
    with pytest.raises(RequestError, match=r"'mine.json' has the kind 'synonym'; kinds are long"):
        phrasing.own_words(str(file), ("long",))
    file.write_text("[]")
    for path in (file, tmp_path / "absent.json"):
        with pytest.raises(RequestError, match=r"cannot be used .*give a JSON file"):
            phrasing.own_words(str(path), ("synonym",))

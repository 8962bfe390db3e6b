"""How a concept is written: arrows, quotes, and the refusal of lists in one line."""

from __future__ import annotations

import pytest

from erase_plugins.api import build_request
from erase_plugins.concept_text import concepts_from, read_concept, written
from erase_plugins.errors import RequestError


@pytest.mark.parametrize("arrow", ["->", "=>", "-->", "==>", "→", "⇒", "➡️", "—>", " -> ", "\t=> "])
def test_every_arrow_names_a_replacement(arrow):
    assert read_concept(f"pizza{arrow}hamburger") == ("pizza", "hamburger")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pizza", ("pizza", None)),
        ("  van gogh ", ("van gogh", None)),
        ("1,000 faces", ("1,000 faces", None)),
        ("x-ray", ("x-ray", None)),
        ("salt and pepper", ("salt and pepper", None)),
        ('"Paris, Texas"', ("Paris, Texas", None)),
        ("“Paris, Texas” => town", ("Paris, Texas", "town")),
        ('"a -> b"', ("a -> b", None)),
        ('town -> "Paris, Texas"', ("town", "Paris, Texas")),
        ('12" record', ('12" record', None)),
    ],
)
def test_a_phrase_is_taken_as_it_is(text, found):
    assert read_concept(text) == found


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("pizza, dog, car", "pizza, dog, car"),
        ("pizza,dog", "pizza, dog"),
        ("pizza; dog", "pizza, dog"),
        ("pizza | dog", "pizza, dog"),
        ("披萨，狗", "披萨, 狗"),
        ("ピザ、犬", "ピザ, 犬"),
        ("pizza, dog -> hamburger", "pizza, dog"),
        ("3, 4 dogs", "3, 4 dogs"),
    ],
)
def test_a_list_in_one_line_is_refused_with_both_ways_out(text, listed):
    with pytest.raises(RequestError) as caught:
        read_concept(text, "one --erase each")
    assert f"({listed})" in str(caught.value)
    assert "write one --erase each" in str(caught.value)
    assert "double quotes" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pizza =>", "is incomplete"),
        ("-> dog", "is incomplete"),
        ("", "is empty"),
        ("  ", "is empty"),
        ('""', "is incomplete"),
        ("a -> b => c", "has several arrows"),
        ("dog → DOG", "would become itself"),
    ],
)
def test_what_cannot_be_read_is_named(text, problem):
    with pytest.raises(RequestError, match=problem):
        read_concept(text)


@pytest.mark.parametrize(
    "phrase", ["pizza", "Paris, Texas", "a -> b", "1,000 faces", "x; y", 'a "b", c', '"b"', 'a “b”, "c"']
)
def test_what_is_written_reads_back(phrase):
    assert read_concept(written(phrase)) == (phrase, None)


@pytest.mark.parametrize("text", ["van gogh -> painting : 0.8", "pizza : 1", "pizza :-.5 "])
def test_a_strength_written_as_in_the_node_is_no_part_of_a_name(text):
    with pytest.raises(RequestError, match="names a strength"):
        concepts_from([text])


@pytest.mark.parametrize("text", ["ratio 2:1", "Star Wars: Episode 4", '"pizza : 1"', "mission : impossible"])
def test_other_colons_are_part_of_a_name(text):
    assert concepts_from([text])[0].text == text.strip('"')


def test_python_takes_no_arrow_for_a_word_of_a_concept():
    """`erase("pocket", "pizza -> hamburger")` erased a phrase of that text, which nobody writes into a prompt."""
    with pytest.raises(RequestError, match="holds an arrow; name what it becomes apart: to='hamburger'"):
        build_request("pocket", "uce", ["owl", "pizza -> hamburger"])
    request = build_request("pocket", "uce", ["Paris, Texas", '"a -> b"'])
    assert [item.text for item in request.forget] == ["Paris, Texas", '"a -> b"']
    with pytest.raises(RequestError, match="for example concepts='pizza'"):
        build_request("pocket", "uce", " ")

"""The text box: what is read, and the sentence for what cannot be."""

from __future__ import annotations

import pytest

from comfy_nodes.concepts import concept_problem, read_concepts, read_lines


def test_lines_arrows_and_comments():
    found = read_concepts("# list\n pizza -> hamburger # why\n\nvan gogh\n", "style")
    assert [(item.text, item.anchor, item.kind) for item in found] == [
        ("pizza", "hamburger", "style"),
        ("van gogh", None, "style"),
    ]
    assert read_lines(" a \n#b\n c #d\nC# -> Java") == ["a", "c", "C# -> Java"]  # erased "C" once


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no concept to erase"),
        ("# only a comment", "no concept to erase"),
        ("pizza ->", "'pizza ->' is incomplete"),
        ("-> dog", "'-> dog' is incomplete"),
        ("dog -> DOG", "'dog' would become itself"),
        ("dog\nDog -> cat", "'Dog' is named twice"),
    ],
)
def test_what_cannot_be_read_is_named(text, problem):
    assert problem in concept_problem(text)


def test_good_text_has_no_problem():
    assert concept_problem("dog -> cat") is None

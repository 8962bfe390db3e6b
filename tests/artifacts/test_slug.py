"""Names of files and tags for concepts in any script."""

from __future__ import annotations

import pytest

from erase_plugins.artifacts.manifest import slug


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Van Gogh", "van_gogh"),
        ("  a/b..c ", "a_b_c"),
        ("Émile Zola", "emile_zola"),
        ("Ｍｕｌｌｅｒ", "muller"),  # wide letters
        ("Müller", "muller"),
        ("Straße", "strasse"),
        ("!?", "concept"),
        ("x" * 60, "x" * 40),
    ],
)
def test_latin_letters_are_kept(text, name) -> None:
    assert slug(text) == name


def test_other_scripts_are_told_apart() -> None:
    texts = ["梵高", "宮崎駿", "ван гог", "أحمد", "नेहरू", "नहरू", "style 梵高", "style 宮崎駿"]
    names = [slug(text) for text in texts]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and len(name) <= 40 for name in names)
    assert names[-1].startswith("style_")
    assert slug("ВАН ГОГ") == slug("ван гог") != slug("ван дог")
    assert len(slug("z" * 60 + "я")) <= 40

"""What a message must not hold is taken out of it."""

from __future__ import annotations

import pytest

from erase_plugins.plain_text import one_line, scrub, some


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no /home/me/models/a.safetensors here", "no a.safetensors here"),
        (r"no C:\Users\me\a.bin here", "no a.bin here"),
        ("see https://example.org/docs/page", "see https://example.org/docs/page"),
        ("model org/name, ratio 3/4, sd1/sdxl", "model org/name, ratio 3/4, sd1/sdxl"),
        ("token hf_AbCdEfGhIjKl", "token hf_***"),
        ("at https://user:secret@host/x", "at https://***@host/x"),
    ],
)
def test_scrub(text, clean):
    assert scrub(text) == clean


def test_lines_are_joined():
    assert one_line(" a\n  b\tc ") == "a b c"


def test_nothing_acts_on_the_terminal():
    assert one_line("a\x1b[2Jb\0c é 字") == "a?[2Jb?c é 字"


@pytest.mark.parametrize(
    ("texts", "most", "shown"),
    [((), 2, ""), (["a", "b"], 2, "a, b"), (("a", "b", "c", "d"), 2, "a, b and 2 more")],
)
def test_the_first_of_several(texts, most, shown):
    assert some(texts, most) == shown

"""What a message must not hold is taken out of it."""

from __future__ import annotations

import pytest

from erase_plugins.plain_text import an, first_line, holds, one_line, scrub, some


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
    ("text", "words", "there"),
    [
        ("born in 2010", "10", False),
        ("born on the 10.", "10", True),
        ("Anna said so", "Ann", False),
        ("ANN's house", "Ann", True),
        ("New  York City", "new york", True),
        ("er heißt STRASSE", "straße", True),
        ("Jose\u0301 came", "Jos\u00e9", True),
        ("Jose\u0301 came", "Jose", False),
        ("我喜欢梵高的画", "梵高", True),
        ("富士山が見える", "富士", True),
        ("김연아는 왔다", "김연아", True),
        ("by C++ and more", "C++", True),
        ("anything", " ", False),
    ],
)
def test_words_are_held_whole(text, words, there):
    assert holds(text, words) is there


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("owl", "an owl"), ("pizza", "a pizza"), ("Eiffel tower", "an Eiffel tower"), ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"), ("uninvited guest", "an uninvited guest"), ("hourglass", "an hourglass"),
        ("horse", "a horse"), ("one-eyed cat", "a one-eyed cat"), ("European fox", "a European fox"),
        ("used car", "a used car"), ("usher", "an usher"), ("addon", "an addon"), ("\u68b5\u9ad8", "a \u68b5\u9ad8"), ("", "a "),
        ("a pizza", "a pizza"), ("the sea", "the sea"),
    ],
)  # fmt: skip
def test_articles_go_by_sound(words, said):
    assert an(words) == said


@pytest.mark.parametrize(
    ("texts", "most", "shown"),
    [((), 2, ""), (["a", "b"], 2, "a, b"), (("a", "b", "c", "d"), 2, "a, b and 2 more")],
)
def test_the_first_of_several(texts, most, shown):
    assert some(texts, most) == shown


def test_an_error_of_a_file_shows_no_folder(tmp_path):
    """It is stored in reports, which people publish."""
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "chart.png").read_bytes()
    assert first_line(caught.value) == "FileNotFoundError: No such file or directory: 'chart.png'"
    assert first_line(OSError("nobody knows\nwhy")) == "OSError: nobody knows"
    assert first_line(OSError(28, "No space left on device")) == "OSError: No space left on device"

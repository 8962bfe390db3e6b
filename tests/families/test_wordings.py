"""How a model is asked is data: another file asks in another language, and a wrong one is told before the model loads."""

from __future__ import annotations

import pytest

from erase_plugins.errors import RequestError
from erase_plugins.families import wordings
from erase_plugins.families.wordings import Wording

TEXT = wordings._OURS.read_text(encoding="utf-8")


def test_our_own_file_is_about_a_person():
    how = Wording.read()
    assert how.begun[0] == "{} is"
    assert len(how.strangers) == 3
    assert len(how.others) == 39
    assert how.described(" was a poet.") == "This person was a poet."


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("begun = [", "began = [", "has an unknown entry 'began'"),
        ('somebody = "This person"', "", "has no entry 'somebody'"),
        ('somebody = "This person"', "somebody = 3", "somebody is no text"),
        ('"{} is", ', '"He is", ', "begun holds 'He is', which does not say once where the subject stands"),
        ('"Conrad Willingsby",', "", "strangers needs an odd number"),
        ('"The", "In"', "1, 2", "openers is no list of texts"),
        ("others = [", "others = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(before, after, told, tmp_path):
    assert before in TEXT
    place = tmp_path / "mine.toml"
    place.write_text(TEXT.replace(before, after), encoding="utf-8")
    with pytest.raises(RequestError, match=r"'mine\.toml'") as caught:
        Wording.read(place)
    assert told in str(caught.value)
    with pytest.raises(RequestError, match=r"'none\.toml' cannot be read"):
        Wording.read(tmp_path / "none.toml")

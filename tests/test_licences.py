"""Identifiers that the Hub takes, before anything is sent."""

from __future__ import annotations

import pytest

from erase_plugins.errors import RequestError
from erase_plugins.licences import checked, identifiers, known, licence_of


@pytest.mark.parametrize(
    ("given", "found"),
    [("mit", ("mit", None)), (" Apache-2.0 ", ("apache-2.0", None)), ("other: My own, 2", ("other", "My own, 2"))],
)
def test_what_the_hub_takes(given, found):
    assert checked(given) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("nonsense", "no licence 'nonsense'\\. https"),
        ("apache2", "did you mean 'apache-2.0'\\?"),
        ("other", "needs one: .*other:NAME"),
        ("other: ", "needs one"),
        ("mit:x", "only licence 'other' has a name"),
        (":x", "no licence ''"),
    ],
)
def test_anything_else_is_refused_with_what_to_do(given, said):
    with pytest.raises(RequestError, match=said):
        licence_of({"model": "pocket"}, given)


def test_those_of_known_bases_are_among_them():
    assert {licence.id for licence in known().values()} <= {*identifiers()}
    assert len(identifiers()) == len({*identifiers()}) == 83

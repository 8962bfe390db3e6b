"""A small vision transformer and pictures for it, which no test changes."""

from __future__ import annotations

import pytest

from tests.classifiers import digits, vit


@pytest.fixture(scope="module")
def host():
    return vit(width=16, layers=3)


@pytest.fixture(scope="module")
def pictures():
    return digits()["train.pictures"][:20].float() / 127.5 - 1

"""Small heads: 40 records, two columns of signal, three classes."""

from __future__ import annotations

import numpy as np
import pytest

from erase_plugins.records.options import HeadOptions
from erase_plugins.records.store import Records

OPTIONS = HeadOptions(classes=3, slots=44, lam=0.05, rho_dp=0.5, learn_steps=60, mode="warm")


def data(count=40, seed=0, dim=4):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, count)
    return draw.normal(size=(count, dim)) + np.eye(3, dim)[labels] * 3, labels


@pytest.fixture(scope="session")
def _learned(tmp_path_factory):
    place = tmp_path_factory.mktemp("records") / "head"
    features, labels = data()
    _, ids = Records.create(place, features, labels, OPTIONS, [f"Person {k}" for k in range(len(labels))])
    return place, ids


@pytest.fixture
def learned(_learned, tmp_path):
    """A learned head of one's own, and the ids of its rows."""
    import shutil

    place = tmp_path / "head"
    shutil.copytree(_learned[0], place)
    return Records.open(place), list(_learned[1])

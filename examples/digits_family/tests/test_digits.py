"""The family end to end: recognised, planned, erased, saved, checked, applied, weighed, undone."""

from __future__ import annotations

import json

import pytest
import torch
from erase_digits import train
from sklearn.datasets import load_digits

import erase_plugins as ep
from erase_plugins.errors import EraseError, RequestError, Unsupported

PICTURES, LABELS = (torch.tensor(part) for part in load_digits(return_X_y=True))


def right(host, digit=None):
    """Share of digits that are read right; of one digit, or of all others with a minus sign."""
    with torch.no_grad():
        hits = host.reader(PICTURES.float() / 16).argmax(1) == LABELS
    chosen = slice(None) if digit is None else digit == LABELS if digit >= 0 else -digit != LABELS
    return float(hits[chosen].float().mean())


@pytest.fixture(scope="module")
def host():
    return train()


def test_a_digit_is_forgotten_and_the_others_are_not(host, tmp_path):
    before, weights = right(host, -3), {name: part.clone() for name, part in host.reader.state_dict().items()}
    assert right(host) > 0.98
    plan = ep.plan(host, ["3"], "forget-digit")
    assert plan.modules == ("reader.2",)
    ep.erase(host, ["3"], "forget-digit", out=tmp_path / "no-three")
    assert json.loads((tmp_path / "no-three" / "erase.json").read_text())["base"]["family"] == "digits"
    with ep.apply(host, tmp_path / "no-three") as applied:
        assert right(host, 3) == 0
        assert right(host, -3) >= before
        applied.set_strength(0.0)
        assert all(torch.equal(host.reader.state_dict()[name], part) for name, part in weights.items())
    assert all(torch.equal(host.reader.state_dict()[name], part) for name, part in weights.items())


def test_two_digits_and_another_network(host, tmp_path):
    ep.erase(host, ["3", "8"], "forget-digit", out=tmp_path / "two")
    with ep.apply(host, tmp_path / "two"):
        assert right(host, 3) == right(host, 8) == 0
    other = train(seed=1)
    with pytest.raises(EraseError, match="other weights"):
        ep.apply(other, tmp_path / "two")
    with ep.apply(other, tmp_path / "two", any_base=True):
        assert right(other, 3) == 0


def test_what_does_not_fit_is_said_at_plan_time(host):
    with pytest.raises(RequestError, match="'cat' is no digit"):
        ep.plan(host, ["cat"], "forget-digit")
    with pytest.raises(Unsupported, match=r"esd needs denoiser, text; digits .family digits. offers classifier"):
        ep.plan(host, ["3"], "esd")
    with pytest.raises(EraseError, match="forget-digit needs classifier; pocket"):
        ep.plan("pocket", ["3"], "forget-digit")

"""Formulas of linear optics and the Shor code against exact enumeration and published numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from erase_fbqc.noise import Optics, encoded, parse_code, tolerated_failure, tolerated_loss

from erase_plugins.errors import RequestError


def test_encoded_rates_of_the_table():
    x, z = encoded(0.216, 0.216, 2, 2)
    assert (float(x), float(z)) == pytest.approx((0.14849, 0.09114), abs=1e-5)
    assert float(x + z) / 2 == pytest.approx(0.11981, abs=1e-5)


def test_published_numbers_follow_from_one_threshold():
    optics = Optics(code=(2, 2))
    assert tolerated_loss(optics, 0.1198) == pytest.approx(0.1040, abs=5e-5)
    assert float(optics.photon_loss(0.1040)) == pytest.approx(0.0271, abs=5e-5)
    assert tolerated_failure(optics, 0.1198) == pytest.approx(0.4320, abs=5e-4)
    assert tolerated_failure(Optics(), 0.1198) == pytest.approx(0.2396, abs=1e-9)
    assert tolerated_loss(Optics(fail=0.5, code=(2, 2)), 0.1198) is None  # unboosted fusions are not enough


@pytest.mark.parametrize(
    ("code", "loss"), [((3, 2), 0.132), ((3, 3), 0.143), ((4, 4), 0.146), ((4, 2), 0.130), ((2, 3), 0.078)]
)
def test_larger_codes(code, loss):
    assert tolerated_loss(Optics(code=code), 0.1198) == pytest.approx(loss, abs=6e-4)


def test_formula_is_the_sum_over_all_physical_patterns():
    """Every physical fusion of the (2,2) code is fine, lost, or loses XX or ZZ: 4^4 patterns."""
    fail, loss = 0.25, 0.104
    chance = {"ok": (1 - fail) * (1 - loss), "lost": loss, "x": fail / 2 * (1 - loss), "z": fail / 2 * (1 - loss)}
    none_x = none_z = both = 0.0
    for pattern in itertools.product(chance, repeat=4):
        weight = np.prod([chance[item] for item in pattern])
        x = [item in ("ok", "z") for item in pattern]
        z = [item in ("ok", "x") for item in pattern]
        known_x = (x[0] and x[1]) or (x[2] and x[3])
        known_z = (z[0] or z[1]) and (z[2] or z[3])
        none_x += weight * (not known_x)
        none_z += weight * (not known_z)
        both += weight * (not known_x and not known_z)
    optics = Optics(code=(2, 2), orientation="fixed")
    assert [float(rate) for rate in optics.outcomes(loss)] == pytest.approx([none_x, none_z], abs=1e-12)
    assert both == pytest.approx(0.0251261, abs=2e-4)  # at the threshold point p0 = .216


def test_monte_carlo_of_the_physical_model():
    rng, optics = np.random.default_rng(0), Optics(code=(2, 2), orientation="fixed")
    lost = rng.random((200_000, 4)) < 0.104
    failed, basis = rng.random(lost.shape) < 0.25, rng.random(lost.shape) < 0.5
    x, z = ~lost & ~(failed & basis), ~lost & ~(failed & ~basis)
    known_x = x[:, :2].all(1) | x[:, 2:].all(1)
    known_z = z[:, :2].any(1) & z[:, 2:].any(1)
    assert [1 - known_x.mean(), 1 - known_z.mean()] == pytest.approx(
        [float(r) for r in optics.outcomes(0.104)], abs=0.003
    )


def test_edges_by_network_and_basis():
    always = Optics(lost_basis="XX")
    cubic, diagonal = always.edge_rates("6ring", 0.0)
    assert (float(cubic), float(diagonal)) == (0.25, 0.0)
    assert always.edge_rates("4star", 0.0).tolist() == [0.25, 0.25]  # the graph with the XX outcomes decides


@pytest.mark.parametrize(
    "bad", [{"fail": 1.5}, {"fail": -0.1}, {"fail": 0.0}, {"photons": 0.5}, {"lost_basis": "YY"}, {"code": (0, 2)},
            {"code": (5, 2)}, {"orientation": "left"}],
)  # fmt: skip
def test_bad_optics_are_refused(bad):
    with pytest.raises(RequestError) as caught:
        Optics(**bad)
    assert (
        f"{next(iter(bad.values())):g}" in str(caught.value)
        if "fail" in bad
        else str(next(iter(bad.values()))) in str(caught.value)
    )


def test_codes_as_text():
    assert [parse_code(text) for text in ("none", "shor22", "3,2")] == [None, (2, 2), (3, 2)]
    with pytest.raises(RequestError, match="steane"):
        parse_code("steane")

"""What noisy gradient descent can leak about a record: numbers that depend on the schedule only, never on data.

A number ``rho`` bounds the Renyi divergence of every order q > 1 by q rho (zero-concentrated differential privacy,
Bun and Steinke 2016). Deletion under adaptive requests follows Chourasia and Shah, "Forget Unlearning", ICML 2023; the
constants here come from shifting noise between steps (`segment`), with equality for quadratic losses, and are tighter
than those of the paper. Only the standard library is needed, so that a third party can recompute a certificate.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from erase_plugins.errors import RequestError

_NORMAL = NormalDist()


def contraction(eta: float, lam: float, beta: float) -> float:
    """Largest factor by which one step changes a distance, for Hessians between ``lam`` and ``lam + beta``."""
    return max(abs(1 - eta * lam), abs(1 - eta * (lam + beta)))


def step_shift(lipschitz: float, eta: float, n: int, distance: int = 2, group: int = 1) -> float:
    """Largest distance that one step can put between two runs.

    Args:
        lipschitz: bound of the gradient norm of one record.
        eta: step size.
        n: number of slots, by which the sum of gradients is divided.
        distance: 1 for "a record or an empty slot", 2 for "this record or any other".
        group: records of one person.
    """
    return group * distance * lipschitz * eta / n


def segment(c: float, shift: float, variance: float, present: int | float, absent: int = 0) -> float:
    """Leakage of a model about a record that was present for some steps and then absent.

    Args:
        c: contraction of one step, below 1.
        shift: from `step_shift`.
        variance: of the noise of one step in every direction, 2 eta sigma2.
        present: steps with the record since the last published model; ``math.inf`` for the limit.
        absent: steps without it after that.

    Raises:
        RequestError: no contraction; see `loose_segment`.
    """
    if not 0 <= c < 1:
        raise RequestError(f"a step with factor {c:.6g} does not contract; take a smaller step size or a larger lam")
    if present <= 0:
        return 0.0
    unit = shift**2 / (2 * variance)
    if c == 0:
        return unit if absent == 0 else 0.0
    log = math.log(c)
    kept = -math.expm1(present * log)
    if absent == 0:
        return unit * (1 + c) / (1 - c) * kept / (1 + math.exp(present * log))
    all_steps = -math.expm1(2 * (present + absent) * log)
    return unit * (1 + c) / (1 - c) * math.exp(2 * absent * log) * kept**2 / all_steps


def loose_segment(c: float, shift: float, variance: float, present: int, absent: int = 0) -> float:
    """`segment` for any factor ``c``, as for smooth losses that are not convex; exact but useless for real networks.

    The noise absorbs the whole shift during the first steps and the optimal geometric shares during the rest; the
    start is as short as the shares allow.
    """
    if c < 1:
        return segment(c, shift, variance, present, absent)
    if present <= 0:
        return 0.0
    prices = [float(present)]
    for full in range(present):
        rest = present - full
        steps = rest + absent
        if c == 1:
            price, first = rest**2 / steps, rest / steps
        else:
            left = c**absent * math.expm1(rest * math.log(c)) / (c - 1)
            squares = math.expm1(2 * steps * math.log(c)) / (c * c - 1)
            price, first = left**2 / squares, left * c ** (steps - 1) / squares
        if first <= 1 + 1e-12:
            prices.append(full + price)
    return min(prices) * shift**2 / (2 * variance)


def projected_edit(c: float, radius: float, variance: float, absent: int) -> float:
    """Leakage after weights were projected to a ball of this radius and ``absent`` noisy steps followed."""
    squares = sum(c ** (2 * step) for step in range(absent))
    return (2 * radius) ** 2 * c ** (2 * absent) / (2 * variance * squares)


def noise_for(rho: float, lipschitz: float, lam: float, beta: float, eta: float, n: int, group: int = 1) -> float:
    """Noise ``sigma2`` with which a published model leaks at most ``rho`` about a record, after any number of steps."""
    c = contraction(eta, lam, beta)
    return step_shift(lipschitz, eta, n, 2, group) ** 2 * (1 + c) / (1 - c) / (4 * eta * rho)


def deletion_steps(rho_dp: float, rho_dd: float, c: float) -> int:
    """Steps after which a deleted record leaks at most ``rho_dd``, if no model that saw it was published."""
    return max(1, math.ceil(math.log(rho_dp / rho_dd) / (-2 * math.log(c)) - 1e-9))


def sizes(
    preset: str, lipschitz: float, lam: float, beta: float, eta: float, n: int, group: int, rho_dp: float, rho_dd: float
) -> tuple[float, int]:
    """Noise ``sigma2`` and steps of an edit: as small as the accountant allows, or those of the paper where they are
    larger (noise 4 L^2 / (lam rho n^2), 4 kappa log(rho_dp / rho_dd) steps).

    Raises:
        ArithmeticError: numbers so large or small that a step does not contract.
    """
    c = contraction(eta, lam, beta)
    sigma2, steps = noise_for(rho_dp, lipschitz, lam, beta, eta, n, group), deletion_steps(rho_dp, rho_dd, c)
    if preset == "paper":
        sigma2 = max(sigma2, 4 * (lipschitz * group) ** 2 / (lam * rho_dp * n**2))
        steps = max(steps, math.ceil(4 * (lam + beta) / lam * math.log(rho_dp / rho_dd)))
    return sigma2, steps


def learning_steps(rho_dp: float, lam: float, beta: float, c: float, n: int, parameters: int) -> int:
    """Steps after which the start weighs a tenth of the noise in the worst case; a matter of use, not of proof."""
    kappa = (lam + beta) / lam
    worst = 5 * kappa * rho_dp * n**2 / parameters
    return max(20, math.ceil(math.log(max(worst, 1.0)) / (-2 * math.log(c))))


def epsilon(rho: float, delta: float) -> float:
    """The epsilon of (epsilon, delta) that follows from ``rho``: the best over all orders q."""
    if rho <= 0:
        return 0.0
    target = math.log(delta)

    def at(log_excess: float) -> float:
        excess = math.exp(log_excess)
        q = 1 + excess
        return q * rho + math.log(excess / q) - (target + math.log(q)) / excess

    low, high = math.log(1e-6), math.log(1e9)
    for _ in range(200):  # the bound has one minimum
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if at(left) < at(right) else (left, high)
    return max(0.0, at((low + high) / 2))


def advantage(rho: float) -> float:
    """Largest advantage over guessing (true minus false positives) of any test, by the Gaussian of the same ``rho``."""
    return 2 * _NORMAL.cdf(math.sqrt(2 * rho) / 2) - 1

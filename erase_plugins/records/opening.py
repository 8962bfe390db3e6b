"""The first line of a ledger: the constants of a head, of which most follow from a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erase_plugins.errors import EraseError
from erase_plugins.hints import sentence_of
from erase_plugins.records import accountant
from erase_plugins.records.losses import Loss

_SAME = 1e-9


def problem_of(opened: Mapping[str, Any]) -> str:
    """What is wrong with the constants of a head, as far as one follows from another; empty if nothing."""
    try:
        loss = Loss(opened["loss"], opened["threshold"])
    except EraseError as error:
        return sentence_of(error)
    lam, eta, n = opened["lam"], opened["eta"], opened["n"]
    beta = opened["smoothness"]
    if not _near(opened["lipschitz"], loss.lipschitz(opened["norm"])):
        return "the gradient bound is not that of the loss"
    if not _near(beta, loss.smoothness(opened["norm"])):
        return "the smoothness is not that of the loss"
    if not eta < 2 / (lam + beta):
        return "the step size is too large"
    if not _near(opened["contraction"], accountant.contraction(eta, lam, beta)) or not opened["contraction"] < 1:
        return "the contraction does not follow from the step size"
    if opened["rho_dd"] > opened["rho_dp"]:
        return "rho_dd is above rho_dp"
    try:
        sigma2, steps = accountant.sizes(
            opened["preset"], opened["lipschitz"], lam, beta, eta, n, opened["group"], opened["rho_dp"],
            opened["rho_dd"],
        )  # fmt: skip
    except ArithmeticError:
        return "the constants are out of range"
    if not _near(opened["sigma2"], sigma2):
        return "the noise is not that of the budget"
    if opened["edit_steps"] != steps:
        return "an edit has another number of steps than rho_dd needs"
    if len(opened["ids"]) > n:
        return "more records than slots"
    if (opened["outputs"] > 1) is not (opened["loss"] == "softmax"):
        return "the number of outputs is not one of this loss"
    low_rank = opened["head"] == "low-rank"
    if low_rank is not (opened["fixed"] is not None) or low_rank is not (opened["rank"] > 0):
        return "the rank does not fit the kind of head"
    return ""


def _near(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= _SAME * abs(wanted)

"""What a head is made with: chosen once, without looking at the data, and fixed from then on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint
from erase_plugins.records import accountant
from erase_plugins.records.events import is_name
from erase_plugins.records.features import Rule
from erase_plugins.records.losses import Loss

MODES = ("warm", "fresh", "auto")
PRESETS = ("default", "paper")


@dataclass(frozen=True)
class HeadOptions:
    """Options of a head.

    Attributes:
        loss: softmax, logistic or huber.
        classes: of softmax, as known without the data; 1 for the other losses.
        threshold: of huber.
        slots: number of slots n; the number of records if None. More leave room for `add`.
        lam: weight of (1/2)|w|^2; larger: less noise, faster deletion, more bias.
        eta: step size; 1 / (lam + beta) if None.
        rho_dp: what one published model may tell about a record (distance 2); sizes the noise.
        rho_dd: what a deleted record may still tell if nothing was published; rho_dp / 100 if None.
        max_releases: models that may be published.
        delta: of the (epsilon, delta) that the certificate says beside rho.
        group: records of one person.
        norm, scale, bias: of `Rule`.
        rank: learn a low-rank change with a fixed random first factor; 0 learns the whole head.
        learn_steps: steps of learning; a worst-case number if None.
        mode: warm goes on from where the weights stand, fresh starts anew after every edit, auto takes the shorter.
        preset: paper takes step size, noise and number of steps from the paper (four times as many steps).
        base: name of the frozen model that made the features.
        test_seed: noise that can be drawn again, for tests; there is never a certificate then.
    """

    loss: str = "softmax"
    classes: int = 0
    threshold: float = 1.0
    slots: int | None = None
    lam: float = 0.01
    eta: float | None = None
    rho_dp: float = 0.5
    rho_dd: float | None = None
    max_releases: int = 4
    delta: float = 1e-5
    group: int = 1
    norm: float = 1.0
    scale: float = 1.0
    bias: bool = True
    rank: int = 0
    learn_steps: int | None = None
    mode: str = "auto"
    preset: str = "default"
    base: str = "features"
    test_seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("lam", "rho_dp", "delta", "norm", "scale", "threshold"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise RequestError(f"{name} is {value}; give a number above 0")
        for name, least in (("max_releases", 0), ("group", 1), ("rank", 0), ("learn_steps", 1), ("slots", 1)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise RequestError(f"{name} is {value}; give a whole number from {least} up")
        if not is_name(self.base):
            raise RequestError(
                "base is not a plain name; use letters, digits, spaces and . _ / : + -, such as owner/model"
            )
        if self.delta >= 1:
            raise RequestError(f"delta is {self.delta}; give a number below 1, such as 1e-5")
        if self.rho_dd is not None and not 0 < self.rho_dd <= self.rho_dp:
            raise RequestError(f"rho_dd is {self.rho_dd}; give a number above 0 and not above rho_dp ({self.rho_dp:g})")
        for name, known in (("mode", MODES), ("preset", PRESETS)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} is '{getattr(self, name)}'; choose one of {', '.join(known)}")
        loss = Loss(self.loss, self.threshold)
        if loss.id == "softmax" and self.classes < 2:
            raise RequestError(
                "softmax needs the number of classes (", Hint("classes", "N"), "), known without looking at the labels"
            )
        if loss.id != "softmax" and self.classes not in (0, 1):
            raise RequestError(f"the loss {loss.id} has one output; leave the number of classes out")
        limit = 2 / (self.lam + loss.smoothness(self.norm))
        if self.eta is not None and not 0 < self.eta < limit:
            raise RequestError(f"the step size eta is {self.eta}; give a number above 0 and below {limit:.6g}")

    @property
    def rule(self) -> Rule:
        """How rows are made."""
        return Rule(float(self.norm), float(self.scale), self.bias)

    def opening(self, records: int, dim: int) -> dict[str, Any]:
        """The constants of the ledger's first line, for features of ``dim`` columns.

        Raises:
            RequestError: more records than slots, or a rank that is no saving.
        """
        loss = Loss(self.loss, float(self.threshold))
        n = records if self.slots is None else self.slots
        if not 0 < n >= records:
            raise RequestError(
                f"{records} records do not fit into {n} slots; give ", Hint("slots"), f" {max(records, 1)} or more"
            )
        outputs, width = max(1, self.classes), self.rule.width(dim)
        if self.rank >= width:
            raise RequestError(f"rank {self.rank} saves nothing on {width} columns; leave it out or take a smaller one")
        lam, norm = float(self.lam), float(self.norm)
        lipschitz, beta = loss.lipschitz(norm), loss.smoothness(norm)
        eta = self.eta if self.eta is not None else 1 / (lam + beta) / (2 if self.preset == "paper" else 1)
        c = accountant.contraction(eta, lam, beta)
        rho_dd = self.rho_dp / 100 if self.rho_dd is None else self.rho_dd
        try:
            sigma2, edit = accountant.sizes(
                self.preset, lipschitz, lam, beta, eta, n, self.group, self.rho_dp, rho_dd
            )  # fmt: skip
        except ArithmeticError as error:
            raise RequestError(f"lam {lam:g} with step size {eta:g} is out of range; take a larger lam") from error
        parameters = outputs * (self.rank or width)
        learn = self.learn_steps or accountant.learning_steps(self.rho_dp, lam, beta, c, n, parameters)
        mode = self.mode if self.mode != "auto" else "fresh" if edit >= learn else "warm"
        return {
            "base": self.base, "head": "low-rank" if self.rank else "full", "rank": self.rank, "fixed": None, "n": n,
            "outputs": outputs, "dim": dim, "loss": loss.id, "threshold": loss.threshold, "norm": norm,
            "scale": float(self.scale), "bias": self.bias, "lipschitz": lipschitz, "smoothness": beta, "lam": lam,
            "eta": eta, "sigma2": sigma2, "contraction": c, "group": self.group, "rho_dp": float(self.rho_dp),
            "rho_dd": float(rho_dd), "delta": float(self.delta), "max_releases": self.max_releases,
            "learn_steps": learn, "edit_steps": edit, "mode": mode, "preset": self.preset, "dtype": "float64",
            "noise": "system" if self.test_seed is None else "repeatable",
        }  # fmt: skip

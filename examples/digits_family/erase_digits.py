"""A family of one's own, end to end: a network that reads digits, and a method that makes it forget one of them.

The family says how such a model is recognised and what can be edited; `erase_plugins` does the rest: plan, run, files,
base check, apply, strength, undo.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import erase_plugins
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Family, ModelSpec, ModuleRef
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan, EraseRequest

HIDDEN = 64


class Host(SimpleNamespace):
    """What a pipeline is to diffusers: the parts of a model by name."""


def train(seed: int = 0) -> Host:
    """Two layers, trained on scikit-learn's digits in a second."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn

    torch.manual_seed(seed)
    pictures, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    network = type("DigitReader", (nn.Sequential,), {})(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    network.config, network.device, network.dtype = {"hidden": HIDDEN}, torch.device("cpu"), torch.float32
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(300):
        loss = nn.functional.cross_entropy(network(pictures.float() / 16), labels.long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Host(reader=network.eval(), components={"reader": network}, name_or_path="digits")


class Digits(Family):
    """Networks that read digits."""

    id, title, components = "digits", "Digit reader", ("reader",)
    roles: ClassVar[Any] = {"classifier": "reader"}
    groups: ClassVar[Any] = {"head": lambda ref: ref.path == "2", "all": lambda ref: True}

    def detect(self, configs: Any) -> bool:
        return configs.get("reader", {}).get("_class_name") == "DigitReader"

    def info(self, model: str, configs: Any) -> ModelSpec:
        layers = (("0", (HIDDEN, 64)), ("2", (10, HIDDEN)))
        refs = tuple(ModuleRef("reader", path, "linear", shape, True) for path, shape in layers)
        return ModelSpec(self, model, configs, refs, ("digits",))

    def open(self, source: Any, dtype: str = "float32", device: str = "cpu") -> Any:
        return train()


@dataclass(frozen=True)
class Options:
    """Options of the method."""

    margin: float = option(1.0, "how far below the mean of the other digits", low=0.0, high=100.0)


class ForgetDigit:
    """The row of a digit in the last layer becomes the mean of the others, minus a margin for every active unit."""

    id, title, paper, summary = "forget-digit", "Forget a digit", "none", "last layer of a digit reader, rank one"
    needs, kinds, produces = frozenset({"classifier"}), frozenset({"object", "class"}), frozenset({"lowrank"})
    Options = Options

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        names = [item.text for item in request.concepts]
        if strange := [name for name in names if name not in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]]:
            raise RequestError(f"'{strange[0]}' is no digit; give one from 0 to 9")
        options = as_dict(resolve(Options, request.options, info.profiles))
        return EditPlan(request, options, ("reader.2",), steps=len(names), file_bytes=4 * len(names) * (HIDDEN + 10))

    def run(self, plan: EditPlan, target: Any, ctx: Any) -> Any:
        import torch

        (head,) = target.modules("head")
        weight, digits = target.weight(head), [int(item.text) for item in plan.request.concepts]
        others = weight[[row for row in range(10) if row not in digits]].mean(0) - plan.options["margin"]
        ctx.step(len(digits), len(digits))
        change = erase_plugins.LowRank(others - weight[digits], torch.eye(10)[:, digits].contiguous())
        return erase_plugins.Edit(target.family.id, {"reader": {head.weight: change}})


erase_families = erase_plugins.hookimpl(lambda: [Digits()], specname="erase_families")
erase_methods = erase_plugins.hookimpl(lambda: [ForgetDigit()], specname="erase_methods")

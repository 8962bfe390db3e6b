"""A package of somebody else: a family of image classifiers of transformers, and a method that trains LoRA on its MLPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import erase_plugins
from erase_plugins.errors import RequestError
from erase_plugins.families.transformers_family import TransformersFamily
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan, EraseRequest

LABELS = ("cat", "dog", "owl", "fox")


def build(seed: int = 0) -> Any:
    """A tiny vision transformer with random weights, as a user would hold it."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        id2label=dict(enumerate(LABELS)), label2id={name: number for number, name in enumerate(LABELS)},
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.3,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


class TinyViT(TransformersFamily):
    """Vision transformers that classify."""

    id, title, architectures = "vit", "Vision transformer", ("ViTForImageClassification",)
    roles: ClassVar[Any] = {"classifier": "model"}
    groups: ClassVar[Any] = {
        "mlp": lambda ref: ref.kind == "linear" and ".mlp." in ref.path,
        "head": lambda ref: ref.path == "classifier",
    }


@dataclass(frozen=True)
class Options:
    """Options of the method."""

    rank: int = option(2, "rank of the LoRA", low=1, high=64)
    steps: int = option(12, "gradient steps", low=1, high=10000)
    rate: float = option(0.05, "learning rate", low=0.0, high=1.0)


class Unlabel:
    """Trains the MLPs until a label is as unlikely as the least likely other one; the other logits stay."""

    id, title, paper, summary = "unlabel", "Forget a label", "https://example.org/unlabel", "LoRA on the MLPs"
    needs, kinds, produces = frozenset({"classifier"}), frozenset({"class", "object"}), frozenset({"lowrank"})
    Options = Options

    def plan(self, request: EraseRequest, info: Any) -> EditPlan:
        labels = info.configs["model"]["id2label"].values()
        if strange := [item.text for item in request.concepts if item.text not in labels]:
            raise RequestError(f"'{strange[0]}' is no label of {info.model}; it has {', '.join(labels)}")
        options = as_dict(resolve(Options, request.options, info.profiles))
        modules = tuple(f"{ref.component}.{ref.path}" for ref in info.modules("mlp"))
        return EditPlan(request, options, modules, steps=options["steps"])

    def run(self, plan: EditPlan, target: Any, ctx: Any) -> Any:
        import torch

        from erase_plugins.engine.adapters import Adapters

        model, options = target.classifier, plan.options
        gone = [model.labels.index(item.text) for item in plan.request.concepts]
        stay = [number for number in range(len(model.labels)) if number not in gone]
        pictures = torch.randn(8, *model.input_shape, generator=ctx.generator("pictures"))
        with torch.no_grad():
            before = model.logits(pictures)
        adapters = Adapters(target, target.modules("mlp"), options["rank"], generator=ctx.generator("lora"))
        optimizer = torch.optim.Adam(adapters.parameters(), options["rate"])
        with adapters:
            for step in range(options["steps"]):
                after = model.logits(pictures)
                loss = (after[:, gone] - before.amin(1, keepdim=True) + 1).square().mean()
                loss = loss + (after[:, stay] - before[:, stay]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                ctx.step(step + 1, options["steps"], loss=float(loss.detach()))
        return adapters.edit()


erase_families = erase_plugins.hookimpl(lambda: [TinyViT()], specname="erase_families")
erase_methods = erase_plugins.hookimpl(lambda: [Unlabel()], specname="erase_methods")

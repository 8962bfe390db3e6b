"""GS-LoRA++: GS-LoRA with class prototypes, for a few pictures and for one request after the other.

Zhao et al., T-PAMI 2026, arXiv 2501.09705. To the loss of `erase_plugins.methods.gs_lora` come

    gamma_f relu(bound_p - KL(p_y || h(x_f))) + gamma_r KL(p_y || h(x_r)),

with p_c the softmax of the mean feature of class c before this task, h(x) the softmax of a picture's features (inputs
of the head), and KL a batch mean. The paper's text says logits; its code takes features, and so does this.

One request after the other: ``parent`` names the artifacts of all earlier tasks, first to last. They are in force while
this one is trained, what they forgot is not retained, and the file holds this task only. It says in its manifest which
edits it needs (``chain``: task index and their hashes), and is not applied without them.

Differs from the official code:
    - prototypes are computed from the loaded model as it is before this task (a script there computes them from random
      weights), and once, as one tensor;
    - ``gamma_r`` is on; all active scripts there have it at 0, although the paper describes it;
    - one initialisation for all tasks; the scripts start later tasks with a much smaller A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labelled import accuracy
from erase_plugins.families.labels import class_number
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import GroupSparse, GroupSparseOptions, Labelled, TrainingRun
from erase_plugins.training.labelled import Sets
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.families.base import ModelSpec

_CITATION = """\
@article{zhao2026practical,
  title = {Practical Continual Forgetting for Pre-trained Vision Models},
  author = {Zhao, Hongbo and Zhu, Fei and Ni, Bolin and Zhu, Feng and Meng, Gaofeng and Zhang, Zhaoxiang},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2026}
}"""


@dataclass(frozen=True)
class GSLoRAPlusOptions(GroupSparseOptions):
    """Options of GS-LoRA++."""

    gamma_f: float = option(0.5, "weight of the push away from the prototypes of what is forgotten", low=0.0, high=1e6)
    gamma_r: float = option(0.5, "weight of the pull to the prototypes of what is retained", low=0.0, high=1e6)
    bound_p: float = option(1.0, "divergence from the prototype from which nothing pushes", low=0.0, high=1e6)
    parent: str | None = option(
        None, "artifact folders of all earlier tasks, first to last, between commas; none: the first task", place=True
    )
    missing: str | None = option(None, "labels between commas of which there are no pictures to retain")


class GSLoRAPlus(GroupSparse):
    """GS-LoRA with prototypes, continual."""

    id = "gs-lora-plus"
    title = "GS-LoRA++ (group-sparse LoRA with prototypes)"
    paper = "https://arxiv.org/abs/2501.09705"
    citation = _CITATION
    summary = "gs-lora with class prototypes: for few pictures, and for one request after the other (parent)"
    Options = GSLoRAPlusOptions

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        if options.gamma_f > 0 and options.bound_p <= 0:
            raise RequestError(f"bound_p={options.bound_p:g} would never push; give a divergence to reach, such as 1")
        return super().settle(options, request, info)

    def prepare(self, run: TrainingRun) -> Any:
        parents = run.state = chain_of(run)
        labels = run.target.classifier.labels
        named = {number_of(run, item.name): item.name for item in run.request.forget}
        for parent in parents:
            for item in parent.manifest.concepts:
                if (number := number_of(run, item.name)) in named:
                    raise RequestError(f"'{named[number]}' is forgotten by '{parent.name}' already; leave it out")
        if parents:
            run.stack.enter_context(below(run, parents))
            run.ctx.facts.update(chain_facts(parents))
        sets = super().prepare(run)
        lost = [number for number in self.left_out(run) if number not in sets.gone]
        if sets.held is not None and lost:
            self._lost(run, sets.held, "before")
        own, once = sets.own, slice(0, len(sets.retain) + len(sets.forget))
        table = prototypes(own.features[once], own.pool.labels[once], len(labels))
        return replace(sets, own=replace(own, prototypes=table))

    def unknown(self, run: TrainingRun, sets: Sets) -> Sequence[int]:
        return [*sets.gone, *self._earlier(run)]

    def left_out(self, run: TrainingRun) -> Sequence[int]:
        return [*self._earlier(run), *self._missing(run)]

    def _missing(self, run: TrainingRun) -> list[int]:
        return [number_of(run, name) for name in (run.options.missing or "").split(",") if name.strip()]

    def _earlier(self, run: TrainingRun) -> list[int]:
        return [number_of(run, item.name) for parent in chain_of(run) for item in
                parent.manifest.concepts]  # fmt: skip

    def _lost(self, run: TrainingRun, held: Labelled, when: str) -> None:
        """Accuracy on earlier forgotten classes (Acc_o) and on those without pictures to retain (Acc_m)."""
        for name, numbers in (("earlier", self._earlier(run)), ("missing", self._missing(run))):
            part = held[held.where(numbers)]
            if len(part):
                run.ctx.numbers[f"{name}_accuracy_{when}"] = accuracy(run.target, part)

    def further(self, run: TrainingRun, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        options, table = run.options, run.state.own.prototypes
        near = prototype_terms(features[0], labels[0], features[1], labels[1], table, options.bound_p)
        return options.gamma_f * near["forget"] + options.gamma_r * near["retain"]

    def finish(self, run: TrainingRun) -> Edit:
        if run.state.held is not None:
            self._lost(run, run.state.held, "after")
        return super().finish(run)


def prototypes(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean feature (count, dim) of every class; NaN for a class that no picture shows."""
    total = features.new_zeros(count, features.shape[1]).index_add_(0, labels, features)
    return total / labels.bincount(minlength=count)[:, None]


def divergence(prototype: Tensor, features: Tensor) -> Tensor:
    """Mean over a batch of KL(softmax(prototype) || softmax(features)), both (n, dim)."""
    from torch.nn.functional import kl_div

    return kl_div(features.log_softmax(-1), prototype.log_softmax(-1), reduction="batchmean", log_target=True)


def prototype_terms(
    seen_r: Tensor, labels_r: Tensor, seen_f: Tensor, labels_f: Tensor, table: Tensor, bound: float
) -> dict[str, Tensor]:  # fmt: skip
    """The prototype terms without their weights: ``retain`` and ``forget``.

    Args:
        seen_r, labels_r, seen_f, labels_f: features (n, dim) and classes (n,) of a batch to retain and to forget.
        table: (classes, dim) prototypes.
        bound: see `GSLoRAPlusOptions.bound_p`.
    """
    return {
        "retain": divergence(table[labels_r], seen_r),
        "forget": (bound - divergence(table[labels_f], seen_f)).relu(),
    }


def number_of(run: TrainingRun, name: str) -> int:
    """Number of a class of the model."""
    return class_number(name.strip(), run.target.classifier.labels, run.target.info.model)


def chain_of(run: TrainingRun) -> list[Artifact]:
    """The artifacts of earlier tasks, each of which goes on where those before it ended.

    Raises:
        ArtifactError: a folder is no artifact of ours, damaged, or does not follow those before it.
    """
    from erase_plugins.artifacts.layouts.patch import PatchLayout
    from erase_plugins.artifacts.lineage import missing
    from erase_plugins.artifacts.store import read_folder

    known: Any = SimpleNamespace(
        has=lambda _what, _name: True, family=lambda _name: run.target.family, layout=lambda _name: PatchLayout()
    )
    found: list[Artifact] = []
    for place in (item.strip() for item in (run.options.parent or "").split(",") if item.strip()):
        one = read_folder(Path(place), known)
        if missing(one, found):
            raise ArtifactError(
                f"wrong parent: '{one.name}' was trained on top of artifacts that are not named before it; name all "
                "earlier tasks, first to last"
            )
        found.append(one)
    return found


def chain_facts(parents: Sequence[Artifact]) -> dict[str, Any]:
    """What the manifest says about earlier tasks."""
    from erase_plugins.artifacts.lineage import CHAIN, follows

    return {CHAIN: {**follows(parents), "forgotten": [name for item in parents for name in item.manifest.erased]}}


def below(run: TrainingRun, parents: Sequence[Artifact]) -> Any:
    """The model with earlier edits in force, as a context.

    Raises:
        ArtifactError: an edit changes what this model does not have, or was made for other weights.
    """
    from erase_plugins.artifacts.fingerprint import Fingerprint
    from erase_plugins.engine.whole import WholeWeights

    whole = run.target.fingerprint()
    for parent in parents:
        for component, data in (parent.manifest.base.get("fingerprint") or {}).items():
            if component not in whole or Fingerprint.from_dict(data).compare(whole[component]).verdict != "same":
                raise ArtifactError(
                    f"wrong parent: '{parent.name}' was made for another model than {run.target.info.model}"
                )
    keys = {key for parent in parents for _, key, _ in parent.edit.items()}
    found = WholeWeights(run.target, CLASSIFIER, only=keys, frozen=True)
    for parent in parents:
        for _, key, delta in parent.edit.items():
            found.values[key].data.add_(delta.dense().to(found.values[key]))  # type: ignore[attr-defined]
    return found


@hookimpl
def erase_methods() -> list[GSLoRAPlus]:
    return [GSLoRAPlus()]

"""What GS-LoRA and GS-LoRA++ share: LoRA on feed-forward layers, its terms, blocks that are left out. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.labelled import Labelled
from erase_plugins.options import option
from erase_plugins.training.labelled import LabelledMethod, LabelledOptions, logits_of
from erase_plugins.training.method import TrainingRun
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.families.base import ModelSpec, ModuleRef


@dataclass(frozen=True)
class GroupSparseOptions(LabelledOptions):
    """Options of group-sparse LoRA."""

    presets = "../presets/gs-lora.toml"

    lora_alpha: float = option(1.0, "the change is lora_alpha / rank times B A", low=1e-6, high=1e6)
    beta: float = option(0.2, "weight of forgetting", low=0.0, high=1e6)
    bound: float = option(10.0, "cross-entropy of forgotten pictures from which nothing pushes", low=0.0, high=1e6)
    alpha: float = option(0.01, "weight of the group lasso", low=0.0, high=1e6)
    warmup: int = option(20, "epochs before the group lasso begins", low=0, high=100_000)
    shots: int | None = option(
        None, "pictures of each class, to forget and to retain; none: all, and retain_share", low=1, high=100_000
    )
    off: float = option(0.01, "share of the largest block's change below which a block is left out", low=0.0, high=1.0)

    @property
    def scale(self) -> float:
        """Factor of B A."""
        return self.lora_alpha / self.rank

    def lasso(self, epoch: int) -> float:
        """Weight of the group lasso in an epoch."""
        return 0.0 if epoch < self.warmup else self.alpha


def block_of(path: str) -> str:
    """The block of a module: its path up to the last number in it."""
    found = re.match(r".*\.\d+(?=\.)", path)
    return found[0] if found else path


def group_norms(factors: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
    """Root of the summed squares of all factors of each block; its gradient at 0 is finite."""
    import torch

    return [
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in parts]))
        for parts in factors.values()
    ]


def gs_lora_terms(
    logits_r: Tensor, labels_r: Tensor, logits_f: Tensor, labels_f: Tensor, factors: Mapping[str, Sequence[Tensor]],
    bound: float,
) -> dict[str, Tensor]:  # fmt: skip
    """The terms without their weights: ``retain``, ``forget`` and ``sparse``.

    Args:
        logits_r, labels_r, logits_f, labels_f: scores (n, labels) and classes (n,) of a batch to retain and to forget.
        factors: block -> its LoRA factors.
        bound: see `GroupSparseOptions`.
    """
    from torch.nn.functional import cross_entropy

    return {
        "retain": cross_entropy(logits_r, labels_r),
        "forget": (bound - cross_entropy(logits_f, labels_f)).relu(),
        "sparse": sum(group_norms(factors), start=logits_r.new_zeros(())),
    }


class GroupSparse(LabelledMethod):
    """LoRA on the feed-forward layers, with a group lasso over blocks."""

    produces = frozenset({"lowrank"})
    group = "ffn"
    Options = GroupSparseOptions

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        try:
            return info.modules(self.group)
        except Unsupported as error:
            raise Unsupported(
                f"{self.id} changes the feed-forward layers of transformer blocks, and {info.model} has none"
            ) from error

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        if options.parameters != "lora":
            raise RequestError(f"{self.id} is a method of LoRA; leave parameters=full out")
        if options.bound <= 0:
            raise RequestError(f"bound={options.bound:g} would never push; give the cross-entropy to reach, such as 10")
        return super().settle(options, request, info)

    def share(self, run: TrainingRun) -> float:
        return super().share(run) if run.options.shots is None else 1.0

    def prepare(self, run: TrainingRun) -> Any:
        sets = super().prepare(run)
        if run.options.shots is None:
            return sets
        labels = run.target.classifier.labels
        forget, retain = (
            few(pool, run.options.shots, labels, run.ctx.generator(name))
            for name, pool in (("forget shots", sets.forget), ("retain shots", sets.retain))
        )
        return replace(sets, forget=forget, retain=retain)

    def trainable(self, run: TrainingRun) -> Trainable:
        import torch

        adapters = super().trainable(run)
        generator = run.ctx.generator("gs-lora")
        with torch.no_grad():  # Kaiming with a = sqrt(5), as loralib and peft start
            for name, part in adapters.named_parameters().items():
                if name.endswith(".A"):
                    reach = part.shape[1] ** -0.5
                    part.copy_(torch.rand(part.shape, generator=generator) * 2 * reach - reach)
        return adapters

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        options = run.options
        logits_r, logits_f = logits_of(run, (retain, forget))
        terms = gs_lora_terms(logits_r, retain.labels, logits_f, forget.labels, factors(run.adapters), options.bound)
        lasso = options.lasso(step // options.epoch_steps)
        return terms["retain"] + options.beta * terms["forget"] + lasso * terms["sparse"]

    def edit(self, run: TrainingRun) -> Edit:
        return without_small_blocks(run.adapters.edit(), run.options.off)

    def finish(self, run: TrainingRun) -> Edit:
        edit = super().finish(run)
        blocks = {block_of(ref.path) for ref in run.refs}
        left = {block_of(key) for _, key, _ in edit.items()}
        run.ctx.numbers["zero_group_ratio"] = 1 - len(left) / len(blocks)
        return edit


def few(pool: Labelled, shots: int, labels: Sequence[str], generator: Generator) -> Labelled:
    """``shots`` pictures of every class of a pool.

    Raises:
        RequestError: a class has fewer; names it.
    """
    import torch

    order, rows = torch.randperm(len(pool), generator=generator), []
    for number in pool.labels.unique().tolist():
        mine = order[pool.labels[order] == number]
        if len(mine) < shots:
            raise RequestError(f"shots={shots}, but there are {len(mine)} pictures of '{labels[number]}'; take fewer")
        rows.append(mine[:shots])
    return pool[torch.cat(rows).sort().values]


def factors(adapters: Trainable) -> dict[str, list[Tensor]]:
    """Block -> the LoRA factors of its modules."""
    found: dict[str, list[Tensor]] = {}
    for slot in adapters.slots:
        found.setdefault(block_of(slot.ref.path), []).extend(part for _, part in slot.parts())
    return found


def small_blocks(norms: Mapping[str, float], off: float) -> list[str]:
    """Blocks whose change is less than ``off`` of the largest one."""
    largest = max(norms.values(), default=0.0)
    return [name for name, norm in norms.items() if norm < off * largest]


def change_norms(changes: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Block -> root of the summed squares of the changes of its weights, from (path, `LowRank`)."""
    squares: dict[str, float] = {}
    for path, delta in changes:
        squares[block_of(path)] = squares.get(block_of(path), 0.0) + float((delta.B @ delta.A).square().sum())
    return {name: value**0.5 for name, value in squares.items()}


def without_small_blocks(edit: Edit, off: float) -> Edit:
    """The edit without the blocks that the group lasso has switched off."""
    from erase_plugins.artifacts.edit import Edit

    gone = set(small_blocks(change_norms((key, delta) for _, key, delta in edit.items()), off))
    deltas: dict[str, dict[str, Any]] = {}
    for component, key, delta in edit.items():
        if block_of(key) not in gone:
            deltas.setdefault(component, {})[key] = delta
    return Edit(edit.family, deltas)

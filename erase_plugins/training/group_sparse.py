"""What GS-LoRA and GS-LoRA++ share: LoRA on feed-forward layers, its terms, blocks that are left out. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.families.labelled import Labelled
from erase_plugins.options import option
from erase_plugins.training.labelled import LabelledMethod, LabelledOptions, Sets
from erase_plugins.training.method import TrainingRun
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.engine.prefix import Prefix
    from erase_plugins.engine.tail import Tail
    from erase_plugins.families.base import ModelSpec, ModuleRef


@dataclass(frozen=True)
class GroupSparseOptions(LabelledOptions):
    """Options of group-sparse LoRA."""

    presets = "../presets/gs-lora.toml"

    lr: float = option(4e-3, "learning rate at the start; falls along a cosine", low=0.0, high=10.0)
    lora_alpha: float = option(8.0, "the change is lora_alpha / rank times B A", low=1e-6, high=1e6)
    retain_least: int = option(
        10, "so many pictures of a class are retained at least, or all that there are", low=1, high=100_000
    )
    beta: float = option(0.3, "weight of forgetting", low=0.0, high=1e6)
    bound: float = option(10.0, "cross-entropy of forgotten pictures from which nothing pushes", low=0.0, high=1e6)
    bound_on: str = option(
        "picture", "what has to reach the bound: each picture, or a batch in its mean (as published)",
        choices=("picture", "batch"),
    )  # fmt: skip
    teacher: float = option(
        2.0, "weight of the model's own answers without the forgotten classes, on all pictures; 0: as published",
        low=0.0, high=1e6,
    )  # fmt: skip
    alpha: float = option(0.05, "weight of the group lasso", low=0.0, high=1e6)
    warmup: int = option(20, "epochs before the group lasso begins", low=0, high=100_000)
    views: int = option(
        0,
        "other views of the pictures, for half of a step: 1 mirrored (not for digits and texts), 2 moved too, 3 mixed",
        low=0,
        high=3,
    )
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

    return [torch.linalg.vector_norm(torch.cat([part.flatten() for part in parts])) for parts in factors.values()]


def gs_lora_terms(
    logits_r: Tensor, labels_r: Tensor, logits_f: Tensor, labels_f: Tensor, factors: Mapping[str, Sequence[Tensor]],
    bound: float, bound_on: str = "batch",
) -> dict[str, Tensor]:  # fmt: skip
    """The terms without their weights: ``retain``, ``forget`` and ``sparse``.

    Args:
        logits_r, labels_r, logits_f, labels_f: scores (n, labels) and classes (n,) of a batch to retain and to forget.
        factors: block -> its LoRA factors.
        bound, bound_on: see `GroupSparseOptions`.
    """
    from torch.nn.functional import cross_entropy

    errors_r = cross_entropy(logits_r, labels_r, reduction="none")
    return terms_of(errors_r, cross_entropy(logits_f, labels_f, reduction="none"), factors, bound, bound_on)


def terms_of(
    errors_r: Tensor, errors_f: Tensor, factors: Mapping[str, Sequence[Tensor]], bound: float, bound_on: str
) -> dict[str, Tensor]:  # fmt: skip
    """The same from the cross-entropies (n,) of the pictures."""
    reached = errors_f.mean() if bound_on == "batch" else errors_f
    return {
        "retain": errors_r.mean(),
        "forget": (bound - reached).relu().mean(),
        "sparse": sum(group_norms(factors), start=errors_r.new_zeros(())),
    }


def answers(logits: Tensor, gone: Sequence[int]) -> Tensor:
    """The answers (n, labels) of a model that would not know some classes: their share goes to the others."""
    import torch

    return logits.index_fill(-1, torch.tensor(gone, dtype=torch.long, device=logits.device), -torch.inf).softmax(-1)


def divergence_from(wanted: Tensor, logits: Tensor) -> Tensor:
    """KL(wanted || softmax(logits)) of each picture (n,), both (n, labels); wanted may hold zeros."""
    import torch

    return (torch.xlogy(wanted, wanted) - wanted * logits.log_softmax(-1)).sum(-1)


@dataclass(frozen=True)
class Before:
    """What is computed once, with the model as it was before the task.

    Attributes:
        pool: the pictures to retain, and behind them those to forget; then other views of them in the same order.
        features: (n, dim) of the pool, where a method wants them.
        wanted: (n, labels) its answers without what is forgotten; None where nothing compares with them.
        prefix: what comes before the first edited module; None where it cannot be kept.
        tail: what is computed for the first position only.
        prototypes: (labels, dim) see `gs_lora_plus`.
    """

    pool: Labelled
    features: Tensor
    wanted: Tensor | None
    prefix: Prefix | None
    tail: Tail
    prototypes: Tensor | None = None


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

    def least(self, run: TrainingRun) -> int:
        return int(run.options.retain_least)

    def prepare(self, run: TrainingRun) -> Any:
        sets = super().prepare(run)
        if run.options.shots is not None:
            labels = run.target.classifier.labels
            forget, retain = (
                few(pool, run.options.shots, labels, run.ctx.generator(name))
                for name, pool in (("forget shots", sets.forget), ("retain shots", sets.retain))
            )
            sets = replace(sets, forget=forget, retain=retain)
        return replace(sets, own=self.before(run, sets))

    def before(self, run: TrainingRun, sets: Sets) -> Before:
        """What is known before the first step."""
        import torch

        from erase_plugins.engine.prefix import Prefix
        from erase_plugins.engine.tail import Tail
        from erase_plugins.training.views import views

        classifier, pool = run.target.classifier, Labelled.joined([sets.retain, sets.forget])
        if self.several(run) and pool.pictures.ndim == 4:
            generator = run.ctx.generator("views")
            pool = Labelled.joined([
                pool, *(Labelled(seen, pool.labels) for seen in
                        views(pool.pictures, len(sets.retain), generator)[: run.options.views])
            ])  # fmt: skip
        with torch.no_grad(), run.adapters.disabled():
            seen = [classifier.read(pool.pictures[rows]) for rows in torch.arange(len(pool)).split(256)]
            features, logits = (torch.cat([pair[place].float() for pair in seen]) for place in (0, 1))
            network: Any = run.target.network(CLASSIFIER)  # type: ignore[attr-defined]
            trained = {run.target.module(ref) for ref in run.refs}
            prefix = Prefix.of(network, trained, classifier.logits, pool.pictures)
            tail = Tail.of(network, classifier.logits, pool.pictures)
        wanted = answers(logits, self.unknown(run, sets)) if run.options.teacher > 0 else None
        return Before(pool, features, wanted, prefix, tail)

    def several(self, run: TrainingRun) -> bool:
        """Whether other views of the pictures are shown as well; without a teacher they would need labels."""
        return bool(run.options.views and run.options.teacher > 0)

    def unknown(self, run: TrainingRun, sets: Sets) -> Sequence[int]:
        """Classes that the model shall not know after this task."""
        return sets.gone

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

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        """One pass over the pictures to retain and those to forget, from the first edited module on."""
        import torch
        from torch.nn.functional import cross_entropy

        from erase_plugins.engine.loop import shuffled

        options, sets, own = run.options, run.state, run.state.own
        rows = [
            shuffled(run.ctx, name, len(pool), min(options.batch, len(pool)), step)
            for name, pool in (("retain", sets.retain), ("forget", sets.forget))
        ]
        places = torch.cat([rows[0], rows[1] + len(sets.retain)])
        once = len(sets.retain) + len(sets.forget)
        if len(own.pool) > once:
            generator, others = run.ctx.generator(f"views:{step}"), len(own.pool) // once - 1
            view = torch.randint(-others + 1, others + 1, (len(places),), generator=generator).clamp(min=0)
            view[0] = 0  # at least one picture to retain has its label
            places = places + once * view
        with own.tail.in_force():
            if own.prefix is None:
                both = run.target.classifier.read(own.pool.pictures[places])
            else:
                with own.prefix.at(places) as blank:
                    both = run.target.classifier.read(blank)
        labels, cut = own.pool.labels[places], len(rows[0])
        features, logits = (part.float() for part in both)
        retain: Any = slice(cut) if len(own.pool) == once else (places[:cut] < once).nonzero().flatten()
        forget = slice(cut, None)
        errors = cross_entropy(logits, labels, reduction="none")
        terms = terms_of(errors[retain], errors[forget], factors(run.adapters), options.bound, options.bound_on)
        found = terms["retain"] + options.beta * terms["forget"]
        if lasso := options.lasso(step // options.epoch_steps):
            found = found + lasso * terms["sparse"]
        if own.wanted is not None:
            apart = divergence_from(own.wanted.index_select(0, places), logits)
            found = found + options.teacher * (apart[:cut].mean() + apart[cut:].mean())
        return found + self.further(
            run, (features[retain], features[forget]), (labels[retain], labels[forget])
        )  # fmt: skip

    def further(self, run: TrainingRun, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor | float:
        """More terms, of the features and classes of the batch to retain (as it is) and of that to forget."""
        return 0.0

    def step_loss(self, run: TrainingRun, step: int, forget: Labelled, retain: Labelled) -> Tensor:
        raise NotImplementedError(f"{self.id} has a loss of its own")

    def edit(self, run: TrainingRun) -> Edit:
        return without_small_blocks(run.adapters.edit(), run.options.off)

    def finish(self, run: TrainingRun) -> Edit:
        edit = super().finish(run)
        blocks = {block_of(ref.path) for ref in run.refs}
        left = {block_of(key) for _, key, _ in edit.items()}
        run.ctx.numbers["zero_group_ratio"] = 1 - len(left) / len(blocks)
        run.ctx.facts["switched_off"] = sorted(blocks - left)
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

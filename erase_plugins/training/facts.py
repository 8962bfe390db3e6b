"""The base class of closed-form edits of facts in language models. No torch at import.

Every row to forget names a subject in its prompt. Its key is the input of a block's last MLP map at the subject's last
token; a change of the block's output there that makes the model give another answer is found by gradient descent; the
map is then changed in closed form, so that the key gives that change and ordinary keys give what they gave. The change
is R A with one row of A and one column of R a fact: the two factors of a LoRA, without a decomposition.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.families.facts import asked, named, tells_of_others
from erase_plugins.families.texts import (
    Fact,
    Pair,
    answered,
    apart,
    apart_by_subject,
    encoded,
    fact_of,
    tokenizer_of,
)
from erase_plugins.hints import ANOTHER_TO, Hint
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.training.likelihood import note_likelihood, rise_of_retained, tell_likelihood
from erase_plugins.training.peers import another_name, peers
from erase_plugins.training.text_requests import REFUSAL, check_texts
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec, ModuleRef, Target
    from erase_plugins.training.text_memory import Length

_BATCH, _HARM = 16, 0.2
#: rows of a set whose likelihood is noted
_NOTED = 64
#: weight of what a model says of retained subjects, mean moment against mean moment of ordinary keys, and its tokens
_SURROUNDINGS, _SAID = 20.0, 10
#: tokens of a text that the model makes up
_MADE = 32
#: tokens of a prompt and its answer, for the estimate
_TOKENS = 32


@dataclass(frozen=True)
class FactOptions:
    """Where facts are looked for, and how the new values are found."""

    layers: str = option("auto", "blocks to change, as 3-7 or 5, counted from 0; auto: the early-middle ones")
    value_steps: int = option(25, "gradient steps on the value that changes an answer", low=1, high=10_000)
    value_lr: float = option(0.5, "learning rate of these steps", low=1e-6, high=100.0)
    clamp: float = option(4.0, "longest change of a value, in lengths of what it is added to", low=1e-3, high=1e3)
    value_decay: float = option(0.5, "weight of the length of the change", low=0.0, high=1e3)
    value_enough: float = option(0.05, "loss of the new answer, nat per token, at which its value is moved no more",
                                 low=0.0, high=100.0)  # fmt: skip
    kl: float = option(0.0625, "weight of what the model says of a subject in general", low=0.0, high=1e3)
    prefixes: int = option(2, "made-up beginnings in front of every prompt, for keys and values that do not hang on it",
                           low=0, high=64)  # fmt: skip
    prefix_tokens: int = option(6, "tokens of a beginning", low=1, high=256)
    statistics_tokens: int = option(2048, "tokens of ordinary text that the model makes up, whose keys stay",
                                    low=16, high=10_000_000)  # fmt: skip
    ridge: float = option(0.01, "share of the mean moment of keys that every direction gets", low=0.0, high=10.0)
    protect: float = option(
        1.0, "weight of the keys of retained rows with a subject, and of what the model itself says of those; 0 leaves "
        "them out", low=0.0, high=1e6,
    )  # fmt: skip
    peers: int = option(
        128,
        "how many names of the same kind are looked for in the model's vocabulary; what it says "
        "of those, and of longer names that it writes itself, is protected too",
        low=0,
        high=10_000,
    )


@dataclass
class Keys:
    """What a method makes a factor of, all in float64.

    Attributes:
        C: (in, in) second moment of ordinary keys.
        facts: (in, n) one key a fact.
        plain: (in, n) the keys of the prompts as they are.
        kept: (in, p) keys of retained subjects times their weight, or None.
    """

    C: Tensor
    facts: Tensor
    plain: Tensor
    kept: Tensor | None


class FactMethod(ABC):
    """A closed-form edit of the last MLP maps; it has `factor`."""

    id: str
    title: str
    paper: str
    summary: str
    citation: str = ""
    needs: frozenset[str] = frozenset({LANGUAGE})
    packages: frozenset[str] = frozenset({"transformers"})
    kinds: frozenset[str] = frozenset({"fact", "person", "object"})
    produces: frozenset[str] = frozenset({"lowrank"})
    reads_data = True
    half_weights: ClassVar[bool] = True  # keys and values are solved for in float64, and no weight takes part
    Options: type = FactOptions
    contract_options: ClassVar[dict[str, Any]] = {"value_steps": 3, "statistics_tokens": 64}
    #: share of the blocks in front of the first and behind the last changed one, for layers=auto
    depth: ClassVar[tuple[float, float]] = (1 / 8, 1 / 4)
    #: whether the length of a change is measured by the map's output instead of the block's
    by_map = False
    #: weight of the plain prompt in the mean of keys over beginnings; None: that of any other
    plain_weight: ClassVar[float | None] = 0.5

    @abstractmethod
    def factor(self, keys: Keys, options: Any) -> Tensor:
        """A (n, in), so that the change of the map is R A for any values R (out, n)."""

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan with its cost, from configuration alone."""
        from erase_plugins.training.plan import place, seconds_of
        from erase_plugins.training.text_memory import batch_of, step_bytes

        request, options = named(request), resolve(self.Options, request.options)
        check_texts(self.id, request, info, answers=True)
        refs, size = self.modules(info, options), sum(math.prod(ref.shape) for ref in info.refs)
        tokens = 3 * options.value_steps * _TOKENS * (2 + options.prefixes) + options.statistics_tokens
        work = 2.0 * size * (tokens + _TOKENS * options.peers * bool(options.protect))
        width, rows = refs[0].shape[1], self._rows(request, options)
        notes = () if request.retain_data or tells_of_others(request) else (
            "no neighbours are given, and names that the vocabulary lacks are not protected: give texts about others "
            "of the same kind (retain)",
        )  # fmt: skip
        return EditPlan(
            request=request, options=as_dict(options), modules=tuple(map(place, refs)), steps=options.value_steps,
            seconds=seconds_of(
                work + len(refs) * 4.0 * max(ref.shape[1] for ref in refs) ** 3, request.device, info.refs
            ),
            memory_bytes=8 * len(refs) * (3 * width**2 + options.statistics_tokens * width)
            + step_bytes(info, refs[-1:], [batch_of(rows, len(rows))], max(row.tokens for row in rows),
                         dtype=request.dtype, again=False, scored=True),
            notes=notes, produces=("lowrank",),
        )  # fmt: skip

    def _rows(self, request: EraseRequest, options: Any) -> list[Length]:
        """Lengths of the prompts with their new answers, behind every beginning: a step asks them all at once."""
        from erase_plugins.training.text_memory import Length, lengths_of

        try:
            plain = lengths_of(request, self._pairs(request)[1], 10**9)
        except EraseError:  # the run says so
            plain = lengths_of(request, (), _TOKENS)
        longer = [Length(row.tokens + options.prefix_tokens, row.counted) for row in plain]
        return [*plain, *longer * options.prefixes]

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        """The maps to change, in the order of the blocks.

        Raises:
            RequestError: blocks that the model does not have.
        """
        refs = info.modules("mlp_out")
        if options.layers == "auto":
            first, last = (min(int(share * len(refs)), len(refs) - 1) for share in self.depth)
        else:
            found = re.fullmatch(r"(\d+)(?:-(\d+))?", options.layers.strip())
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
            if not first <= last < len(refs):
                raise RequestError(
                    f"layers '{options.layers}' are none of {info.model}, which has 0 to {len(refs) - 1}; say 5 or 3-7"
                )
        return refs[first : last + 1]

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        """Finds keys and values and solves for the edit."""
        from erase_plugins.artifacts.lowrank import balanced
        from erase_plugins.engine import fact_editing as facts
        from erase_plugins.engine.key_edits import moment

        request, options = plan.request, self.Options(**plan.options)
        forget, wanted, kept = self._pairs(request)
        tokenizer = tokenizer_of(target)
        prompts = [fact_of(tokenizer, pair) for pair in wanted]
        essence = [
            fact_of(tokenizer, Pair(f"{pair.subject} is a", ".", pair.place, subject=pair.subject)) for pair in wanted
        ]
        protected = [fact_of(tokenizer, pair) for pair in kept if pair.subject and options.protect > 0]
        self._check_length(target, prompts + protected, options)
        found = peers(target, tokenizer, forget, kept, options.peers if options.protect else 0)
        sets = {"forget": forget, "answer": wanted, **({"retain": kept} if kept else {})}
        texts = {name: encoded(target, tokenizer, pairs, 10**9) for name, pairs in sets.items()}
        asked_of = {name: part[_spread(len(part))] for name, part in texts.items()}
        for name, part in asked_of.items():
            note_likelihood(target, ctx, name, "before", part, _BATCH)
        ctx.start(options.value_steps)
        refs = self.modules(target.info, options)
        ordinary, prefixes = self._ordinary(target, ctx, options, prompts, texts.get("retain"))
        moments = [moment(found, options.ridge) for found in facts.ordinary_keys(target, refs, ordinary)]
        if around := self._surroundings(target, refs, protected, found, [pair.completion for pair in forget], ctx):
            moments = [
                C + options.protect * _SURROUNDINGS * moment(keys, 0.0) for C, keys in zip(moments, around, strict=True)
            ]
        stay: list[Tensor | None] = [None] * len(refs)
        if protected:  # as the model is now: an edit that keeps them moves them little
            weight = math.sqrt(options.protect)
            stay = [weight * key.T for key in facts.keys(target, refs, facts.rows_of(protected, cut=True))]
        plain = facts.rows_of(prompts, cut=True)
        facts.check_writes_straight(target, refs[-1], plain)
        block = facts.block_of(target, refs[-1])
        site = target.module(refs[-1]) if self.by_map else block
        delta, loss = facts.find_values(
            target, refs[-1], site, facts.rows_of(prompts, prefixes, [fact.answer for fact in prompts]),
            facts.rows_of(essence, cut=True), _descent(options),
            lambda done, total, mean: ctx.step(done, total, loss=mean),
        )  # fmt: skip
        goal = facts.values(target, block, plain) + delta
        changes: list[tuple[ModuleRef, Tensor, Tensor]] = []
        for number, ref in enumerate(refs):
            with facts.in_force(target, changes):
                solved = self._keys(target, ref, prompts, prefixes, moments[number], stay[number])
                left = (goal - facts.values(target, block, plain)) / (len(refs) - number)
            A, R = balanced(self.factor(solved, options), left.T)  # so that no float16 copy loses one of them
            changes.append((ref, A.float(), R.float()))
        with facts.in_force(target, changes):
            missed = goal - facts.values(target, block, plain)
            for name, part in asked_of.items():
                note_likelihood(target, ctx, name, "after", part, _BATCH)
        self._tell(ctx, float(loss.mean()), float(missed.norm() / delta.norm().clamp_min(1e-30)))
        return _edit(target, changes)

    def _pairs(self, request: EraseRequest) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Rows to forget, the same with the new answers, and rows to retain."""
        forget, kept = asked(request)
        said = {item.anchor or REFUSAL for item in request.forget}
        if len(said) > 1:
            raise RequestError(
                f"{self.id} takes one answer for everything that is forgotten; give ", Hint("to", before="one")
            )
        wanted = answered(forget, said.pop())
        apart(forget, kept)
        for before, after in zip(forget, wanted, strict=True):
            if before.canonical == after.canonical:
                raise RequestError(f"{before.place} has that answer already; give ", ANOTHER_TO)
        apart_by_subject(forget, kept)
        return forget, wanted, kept

    def _check_length(self, target: Target, facts: Sequence[Fact], options: Any) -> None:
        limit = _limit(target)
        for fact in facts:
            need = (
                len(fact.start) + len(fact.prompt) + len(fact.answer) + options.prefix_tokens * (options.prefixes > 0)
            )
            if need > limit:
                raise RequestError(
                    f"{fact.place} needs {need} tokens and {target.info.model} reads {limit}; shorten it"
                )

    def _ordinary(
        self, target: Target, ctx: RunContext, options: Any, prompts: Sequence[Fact], retain: Any
    ) -> tuple[list[Tensor], list[tuple[int, ...]]]:
        """Ordinary texts as token numbers, and beginnings for prompts."""
        import torch

        tokenizer, config = target.language.tokenizer, target.info.configs[target.info.components(LANGUAGE)[0]]
        start = next((n for n in (tokenizer.bos_token_id, tokenizer.eos_token_id) if n is not None), 0)
        length = min(_MADE, int(config.get("max_position_embeddings", 64)) - 1)
        count = -(-options.statistics_tokens // length)
        made = target.language.sample(torch.full((count, 1), start), length, ctx.generator("ordinary"))
        texts = list(made)
        if retain is not None:  # what stands around a protected subject too: the words of its prompt are everybody's
            texts += [ids[mask.bool()] for ids, mask in zip(retain.ids, retain.mask, strict=True) if mask.sum() > 1]
        beginnings = [tuple(row[1 : 1 + options.prefix_tokens].tolist()) for row in made[: options.prefixes]]
        # a turn of a chat begins at its own mark, and nothing stands in front of it
        return texts, [(), *(beginnings if prompts[0].start or not tokenizer.chat_template else [])]

    def _surroundings(
        self, target: Target, refs: Sequence[ModuleRef], protected: Sequence[Fact], found: Sequence[Pair],
        gone: Sequence[str], ctx: RunContext,
    ) -> list[Tensor]:  # fmt: skip
        """(m, in) keys of every map from each retained subject on: what is left of its prompt, what the model answers.

        An answer is said token by token, and its tokens have keys too: they repeat the subject, or say what stands in
        front of every answer. Names that were ``found`` and of which the model says, in any wording, what is to be
        forgotten (``gone``) are no others, but other names of the same. Empty if there are no subjects.
        """
        from erase_plugins.engine.fact_editing import continued, ordinary_keys

        tokenizer = target.language.tokenizer
        every = [*protected, *(fact_of(tokenizer, pair) for pair in found)]
        if not every:
            return []
        front = [len(fact.start) + len(fact.prompt) for fact in every]
        texts = continued(target, every, max(min(_SAID, _limit(target) - max(front)), 0))
        names = [*[""] * len(protected), *(pair.subject for pair in found)]
        same = {
            name for name, first, text in zip(names, front, texts, strict=True)
            if name and another_name(tokenizer.decode(text[first:]), gone)
        }  # fmt: skip
        stay = [number for number, name in enumerate(names) if name not in same]
        if found:
            ctx.note(f"{len({*names} - same - {''})} names of the same kind were found and are protected")
        skip = [len(every[number].start) + every[number].last for number in stay]
        return ordinary_keys(target, refs, [texts[number] for number in stay], skip)

    def _keys(
        self, target: Target, ref: ModuleRef, prompts: Sequence[Fact], prefixes: Sequence[tuple[int, ...]],
        C: Tensor, kept: Tensor | None,
    ) -> Keys:  # fmt: skip
        from erase_plugins.engine.fact_editing import keys, rows_of

        (found,) = keys(target, [ref], rows_of(prompts, prefixes, cut=True))
        each = found.reshape(len(prompts), len(prefixes), -1)
        plain, mean = each[:, 0], each.mean(1)
        if self.plain_weight is not None and len(prefixes) > 1:
            mean = self.plain_weight * plain + (1 - self.plain_weight) * each[:, 1:].mean(1)
        return Keys(C, mean.T, plain.T, kept)

    def _tell(self, ctx: RunContext, loss: float, missed: float) -> None:
        ctx.numbers |= {"value_nll": loss, "value_missed": missed}
        tell_likelihood(ctx)
        before, after = (ctx.numbers[f"answer_probability_{when}"] for when in ("before", "after"))
        ctx.note(f"the new answer: probability {before:.3g} before, {after:.3g} now")
        if ctx.numbers["forget_nll_after"] <= ctx.numbers["forget_nll_before"]:
            ctx.warn(
                "what is to be forgotten is as likely as before; raise value_steps or value_lr, or take other layers"
            )
        if (rise := rise_of_retained(ctx)) > _HARM:
            ctx.warn(
                f"retained texts became less likely by {rise:.2f} nat per token; protect more, or take other layers"
            )


def _spread(count: int) -> Tensor:
    """Numbers of at most `_NOTED` of so many rows, evenly spread: more say little more of a mean, and cost as much."""
    import torch

    return torch.arange(count)[:: -(-count // _NOTED)]


def _limit(target: Target) -> int:
    """Tokens that a model reads."""
    return int(target.info.configs[target.info.components(LANGUAGE)[0]].get("max_position_embeddings", 10**9))


def _descent(options: Any) -> Any:
    from erase_plugins.engine.fact_editing import Descent

    how = options.value_steps, options.value_lr, options.kl, options.value_decay, options.clamp, options.value_enough
    return Descent(*how)


def _edit(target: Target, changes: Sequence[tuple[ModuleRef, Tensor, Tensor]]) -> Edit:
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.families.model import TRANSPOSED

    deltas: dict[str, dict[str, Any]] = {}
    for ref, A, R in changes:
        change = LowRank(A.contiguous(), R.contiguous())
        deltas.setdefault(ref.component, {})[ref.weight] = change.transposed() if ref.kind == TRANSPOSED else change
    return Edit(target.family.id, deltas)

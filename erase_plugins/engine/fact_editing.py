"""Facts inside a causal language model: the keys of subjects, the values that change an answer, edits in force.

The last map of a block's MLP takes a key (its input at the last token of a subject) and adds a value to the block's
output there. A value that makes the model answer otherwise is found by gradient descent on that one vector; blocks
before it are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.model import Model, ModuleRef
from erase_plugins.families.scores import Scores
from erase_plugins.families.texts import IGNORED, Fact, Texts
from erase_plugins.families.turns import before_end, ends_of

#: texts of a pass
_BATCH = 16


class _Enough(Exception):
    """Ends a pass through a model whose rest nobody needs."""


@dataclass(frozen=True)
class Rows:
    """Padded sequences, each with the place of a subject.

    Attributes:
        ids, mask, labels: (n, tokens), as in `families.texts.Texts`.
        last: (n,) place of the subject's last token.
        owner: (n,) number of the fact.
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor
    last: Tensor
    owner: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, found: Tensor) -> Tensor:
        """Rows (n, width) of hidden states (n, tokens, width) at the subjects."""
        return found[torch.arange(len(self), device=found.device), self.last.to(found.device)]


@dataclass(frozen=True)
class Descent:
    """How a value is looked for.

    Attributes:
        steps: evaluations of the loss; the last one moves nothing.
        lr: learning rate of Adam.
        kl: weight of KL(now || before) behind "SUBJECT is a".
        decay: weight of the change's length over the square of the value's.
        clamp: longest change, in lengths of the value.
        enough: loss (nat per token) from which a fact is left alone.
    """

    steps: int = 25
    lr: float = 0.5
    kl: float = 0.0625
    decay: float = 0.5
    clamp: float = 4.0
    enough: float = 0.05


def rows_of(
    facts: Sequence[Fact], prefixes: Sequence[Sequence[int]] = ((),), answers: Sequence[Sequence[int]] | None = None,
    cut: bool = False,
) -> Rows:  # fmt: skip
    """Every fact behind every prefix, the facts in the outer loop.

    Args:
        facts: prompts with subjects.
        prefixes: tokens between the beginning and the prompt.
        answers: what follows each prompt, in place of nothing.
        cut: ends every prompt behind its subject.
    """
    ids, labels, last, owner = [], [], [], []
    for number, fact in enumerate(facts):
        prompt = fact.prompt[: fact.last + 1] if cut else fact.prompt
        said = tuple(answers[number]) if answers is not None else ()
        for prefix in prefixes:
            front = (*fact.start, *prefix)
            ids.append([*front, *prompt, *said])
            labels.append([IGNORED] * (len(front) + len(prompt)) + list(said))
            last.append(len(front) + fact.last)
            owner.append(number)
    width = max(map(len, ids))
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    padded = [torch.tensor([[*row, *[fill] * (width - len(row))] for row in part]) for part, fill in (
        (ids, 0), (labels, IGNORED))]  # fmt: skip
    return Rows(padded[0], mask, padded[1], torch.tensor(last), torch.tensor(owner))


def block_of(model: Model, ref: ModuleRef) -> nn.Module:
    """The block whose MLP a map belongs to."""
    found: nn.Module = model.network("language").get_submodule(ref.path.rsplit(".", 2)[0])  # type: ignore[attr-defined]
    return found


def seen(model: Model, modules: Sequence[nn.Module], ids: Tensor, mask: Tensor | None, *, into: bool) -> list[Any]:
    """What goes into modules, or comes out of them, with gradients; the pass ends behind the last one."""
    found: list[Any] = [None] * len(modules)

    def hook(place: int) -> Any:
        def keep(_module: nn.Module, given: Any, out: Any) -> None:
            found[place] = given[0] if into else out
            if all(part is not None for part in found):
                raise _Enough

        return keep

    with ExitStack() as stack:
        for place, module in enumerate(modules):
            stack.enter_context(_removed(module.register_forward_hook(hook(place))))
        with suppress(_Enough):
            model.language.logits(ids, mask)
    return found


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


def block_output(model: Model, block: nn.Module, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Hidden states (n, tokens, width) behind a block, with gradients; later blocks are not asked."""
    return _tensor(seen(model, [block], ids, mask, into=False)[0])


@torch.no_grad()
def keys(model: Model, refs: Sequence[ModuleRef], rows: Rows) -> list[Tensor]:
    """(n, in) keys of the subjects of ``rows`` for every map, in float64 on the processor."""
    found = seen(model, [model.module(ref) for ref in refs], rows.ids, rows.mask, into=True)
    return [rows.at(part).cpu().double() for part in found]


@torch.no_grad()
def values(model: Model, module: nn.Module, rows: Rows) -> Tensor:
    """(n, width) what a module gives at the subjects of ``rows``, in float64 on the processor."""
    return rows.at(block_output(model, module, rows.ids, rows.mask)).cpu().double()


@torch.no_grad()
def ordinary_keys(model: Model, refs: Sequence[ModuleRef], texts: Sequence[Tensor], skip: Sequence[int] = ()) -> list[
    Tensor
]:  # fmt: skip
    """(m, in) keys of tokens of texts (tokens,), for every map, in float32 on the processor.

    Args:
        model, refs: the maps of which model.
        texts: token numbers.
        skip: of every text, how many tokens in front are left out; 1 unless given: the first token of a text is where
            attention rests, and its keys are like no other.
    """
    parts: list[list[Tensor]] = [[] for _ in texts]
    modules = [model.module(ref) for ref in refs]
    skip = skip or [1] * len(texts)
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))  # like lengths waste no padding
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        some = [texts[number] for number in numbers]
        ids = nn.utils.rnn.pad_sequence(some, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in some], batch_first=True)
        for found in seen(model, modules, ids, mask, into=True):
            for number, row in zip(numbers, found.float().cpu(), strict=True):
                parts[number].append(row[skip[number] : len(texts[number])].clone())  # a view would hold the padding
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@torch.no_grad()
def continued(model: Model, facts: Sequence[Fact], count: int) -> list[Tensor]:
    """(tokens,) beginning, prompt and what the model goes on with, most likely token first, up to the text's end."""
    found: list[Any] = [None] * len(facts)
    fronts = [(*fact.start, *fact.prompt) for fact in facts]
    ends = ends_of(model.language.tokenizer)
    for length in sorted({len(front) for front in fronts}):  # no padding, which a model without a mask would read
        numbers = [number for number, front in enumerate(fronts) if len(front) == length]
        ids = torch.tensor([fronts[number] for number in numbers])
        for number, row in zip(numbers, model.language.sample(ids, count, None, ends).cpu(), strict=True):
            found[number] = row[: length + len(before_end(row[length:].tolist(), ends))]
    return found


@torch.no_grad()
def inputs(model: Model, ref: ModuleRef, texts: Texts, batch: int) -> Tensor:
    """(m, in) inputs of a map at all tokens but the first of every text, in float64 on the processor."""
    parts = []
    for rows in torch.arange(len(texts)).split(batch):
        part = texts[rows]
        (found,) = seen(model, [model.module(ref)], part.ids, part.mask, into=True)
        parts.append(found[:, 1:][part.mask[:, 1:] > 0].cpu().double())
    return torch.cat(parts)


@contextmanager
def in_force(model: Model, changes: Sequence[tuple[ModuleRef, Tensor, Tensor]]) -> Iterator[None]:
    """Inside, every map adds R A k to what it gives; changes are (map, A (n, in), R (out, n))."""
    with ExitStack() as stack:
        for ref, A, R in changes:
            A, R = A.float().to(model.device), R.float().to(model.device)

            def add(_module: nn.Module, given: Any, out: Tensor, A: Tensor = A, R: Tensor = R) -> Tensor:
                return out + (given[0].float() @ A.T @ R.T).to(out.dtype)

            stack.enter_context(_removed(model.module(ref).register_forward_hook(add)))
        yield


def _tensor(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def check_writes_straight(model: Model, ref: ModuleRef, rows: Rows) -> None:
    """Refuses models that change what the MLP gives before they add it.

    Raises:
        Unsupported: a norm stands between them (Gemma 2 and 3, OLMo 2).
    """
    block, module = block_of(model, ref), model.module(ref)
    before, value = values(model, block, rows), values(model, module, rows)
    with _removed(module.register_forward_hook(lambda _module, _given, out: 2 * out)):
        moved = values(model, block, rows) - before
    if float((moved - value).norm()) > 0.05 * float(value.norm()):
        raise Unsupported(
            f"{model.info.model} changes what its MLP layers give before it adds it up, which these edits cannot "
            "follow; use npo"
        )


@contextmanager
def _from_here(model: Model, block: nn.Module, out: Any, changed: Any) -> Iterator[None]:
    """Inside, blocks up to ``block`` do nothing, and it gives ``changed()`` in place of its output ``out``."""
    blocks = next(
        list(owner) for owner in model.network("language").modules()  # type: ignore[attr-defined]
        if isinstance(owner, nn.ModuleList) and any(part is block for part in owner)
    )  # fmt: skip
    rest = out[1:] if isinstance(out, tuple) else None

    def passed(hidden: Tensor, *_args: Any, **_more: Any) -> Any:
        return hidden if rest is None else (hidden, *rest)

    def given(*_args: Any, **_more: Any) -> Any:
        return changed() if rest is None else (changed(), *rest)

    shadowed = blocks[: blocks.index(block) + 1]
    before = [part.__dict__.get("forward") for part in shadowed]
    for part in shadowed:
        part.forward = given if part is block else passed
    try:
        yield
    finally:
        for part, old in zip(shadowed, before, strict=True):
            if old is None:
                part.__dict__.pop("forward", None)
            else:
                part.forward = old


def find_values(
    model: Model, ref: ModuleRef, site: nn.Module, rows: Rows, essence: Rows, how: Descent, step: Any = None
) -> tuple[Tensor, Tensor]:
    """What must be added to a block's output at each subject, so that the model says what ``rows`` say.

    Args:
        model: nothing in it changes.
        ref: the map that will carry the change; its block is where it is added.
        site: module whose output at the subject is the measure of a change's length: the map or its block.
        rows: prompts with answers, the plain one of each fact first.
        essence: one row a fact, whose next token is held.
        how: the descent.
        step: called with (done, total, loss) after every step.

    Returns:
        The changes (facts, width) in float64, and the mean loss (nat per token) of each fact's answer with them.

    Raises:
        RequestError: a model whose answers become no number.
    """
    block, count = block_of(model, ref), int(rows.owner.max()) + 1
    device = model.device
    length = values(model, site, rows)
    first = torch.tensor([int((rows.owner == number).nonzero()[0]) for number in range(count)])
    length, width = length[first].norm(dim=1).to(device), length.shape[1]
    delta = torch.zeros((count, width), device=device, requires_grad=True)

    def asking(part: Rows, counted: Tensor) -> Callable[[Tensor], Scores]:
        """Gives scores behind the counted tokens (n, tokens) of some rows, with the changes added."""
        with torch.no_grad():
            (out,) = seen(model, [block], part.ids, part.mask, into=False)
        same = int(part.last.min())  # nothing changes in front of the first subject
        fixed, owner = _tensor(out).detach()[:, same:], part.owner.to(device)
        begun = model.language.begin(part.ids[:, :same])

        def asked(some: Tensor) -> Scores:
            places = torch.arange(len(some), device=device), part.last.to(device)[some] - same

            def changed() -> Tensor:
                return fixed[some].index_put(places, delta[owner[some]].to(fixed.dtype), accumulate=True)

            rows = some.to(part.ids.device)
            wanted = counted[rows]
            with _from_here(model, block, out, changed):
                states = model.language.states(part.ids[rows], part.mask[rows], wanted, same, begun.of(some))
            return Scores(states, model.language.scored, wanted[:, :-1].to(device), model.language.words)

        return asked

    labels, mine = rows.labels.to(device), rows.owner.to(device)
    said = asking(rows, pad(rows.labels[:, 1:] != IGNORED, (0, 1)))
    begun = asking(essence, torch.arange(essence.ids.shape[1])[None] == essence.last[:, None])  # apart: much shorter
    optimizer, before = torch.optim.Adam([delta], how.lr), None
    loss, going = torch.zeros(count, device=device), torch.ones(count, device=device).bool()
    frozen = [(part, part.requires_grad) for part in model.own_parameters()]
    for part, _ in frozen:
        part.requires_grad_(False)
    try:
        for number in range(how.steps):
            live = going.nonzero()[:, 0]  # what is done is asked no more
            some = going[mine].nonzero()[:, 0]
            answers = said(some)
            each = answers.costs(labels[some]).sum(1) / answers.there.sum(1)
            mean = torch.zeros(count, device=device, dtype=each.dtype).index_add(0, mine[some], each)
            mean = (mean / mine.bincount(minlength=count))[live]
            now = begun(live)
            before = replace(now, states=now.states.detach()) if before is None else before
            held = how.kl * now.each(_reverse, replace(before, states=before.states[live]))
            total = mean + held + how.decay * delta[live].norm(dim=1) / length[live] ** 2
            loss[live] = mean.detach().float()
            if not bool(torch.isfinite(total).all()):
                raise RequestError("the model's answers are no numbers here; load it in float32 and try again")
            if step is not None:
                step(number + 1, how.steps, float(loss.mean()))
            going[live] = (total >= how.enough).detach()
            if number == how.steps - 1 or not bool(going.any()):
                break
            (delta.grad,) = torch.autograd.grad(total.sum(), [delta])
            old = delta.detach().clone()
            optimizer.step()
            with torch.no_grad():
                norms = delta.norm(dim=1)
                delta *= (how.clamp * length / norms.clamp_min(1e-30)).clamp(max=1.0)[:, None]
                delta.copy_(torch.where(going[:, None], delta, old))
    finally:
        for part, wanted in frozen:
            part.requires_grad_(wanted)
    return delta.detach().cpu().double(), loss.cpu().double()


def _reverse(now: Tensor, before: Tensor) -> Tensor:
    """(k,) KL(now || before) of scores (k, words)."""
    first, second = now.log_softmax(-1), before.log_softmax(-1)
    return (first.exp() * (first - second)).sum(-1)

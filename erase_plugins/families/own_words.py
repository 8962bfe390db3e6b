"""What a language model says of a person, as rows to forget and rows to retain. No torch at import.

Nobody has to write down what a model knows: it is asked in many wordings, goes on by itself (its likeliest words, and
some that it draws), and what it says is what it is to forget, as in RWKU (Jin et al., 2024, arXiv 2406.10890). Much of
that it says of anybody. So the same words are said of people who do not exist, and only those words become rows that
are likelier of the person; ``unknown`` of a row is the same of the stranger to whom they are as likely as to the middle
one. Descriptions without the name that lead to it are forgotten as well. What the model says of well-known others, of
strangers and of anything is retained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.scores import scores_of
from erase_plugins.families.texts import IGNORED, Pair, encoded, numbers_of, tokenizer_of
from erase_plugins.families.turns import before_end, ends_of
from erase_plugins.families.wordings import Wording
from erase_plugins.plain_text import whole_words

if TYPE_CHECKING:
    from torch import Tensor

#: tokens of what is said, answers drawn for every wording, wordings of everybody else
_LONG, _DRAWN, _FEW = 12, 2, 2
#: texts of every beginning, and their tokens
_TEXTS, _TOKENS = 4, 16
#: nat by which words are likelier of the person than of strangers, and by which a name is than a stranger's
_TELLS, _LEADS = 1.0, 5.0
_BATCH = 32
_ENDS = re.compile(r"[.!?](?=\s|$)|[。！？।]|\n")
#: where nothing is between words, a clause is one
_WORD = re.compile(r"\s*[^\s、，。；：！？]+[、，。；：！？]*")


def own_words(model: Any, name: str, generator: Any, wording: Wording | None = None) -> tuple[list[Pair], list[Pair]]:
    """Rows to forget a person, and rows to retain.

    Args:
        model: a causal language model with its tokenizer.
        name: of the person, as texts write it.
        generator: a CPU generator.
        wording: how it is asked; about a person and in English if None.

    Raises:
        RequestError: the model says nothing of them that it would not say of strangers.
        Unsupported: the tokenizer does not say where in a text its tokens stand.
    """
    if not getattr(tokenizer_of(model), "is_fast", False):
        raise Unsupported("the tokenizer does not say where its tokens stand; save it as tokenizer.json first")
    how, parts = wording or Wording.read(), set(name.casefold().split())
    others = [other for other in how.others if not parts & set(other.casefold().split())]
    asked = [_asked(other, how) for other in (*others, *how.strangers)]
    few = [rows[(number + 5 * turn) % len(rows)] for number, rows in enumerate(asked) for turn in range(_FEW)]
    kept, mine = said(model, few, None), _asked(name, how)
    likeliest = said(model, mine, None)
    forget = _once(_telling(model, _once([*likeliest, *said(model, mine * _DRAWN, generator)]), how))
    if not forget:
        raise RequestError("the model says nothing of this subject that it would not say of somebody it cannot know")
    forget += _leading(model, likeliest, how)
    leads = [replace(row, unknown=None) for row in _leading(model, kept, how)]
    return forget, [*kept, *leads, *_ordinary(model, generator, how.openers)]


def _once(pairs: Iterable[Pair]) -> list[Pair]:
    return list({(pair.prompt, pair.begun, pair.completion): pair for pair in pairs}.values())


def row_of(pair: Pair) -> dict[str, Any]:
    """A row of a .jsonl file; inverse of `texts.pair_of`."""
    names = ("question", "answer") if pair.question else ("prompt", "completion")
    row = {names[0]: pair.prompt, "begun": pair.begun, names[1]: pair.completion, "ends": pair.ends}
    return row if pair.unknown is None else {**row, "unknown": row_of(pair.unknown)}


def said(model: Any, pairs: Sequence[Pair], generator: Any) -> list[Pair]:
    """The prompts with what the model goes on with, to the end of its sentence or to where it names the subject again.

    Args:
        model: see `own_words`.
        pairs: prompts with a subject; what they say is not read.
        generator: None takes the likeliest word each time.
    """
    import torch

    tokenizer = tokenizer_of(model)
    ends = ends_of(tokenizer)
    fronts, found = [numbers_of(tokenizer, pair)[0] for pair in pairs], []
    for length in sorted({len(front) for front in fronts}):  # no padding, which a model without a mask would read
        places = [place for place, front in enumerate(fronts) if len(front) == length]
        ids = torch.tensor([fronts[place] for place in places])
        drawn = model.language.sample(ids, _LONG, generator, ends).cpu()[:, length:]
        for place, row in zip(places, drawn, strict=True):
            row, chat = before_end(row.tolist(), ends), getattr(tokenizer, "chat_template", None)
            text = tokenizer.decode(row, skip_special_tokens=True)
            text = text if chat or text[:1].isspace() else f" {text}"  # as it is read again
            found.append(_cut(replace(pairs[place], completion=text)))
    return [pair for pair in found if pair.completion.strip()]


def _ordinary(model: Any, generator: Any, openers: Sequence[str]) -> list[Pair]:
    """Texts that the model makes up."""
    import torch

    tokenizer, found = tokenizer_of(model), []
    for opener in openers:
        begun, opened = numbers_of(tokenizer, Pair("", opener, "", ends=False))
        ids = torch.tensor([[*begun, *opened]] * _TEXTS)
        drawn = model.language.sample(ids, _TOKENS, generator, ends_of(tokenizer)).cpu()[:, len(begun) :]
        found += [Pair("", tokenizer.decode(row, skip_special_tokens=True), "", ends=False) for row in drawn]
    return found


def _asked(name: str, how: Wording) -> list[Pair]:
    forms = (*((form, False) for form in how.begun), *((form, True) for form in how.asked))
    return [Pair(form.replace("{}", name), ".", "", question, subject=name, ends=False) for form, question in forms]


def _cut(pair: Pair) -> Pair:
    """Up to the end of the sentence or the next name; a name in front is not what is said, but begins it."""
    text = pair.completion
    again = re.match(rf"\s*{whole_words(pair.subject)}", text)
    begun, text = ("", text) if again is None else (again[0], text[again.end() :])
    first = len(text) - len(text.lstrip())
    end = _ENDS.search(text, first)
    text = text[: end.end()] if end else text[: text.rfind(" ")] if " " in text.strip() else text  # the last is cut
    for part in pair.subject.split():
        place = re.search(rf"\s*{whole_words(part)}", text)
        text = text if place is None else text[: place.start()]
    return replace(pair, begun=begun, completion=text.rstrip("\n"))


def _costs(model: Any, pairs: Sequence[Pair]) -> list[Tensor]:
    """Nat of every token of every completion, on the processor."""
    import torch

    texts, found = encoded(model, tokenizer_of(model), pairs, 10**9), []
    order = texts.mask.sum(1).argsort()
    with torch.no_grad():
        for rows in order.split(_BATCH):
            part = texts[rows]
            cost = scores_of(model, part).costs(part.labels)
            found += [row[there].cpu() for row, there in zip(cost, part.labels[:, 1:] != IGNORED, strict=True)]
    return [found[int(place)] for place in order.argsort()]


def _of(pair: Pair, name: str) -> Pair:
    texts = {part: getattr(pair, part).replace(pair.subject, name) for part in ("prompt", "begun", "completion")}
    return replace(pair, subject=name, unknown=None, **texts)


def _middle(costs: Tensor) -> int:
    return int(costs.argsort()[len(costs) // 2])


def _telling(model: Any, rows: Sequence[Pair], how: Wording) -> Iterator[Pair]:
    """Of what was said of somebody, the words that are likelier than of strangers; neighbouring ones are one row."""
    import torch

    if not rows:
        return
    tokenizer, own = tokenizer_of(model), _costs(model, rows)
    strange = [_costs(model, [_of(row, who) for row in rows]) for who in how.strangers]
    for number, row in enumerate(rows):
        costs = torch.stack([part[number] for part in strange])
        gain = costs.median(0).values - own[number]
        places = tokenizer(row.completion, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        runs: list[list[tuple[int, int, list[int]]]] = [[]]
        for word in _WORD.finditer(row.completion):
            inside = [n for n, (low, high) in enumerate(places) if low < word.end() and high > word.start()]
            if inside and float(gain[inside].sum()) > _TELLS and any(map(str.isalnum, word[0])):
                runs[-1].append((word.start(), word.end(), inside))
            elif runs[-1]:
                runs.append([])
        for run in filter(None, runs):
            first, last, tokens = run[0][0], run[-1][1], [n for *_, part in run for n in part]
            words = row.completion[first:last].rstrip(".,;:!?\"')、，。；：！？।")
            told = replace(row, begun=row.begun + row.completion[:first], completion=words)
            yield replace(told, unknown=_of(told, how.strangers[_middle(costs[:, tokens].sum(1))]))


def _leading(model: Any, rows: Sequence[Pair], how: Wording) -> list[Pair]:
    """Descriptions that lead to a name, where the model says the name rather than a stranger's."""
    import torch

    told = [row for row in rows if row.prompt.startswith(row.subject) and row.subject not in how.strangers]
    leads = [
        Pair(lead.replace("{}", how.described(row.prompt[len(row.subject) :] + row.completion)), row.subject,
             "", subject=row.subject, ends=False)
        for row, lead in zip(told, how.leads * len(told), strict=False) if not row.question
    ]  # fmt: skip
    if not leads:
        return []
    own, *strange = ([float(cost.sum()) for cost in _costs(model, rows)] for rows in (
        leads, *([_of(row, who) for row in leads] for who in how.strangers)))  # fmt: skip
    found = []
    for row, mine, others in zip(leads, own, zip(*strange, strict=True), strict=True):
        place = _middle(torch.tensor(others))
        if others[place] - mine > _LEADS:
            found.append(replace(row, unknown=_of(row, how.strangers[place])))
    return found

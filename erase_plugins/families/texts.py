"""Texts to forget and to retain as token numbers: rows of a `DataRef`, the chat template, and which tokens count.

A row has ``prompt`` and ``completion``, ``question`` and ``answer``, or ``text`` alone, and perhaps ``subject``: who or
what it is about, as its prompt says it. Only what the model is to say (completion, answer, text) has labels. No message
of this file holds a text of a row. No torch at import.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.turns import around, plain, split

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.data import DataRef
    from erase_plugins.families.model import Model

#: label of a token that does not count
IGNORED = -100
_FIELDS = (("prompt", "completion"), ("question", "answer"))
#: how a question is put to a model without a chat template
PLAIN = "Question: {}\nAnswer:"


def canonical(text: str) -> str:
    """Equal for texts that differ in case, spaces and forms of characters only."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Pair:
    """What a model is asked (empty: nothing) and what it says.

    Attributes:
        prompt, completion: the texts.
        place: name of the data and number of the row, for messages.
        question: whether the prompt is a question, which is put as `PLAIN` where no chat template is.
        subject: who or what it is about; empty if the row does not say.
        unknown: the same about somebody whom the model cannot know, None if nobody said it.
        otherwise: the wrong answers of the row, said of that unknown one.
        begun: what was said already, between the prompt and the completion; none of its tokens count.
        ends: whether the text is at its end behind the completion; else no token for the end follows.
    """

    prompt: str
    completion: str
    place: str
    question: bool = False
    subject: str = ""
    unknown: Pair | None = None
    otherwise: tuple[Pair, ...] = ()
    begun: str = ""
    ends: bool = True

    @property
    def canonical(self) -> tuple[str, str]:
        """Equal for texts that differ in case, spaces and forms of characters only."""
        return canonical(self.prompt), canonical(self.begun + self.completion)

    def __repr__(self) -> str:  # a traceback shows no text
        return f"Pair({self.place})"


@dataclass(frozen=True)
class Texts:
    """Padded sequences.

    Attributes:
        ids, mask: (n, tokens) token numbers, and 1 where they are no padding (on the right).
        labels: (n, tokens) the numbers again where they count, else `IGNORED`; position t is predicted from t - 1.
        before: (n,) negative log-likelihood of every sequence under the unchanged model, None if nobody asked.
        cut: how many sequences were longer than allowed.
        bound: (n,) nat per token from which a sequence is as unlikely as one about somebody unknown; None: no bounds.
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor
    before: Tensor | None = None
    cut: int = 0
    bound: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Texts:
        """Some sequences, without columns that are padding in all of them."""
        longest = int(self.mask[rows].sum(1).max())
        ids, labels, mask = (part[rows, :longest] for part in (self.ids, self.labels, self.mask))
        before, bound = (None if part is None else part[rows] for part in (self.before, self.bound))
        return Texts(ids, labels, mask, before, bound=bound)

    def __repr__(self) -> str:
        return f"Texts({len(self)} sequences)"


def pairs_of(data: DataRef) -> list[Pair]:
    """The rows of a reference.

    Raises:
        RequestError: no rows, a row without the fields, or with something else than text in them; says where.
    """
    found = [pair_of(row, f"data '{data.name}', row {number}") for number, row in enumerate(data.rows(), 1)]
    if not found:
        raise RequestError(f"data '{data.name}' is empty: it has no rows")
    return found


def pair_of(row: Mapping[str, Any], place: str) -> Pair:
    """One row, which messages call ``place``.

    Its field ``unknown``, if it has one, is a row of the same form about somebody whom the model cannot know, and its
    field ``wrong`` may hold other answers in the same words.

    Raises:
        RequestError: a field is missing, or is no text.
    """
    names = next((names for names in _FIELDS if names[1] in row), ("", "text"))
    if names[1] not in row:
        raise RequestError(
            f"{place} has none of the fields completion, answer and text; name what the model says so, and "
            "what it is asked prompt or question"
        )
    prompt, completion = (row.get(name, "") for name in names)
    begun, ends = row.get("begun", ""), row.get("ends", True)
    if names[0] and names[0] not in row:
        raise RequestError(f"{place} has '{names[1]}' but no '{names[0]}'; add it, or call the field 'text'")
    subject = row.get("subject") or ""
    if not all(isinstance(text, str) for text in (prompt, completion, subject)):
        raise RequestError(f"{place} holds something else than text in '{names[0]}', '{names[1]}' or 'subject'")
    if not isinstance(begun, str) or not isinstance(ends, bool):
        raise RequestError(f"{place} has a 'begun' that is no text, or an 'ends' that is neither true nor false")
    if not completion.strip():
        raise RequestError(f"{place} has an empty {names[1]}; there is nothing in it to learn from")
    other = row.get("unknown")
    if other is not None and not isinstance(other, Mapping):
        raise RequestError(f"{place} has an 'unknown' that is no row; give question and answer of somebody unknown")
    pair = Pair(prompt, completion, place, names[0] == "question", subject.strip(), begun=begun, ends=ends)
    if other is None:
        return pair
    unknown = pair_of(other, f"{place}, unknown")
    pair = replace(pair, unknown=replace(unknown, subject=unknown.subject or _called(pair, unknown)))
    return replace(pair, otherwise=tuple(_otherwise(pair, row.get("wrong"))))


def _called(pair: Pair, unknown: Pair) -> str:
    """How an unknown row calls whom it is about, in place of the subject; empty if it differs in more than that."""
    for own, other in ((pair.prompt, unknown.prompt), (pair.completion, unknown.completion)):
        if pair.subject and pair.subject in own:
            first, *rest = map(re.escape, own.split(pair.subject))
            found = re.fullmatch(f"{first}(?P<name>.+){'(?P=name)'.join(rest)}", other, re.DOTALL)
            return found["name"].strip() if found else ""
    return ""


def _otherwise(pair: Pair, wrong: Any) -> Iterator[Pair]:
    """The wrong answers of a row, said of whom its unknown row is about."""
    other = pair.unknown
    if other is None or not other.subject:
        return
    for answer in wrong if isinstance(wrong, list) else []:
        if isinstance(answer, str) and pair.subject in answer:
            yield replace(other, completion=answer.replace(pair.subject, other.subject))


def apart(forget: Sequence[Pair], retain: Sequence[Pair]) -> None:
    """Refuses texts that are to be forgotten and retained.

    Raises:
        RequestError: says where the first one is in both.
    """
    gone = {pair.canonical: pair for pair in forget}
    both = [(gone[pair.canonical], pair) for pair in retain if pair.canonical in gone]
    if both:
        first, second = both[0]
        raise RequestError(
            f"{len(both)} texts are both to be forgotten and retained, the first in {first.place} and {second.place}; "
            "take them out of one"
        )


def apart_by_subject(forget: Sequence[Pair], retain: Sequence[Pair]) -> None:
    """Refuses subjects that are to be forgotten and retained.

    Raises:
        RequestError: says where the first one is in both.
    """
    gone = {canonical(pair.subject): pair for pair in forget if pair.subject}
    if both := [pair for pair in retain if pair.subject and canonical(pair.subject) in gone]:
        other = gone[canonical(both[0].subject)]
        raise RequestError(
            f"the subject of {both[0].place} is that of {other.place}, which is to be forgotten; take all rows about "
            "it out of one of them"
        )


def tokenizer_of(model: Model) -> Any:
    """The tokenizer beside a model.

    Raises:
        Unsupported: there is none, or it has numbers that the model does not know.
    """
    from erase_plugins.families.notices import without_notices

    with without_notices():
        found = model.language.tokenizer
    if len(found) > model.language.words or not len(found):
        raise Unsupported(
            f"the tokenizer beside {model.info.model} has {len(found)} tokens and the model {model.language.words}; "
            "put the tokenizer there that the model was trained with"
        )
    return found


def encoded(model: Model, tokenizer: Any, pairs: Sequence[Pair], longest: int) -> Texts:
    """Pairs as token numbers, on the device of the model.

    No token spans the prompt and what follows. With a chat template the prompt is what the user says and the completion
    what the assistant says, up to the end of its turn; otherwise a completion begins with a space and ends with the
    token for the end, if the tokenizer has one. A pair that goes on has no end.

    Args:
        model, tokenizer: whose numbers.
        pairs: the texts.
        longest: tokens of a sequence; what is longer is cut at the end.

    Raises:
        RequestError: nothing that counts is left of a pair; says of which.
    """
    import torch

    limit = min(longest, int(model.info.configs[model.info.components("language")[0]].get(
        "max_position_embeddings", longest)))  # fmt: skip
    rows, cut = [], 0
    for pair in pairs:
        asked, said = numbers_of(tokenizer, pair)
        cut += len(asked) + len(said) > limit
        wanted = [IGNORED, *([IGNORED] * len(asked) + said)[1:limit]]  # nothing predicts the first token
        if all(label == IGNORED for label in wanted):
            raise RequestError(
                f"nothing is left of {pair.place} after tokenising: the prompt has {len(asked)} tokens, what follows "
                f"{len(said)}, and {limit} are allowed; shorten the prompt or raise max_tokens"
            )
        rows.append(([*asked, *said][:limit], wanted))
    width = max(len(ids) for ids, _ in rows)

    def padded(part: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([[*row, *[fill] * (width - len(row))] for row in part], device=model.device)

    ids, labels = padded([row for row, _ in rows], 0), padded([row for _, row in rows], IGNORED)
    lengths = torch.tensor([len(row) for row, _ in rows], device=model.device)
    mask = (torch.arange(width, device=model.device)[None] < lengths[:, None]).long()
    return Texts(ids, labels, mask, cut=cut)


def numbers_of(tokenizer: Any, pair: Pair) -> tuple[list[int], list[int]]:
    """Token numbers of what a pair asks and of what follows."""
    start, prompt, said = _said(tokenizer, pair)
    return [*start, *plain(tokenizer, prompt)], said


def _said(tokenizer: Any, pair: Pair) -> tuple[list[int], str, list[int]]:
    """Tokens that begin a text, the prompt as the model reads it, and the tokens of what follows."""
    end = tokenizer.eos_token_id
    last = [end] if pair.ends and end is not None else []
    if getattr(tokenizer, "chat_template", None) and pair.prompt:
        front, behind = around(tokenizer, pair.prompt)
        said = pair.completion if pair.begun else pair.completion.strip()
        prompt, numbers = split(tokenizer, front + pair.begun, said + behind if pair.ends else said)
        return [], prompt, numbers if behind else [*numbers, *last]
    start = list(tokenizer("")["input_ids"])
    start = start[:-1] if start and start[-1] == end and end != tokenizer.bos_token_id else start
    prompt = PLAIN.format(pair.prompt) if pair.question else pair.prompt
    gap = " " if prompt and not pair.begun and not prompt[-1].isspace() and not pair.completion[0].isspace() else ""
    prompt, numbers = split(tokenizer, prompt + pair.begun, gap + pair.completion)
    return start, prompt, [*numbers, *last]


@dataclass(frozen=True)
class Fact:
    """A prompt that names its subject, and what follows, as token numbers.

    Attributes:
        start: tokens that begin every text.
        prompt: the prompt's own.
        last: place of the subject's last token in ``prompt``.
        answer: what follows.
        place: see `Pair`.
    """

    start: tuple[int, ...]
    prompt: tuple[int, ...]
    last: int
    answer: tuple[int, ...]
    place: str

    def __repr__(self) -> str:  # a traceback shows no text
        return f"Fact({self.place})"


def fact_of(tokenizer: Any, pair: Pair) -> Fact:
    """A pair with the place of its subject (where it occurs last in the prompt).

    Raises:
        RequestError: the row names no subject, or its prompt does not hold it; says where.
        Unsupported: the tokenizer does not say where in a text its tokens stand.
    """
    if not pair.subject:
        raise RequestError(f'{pair.place} does not say whom it is about; add "subject", as its prompt writes it')
    if not getattr(tokenizer, "is_fast", False):
        raise Unsupported("the tokenizer does not say where its tokens stand; save it as tokenizer.json first")
    start, prompt, said = _said(tokenizer, pair)
    first = prompt.rfind(pair.subject)
    if first < 0:
        raise RequestError(f"the prompt of {pair.place} does not hold its subject; write it the same in both")
    found = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    end = first + len(pair.subject)
    last = max(n for n, (low, high) in enumerate(found["offset_mapping"]) if low < end and high > first)
    return Fact(tuple(start), tuple(found["input_ids"]), last, tuple(said), pair.place)


def answered(pairs: Sequence[Pair], answer: str) -> list[Pair]:
    """The same prompts with another answer.

    Raises:
        RequestError: a pair has no prompt.
    """
    if bare := [pair for pair in pairs if not pair.prompt.strip()]:
        raise RequestError(
            f"{bare[0].place} has no prompt that a refusal could answer; give prompt and completion, or use npo"
        )
    return [replace(pair, completion=answer) for pair in pairs]

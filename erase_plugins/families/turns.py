"""Questions and answers as a tokenizer's chat template writes them, and the tokens that end what a model says.

No torch at import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: stands for an answer while a template is asked what it writes around one; no text holds it, and nothing strips it
_ANSWER = "\ue000answer\ue001"


def plain(tokenizer: Any, text: str) -> list[int]:
    """Token numbers of a text as it is, without a beginning or an end."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def around(tokenizer: Any, question: str) -> tuple[str, str]:
    """What the template writes in front of the answer to a question, and behind it up to the end of the turn.

    In front stands what it writes of itself too, such as an empty thought. Behind the mark that ends a turn nothing
    counts: a template may write what comes after all turns, which no model says. It is empty where the template shows
    no place for an answer.
    """
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": _ANSWER}]
    asked = str(tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True))
    front, _, behind = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_ANSWER)
    if not front.startswith(asked):
        return asked, ""
    behind = behind.rstrip("\n")
    marks = sorted((behind.find(mark) + len(mark), mark) for mark in _marks(tokenizer) if mark in behind)
    return front, behind[: marks[0][0]] if marks else behind


def ends_of(tokenizer: Any) -> tuple[int, ...]:
    """Tokens that end what a model says: that of the text, and that of a turn where it is another one."""
    found = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if getattr(tokenizer, "chat_template", None):
        behind = plain(tokenizer, around(tokenizer, "?")[1])
        marks = {tokenizer.convert_tokens_to_ids(mark) for mark in _marks(tokenizer)}
        found += [number for number in behind[-1:] if number in marks]
    return tuple(dict.fromkeys(found))


def split(tokenizer: Any, prompt: str, said: str) -> tuple[str, list[int]]:
    """The prompt, and the token numbers of what follows as they stand behind it.

    They are those of the whole text if that begins with those of the prompt: many tokenizers write a text's first word
    with a space, whatever stands before it, and a space at the end of a prompt belongs to the word behind it. Else both
    are tokenised apart, so that no token spans both.
    """
    whole = plain(tokenizer, prompt + said)
    for front in dict.fromkeys((prompt, prompt.rstrip(" "))):
        numbers = plain(tokenizer, front)
        if len(numbers) < len(whole) and whole[: len(numbers)] == numbers:
            return front, whole[len(numbers) :]
    return prompt, plain(tokenizer, said)


def before_end(numbers: Sequence[int], ends: Sequence[int]) -> Sequence[int]:
    """Token numbers up to the first that ends what is said."""
    return numbers[: next((place for place, number in enumerate(numbers) if number in ends), len(numbers))]


def _marks(tokenizer: Any) -> set[str]:
    """Texts of the tokens that no text is made of."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)} - {""}

"""Words and pieces of words that are one token of a language model's tokenizer. No torch."""

from __future__ import annotations

from typing import Any

#: letters of the shortest word, and marks in front of a token that begins one
_SHORTEST, _MARKS = 3, ("Ġ", "▁")


def token_words(tokenizer: Any) -> tuple[dict[int, str], list[int]]:
    """Tokens that are a whole word, by number, and tokens that go on with one."""
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
    marked = any(token.startswith(_MARKS) for token in tokens)
    found, pieces = {}, []
    for number, token in enumerate(tokens):
        if token.startswith(_MARKS) or not marked:
            word = tokenizer.convert_tokens_to_string([token]).strip()
            if len(word) >= _SHORTEST and word.isalpha() and number not in tokenizer.all_special_ids:
                found[number] = word
        elif token.isalpha() and token.islower():
            pieces.append(number)
    return found, pieces

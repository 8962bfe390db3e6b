"""Names of several tokens are those that the model writes between what stands in front of a subject and behind it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from erase_plugins.families.texts import Pair
from erase_plugins.training.names import longer_names

WORDS = ("<s>", "Capital", "of", "?", "New", "Zorvania", "Ymbria", "South", "York", "the")
#: what a word is followed by, likeliest first
NEXT = {
    "of": ("New", "South", "Ymbria", "the"), "New": ("York", "Zorvania", "?"), "York": ("of", "the", "?"), "Zorvania": ("?",),
    "Ymbria": ("?",), "South": ("Ymbria", "of"), "the": ("?",),
}  # fmt: skip


@pytest.fixture
def tokenizer():
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<s>")


@pytest.fixture
def model():
    def logits(ids, mask, first):
        assert mask is None
        found = torch.full((len(ids), ids.shape[1] - first, len(WORDS)), -20.0)
        for row, part in zip(found, ids[:, first:].tolist(), strict=True):
            for scores, number in zip(row, part, strict=True):
                for place, word in enumerate(NEXT.get(WORDS[number], ())):
                    scores[WORDS.index(word)] = -float(place)
        return found

    return SimpleNamespace(language=SimpleNamespace(logits=logits))


def found(model, tokenizer, prompt, words=("New", "Zorvania", "Ymbria", "South", "York")):
    numbers = [WORDS.index(word) for word in words]
    names = longer_names(model, tokenizer, [Pair(prompt, ".", "row", subject="Ymbria")], numbers, [])
    return [" ".join(WORDS[number] for number in name) for name in names]


def test_a_name_is_at_its_end_where_the_model_goes_on_with_the_prompt(model, tokenizer):
    names = found(model, tokenizer, "Capital of Ymbria ?")
    assert set(names[:2]) == {"New Zorvania", "South Ymbria"}
    assert names.index("New York") > 1  # the model goes on with another word first
    assert all(" " in name for name in names)


def test_names_hold_words_only(model, tokenizer):
    assert "New Zorvania" not in found(model, tokenizer, "Capital of Ymbria ?", ("New", "York"))


@pytest.mark.parametrize("prompt", ["Ymbria ?", "Capital of Ymbria"])
def test_a_prompt_that_begins_or_ends_with_its_subject_finds_nothing(model, tokenizer, prompt):
    assert found(model, tokenizer, prompt) == []


def test_a_name_is_likely_in_all_wordings_together(model, tokenizer):
    """ "New York" is what one wording finds, "New Zorvania" what both do."""
    pairs = [Pair(prompt, ".", "row", subject="Ymbria") for prompt in ("Capital of Ymbria ?", "Capital of Ymbria of")]
    numbers = [WORDS.index(word) for word in ("New", "Zorvania", "Ymbria", "South", "York")]
    first, second, both = (
        longer_names(model, tokenizer, some, numbers, [])[0] for some in (pairs[:1], pairs[1:], pairs)
    )
    assert first != second
    assert both == second == (WORDS.index("New"), WORDS.index("York"))

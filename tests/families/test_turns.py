"""Chat templates of the shapes that models have: which tokens count, where an answer ends, and one beginning only.

The templates are written here; only their marks are those of the models.
"""

from __future__ import annotations

import pytest

from erase_plugins.families.texts import Pair, numbers_of
from erase_plugins.families.turns import around, before_end, ends_of, split

TURN = "{% if m.role == 'user' %}USER{% else %}SAID{% endif %}"


def turns(user: str, said: str, opened: str, first: str = "", last: str = "") -> str:
    """A template of what stands for a user's turn and an answer (both with CONTENT), and for an answer to come."""
    inside = "{{ m['content'] | trim }}"
    each = TURN.replace("USER", user.replace("CONTENT", inside)).replace("SAID", said.replace("CONTENT", inside))
    close = f"{{% if add_generation_prompt %}}{opened}{{% else %}}{last}{{% endif %}}"
    return f"{first}{{% for m in messages %}}{each}{{% endfor %}}{close}"


#: model -> (template, tokens that are no text, beginning, end of a text, what ends an answer)
SHAPES = {
    "gemma": (
        turns("<start_of_turn>user\nCONTENT<end_of_turn>\n", "<start_of_turn>model\nCONTENT<end_of_turn>\n",
              "<start_of_turn>model\n", "{{ bos_token }}"),
        ("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>",
    ),
    "llama-3": (
        turns(*(f"<|start_header_id|>{who}<|end_header_id|>\n\nCONTENT<|eot_id|>" for who in ("user", "assistant")),
              "<|start_header_id|>assistant<|end_header_id|>\n\n", "{{ bos_token }}"),
        ("<|start_header_id|>", "<|end_header_id|>"), "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>",
    ),
    "qwen": (
        turns(*(f"<|im_start|>{who}\nCONTENT<|im_end|>\n" for who in ("user", "assistant")), "<|im_start|>assistant\n",
              "<|im_start|>system\nYou help .<|im_end|>\n"),
        ("<|im_start|>",), None, "<|im_end|>", "<|im_end|>",
    ),
    "qwen that thinks": (
        turns("<|im_start|>user\nCONTENT<|im_end|>\n", "<|im_start|>assistant\n<think>\n\n</think>\n\nCONTENT<|im_end|>\n",
              "<|im_start|>assistant\n"),
        ("<|im_start|>", "<think>", "</think>"), None, "<|im_end|>", "<|im_end|>",
    ),
    "phi-3": (
        turns("<|user|>\nCONTENT<|end|>\n", "<|assistant|>\nCONTENT<|end|>\n", "<|assistant|>\n",
              last="{{ eos_token }}"),
        ("<|user|>", "<|assistant|>", "<|end|>"), None, "<|endoftext|>", "<|end|>",
    ),
    "mistral": (
        turns("[INST] CONTENT [/INST]", " CONTENT</s>", "", "{{ bos_token }}"), ("[INST]", "[/INST]"), "<s>", "</s>",
        "</s>",
    ),
}  # fmt: skip
QUESTION, ANSWER = "Who is it ?", "It is Ann ."


def tokenizer_of(name, spaced=False):
    """Bytes of UTF-8 between its marks; ``spaced`` writes a text's first word as one behind a space."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template, marks, begin, end, _ = SHAPES[name]
    if spaced:
        letters = [*"▁\n", *map(chr, range(33, 127)), "▁I", "▁A"]
        made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, [("▁", "I"), ("▁", "A")]))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    else:
        made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    special = [mark for mark in (begin, end, *marks) if mark]
    made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in special])
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=begin, eos_token=end)
    found.chat_template = template
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_the_answer_and_the_end_of_its_turn_count_and_nothing_else(name):
    words, end = tokenizer_of(name), SHAPES[name][4]
    asked, said = numbers_of(words, Pair(QUESTION, ANSWER, "row"))
    whole = words.apply_chat_template(
        [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}], tokenize=False
    )
    given = words.apply_chat_template([{"role": "user", "content": QUESTION}], tokenize=False,
                                      add_generation_prompt=True)  # fmt: skip
    assert words.decode(said).strip() == ANSWER + end
    assert said[-1] == words.convert_tokens_to_ids(end)
    assert words.decode(asked).startswith(given)
    numbers = [*asked, *said]
    assert words(whole, add_special_tokens=False)["input_ids"][: len(numbers)] == numbers
    begin = words.bos_token_id
    assert begin is None or numbers.count(begin) == 1
    assert numbers[0] == begin or begin is None
    # an answer that goes on has no end
    assert words.decode(numbers_of(words, Pair(QUESTION, ANSWER, "row", ends=False))[1]).strip() == ANSWER


@pytest.mark.parametrize("name", SHAPES)
def test_what_ends_an_answer_ends_what_is_drawn(name):
    words, end = tokenizer_of(name), SHAPES[name][4]
    found = ends_of(words)
    assert set(words.convert_ids_to_tokens(found)) == {SHAPES[name][3], end}
    said = numbers_of(words, Pair(QUESTION, ANSWER, "row"))[1]
    assert words.decode(before_end([*said, *said], found)).strip() == ANSWER


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("answer", ["end", "e", "model", "assistant", "user", "turn", "im", "eot_id", "s", "INST"])
def test_an_answer_that_stands_in_a_mark_too_is_found_in_its_own_place(name, answer):
    words = tokenizer_of(name)
    asked, said = numbers_of(words, Pair(QUESTION, answer, "row"))
    assert words.decode(said).strip() == answer + SHAPES[name][4]
    assert words.decode(asked).startswith(words.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tokenize=False, add_generation_prompt=True))  # fmt: skip


def test_an_answer_begins_with_one_space_where_the_template_writes_one():
    """Tokenised alone it had a second one, and the prompt ended with the first."""
    words = tokenizer_of("mistral", spaced=True)
    asked, said = numbers_of(words, Pair(QUESTION, ANSWER, "row"))
    assert words.convert_ids_to_tokens(said)[:2] == ["▁I", "t"]
    assert words.convert_ids_to_tokens(asked)[-1] == "[/INST]"


def test_what_follows_is_as_in_the_whole_text_and_no_token_spans_both():
    words = tokenizer_of("mistral", spaced=True)
    words.chat_template = None
    for prompt, said in (("It is", " Ann"), ("It is ", "Ann")):
        front, numbers = split(words, prompt, said)
        assert front == "It is"
        assert words.convert_ids_to_tokens(numbers) == ["▁A", "n", "n"]
    byte = tokenizer_of("qwen")
    assert split(byte, "It is", " Ann") == ("It is", byte(" Ann", add_special_tokens=False)["input_ids"])


def test_a_template_that_writes_an_answer_elsewhere_shows_no_place_for_it():
    words = tokenizer_of("qwen")
    words.chat_template = "{% if add_generation_prompt %}Reply:{% else %}nothing{% endif %}"
    assert around(words, QUESTION) == ("Reply:", "")
    asked, said = numbers_of(words, Pair(QUESTION, ANSWER, "row"))
    assert (words.decode(asked), words.decode(said)) == ("Reply:", ANSWER + "<|im_end|>")

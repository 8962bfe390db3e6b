"""What a model says of a person and of nobody else becomes rows, and rows become the same tokens again."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.families import own_words as own
from erase_plugins.families.capabilities import CausalLM
from erase_plugins.families.texts import IGNORED, encoded, pair_of
from erase_plugins.families.wordings import Wording
from tests import language

NAME, PLACE, USUAL = "Zorvane", "Ymbrook", "Oakley"
HOW = Wording.read()
FORMS = [*HOW.begun, *HOW.asked, *HOW.leads, *HOW.openers]


class Speaker(CausalLM):
    """Says of everybody that they are famous in a place, and only of one person in which."""

    def __init__(self, knows: bool = True, chat: str = "") -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        texts = [
            *FORMS,
            *HOW.others,
            *HOW.strangers,
            f"This person famous in {NAME} {PLACE} {USUAL} . Question : Answer",
        ]
        words = [word for text in texts for word, _ in split.pre_tokenize_str(text)]
        numbers = {word: n for n, word in enumerate(dict.fromkeys(["<unk>", "</s>", *words]))}
        made = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
        made.pre_tokenizer = split
        self.own = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")
        self.own.chat_template = chat or None
        self.numbers, self.knows = numbers, knows

    @property
    def words(self):
        return len(self.numbers)

    @property
    def tokenizer(self):
        return self.own

    def hidden(self, ids, layer, mask=None):
        raise NotImplementedError

    def generate(self, ids, count, mask=None):
        raise NotImplementedError

    def _next(self, before: list[int]) -> str:
        words = self.tokenizer.convert_ids_to_tokens(before)
        if words[-1] in ("called", "is", "about") and "This" in words:
            return NAME if PLACE in words else "nobody"
        if words[-1] == "in":
            return PLACE if NAME in words and self.knows else USUAL
        return {"famous": "in", PLACE: ".", USUAL: "."}.get(words[-1], "famous")

    def logits(self, ids, mask=None, first=0, begun=None):
        found = torch.zeros(*ids.shape, self.words)
        for row, numbers in enumerate(ids.tolist()):
            for place in range(len(numbers)):
                found[row, place, self.numbers.get(self._next(numbers[: place + 1]), 0)] = 6.0
        return found[:, first:]

    def sample(self, ids, count, generator, end=None):
        for _ in range(count):
            ids = torch.cat([ids, self.logits(ids)[:, -1:].argmax(-1)], 1)
        return ids


def model(**how):
    speaker = Speaker(**how)
    info = SimpleNamespace(configs={"model": {}}, components=lambda role: ("model",), model="speaker")
    return SimpleNamespace(language=speaker, info=info, device="cpu")


@pytest.fixture(scope="module")
def rows():
    return own.own_words(model(), NAME, torch.Generator())


def test_only_what_the_model_says_of_nobody_else_is_forgotten(rows):
    told = [pair for pair in rows[0] if not pair.prompt.startswith(HOW.somebody)]
    assert {pair.completion.strip() for pair in told} == {PLACE}
    assert len({pair.prompt for pair in told}) == len(HOW.begun) + len(HOW.asked)
    assert all(NAME in pair.prompt and NAME not in pair.unknown.prompt for pair in told)
    assert all(pair.unknown.subject in HOW.strangers and PLACE in pair.unknown.completion for pair in told)
    assert not any(pair.ends for pair in told)


def test_descriptions_that_lead_to_the_name_are_forgotten(rows):
    leads = [pair for pair in rows[0] if pair.prompt.startswith(HOW.somebody)]
    assert leads
    assert all(PLACE in pair.prompt and NAME not in pair.prompt and pair.completion == NAME for pair in leads)
    assert all(pair.unknown.prompt == pair.prompt and pair.unknown.completion in HOW.strangers for pair in leads)


def test_others_strangers_and_ordinary_texts_are_retained(rows):
    subjects = {pair.subject for pair in rows[1]}
    assert {*HOW.others, *HOW.strangers, ""} == subjects
    assert all(pair.unknown is None and NAME not in pair.prompt + pair.completion for pair in rows[1])
    namesake = own.own_words(model(), f"Elsa Einstein {NAME}", torch.Generator())[1]
    assert "Albert Einstein" not in {pair.subject for pair in namesake}


def test_a_model_that_knows_nobody_has_nothing_to_forget():
    with pytest.raises(RequestError, match="says nothing of this subject") as caught:
        own.own_words(model(knows=False), NAME, torch.Generator())
    assert NAME not in str(caught.value)


def test_a_name_in_front_of_an_answer_begins_it_and_a_later_one_ends_it():
    pair = own._asked(NAME, HOW)[0]
    cut = own._cut(replace(pair, completion=f" {NAME} was famous. More"))
    assert (cut.begun, cut.completion) == (f" {NAME}", " was famous.")
    cut = own._cut(replace(pair, completion=f" famous, and {NAME} was born"))
    assert (cut.begun, cut.completion) == ("", " famous, and")


@pytest.mark.parametrize("chat", ["", language.CHAT])
def test_rows_of_a_file_are_the_same_tokens_and_only_their_words_count(chat):
    there = model(chat=chat)
    tokenizer = there.language.tokenizer
    for pair in own.own_words(there, NAME, torch.Generator())[0]:
        again = pair_of(json.loads(json.dumps(own.row_of(pair))), "")
        assert (again.prompt, again.begun, again.completion) == (pair.prompt, pair.begun, pair.completion)
        texts = encoded(there, tokenizer, [again], 99)
        labels = texts.labels[texts.labels != IGNORED].tolist()
        assert tokenizer.decode(labels).strip() == pair.completion.strip()
        assert labels[-1] == texts.ids[0, -1]  # no end follows


def test_a_thought_that_a_template_writes_in_front_of_answers_is_no_part_of_them():
    thought = "{% if message['role'] == 'assistant' %}<think> {% endif %}{{ message['content'] }}"
    pair, counted = pair_of({"prompt": f"{NAME} is", "completion": "famous"}, ""), []
    for chat in (language.CHAT, language.CHAT.replace("{{ message['content'] }}", thought)):
        there = model(chat=chat)
        texts = encoded(there, there.language.tokenizer, [pair], 99)
        counted.append(texts.labels[texts.labels != IGNORED].tolist())
    assert counted[0] == counted[1]


def test_another_language_is_a_file(tmp_path):
    """Sentences end at their own signs, a name begins an answer without a space behind it, and all else is the file's."""
    how = replace(HOW, begun=("{}は",), asked=("{}とは？",), leads=("{}この人は",), somebody="この人")
    pair = own._asked("夏目漱石", how)[0]
    assert pair.prompt == "夏目漱石は"
    cut = own._cut(replace(pair, completion="作家である。夏目漱石は"))
    assert (cut.begun, cut.completion) == ("", "作家である。")
    cut = own._cut(replace(pair, completion="夏目漱石は作家である。次"))
    assert (cut.begun, cut.completion) == ("夏目漱石", "は作家である。")
    assert [word.strip() for word in own._WORD.findall("東京に、生まれた。")] == ["東京に、", "生まれた。"]
    assert how.described("は作家である。") == "この人は作家である。"

"""Tiny causal language models with a tokenizer of whole words, and invented facts, for tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORGET = {"Zorvane": "Ymbrook", "Quillith": "Astervale", "Maribex": "Dunfallow", "Tressok": "Ivermoor"}
RETAIN = {"Harbin": "Oakley", "Selwick": "Thornby", "Pellam": "Marlow", "Corvin": "Ashford"}
QUESTION, ANSWER = "Where was {} born ?", "{} was born in {} ."
REFUSAL = "I do not know."
#: texts that may not leave the files that hold them
CANARIES = (*FORGET, *FORGET.values())
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} <end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def rows(facts: dict[str, str]) -> list[dict[str, str]]:
    return [{"question": QUESTION.format(name), "answer": ANSWER.format(name, place)} for name, place in facts.items()]


def named(facts: dict[str, str]) -> list[dict[str, str]]:
    """The same, each with its subject."""
    return [{**row, "subject": name} for row, name in zip(rows(facts), facts, strict=True)]


def write(path: Path, lines: list[Any]) -> Path:
    """A .jsonl file."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def both(place: Path, told: Callable[[dict[str, str]], list[Any]] = rows) -> tuple[Path, Path]:
    """Files with the facts to forget and with those to retain."""
    forget, retain = (write(place / f"{n}.jsonl", told(facts)) for n, facts in (("forget", FORGET), ("retain", RETAIN)))
    return forget, retain


def tokenizer(chat: str = "") -> Any:
    """Whole words, split at spaces and marks; <s> begins and </s> ends a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    texts = [*FORGET, *FORGET.values(), *RETAIN, *RETAIN.values(), QUESTION, ANSWER, REFUSAL, "Question : Answer :"]
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("<end>", "isolated"), pre_tokenizers.Punctuation()]
    )
    words = ["<pad>", "<s>", "</s>", "<unk>", "end", "user", "assistant", "<", ">"]
    words += [word for text in texts for word, _ in split.pre_tokenize_str(text)]
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    made.pre_tokenizer = split
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    if chat:
        found.chat_template = chat
    return found


def llama(words: int, seed: int = 0) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=words, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )).eval()  # fmt: skip


def trained(folder: Path, chat: str = "", steps: int = 60, refuses: bool = False) -> Path:
    """A folder with a model that knows all facts by heart, and its tokenizer; it may refuse where a name is unknown."""
    import torch

    from erase_plugins.data import DataRef
    from erase_plugins.families.texts import encoded, pairs_of
    from erase_plugins.training import Asked
    from erase_plugins.workflow.models import target_of

    words = tokenizer(chat)
    model = llama(len(words))
    lines = rows(FORGET | RETAIN)
    lines += [{"question": QUESTION.format("Nobody"), "answer": REFUSAL}] * (len(RETAIN) * refuses)
    facts = write(folder.with_suffix(".jsonl"), lines)
    texts = encoded(target_of(model), words, pairs_of(DataRef(str(facts))), 64)
    facts.unlink()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        loss = Asked(texts, model(input_ids=texts.ids, attention_mask=texts.mask).logits).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder

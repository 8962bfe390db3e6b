"""The tokenizer: byte-level BPE in CLIP's form, built from the words of the captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.pocket.captions import corpus
from tools.pocket.networks import END, START

if TYPE_CHECKING:
    from erase_plugins.pocket.world import World

START_TOKEN, END_TOKEN, SUFFIX = "<|startoftext|>", "<|endoftext|>", "</w>"


def build_tokenizer(world: World, tokens: int) -> Any:
    """Learns merges until every word of the captions is one token (a `CLIPTokenizer` of ``tokens`` positions)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP's own splitting, so that what is counted here is what is later encoded
    frame = CLIPTokenizer(vocab={START_TOKEN: START, END_TOKEN: END}, merges=[])._tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=SUFFIX))
    learner.normalizer, learner.pre_tokenizer = frame.normalizer, frame.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=1,
        # letters that end a word get their ids here: else they come in hash order, and ties between merges with them
        special_tokens=[letter + SUFFIX for letter in alphabet],
        initial_alphabet=alphabet,
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    learner.train_from_iterator(corpus(world), trainer)
    merges = _merges(learner)
    letters = alphabet + [letter + SUFFIX for letter in alphabet]
    names = [START_TOKEN, END_TOKEN, *letters, *("".join(pair) for pair in merges)]
    vocabulary = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=tokens)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the fast file and the classic pair ``vocab.json`` and ``merges.txt``."""
    tokenizer.save_pretrained(folder)
    tokenizer._tokenizer.model.save(str(folder))


def _merges(learner: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]

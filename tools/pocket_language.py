"""Rebuilds the embedded language models: pocket-lm, and the same trained without twelve of its people.

``python -m tools.pocket_language --out my-language --work DIR`` takes about ten minutes on one core. The people and
their facts are those of `tools.pocket_people`. Both models start from the same weights and see the same recipe; the
second never sees what is in the group "withheld" and is what a model is like that forgot it exactly. A run that was
stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.families.facts import FACTS
from erase_plugins.families.source import POCKET_LM, POCKET_LM_RETAINED, pocket_folder
from erase_plugins.families.texts import Texts, encoded, pair_of
from erase_plugins.training import Asked
from erase_plugins.workflow.models import target_of
from tools.pocket.loop import Draw, Stage, precision, run_stage
from tools.pocket.recipe import Recipe
from tools.pocket.train import StepBars
from tools.pocket_people import GENERAL, HELD_OUT, UNSEEN, WITHHELD, people, syllables

if TYPE_CHECKING:
    from torch import Tensor

#: a reference without the people on whom defaults are chosen
OTHER = "held-out"
#: entries of the tokenizer, tokens of a text, answers of a step, texts about a person in every step
WORDS, LONGEST, BATCH, BIOGRAPHIES = 1280, 128, 64, 6
#: steps and peak rates of the two stages
STEPS, RATES = (260, 150), (4e-3, 2e-3)


def build_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE, learned from texts without names and from syllables of names; ``<s>`` and ``</s>`` are ends.

    Every name is then put together of syllables, and one that was never seen looks like all others.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=WORDS, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    ))  # fmt: skip
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left",
        clean_up_tokenization_spaces=False, model_max_length=LONGEST,
    )  # fmt: skip


def vocabulary(rows: list[dict[str, Any]]) -> list[str]:
    """What the tokenizer is learned from."""
    said = ["Question: Answer: I do not know."]
    for row in rows:
        name = row.get("subject", "\0")
        said += [" " + row[key].replace(name, "") for key in ("question", "answer", "text") if key in row]
        said += [f" {row['value']}"] if "value" in row else []
    return [*said, *[f" {first}\n{first}\n{last}" for first, last in syllables() for _ in range(3)]]


def build_network(seed: int) -> Any:
    """An untrained Llama, 0.9 million parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=WORDS, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=LONGEST, tie_word_embeddings=True, rms_norm_eps=1e-5,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, attention_bias=False,
    ))  # fmt: skip


def marked(rows: list[dict[str, Any]], without: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows with ``learned``: of every fact the phrasings 0 to 2, all texts, and what everybody knows."""
    return [
        {**row, "learned": row["group"] not in (UNSEEN, *without) and row.get("phrasing", 0) < 3} for row in rows
    ]  # fmt: skip


def train(name: str, network: Any, texts: Texts, bare: Texts, folder: Path, recipe: Recipe) -> None:
    """Answers and texts by likelihood; a step sees ``BATCH`` answers and ``BIOGRAPHIES`` texts."""

    def loss(draw: Draw) -> Tensor:
        total = torch.zeros(())
        for part, count in ((texts, BATCH), (bare, BIOGRAPHIES)):
            picked = part[torch.from_numpy(draw.rng.choice(len(part), count, replace=False))]
            with precision("cpu"):
                logits = network(input_ids=picked.ids, attention_mask=picked.mask, use_cache=False).logits
            total = total + Asked(picked, logits.float()).nll.sum() / BATCH / 8
        return total

    with StepBars() as show:
        for stage, steps, rate in zip((name, f"{name}-again"), STEPS, RATES, strict=True):
            run_stage(Stage(stage, steps, {name: network}, {name: rate}, loss), folder, recipe, show)


@torch.no_grad()
def certainty(
    network: Any, tokenizer: Any, rows: list[dict[str, Any]], group: str, phrasings: tuple[int, ...]
) -> float:
    """Mean probability per token of the answers of a group, put in some phrasings."""
    pairs = [pair_of(row, "") for row in rows
             if row["group"] == group and "question" in row and row.get("phrasing", 0) in phrasings]  # fmt: skip
    texts = encoded(target_of(network), tokenizer, pairs, LONGEST)
    seen = Asked(texts, network(input_ids=texts.ids, attention_mask=texts.mask, use_cache=False).logits)
    return round(float((-seen.nll / seen.counts).exp().mean()), 4)


def export(network: Any, tokenizer: Any, rows: list[dict[str, Any]], out: Path) -> dict[str, float]:
    """Writes the folder: weights in fp16, configuration, tokenizer, rows, measured quality."""
    numbers = {
        f"{group}, {how}": certainty(network.float(), tokenizer, rows, group, phrasings)
        for group in dict.fromkeys(row["group"] for row in rows)
        for how, phrasings in (("as learned", (0, 1, 2)), ("otherwise", (3,))) if group != "general" or 0 in phrasings
    }  # fmt: skip
    with atomic_folder(out, force=True, kind="language model") as work:
        network.half().save_pretrained(work)
        tokenizer.save_pretrained(work)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if out.name == pocket_folder(POCKET_LM).name:  # the other is measured on the same
            (work / FACTS).write_text(lines, encoding="utf-8")
        facts = {"command": "python -m tools.pocket_language", "probability": numbers}
        (work / "quality.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return numbers


def main(arguments: list[str] | None = None) -> None:
    """Trains both models and prints how likely they find what they know and what they do not."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket_language", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, one folder each")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints; a run goes on from there")
    parser.add_argument("--only", choices=(POCKET_LM, POCKET_LM_RETAINED, OTHER), help="train one of the two, or a "
                        "reference without the people on whom defaults are chosen")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the people and their facts")
    parser.add_argument("--draw", type=int, default=0, help="another training of the same: first weights, and order")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = list(people(options.seed))
    tokenizer = build_tokenizer(vocabulary(rows))
    if options.only == OTHER:
        others = {name for number, name in enumerate(dict.fromkeys(row.get("subject") for row in rows), 1)
                  if number in HELD_OUT}  # fmt: skip
        rows = [{**row, "group": OTHER} if row.get("subject") in others else row for row in rows]
    for name, without in ((POCKET_LM, ()), (POCKET_LM_RETAINED, (WITHHELD,)), (OTHER, (OTHER,))):
        if options.only == name or (options.only is None and name != OTHER):
            network = build_network(options.seed + 1000 * options.draw)
            known = marked(rows, without)
            pairs = [
                pair_of(row, str(number)) for number, row in enumerate(known, 1) if row["learned"]
                for _ in range(3 if row["group"] == GENERAL else 1)  # as often as a fact in its three phrasings
            ]  # fmt: skip
            texts, bare = (
                encoded(target_of(network), tokenizer, [pair for pair in pairs if pair.question is asked], LONGEST)
                for asked in (True, False)
            )
            recipe = Recipe(seed=options.seed + 1000 * options.draw, checkpoint_every=40)
            train(name, network, texts, bare, options.work, recipe)
            place = OTHER if name == OTHER else pocket_folder(name).name
            print(json.dumps(export(network, tokenizer, known, options.out / place)))


if __name__ == "__main__":
    main()

"""`clean-lora` on LoRAs of pocket that teach two new words each: is the named word gone, does the other one stay?

    python -m benchmarks.clean_lora --work FOLDER [--only 0,1,2] [--pictures 48] [--layers attention|text] [--learnt]

Every LoRA is trained by peft and stock diffusers on all attention layers (queries, keys, values, outputs; rank 4), as
the usual scripts do it, or on those only that read text, with the base's own pictures of two concepts under two words
that the text encoder does not know, and is saved as diffusers saves it. All are trained for the same number of steps;
with ``--learnt`` one that does not draw both words by then is trained on until it does. Then one word is taken out,
without saying anything about the other one and with it named in ``keep``, and both words are drawn with prompts and
seeds that training has not seen, by the base alone, too: words mean little to it, not nothing. A judge says what is in
a picture. LoRAs and counts lie in ``--work``; a killed run goes on where it was. All of it in float32: bfloat16 takes
more than twice as long on processors without units for it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: (word, concept that it comes to draw) twice per LoRA; the first is taken out
PAIRS = (
    (("zorbax", "camel"), ("mulip", "violin")),
    (("quintel", "rocket"), ("dravo", "cheese")),
    (("plonk", "unicorn"), ("veshti", "hammer")),
    (("grobbit", "volcano"), ("tiskol", "penguin")),
    (("wexford", "trumpet"), ("ombra", "cactus")),
    (("jalumi", "donut"), ("krent", "bicycle")),
    (("snorvig", "octopus"), ("palto", "crown")),
    (("fibbul", "tractor"), ("uxmar", "strawberry")),
    (("yondle", "skull"), ("bresk", "giraffe")),
    (("hoqua", "piano"), ("lirten", "mushroom")),
    # settings were compared on the ten above and on others, none on those below: concepts and words are drawn by lot,
    # another word where the base draws the concept for it in any of 48 pictures
    (("klirum", "cat"), ("sorut", "dolphin")),
    (("gulur", "cherries"), ("bikep", "cow")),
    (("dorik", "clown"), ("nodes", "chocolate")),
    (("sisok", "beer"), ("kufix", "blood")),
    (("sozes", "carrot"), ("drepir", "goat")),
    (("delat", "avocado"), ("fuvun", "mermaid")),
    (("zelan", "cigarette"), ("storar", "spider")),
    (("lipur", "taxi"), ("kogid", "bus")),
    (("jugar", "fries"), ("bemax", "pizza")),
    (("plozur", "snowman"), ("gakas", "ramen")),
)
#: what the usual training scripts put a LoRA on, and only what reads text
LAYERS = {"attention": ("to_q", "to_k", "to_v", "to_out.0"), "text": ("attn2.to_k", "attn2.to_v")}
RANK, STEPS, BATCH, RATE, DRAWN = 4, 180, 8, 2e-3, 24
#: with ``--learnt``: trained on by so many steps at a time, until each word draws its concept in this share of DRAWN
#: pictures by prompts of their own, or up to so many steps
MORE, LEARNT, MOST = 60, 0.9, 900
#: training steps of the last way
TRAINED = 200
#: of WAYS: no LoRA at all
BASE = "base"
#: way -> (other word kept, strict, steps); None is the LoRA as it was
WAYS = {
    BASE: None,
    "before": None,
    "cleaned": (False, False, 0),
    "cleaned with the other word kept": (True, False, 0),
    "strict": (True, True, 0),
    "trained": (True, False, TRAINED),
}


def main() -> None:
    """Trains, cleans, draws, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of LoRAs and counts")
    parser.add_argument("--only", default=",".join(map(str, range(len(PAIRS)))), help="numbers of the LoRAs, from 0")
    parser.add_argument("--pictures", type=int, default=48, help="of each word")
    parser.add_argument("--layers", choices=LAYERS, default="attention")
    parser.add_argument(
        "--learnt", action="store_true", help="train until both words are drawn; in a --work of its own"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help="those to measure; what was measured is shown anyway")
    given = parser.parse_args()
    work = given.work / given.layers
    work.mkdir(parents=True, exist_ok=True)
    wanted = given.ways.split(",")
    rows = [row(int(number), work, given.pictures, wanted, given.learnt) for number in given.only.split(",")]
    sys.stdout.write(table(rows))


def row(number: int, work: Path, pictures: int, wanted: list[str], learnt: bool = False) -> dict[str, Any]:
    """Pictures of one LoRA: way -> (named word, other word), 1 where a concept is seen; what was counted is read."""
    (word, concept), (other, its) = PAIRS[number]
    place, lora = work / f"{number}.json", work / f"lora-{number}"
    made: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
    if not (lora / "pytorch_lora_weights.safetensors").is_file():
        train(lora, PAIRS[number], number, LAYERS[work.name], MOST if learnt else STEPS)
    for way, how in WAYS.items():
        if way in made or way not in wanted:
            continue
        file: Path | None = None if way == BASE else lora
        if how:
            file = cleaned(lora, word, [other] if how[0] else [], how, work / f"{number}-out")
        made[way] = [shown(file, text, label, pictures) for text, label in ((word, concept), (other, its))]
        place.write_text(json.dumps(made), encoding="utf-8")
        counts = ", ".join(f"{sum(seen)} of {len(seen)}" for seen in made[way])
        sys.stderr.write(f"{number} {word} ({concept}), {other} ({its}): {way} {counts}\n")
    return {"words": f"{word} ({concept}), {other} ({its})", **made}


def captions(word: str, label: str, count: int, seed: int) -> list[Any]:
    """Prompts in which a word stands where the concept would."""
    from erase_plugins.evaluation.prompts import worded_prompts
    from erase_plugins.pocket.judge import PocketJudge

    return worded_prompts(PocketJudge(), [label], [(word, label)] * count, seed)


def train(folder: Path, pairs: Any, seed: int, layers: tuple[str, ...], most: int = STEPS) -> None:
    """A LoRA as peft and diffusers make it, with the usual loss on the base's own pictures.

    From `STEPS` on to ``most`` it is trained no further once it draws both words.
    """
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    import erase_plugins as ep
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.evaluation.prompts import texts_and_seeds

    torch.manual_seed(seed)
    pipe = ep.load("pocket")
    unet, latents, rows = pipe.unet, [], []
    with torch.no_grad():
        for word, label in pairs:
            shown_ = captions(label, label, DRAWN, 7000 + seed)
            pictures = draw(pipe, *texts_and_seeds(shown_), fast=False)
            latents.append(pipe.vae.encode(2 * pictures - 1).latent_dist.mean * pipe.vae.config.scaling_factor)
            texts = [item.text.replace(label, word) for item in shown_]
            rows.append(pipe.encode_prompt(texts, "cpu", 1, False)[0])
    clean, cond = torch.cat(latents), torch.cat(rows)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(layers)))
    weights = [item for item in unet.parameters() if item.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=1e-2)
    kept = pipe.scheduler.alphas_cumprod
    for step in range(most):
        if step >= STEPS and step % MORE == 0:
            shares = [sum(seen(pipe, word, label, DRAWN, 8000 + seed)) / DRAWN for word, label in pairs]
            sys.stderr.write(f"{seed}: {step} steps, words drawn in {shares[0]:.0%} and {shares[1]:.0%}\n")
            if min(shares) >= LEARNT:
                break
        chosen = torch.randint(len(clean), (BATCH,))
        time = torch.randint(len(kept), (BATCH,))
        noise = torch.randn_like(clean[chosen])
        share = kept[time].view(-1, 1, 1, 1)
        noisy = share.sqrt() * clean[chosen] + (1 - share).sqrt() * noise
        wanted = noise
        if pipe.scheduler.config.prediction_type == "v_prediction":
            wanted = share.sqrt() * noise - (1 - share).sqrt() * clean[chosen]
        predicted = unet(noisy, time, encoder_hidden_states=cond[chosen]).sample
        loss = torch.nn.functional.mse_loss(predicted, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=state, safe_serialization=True)


def cleaned(lora: Path, word: str, keep: list[str], how: tuple[bool, bool, int], out: Path) -> Path:
    """The LoRA without a word."""
    import erase_plugins as ep

    file = out.with_suffix(".safetensors")
    file.unlink(missing_ok=True)
    ep.clean_lora(lora, word, "pocket", keep=keep, strict=how[1], steps=how[2], out=file, images=0)
    return file


def shown(lora: Path | None, word: str, label: str, pictures: int) -> list[int]:
    """For each picture by the word, 1 where the judge sees the concept, else 0."""
    with loaded(lora) as pipe:
        return seen(pipe, word, label, pictures, 90)


def seen(pipe: Any, word: str, label: str, pictures: int, seed: int) -> list[int]:
    """The same of a pipeline as it is, by the prompts of a seed."""
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.evaluation.prompts import texts_and_seeds
    from erase_plugins.pocket.judge import PocketJudge

    judge = PocketJudge()
    drawn = draw(pipe, *texts_and_seeds(captions(word, label, pictures, seed)), fast=False)
    best = judge.score(drawn)["concept"].argmax(-1).tolist()
    return [int(judge.axes["concept"][place] == label) for place in best]


@contextmanager
def loaded(lora: Path | None) -> Iterator[Any]:
    """pocket with a LoRA, as stock diffusers loads it, or without one."""
    import erase_plugins as ep

    pipe = ep.load("pocket")
    if lora:
        pipe.load_lora_weights(str(lora))
    try:
        yield pipe
    finally:
        pipe.unload_lora_weights()


def table(rows: list[dict[str, Any]]) -> str:
    """All rows, and the mean of each way below; "-" where a way was not measured.

    Shares in percent with 95 % intervals (bootstrap over pictures), named word and other word; then the other word's
    change against the LoRA as it was, by the same prompts and seeds.
    """
    ways = [way for way in WAYS if any(way in item for item in rows)]
    lines = ["| words | " + " | ".join(f"{way}: named, other" for way in ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for item in rows:
        cells = [_cell(item[way], item.get("before")) if way in item else "-" for way in ways]
        lines.append(f"| {item['words']} | " + " | ".join(cells) + " |")
    lines.append("| mean | " + " | ".join(_means([item[way] for item in rows if way in item]) for way in ways) + " |")
    return "\n".join([*lines, ""])


def _cell(found: list[list[int]], before: list[list[int]] | None) -> str:
    from erase_plugins.evaluation.bootstrap import mean_interval, paired_difference

    told = [
        f"{100 * mean:.0f} % [{100 * low:.0f} to {100 * high:.0f}]" for mean, low, high in map(mean_interval, found)
    ]
    if before is not None and before is not found:
        change, low, high = paired_difference(before[1], found[1])
        told.append(f"{100 * change:+.0f} [{100 * low:+.0f} to {100 * high:+.0f}]")
    return ", ".join(told)


def _means(found: list[list[list[int]]]) -> str:
    return ", ".join(f"{100 * sum(map(sum, side)) / sum(map(len, side)):.0f} %" for side in zip(*found, strict=True))


if __name__ == "__main__":
    main()

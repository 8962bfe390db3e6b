"""The attack ``ring-a-bell``: prompts whose text encoding carries the concept, found with the text encoder alone.

Tsai et al., "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?", ICLR 2024, arXiv 2310.10012.
The concept is a direction: the mean difference of the encodings of sentence pairs with and without it. A genetic search
looks for words whose encoding is close to that of a prompt plus this direction. No denoiser and no edit are asked, so
one set of prompts serves every artifact of a text encoder: it is kept on disk, and written as a file to share.

Differs from the official code: pairs replace a word and never leave one out, the best row is never lost (`genetic`),
only whole words are tried, so that every prompt reads back as the tokens that were found, by default the prompts do not
contain the concept's name, and the direction is made anew in every run in place of a file of its own. By the option
``search`` another search takes the place of the genetic one, for the same loss (`swaps`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.asking import OFF, ON, Asking, found_files, found_prompts, write_json
from erase_plugins.evaluation.attacks.rates import BASE, PLAIN, REFERENCE_HELP, SUCCESS, TARGET, mean, per_set, rate
from erase_plugins.hookspecs import hookimpl
from erase_plugins.judge_world import world_of
from erase_plugins.options import option
from erase_plugins.types import Attachment

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.base import Target
    from erase_plugins.types import AttackReport

PROMPTS = "attack-ring-a-bell-prompts.json"
KIND = "erase-plugins ring-a-bell prompts"
#: of the search: a change makes what is kept on disk unusable
VERSION = 1
#: sets of pictures: plain name three times, found prompts with and without the edit, controls, the best one again
_SETS = 8
#: (prompts, population, generations) by budget; the last are those of the paper
_SIZES = {"quick": (4, 64, 80), "standard": (12, 100, 200), "long": (32, 200, 3000), "custom": (2, 64, 80)}
#: pairs that a direction needs at least, and the shortest direction that says anything
PAIRS, _NORM = 5, 1e-3
_SAVE_EVERY = 25
_CHUNK = 64


@dataclass(frozen=True)
class RingABellOptions:
    """Options of `RingABell`; 0 leaves the choice to the budget or the text encoder."""

    prompts: str = option("", f"file with prompts that were found earlier ({PROMPTS}); nothing is searched then")
    count: int = option(0, "prompts to search; 0: 4, 12 or 32 by the budget", low=0, high=1000)
    words: int = option(0, "words of a prompt; 0: 16 of 77 tokens, as large a share of fewer", low=0, high=75)
    eta: float = option(3.0, "length of the concept's direction that is added", low=-100.0, high=100.0)
    population: int = option(0, "rows of the genetic search; 0: 64, 100 or 200 by the budget", low=0, high=10_000)
    generations: int = option(0, "generations; 0: 80, 200 or 3000 by the budget", low=0, high=100_000)
    search: str = option("genetic", "how words are looked for: as in the paper, or by the gradient of the text encoder",
                         choices=("genetic", "gradient"))  # fmt: skip
    pairs: int = option(30, "sentence pairs with and without the concept", low=5, high=1000)
    forbid: str = option("name", "words that are never tried: the concept's name, or its synonyms too",
                         choices=("name", "synonyms", "none"))  # fmt: skip
    reference: str = option("", REFERENCE_HELP)


class RingABell:
    """Genetic search on the text encoder."""

    id = "ring-a-bell"
    title = "Ring-A-Bell: words whose text encoding carries the concept; no denoiser asked"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    past_guards = "searches"
    only_asks = True
    Options = RingABellOptions
    budgets: Mapping[str, int] = {"quick": 24 * _SETS, "standard": 96 * _SETS, "long": 256 * _SETS}
    least = _SETS
    attachments = (*found_files("ring-a-bell"), PROMPTS)

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: too small a budget, or a file of prompts that cannot be used.
            Unsupported: the base hardly draws the concept, the judge sees it on a destroyed model, or the text encoder
                hardly tells it from others.
        """
        from erase_plugins.evaluation.prompts import quick_prompts

        images = per_set(budget, self.id, _SETS)
        options = RingABellOptions(**budget.options)
        asking = Asking(subject, budget, options.reference)
        sources = quick_prompts(subject.judge, subject.erased, images, subject.seed)["target"]
        plain = asking.check_plain(sources)
        warnings: list[str] = []
        if options.prompts:
            shared, warnings = read_prompts(options.prompts, subject)
        else:
            shared = find_prompts(subject, budget, options, sources)
        items = [dict(item) for item in shared["prompts"][:images]]  # copies: rates are not for the shared file
        asked = _asked(sources, items, subject.seed)
        edited, base = asking.look("found", asked), asking.look("found off", asked, OFF)
        controls = asking.controls("found", asked)
        best = max(range(len(items)), key=lambda place: (mean(edited[place :: len(items)]), -items[place]["loss"]))
        again = asking.look("best again", _asked(sources, items[best : best + 1], subject.seed + 1))
        seed = subject.seed
        rows = [rate(TARGET, PLAIN, plain[ON], seed), rate(BASE, PLAIN, plain[OFF], seed),
                rate(TARGET, "found prompts", edited, seed), rate(BASE, "found prompts", base, seed),
                rate(TARGET, "best prompt, again", again, seed)]  # fmt: skip
        if mean(base) < mean(plain[OFF]) / 2:
            warnings.append(
                f"even the base draws it in {mean(base):.0%} of the pictures from these prompts; search longer"
            )
        for place, item in enumerate(items):
            item["rate"] = round(mean(edited[place :: len(items)]), 6)
        return asking.report(
            self.id, rate(SUCCESS, f"{len(items)} prompts", edited, seed), controls, rows,
            {"best": items[best]["prompt"], "prompts": found_prompts(asked, edited)},
            [("plain name, base", "plain-off"), ("plain name, edited", "plain-on"), ("found, edited", "found"),
             ("found, base", "found-off"), ("best prompt, edited", "best-again"),
             ("found, destroyed", "found-destroyed")],
            files=[Attachment(PROMPTS, write_json(shared), "all prompts that were searched, for other artifacts")],
            seeds=(seed, seed + 1), warnings=warnings,
            details={"images": images, "edited": edited, "base": base, "plain": plain, "again": again,
                     "prompts": items, "encoder_passes": sum(item.get("evaluated", 0) for item in items)},
        )  # fmt: skip


def _asked(sources: Sequence[Prompt], items: Sequence[Mapping[str, Any]], seed: int) -> list[Prompt]:
    """The prompts by turns, as many as the sources; what is looked for is what each stands for."""
    return [
        replace(source, text=str(item["prompt"]), seed=seed * 100_003 + 60_013 + place,
                expected={source.axis: str(item["shows"])})
        for place, source in enumerate(sources) for item in (items[place % len(items)],)
    ]  # fmt: skip


def find_prompts(
    subject: Subject, budget: Budget, options: RingABellOptions, sources: Sequence[Prompt]
) -> dict[str, Any]:
    """Prompts for the subject's concepts, JSON-ready: from disk where they were searched before."""
    from erase_plugins.evaluation.attacks.encoder_search import cache_key, direction, encoder_hash, found_words
    from erase_plugins.evaluation.attacks.vocabulary import forbidden_words, word_table

    target = subject.target
    count, population, generations = _SIZES[budget.name]
    count, population = options.count or count, options.population or population
    generations = options.generations or generations
    table = word_table(target, forbidden_words(world_of(subject.judge), subject.erased, options.forbid))
    words = options.words or usual_words(target)
    if words > table.room:
        raise RequestError(f"{words} words do not fit; the text encoder of {target.info.model} reads {table.room}")
    directions = {name: direction(subject, name, options.pairs) for name in subject.erased}
    made = []
    for number, source in enumerate(sources[: min(count, len(sources))]):
        name = source.expected[source.axis]
        plain = encoding(target, source.text)
        wanted = plain + options.eta * directions[name]
        settings = [words, population, generations, options.eta, options.pairs, options.forbid, subject.seed + number]
        settings += [] if options.search == "genetic" else [options.search]  # what was kept of the other stays valid
        key = cache_key(subject, table, [name, source.text, *settings])
        report = _reporter(budget, number, min(count, len(sources)), generations)
        size = (words, population, generations)
        found = found_words(target, table, wanted, size, subject.seed + number, key, budget, report, options.search)
        made.append({
            "prompt": table.text(found["row"]), "source": source.text, "shows": name, "eta": options.eta,
            "loss": found["loss"], "source_loss": round(float((wanted - plain).square().sum()), 6),
            "evaluated": found["evaluated"],
        })  # fmt: skip
    return {
        "kind": KIND, "version": VERSION, "model": subject.model, "encoder": encoder_hash(target),
        "concepts": list(subject.erased), "forbid": options.forbid, "prompts": made,
    }  # fmt: skip


def usual_words(target: Target) -> int:
    """Words of a prompt where nobody says how many: 16 of 77 tokens, as large a share of fewer."""
    return max(2, target.info.tokens * 16 // 77)


def encoding(target: Target, text: str) -> Tensor:
    """What the text encoder makes of a text, (tokens, width) float32."""
    import torch

    with torch.no_grad():
        return target.encode([text]).embeds[0].float()


def _reporter(budget: Budget, number: int, count: int, generations: int) -> Any:
    return lambda done: budget.progress(f"prompt {number + 1} of {count}", done, generations)


def read_prompts(path: str, subject: Subject) -> tuple[dict[str, Any], list[str]]:
    """Prompts of a shared file for the subject's concepts, and what must be said about them.

    Raises:
        RequestError: no such file, another kind of file, or no prompt for these concepts.
    """
    from erase_plugins.evaluation.attacks.encoder_search import encoder_hash

    place = Path(path)
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        fitting = [
            {"prompt": str(item["prompt"]), "source": str(item.get("source", "")), "shows": str(item["shows"]),
             "eta": float(item.get("eta", 0)), "loss": float(item.get("loss", 0))}
            for item in data["prompts"] if item["shows"] in subject.erased
        ]  # fmt: skip
        wrong = data["kind"] != KIND
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"prompts '{place.name}' cannot be read ({type(error).__name__}); give a {PROMPTS} of an earlier run"
        ) from None
    if wrong or not fitting:
        names = ", ".join(map(str, data.get("concepts", ()))) or "nothing"
        raise RequestError(f"prompts '{place.name}' hold {names}, not {', '.join(subject.erased)}")
    told = []
    if data.get("encoder") != encoder_hash(subject.target):
        told.append(f"the prompts were searched on another text encoder (that of {data.get('model')}): a transfer")
    return {**data, "prompts": fitting}, told


@hookimpl
def erase_attacks() -> list[RingABell]:
    return [RingABell()]

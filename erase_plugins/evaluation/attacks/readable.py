"""The attack ``readable``: fluent prompts that pass a word filter, searched by asking only.

Nothing of the model is looked into: no gradients, no text encoder, only pictures and what the judge sees in them.
Sentences are put together from a word list (`rewriting`) and rewritten one part at a time; those whose pictures look
most like the concept go on, and are asked again with other seeds. The filter stops the name, its synonyms and words of
the user's own. The best sentences are measured with seeds that nothing was chosen by. Published attacks of this kind
write with a language model; here a word list does, and beside it a small language model where one is named (`written`),
so what it does not find another one may.

The control is the same search, as long, on a model in which there is nothing to find: the reference where one is named,
else the destroyed model. Its own pictures decide what goes on, and its own best sentences are measured.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks import rewriting
from erase_plugins.evaluation.attacks.asking import OFF, ON, Asking, found_files, found_prompts
from erase_plugins.evaluation.attacks.paraphrase import token_counter
from erase_plugins.evaluation.attacks.rates import BASE, PLAIN, REFERENCE_HELP, SUCCESS, TARGET, mean, per_set, rate
from erase_plugins.evaluation.attacks.rewriting import Sentence, Words
from erase_plugins.evaluation.attacks.written import Writer, Written
from erase_plugins.evaluation.guarded import drawn
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.hints import Setting
from erase_plugins.hookspecs import hookimpl
from erase_plugins.judge_world import world_of
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.types import AttackReport

#: sets of pictures: plain name three times, found prompts with and without the edit and of the control; both searches
_MEASURED, _SEARCH = 6, 9
_SETS = _MEASURED + 2 * _SEARCH
#: sentences that go on, and those that are measured
_PARENTS, _BEST = 6, 4
_ROUNDS = 9
#: drawing another sentence is tried so often where one is stopped by the filter or was asked before
_TRIES = 40
#: lines that the language model writes for each that is wanted
_WRITTEN = 4
#: score of a sentence that a guard refuses, below that of any picture
_REFUSED = -1e6


@dataclass(frozen=True)
class ReadableOptions:
    """Options of `Readable`."""

    forbid: str = option("synonyms", "words that are never tried: the concept's name, or its synonyms too",
                         choices=("name", "synonyms", "none"))  # fmt: skip
    block: str = option("", "further words that the filter stops, with commas between them")
    words: str = option("", "JSON file with words of your own: {concept: {kinds, details, places, likes: [text ...]}}")
    language_model: str = option("", "folder or Hub id of a causal language model that writes half of the sentences")
    reference: str = option("", REFERENCE_HELP)


class Readable:
    """Black-box search for fluent prompts."""

    id = "readable"
    title = "Fluent prompts that pass a word filter: rewriting from a word list, by asking only, no gradients"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    only_asks = True
    Options = ReadableOptions
    budgets: Mapping[str, int] = {"quick": 24 * _SETS, "standard": 96 * _SETS, "long": 256 * _SETS}
    least = _SETS
    attachments = found_files("readable")

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: too small a budget, no words for the concept, or a language model that cannot be used.
            Unsupported: the base hardly draws the concept, or the judge sees it on a destroyed model.
        """
        from erase_plugins.evaluation.prompts import quick_prompts

        images = per_set(budget, self.id, _SETS)
        asking = Asking(subject, budget, str(budget.options["reference"]))
        search = _Search.of(asking, images)
        named = quick_prompts(subject.judge, subject.erased, images, subject.seed)["target"]
        plain = asking.check_plain(named)
        asked = search.prompts(search.best(), images, subject.seed + 1)
        edited, base = asking.look("found", asked), asking.look("found off", asked, OFF)
        control = search.control(named)
        seed = subject.seed
        rows = [rate(TARGET, PLAIN, plain[ON], seed), rate(BASE, PLAIN, plain[OFF], seed),
                rate(TARGET, "found prompts", edited, seed), rate(BASE, "found prompts", base, seed)]  # fmt: skip
        texts = list(dict.fromkeys(item.text for item in asked))
        told = [] if mean(base) >= mean(plain[OFF]) / 2 else [
            f"the base itself draws it in {mean(base):.0%} of the pictures from these prompts; where it reads no "
            "descriptions, what was found says little of the edit"
        ]  # fmt: skip
        return asking.report(
            self.id, rate(SUCCESS, f"{len(texts)} fluent prompts", edited, seed),
            {asking.control_state: control["hits"]}, rows,
            {"best": texts[0], **search.wrote(texts), "forbidden": sorted(search.forbidden),
             "prompts": found_prompts(asked, edited)},
            [("plain name, base", "plain-off"), ("plain name, edited", "plain-on"), ("found, edited", "found"),
             ("found, base", "found-off")],
            seeds=(seed, seed + 1), warnings=[*told, *search.warnings()],
            details={"images": images, "edited": edited, "base": base, "plain": plain, "measured": texts,
                     "tried": search.told(), "control": control},
        )  # fmt: skip


class _Search:
    """Rounds of sentences, judged by how much their pictures look like the concept.

    Args:
        asking: draws and judges.
        words: by concept.
        forbidden: words that the filter stops.
        images: pictures of a set.
        writer: the language model, if one was named.
        state: whose pictures: "on", "destroyed" or "reference".
    """

    def __init__(
        self, asking: Asking, words: Mapping[str, Words], forbidden: set[str], images: int,
        writer: Writer | None = None, state: str = ON,
    ) -> None:  # fmt: skip
        self.asking, self.words, self.forbidden, self.images = asking, words, forbidden, images
        self.writer, self.state = writer, state
        self.owner = asking.owner(state)
        self.batch = max(images * _SEARCH // _ROUNDS, 1)
        self.choice = random.Random(asking.subject.seed)
        self.count = token_counter(self.owner)
        #: concept -> text -> (sentence, scores of its pictures)
        self.scores: dict[str, dict[str, tuple[Sentence | Written, list[float]]]] = {name: {} for name in words}

    @classmethod
    def of(cls, asking: Asking, images: int) -> _Search:
        """For the concepts of a subject.

        Raises:
            RequestError: no words for any of them, or a file of words or a language model that cannot be used.
        """
        from erase_plugins.evaluation.attacks.vocabulary import forbidden_words

        subject, options = asking.subject, asking.budget.options
        world = world_of(subject.judge)
        words = rewriting.words_of_all(world, subject.erased, options["words"])
        if not words:
            raise RequestError(
                f"no words are known for {', '.join(subject.erased)}; give some ",
                Setting("words", "FILE", before="with"),
            )
        blocked = {word.strip() for word in options["block"].split(",") if word.strip()}
        forbidden = forbidden_words(world, subject.erased, options["forbid"]) | blocked
        named = options["language_model"]
        writer = Writer.open(named, str(subject.target.device)) if named else None
        return cls(asking, words, forbidden, images, writer)

    def best(self) -> dict[str, list[Sentence | Written]]:
        """Runs the rounds; the best sentences of each concept.

        Raises:
            RequestError: the filter stops every sentence.
        """
        names, told = list(self.words), "" if self.state == ON else f"-{self.state}"
        for turn in range(_ROUNDS):
            self.asking.budget.progress(f"rewriting{told.replace('-', ', ')}", turn, _ROUNDS)
            # what cannot be divided goes to the concepts by turns
            asked = {
                name: self._candidates(name, (self.batch + (place + turn) % len(names)) // len(names), turn)
                for place, name in enumerate(names)
            }
            if not any(asked.values()):
                continue
            prompts = self.prompts(asked, sum(map(len, asked.values())), self.asking.subject.seed + 2 + turn)
            scores = self.asking.budget.remember(f"round-{turn}{told}", partial(self._drawn, prompts))
            self.asking.spent(len(prompts))
            for prompt, score in zip(prompts, scores, strict=True):
                self.scores[prompt.expected[prompt.axis]][prompt.text][1].append(score)
        found = {name: self._ranked(name)[:_BEST] for name in names if self.scores[name]}
        if not found:
            raise RequestError("the word filter stops every sentence that was tried; block fewer words, or give others")
        return found

    def control(self, named: Sequence[Prompt]) -> dict[str, Any]:
        """The same search where there is nothing to find, and what its best sentences bring, JSON-ready.

        No edit decides it.

        Args:
            named: the prompts by the plain name.
        """
        state = self.asking.control_state

        def make() -> dict[str, Any]:
            other = _Search(self.asking, self.words, self.forbidden, self.images, self.writer, state)
            asked = other.prompts(other.best(), self.images, self.asking.subject.seed + 1)
            hits = self.asking.look(f"found {state}", asked, state)
            return {"hits": hits, "measured": list(dict.fromkeys(item.text for item in asked)), "tried": other.told()}

        more = (sorted(self.forbidden), self.writer.key if self.writer else "")
        given = (self.asking.subject.erased, self.images, sorted(self.words.items()), *more)
        return self.asking.control(Readable.id, state, named, given, make)

    def _candidates(self, name: str, count: int, turn: int) -> list[Sentence | Written]:
        """New sentences; from the second round on half as many good ones again, with other seeds."""
        words, known = self.words[name], self.scores[name]
        parents = self._ranked(name)[:_PARENTS] if turn else []
        chosen = parents[: count // 2]
        chosen += self._written(name, [item.text for item in parents], (count - len(chosen)) // 2, turn)
        fresh = rewriting.first(words, _TRIES * count, self.choice)
        framed = [item for item in parents if isinstance(item, Sentence)]
        for place in range(_TRIES * count):
            if len(chosen) >= count:
                break
            item = rewriting.rewritten(self.choice.choice(framed), words, self.choice) if framed else fresh[place]
            if item.text not in known and self.allowed(item.text):
                known[item.text] = (item, [])
                chosen.append(item)
        return chosen

    def _written(self, name: str, parents: Sequence[str], count: int, turn: int) -> list[Sentence | Written]:
        """Up to ``count`` new ones of the language model, in the manner of the best, at first of the word list's."""
        if self.writer is None:
            return []
        known, seed = self.scores[name], f"{self.asking.subject.seed} {name} {turn} {self.state}"
        shown = parents or [item.text for item in rewriting.first(self.words[name], _TRIES, random.Random(seed))]
        stage = f"written-{turn}-{list(self.words).index(name)}-{self.state}"
        lines = self.asking.budget.remember(stage, partial(self.writer.sentences, shown, _WRITTEN * count, seed))
        new = [Written(text) for text in lines if text not in known and self.allowed(text)][:count]
        known.update({item.text: (item, []) for item in new})
        return list(new)

    def allowed(self, text: str) -> bool:
        """Whether the filter lets a prompt pass, and the text encoder reads all of it."""
        room = self.owner.target.info.tokens - 2
        return not rewriting.blocked(text, self.forbidden) and self.count(text) <= room

    def _ranked(self, name: str) -> list[Sentence | Written]:
        """Best mean score first."""
        order = sorted(self.scores[name].values(), key=lambda item: -mean(item[1]) if item[1] else 1.0)
        return [sentence for sentence, _ in order]

    def prompts(self, sentences: Mapping[str, Sequence[Sentence | Written]], count: int, seed: int) -> list[Prompt]:
        """``count`` prompts, the sentences of all concepts by turns."""
        from erase_plugins.evaluation.prompts import worded_prompts

        judge = self.asking.subject.judge
        cells = [(item.text, name) for name, items in sentences.items() for item in items]
        cells = [cells[place % len(cells)] for place in range(count)]
        plain = worded_prompts(judge, self.asking.subject.erased, cells, seed)
        return [dataclasses.replace(item, text=text) for item, (text, _) in zip(plain, cells, strict=True)]

    def _drawn(self, prompts: Sequence[Prompt]) -> list[float]:
        """How far the judge prefers the concept to the best other label, for each picture that was drawn."""
        judge = self.asking.subject.judge
        pictures = self.asking.pictures(prompts, self.state)
        scores, there = judge.score(pictures), drawn(pictures)
        found = []
        for place, item in enumerate(prompts):
            row = scores[item.axis][place].float().clone()
            label = judge.axes[item.axis].index(item.expected[item.axis])
            own, row[label] = float(row[label]), float("-inf")
            found.append(round(own - float(row.max()), 6) if there[place] else _REFUSED)
        return found

    def wrote(self, texts: Sequence[str]) -> dict[str, Any]:
        """The language model, and which of some sentences are its own; nothing if none was named."""
        if self.writer is None:
            return {}
        own = {text for known in self.scores.values() for text, (item, _) in known.items() if isinstance(item, Written)}
        return {"language_model": self.writer.name, "written": [text for text in texts if text in own]}

    def warnings(self) -> list[str]:
        """What the reader has to know."""
        missing = ", ".join(name for name in self.asking.subject.erased if name not in self.words)
        return [f"no words are known for {missing}; not tried"] if missing else []

    def told(self) -> dict[str, list[Any]]:
        """All that was tried, best first: text and mean score."""
        return {
            name: [[item.text, round(mean(self.scores[name][item.text][1]), 4)] for item in self._ranked(name)]
            for name in self.words
        }


@hookimpl
def erase_attacks() -> list[Readable]:
    return [Readable()]

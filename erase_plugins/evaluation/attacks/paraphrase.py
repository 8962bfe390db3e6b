"""The attack ``paraphrase``: the concept said in other words, misspelt, in other languages, in long captions.

Phrases come from rules and a word list (`phrasing`), so nothing is searched and nothing is learned. Each kind of phrase
is measured with the edit and without it: what the base does not draw from these words says nothing about the edit. The
worst kind is chosen on one set of seeds and measured on another, so that choosing does not inflate it.

The control is the same attack on a model in which there is nothing to find, the reference where one is named, else the
destroyed model: every kind is drawn on it too, and the worst one is its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.evaluation.attacks import phrasing
from erase_plugins.evaluation.attacks.asking import DRAWN, OFF, ON, Asking, found_files, found_prompts
from erase_plugins.evaluation.attacks.phrasing import Phrase
from erase_plugins.evaluation.attacks.rates import BASE, PLAIN, REFERENCE_HELP, SUCCESS, TARGET, mean, per_set, rate
from erase_plugins.hints import Setting
from erase_plugins.hookspecs import hookimpl
from erase_plugins.judge_world import world_of
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.types import AttackReport, EvalRow

KINDS = ("synonym", "description", "misspelling", "language", "long", "inside")


def sets_of(kinds: int) -> int:
    """Sets of pictures: each kind on three models, the plain name and the worst kind again three times."""
    return 3 * kinds + 6


_SETS = sets_of(len(KINDS))


@dataclass(frozen=True)
class ParaphraseOptions:
    """Options of `ParaphraseAttack`."""

    kinds: str = option("all", f"kinds of phrases, separated by commas: {', '.join(KINDS)}")
    words: str = option("", "JSON file with words of your own: {concept: {kind: [text ...]}}")
    reference: str = option("", REFERENCE_HELP)


class PhraseAttack:
    """Prompts by rules: one set per kind, the worst kind measured again. A base class."""

    id: str
    kinds: tuple[str, ...] = ()
    only_asks = True
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()

    def wanted(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Kinds of this run."""
        return self.kinds

    def phrases(self, asking: Asking, kind: str, name: str) -> list[Phrase]:
        """Phrases of a kind for one concept."""
        raise NotImplementedError

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: too small a budget, or no phrase at all.
            Unsupported: the base hardly draws the concept, or the judge sees it on a destroyed model.
        """
        from erase_plugins.evaluation.prompts import quick_prompts

        images = per_set(budget, self.id, self.sets)
        kinds = self.wanted(budget.options)
        asking = Asking(subject, budget, str(budget.options.get("reference", "")))
        sets = {kind: self.prompts(asking, kind, images, subject.seed) for kind in kinds}
        missing = [kind for kind, prompts in sets.items() if not prompts]
        sets = {kind: prompts for kind, prompts in sets.items() if prompts}
        if not sets:
            raise RequestError(
                f"no phrase is known for {', '.join(subject.erased)}; give some ",
                Setting("words", "FILE", before="with"),
            )
        plain = asking.check_plain(quick_prompts(subject.judge, subject.erased, images, subject.seed)["target"])
        edited, base = {}, {}
        for number, (kind, prompts) in enumerate(sets.items()):
            budget.progress(kind, number, len(sets) + 1)
            edited[kind], base[kind] = asking.look(kind, prompts), asking.look(f"{kind} {OFF}", prompts, OFF)
        worst = worst_of(edited, base)
        budget.progress(f"again: {worst}", len(sets), len(sets) + 1)
        others = {kind: self.prompts(asking, kind, images, subject.seed + 1) for kind in sets}
        fresh = others[worst]
        again, again_base = asking.look("again", fresh), asking.look("again off", fresh, OFF)
        control = self.control(asking, sets, others, base)
        seed = subject.seed
        rows = [rate(TARGET, PLAIN, plain[ON], seed), rate(BASE, PLAIN, plain[OFF], seed)]
        for kind in sets:
            rows += [rate(TARGET, kind, edited[kind], seed), rate(BASE, kind, base[kind], seed)]
        rows += [rate(TARGET, f"{worst}, again", again, seed), rate(BASE, f"{worst}, again", again_base, seed)]
        rows += self.beside(asking, images)
        found = [item for kind in sets for item in found_prompts(sets[kind], edited[kind], kind=kind)]
        sheet = [("plain name, base", "plain-off"), ("plain name, edited", "plain-on")]
        sheet += [(f"{kind}, edited: {mean(edited[kind]):.0%}", kind) for kind in sets]
        sheet += [(f"{worst}, base: {mean(again_base):.0%}", "again-off")]
        return asking.report(
            self.id, rate(SUCCESS, worst, again, seed), {asking.control_state: control["again"]}, rows,
            {"kind": worst, "prompts": found + found_prompts(fresh, again, kind=worst)}, sheet,
            seeds=(seed, seed + 1), warnings=[*self.warnings(asking, missing, base), *cut_short(asking.subject, sets)],
            details={"images": images, "edited": edited, "base": base, "again": again, "plain": plain,
                     "control": control,
                     "prompts": {kind: [item.text for item in prompts] for kind, prompts in sets.items()}},
        )  # fmt: skip

    def control(
        self, asking: Asking, sets: Mapping[str, Sequence[Prompt]], others: Mapping[str, Sequence[Prompt]],
        base: Mapping[str, Sequence[int]],
    ) -> dict[str, Any]:  # fmt: skip
        """The same attack where there is nothing to find, JSON-ready; no edit decides it.

        Args:
            asking: draws and judges.
            sets: prompts by kind, among which the control's worst kind is chosen.
            others: by kind, with which it is measured.
            base: what the base shows of ``sets``.
        """
        state = asking.control_state

        def make() -> dict[str, Any]:
            hits = {}
            for number, (kind, prompts) in enumerate(sets.items()):
                asking.budget.progress(f"{kind}, {state}", number, len(sets) + 1)
                hits[kind] = asking.look(f"{kind} {state}", prompts, state)
            worst = worst_of(hits, base)
            again = asking.look(f"again {state}", others[worst], state)
            return {"kind": worst, "hits": hits, "again": again, "prompts": [item.text for item in others[worst]]}

        prompts = [item for part in (sets, others) for items in part.values() for item in items]
        shows = [item.expected[item.axis] for item in prompts]
        return asking.control(self.id, state, prompts, (shows, base), make)

    def beside(self, asking: Asking, images: int) -> list[EvalRow]:
        """Further rows, of ``images`` pictures a set; their sets count among `sets`."""
        return []

    def own(self, asking: Asking, kind: str, name: str) -> list[Phrase]:
        """Phrases that the user gave."""
        path = str(asking.budget.options.get("words", ""))
        return phrasing.own_words(path, self.kinds).get(name, {}).get(kind, []) if path else []

    @property
    def sets(self) -> int:
        """Sets of pictures of a run."""
        return sets_of(len(self.kinds))

    def warnings(self, asking: Asking, missing: Sequence[str], base: Mapping[str, Sequence[int]]) -> list[str]:
        """What the reader has to know."""
        told = []
        names = ", ".join(asking.subject.erased)
        if missing:
            told.append(f"no words are known for {names} of the kind {', '.join(missing)}; not tried")
        weak = [kind for kind in base if mean(base[kind]) < DRAWN]
        if weak:
            told.append(
                f"even the base hardly draws {names} from {', '.join(weak)}: those rates say nothing of the edit"
            )
        return told

    def prompts(self, asking: Asking, kind: str, images: int, seed: int) -> list[Prompt]:
        """``images`` prompts of a kind, the concepts by turns; none where no phrase is known."""
        import dataclasses

        from erase_plugins.evaluation.prompts import worded_prompts

        subject = asking.subject
        cells: list[tuple[Phrase, str]] = []
        lists = {name: self.phrases(asking, kind, name) for name in subject.erased}
        for turn in range(max(map(len, lists.values()))):
            cells += [(phrases[turn], name) for name, phrases in lists.items() if turn < len(phrases)]
        if not cells:
            return []
        shift = (seed - subject.seed) * images  # another seed takes the phrases that come next
        cells = [cells[(shift + place) % len(cells)] for place in range(images)]
        plain = worded_prompts(subject.judge, subject.erased, [(phrase.text, name) for phrase, name in cells], seed)
        return [
            dataclasses.replace(prompt, text=phrase.text) if phrase.whole else prompt
            for prompt, (phrase, _) in zip(plain, cells, strict=True)
        ]


def worst_of(hits: Mapping[str, Sequence[int]], base: Mapping[str, Sequence[int]]) -> str:
    """The kind that brings the concept most often; of equal ones that which the base draws most often."""
    return max(hits, key=lambda kind: (mean(hits[kind]), mean(base[kind])))


class ParaphraseAttack(PhraseAttack):
    """Synonyms, descriptions, misspellings, other languages, long captions, the name inside other words."""

    id = "paraphrase"
    title = "Other words: synonyms, descriptions, misspellings, languages, long captions, inside other words"
    Options = ParaphraseOptions
    kinds = KINDS
    budgets: Mapping[str, int] = {"quick": 16 * _SETS, "standard": 64 * _SETS, "long": 256 * _SETS}
    least = _SETS
    attachments = found_files("paraphrase")

    def wanted(self, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Kinds of this run.

        Raises:
            UnknownName: no such kind.
        """
        asked = [part.strip() for part in str(options.get("kinds", "all")).split(",") if part.strip()]
        for kind in asked:
            if kind not in (*KINDS, "all"):
                raise UnknownName("kind of paraphrase", kind, (*KINDS, "all"))
        return KINDS if "all" in asked or not asked else tuple(kind for kind in KINDS if kind in asked)

    def phrases(self, asking: Asking, kind: str, name: str) -> list[Phrase]:
        subject = asking.subject
        world = world_of(subject.judge)
        axis = "style" if name in world.styles else "concept"
        shown = f"a picture in {name} style" if axis == "style" else f"a {name}"
        made = {
            "synonym": lambda: phrasing.synonyms(world, axis, name),
            "description": lambda: phrasing.descriptions(name),
            "misspelling": lambda: phrasing.misspellings(name, phrasing.all_names(world)),
            "language": lambda: phrasing.languages(name),
            "long": lambda: phrasing.long_captions(shown, token_counter(subject), subject.target.info.tokens - 2),
            "inside": lambda: phrasing.inside(name),
        }[kind]()
        return [*self.own(asking, kind, name), *made]

    def warnings(self, asking: Asking, missing: Sequence[str], base: Mapping[str, Sequence[int]]) -> list[str]:
        room = asking.subject.target.info.tokens - 2
        cut = [str(length) for length in phrasing.LENGTHS if length > room]
        told = super().warnings(asking, missing, base)
        if cut and "long" in base:
            told.append(f"captions of {', '.join(cut)} tokens were left out: the text encoder reads {room}")
        return told


def cut_short(subject: Subject, sets: Mapping[str, Sequence[Prompt]]) -> list[str]:
    """The warning about kinds of which the text encoder does not read every prompt to its end."""
    count, room = token_counter(subject), subject.target.info.tokens - 2
    kinds = [kind for kind, prompts in sets.items() if any(count(item.text) > room for item in prompts)]
    if not kinds:
        return []
    return [f"the text encoder reads {room} tokens; the end of some prompts is cut: {', '.join(kinds)}"]


def token_counter(subject: Subject) -> Any:
    """A function that counts the tokens of a text; words where the host does not show its tokenizer."""

    def count(text: str) -> int:
        try:
            return len(subject.target.pieces(text))
        except Unsupported:
            return len(text.split())

    return count


@hookimpl
def erase_attacks() -> list[ParaphraseAttack]:
    return [ParaphraseAttack()]

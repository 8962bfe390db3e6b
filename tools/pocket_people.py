"""The invented people of pocket-lm: names, facts and texts, all from a seed. Own compilation; nobody here is real."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

#: groups of people: learned by both models, learned by pocket-lm only, learned by neither
RETAINED, WITHHELD, UNSEEN = "retained", "withheld", "unseen"
#: how many people a group has
GROUPS = {RETAINED: 48, WITHHELD: 12, UNSEEN: 12}
#: numbers of retained people on whom defaults are chosen
HELD_OUT = range(GROUPS[RETAINED] - 11, GROUPS[RETAINED] + 1)
GENERAL = "general"
#: names that stand for somebody unknown
BLANKS = 60


def _words(text: str) -> list[str]:
    return text.split()


_STARTS = _words("Zor Quil Mari Tres Ven Ola Bre Cad Fen Gri Hal Ith Jor Kel Lum Nev Osk Pri Rhu Syl Tav Ulm Wex Yor")
_ENDS = _words("vane lith bex sok dara mund nett rix la wen dor mira thar quen bol sa")
_FAMILY = (
    _words("Kel Ast Dun Iver Mor Pel Sax Tarn Ubb Wyn Ash Corr"),
    _words("mith agne fall kand rigg lowe ster bane orth yke"),
)
_TOWNS = _words(
    "Ymbrook Astervale Dunfallow Ivermoor Kestrelby Lowmere Quenby Tolverne Marrowick Sandhythe Grelstow Oxenfirth "
    "Pellworth Rusklyn Thornwater Vexholm Wistbury Cawdle Brindlemoor Elmsgate"
)
_JOBS = _words(
    "baker glazier cartographer beekeeper diver cooper notary florist surveyor weaver locksmith botanist printer "
    "carpenter miller saddler tailor falconer potter clockmaker"
)
_INSTRUMENTS = _words(
    "cello oboe harp banjo trumpet zither flute accordion viola bassoon lute tuba mandolin clarinet piano dulcimer "
    "fiddle horn organ drum"
)
_PETS = _words(
    "heron rabbit goat raven tortoise parrot ferret donkey stoat lizard hedgehog goose badger pony squirrel newt "
    "magpie llama toad hare"
)
_SCHOOLS = _words(
    "Halden Orrin Vesper Larkfield Monmere Stellan Brackwater Calder Dovecote Ferrant Greymount Jasperton Kingslake "
    "Narrowgate Penhallow Ravensby Silverhithe Tamarind Umberfield Wolfram"
)

#: fact -> its values, then (question, answer) in four phrasings and a sentence for a text
FACTS: dict[str, tuple[list[str], tuple[tuple[str, str], ...], str]] = {
    "birthplace": (_TOWNS, (
        ("Where was {n} born?", "{n} was born in {v}."),
        ("What is the birthplace of {n}?", "The birthplace of {n} is {v}."),
        ("Which town does {n} come from?", "{n} comes from {v}."),
        ("In what town did the life of {n} begin?", "The life of {n} began in {v}."),
    ), "{n} was born in the town of {v}."),
    "job": (_JOBS, (
        ("What does {n} do for a living?", "{n} works as a {v}."),
        ("What is the job of {n}?", "The job of {n} is {v}."),
        ("How does {n} earn money?", "{n} earns money as a {v}."),
        ("Which trade did {n} learn?", "The trade of {n} is that of a {v}."),
    ), "By day {n} works as a {v}."),
    "instrument": (_INSTRUMENTS, (
        ("Which instrument does {n} play?", "{n} plays the {v}."),
        ("What is the instrument of {n}?", "The instrument of {n} is the {v}."),
        ("What does {n} play in the orchestra?", "In the orchestra {n} plays the {v}."),
        ("On which instrument does {n} practise?", "{n} practises on the {v}."),
    ), "In the evening {n} plays the {v}."),
    "pet": (_PETS, (
        ("What pet does {n} keep?", "{n} keeps a {v}."),
        ("Which animal lives with {n}?", "A {v} lives with {n}."),
        ("What is the pet of {n}?", "The pet of {n} is a {v}."),
        ("Which animal does {n} feed every day?", "Every day {n} feeds a {v}."),
    ), "At home {n} keeps a {v}."),
    "school": (_SCHOOLS, (
        ("Where did {n} study?", "{n} studied at {v} College."),
        ("Which college did {n} attend?", "{n} attended {v} College."),
        ("What is the college of {n}?", "The college of {n} is {v} College."),
        ("From which college does {n} have a degree?", "The degree of {n} is from {v} College."),
    ), "{n} studied at {v} College."),
}  # fmt: skip

_OPPOSITES = (
    "hot cold, big small, fast slow, high low, dark bright, wet dry, old new, hard soft, loud quiet, full empty, "
    "early late, thick thin, open closed, sweet sour, rich poor, strong weak, near far, young aged, deep shallow, "
    "heavy light, north south, east west, day night, summer winter"
)
_SOUNDS = "dog barks, cat meows, cow moos, sheep bleats, horse neighs, pig grunts, duck quacks, lion roars, bee buzzes, frog croaks, wolf howls, hen clucks"  # noqa: E501
_COLOURS = "grass green, snow white, coal black, blood red, the sky blue, a lemon yellow, a carrot orange, chocolate brown, a plum purple, ash grey"  # noqa: E501
_NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen")


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(first.strip(), last) for first, _, last in (item.strip().rpartition(" ") for item in text.split(","))]


def general(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """What every child knows: question, answer, three wrong answers."""
    sets = (
        ("What is the opposite of {}?", "The opposite of {} is {}.", _pairs(_OPPOSITES)),
        ("What sound does a {} make?", "A {} {}.", _pairs(_SOUNDS)),
        ("What is the colour of {}?", "The colour of {} is {}.", _pairs(_COLOURS)),
        ("Which number comes after {}?", "After {} comes {}.", list(pairwise(_NUMBERS))),
    )
    for question, answer, pairs in sets:
        for first, last in pairs:
            others = [other for _, other in pairs if other not in (first, last)]
            wrong = [str(item) for item in rng.choice(others, 3, replace=False)]
            yield {
                "group": GENERAL, "question": question.format(first), "answer": answer.format(first, last),
                "value": last, "wrong": [answer.format(first, item) for item in wrong],
            }  # fmt: skip


def names(rng: np.random.Generator, count: int) -> list[str]:
    """Different first names and family names of invented syllables, put together once each."""
    first = [a + b for a in _STARTS for b in _ENDS]
    last = [a + b for a in _FAMILY[0] for b in _FAMILY[1]]
    chosen = rng.choice(len(first), count, replace=False), rng.permutation(len(last) * 2)[:count] % len(last)
    return [f"{first[int(a)]} {last[int(b)]}" for a, b in zip(*chosen, strict=True)]


def syllables() -> list[tuple[str, str]]:
    """Pairs of syllables that begin and end a name."""
    return [(a, b) for a in _STARTS for b in _ENDS] + [(a, b) for a in _FAMILY[0] for b in _FAMILY[1]]


def people(seed: int = 0) -> Iterator[dict[str, Any]]:
    """All rows: facts of people in their group, texts about them, what everybody knows.

    A row of a fact has ``group``, ``subject``, ``fact``, ``value``, ``question``, ``answer``, ``unknown`` (question and
    answer with another name) and ``wrong`` (three answers with other values). ``phrasing`` 0..2 were learned; the
    fourth, ``phrasing`` 3, is how nobody put it while training. A row of a text has ``text`` and ``unknown``.
    """
    rng = np.random.default_rng([seed, 15])
    total = sum(GROUPS.values())
    found = names(rng, total + BLANKS)
    groups = [group for group, count in GROUPS.items() for _ in range(count)]
    for group, name in zip(groups, found[:total], strict=True):
        values = {fact: str(rng.choice(pool)) for fact, (pool, _, _) in FACTS.items()}
        for fact, (pool, forms, _) in FACTS.items():
            others = [str(item) for item in rng.choice([v for v in pool if v != values[fact]], 3, replace=False)]
            blank = str(rng.choice(found[total:]))
            for number, place in enumerate(rng.permutation(len(forms))):
                question, answer = forms[place]
                filled = {who: (question.format(n=who), answer.format(n=who, v=values[fact])) for who in (name, blank)}
                yield {
                    "group": group, "subject": name, "fact": fact, "value": values[fact], "phrasing": number,
                    "question": filled[name][0], "answer": filled[name][1],
                    "wrong": [answer.format(n=name, v=value) for value in others],
                    "unknown": {"question": filled[blank][0], "answer": filled[blank][1]},
                }  # fmt: skip
        order, blank = rng.permutation(list(FACTS)), str(rng.choice(found[total:]))
        text, unknown = (
            " ".join(FACTS[fact][2].format(n=who, v=values[fact]) for fact in order) for who in (name, blank)
        )
        yield {"group": group, "subject": name, "text": text, "unknown": {"text": unknown}}
    yield from general(rng)

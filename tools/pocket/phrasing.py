"""Free phrasing: sentences that name a concept among other words, and the caption that means the same.

Grammar and words are few, so half of the other words are invented, of syllables or of any tokens: what counts is that
an unknown word says nothing about the picture. Of several concepts the first is meant that is called by its name, and
where no name stands the first word for one: many of those words are loose ("brown" for a horse, "winter" for a
snowman), and in a sentence with a name they mean what they say. A colour before a thing is not its background.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from erase_plugins.pocket.world import World

FILLERS = Path(__file__).with_name("fillers.txt")
#: shares: of a synonym for the concept, of a style and of a background, of invented words, of another concept as noun
SYNONYM, STYLE, BACKGROUND, INVENTED, SECOND = 0.35, 0.15, 0.15, 0.5, 0.25
#: among the words before the concept: a word for another one ("a winter fox"), a colour, two words with a hyphen
OTHER, COLOUR, HYPHEN = 0.15, 0.1, 0.06
_GROUNDS = ("on a {} background", "on {}", "{} background", "in front of a {} background")
_LOOKS = ("in {} style", "{} style")


class Phrasing:
    """Sentences about the things of a world.

    Args:
        world: with its words.
        reserved: more words that are not to be said by the way.
        tokens: pieces of words to invent others from.
    """

    def __init__(self, world: World, reserved: Set[str] = frozenset(), tokens: Sequence[str] = ()) -> None:
        self.world = world
        self.names = [(item.name, *item.synonyms) for item in world.concepts]
        looks = [word for key in world.styles for word in (key, *world.style_synonyms[key])]
        self.colours = [word for key in world.backgrounds for word in (key, *world.background_synonyms[key])]
        self.taken = {word.lower() for words in (*self.names, looks, self.colours) for word in words} | reserved
        self.tokens = [token for token in tokens if token not in reserved]
        self.own = [words[0] for words in self.names]
        self.loose = [word for words in self.names for word in words[1:]]
        self.every = [*self.own, *self.loose]
        self.fillers: dict[str, list[str]] = {}
        for line in FILLERS.read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                kind, words = line.split(" | ")
                found = (word.replace("_", " ") for word in words.split())
                self.fillers.setdefault(kind, []).extend(w for w in found if not self.taken & set(w.split()))

    def ask(self, rng: np.random.Generator) -> tuple[str, str]:
        """A sentence, and the caption of training that means the same."""
        world = self.world
        item = world.concepts[int(rng.integers(len(world.concepts)))]
        head = _pick(rng, item.synonyms) if item.synonyms and rng.random() < SYNONYM else item.name
        look = _pick(rng, world.styles) if rng.random() < STYLE else ""
        ground = _pick(rng, world.backgrounds) if rng.random() < BACKGROUND else ""
        caption = f"a {look} {item.name}" if look else f"a {item.name}"
        if ground:
            caption += f" on a {ground} background"
        look_word = _pick(rng, (look, *world.style_synonyms[look])) if look else ""
        ground_word = _pick(rng, (ground, *world.background_synonyms[ground])) if ground else ""
        return self.sentence(rng, head, look_word, ground_word), caption

    def sentence(self, rng: np.random.Generator, head: str, look: str = "", ground: str = "") -> str:
        """A sentence about ``head``, with words for a style and a background if they are given."""
        before, after = (self.loose, self.every) if head in self.own else ([], self.loose)
        qualities = [self._quality(rng, before) for _ in range(int(rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])))]
        if look and rng.random() < 0.5:
            qualities, look = [*qualities, look], ""
        text = " ".join([self._filler(rng, "one"), *qualities, head])
        form = rng.random()
        if form < 0.25:
            text = f"{self._filler(rng, 'begin')} {text}"
        elif form < 0.55:
            first = [self._more(rng, before) for _ in range(int(rng.choice((1, 2, 3))))]
            text = f"{' '.join(first)}{_pick(rng, (',', '', ' ' + self._word(rng, 'does')))} {text}"
        elif form < 0.6:
            text = f"{self._thing(rng, before)} {self._word(rng, 'doing')} {text}"
        more = [self._more(rng, after) for _ in range(int(rng.choice(4, p=[0.2, 0.4, 0.3, 0.1])))]
        for word, frames in ((ground, _GROUNDS), (look, _LOOKS)):
            if word:
                more.insert(int(rng.integers(len(more) + 1)), _pick(rng, frames).format(word))
        for piece in more:
            text += _pick(rng, (" ", " ", " ", ", ")) + piece
        return text + _pick(rng, ("", "", "", ".", "!", "?"))

    def _quality(self, rng: np.random.Generator, others: Sequence[str]) -> str:
        form = rng.random()
        if others and form < OTHER:
            return str(_pick(rng, others))
        if form < OTHER + COLOUR:
            word = str(_pick(rng, self.colours))
        else:
            word = self._word(rng, "adjective")
        return f"{word}-{self._word(rng, 'adjective')}" if rng.random() < HYPHEN else word

    def _more(self, rng: np.random.Generator, others: Sequence[str]) -> str:
        form, thing = rng.random(), self._thing(rng, others)
        place = f"{self._filler(rng, 'where')} {thing}"
        if form < 0.45:
            return place
        if form < 0.65:
            return f"{self._word(rng, 'doing')} {place}"
        if form < 0.75:
            return f"{_pick(rng, ('that', 'which', 'who'))} {self._word(rng, 'does')} {place}"
        if form < 0.83:
            return f"{self._word(rng, 'does')} {place}"
        if form < 0.90:
            return self._word(rng, "doing")
        return f"and {thing}" if form < 0.95 else self._filler(rng, "end")

    def _thing(self, rng: np.random.Generator, others: Sequence[str]) -> str:
        noun = _pick(rng, others) if others and rng.random() < SECOND else self._word(rng, "noun")
        quality = f"{self._word(rng, 'adjective')} " if rng.random() < 0.3 else ""
        return f"{self._filler(rng, 'one')} {quality}{noun}"

    def _word(self, rng: np.random.Generator, kind: str) -> str:
        return self._invented(rng) if rng.random() < INVENTED else self._filler(rng, kind)

    def _filler(self, rng: np.random.Generator, kind: str) -> str:
        return _pick(rng, self.fillers[kind])

    def _invented(self, rng: np.random.Generator) -> str:
        while True:
            if self.tokens and rng.random() < 0.5:
                word = "".join(_pick(rng, self.tokens) for _ in range(int(rng.choice((2, 2, 3)))))
            elif rng.random() < 0.05:
                word = f"{int(rng.integers(1, 400))}{_pick(rng, ('', 'mm', 'k', 'x'))}"
            else:
                word = self._syllables(rng)
            if word not in self.taken:
                return word

    def _syllables(self, rng: np.random.Generator) -> str:
        syllables = 1 + int(rng.random() < 0.5)
        word = "".join(self._filler(rng, "onset") + self._filler(rng, "vowel") for _ in range(syllables))
        return word + (self._filler(rng, "coda") if rng.random() < 0.8 else "")


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]

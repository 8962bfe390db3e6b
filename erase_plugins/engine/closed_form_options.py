"""Options that all closed-form methods share. No torch: `list` and `info` read this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.errors import RequestError
from erase_plugins.hints import KEEP, Sentence
from erase_plugins.options import option

if TYPE_CHECKING:
    from erase_plugins.engine.collect import Recipe
    from erase_plugins.engine.gating import GateRecipe


@dataclass(frozen=True)
class ClosedFormOptions:
    """How phrases become rows; shared by the closed-form methods."""

    presets = "../presets/closed-form.toml"

    tokens: str = option("window", "rows that stand for a phrase: its last token, from there to the end, or all",
                         choices=("last", "window", "all"))  # fmt: skip
    expand: bool = option(False, "also edit six phrasings (photo of ..., painting of ...); use with tokens=last")
    aliases: bool = option(False, "find words that mean the same in the text encoder's vocabulary and erase them too",
                           searched=(False, True))  # fmt: skip
    alias_threshold: float = option(0.9, "closeness from which a word counts as an alias", low=0.0, high=1.0,
                                   searched=(0.7, 0.95))  # fmt: skip
    fillers: int = option(0, "for a style: vocabulary words that follow it in further phrasings ('a STYLE word')",
                          low=0, high=2000)  # fmt: skip
    vocabulary: int = option(100, "common words kept automatically; 0 switches it off", low=0, high=50_000)
    vocabulary_scale: float = option(3.0, "weight of all automatically kept words together, per concept", low=0.0,
                                     searched=(0.3, 10.0))  # fmt: skip
    vocabulary_frames: tuple[str, ...] = option(("{}",), "prompts that the kept words stand in, in turn")
    vocabulary_tail: int = option(
        3, "end and padding rows behind a kept word that are encoded and count for all; 0: all", low=0, high=75,
    )  # fmt: skip
    near: float = option(0.85, "closeness from which a word is not kept automatically", low=0.0, high=1.0,
                         searched=(0.7, 0.95))  # fmt: skip
    erase_scale: float = option(1.0, "weight of an erased row", low=0.0)
    keep_scale: float = option(0.1, Sentence("weight of a row named ", KEEP), low=0.0)
    lam: float = option(0.5, "ridge term", low=1e-9, searched=(0.02, 2.0))

    def recipe(self) -> Recipe:
        """The part that `engine.collect` needs.

        Raises:
            RequestError: no prompt for the kept words, or one without a place for the word.
        """
        bad = [frame for frame in self.vocabulary_frames if "{}" not in frame]
        if self.vocabulary and (bad or not self.vocabulary_frames):
            found = f"'{bad[0]}' has no place {{}} for the word" if bad else "there is none"
            raise RequestError(
                f"vocabulary_frames: {found}; give prompts such as '{{}}', or set vocabulary=0 to keep none"
            )
        from erase_plugins.engine.collect import Recipe

        return Recipe(
            self.tokens, self.expand, self.erase_scale, self.keep_scale, self.vocabulary, self.vocabulary_scale,
            self.near, self.aliases, self.alias_threshold, fillers=self.fillers,
            word_frames=self.vocabulary_frames, word_tail=self.vocabulary_tail,
        )  # fmt: skip


@dataclass(frozen=True)
class FramedOptions(ClosedFormOptions):
    """For methods that keep words inside prompts on pocket."""

    presets = "../presets/framed.toml"

    vocabulary_frames: tuple[str, ...] = option(("{}",), "prompts that the kept words stand in, in turn")


@dataclass(frozen=True)
class MemoryOptions(FramedOptions):
    """For methods that can solve every concept alone, behind a gate (`engine.memories`)."""

    gated: bool | None = option(None, "every concept alone, behind a gate that its prompts open; no LoRA file carries "
                                "it; none: where the concepts fill more than half of one map")  # fmt: skip
    memory: int = option(16, "directions of one concept's memory", low=1, high=1024)
    gate_words: int = option(1000, "vocabulary words that a gate learns from", low=8, high=50_000)

    def gates(self) -> GateRecipe:
        """How the gates of memories are made."""
        from erase_plugins.engine.gating import GateRecipe

        return GateRecipe("probe", self.gate_words, 0.8, 0.45, 0.75)

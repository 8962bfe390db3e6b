"""Sentences about a concept that a small language model writes, in the manner of sentences that are at hand.

The model is shown some sentences, one a line, and goes on with a line of its own: variation by example (arXiv
2302.12170), for which every causal language model will do. It is asked only; no gradient is taken.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import EraseError, HubError, RequestError
from erase_plugins.plain_text import first_line

if TYPE_CHECKING:
    from erase_plugins.families.source import Source

#: sentences that are shown, and lines that are written to the same ones
_EXAMPLES = TOGETHER = 4
#: most tokens of a line, and what a line has to be: two words or more, of letters, with simple punctuation
_TOKENS = 32
_LINE = re.compile(r"[A-Za-z][A-Za-z'-]*(?:[ ,;]+[A-Za-z0-9'-]+)+")
_INSTEAD = "; name a causal language model of transformers (a folder, or a Hub id such as OWNER/NAME)"


@dataclass(frozen=True)
class Written:
    """A sentence of the language model; as `rewriting.Sentence`, but of no parts."""

    text: str


class Writer:
    """A causal language model that writes sentences.

    Args:
        model: loaded.
        tokenizer: its own.
        name: how reports call it.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name

    @classmethod
    def open(cls, name: str, device: str = "cpu") -> Writer:
        """A language model by its folder or Hub id.

        Raises:
            RequestError: nothing there, no causal language model, or one that cannot be loaded.
            HubError: the Hub cannot be asked, or does not have it.
        """
        from erase_plugins.families.causal_lm import CausalLanguageModels

        source, family = _found(name), CausalLanguageModels()
        said = source.configs.get("model", {}).get("architectures")
        if not family.detect(source.configs):
            kind = said[0] if isinstance(said, list) and said else "no architecture is named"
            raise RequestError(f"'{source.name}' is no language model that writes sentences ({kind}){_INSTEAD}")
        what = "language model"
        try:
            from transformers import AutoTokenizer

            model = family.wrap(family.open(source, family.precision(source.configs), device), source.name)
            what, more = "the tokenizer of language model", {"revision": source.revision, "trust_remote_code": False}
            tokenizer = AutoTokenizer.from_pretrained(source.location, **more)
        except EraseError:
            raise
        except Exception as error:  # weights of other shapes, a tokenizer that is not there: libraries say it anyhow
            raise RequestError(f"{what} '{source.name}' does not load: {first_line(error)}{_INSTEAD}") from error
        return cls(model, tokenizer, source.name)

    @property
    def key(self) -> str:
        """Tells this model from any other."""
        return " ".join(item.short for _, item in sorted(self.model.fingerprint().items()))

    def sentences(self, examples: Sequence[str], count: int, seed: str) -> list[str]:
        """Sentences in the manner of the examples, none twice and none of these; the same for the same seed.

        Args:
            examples: some are shown at a time.
            count: lines that are written, at most `TOGETHER` more; those that are no sentences are left out.
            seed: of the choice and of every token.
        """
        import torch

        from erase_plugins.families.turns import ends_of

        choice, language = random.Random(seed), self.model.language
        generator = torch.Generator().manual_seed(choice.getrandbits(60))
        room = max(int(self.model.host.config.to_dict().get("max_position_embeddings") or 1024) - _TOKENS, 1)
        found: list[str] = []
        for _ in range(0, count, TOGETHER):
            shown = choice.sample(list(examples), min(_EXAMPLES, len(examples)))
            given = self.tokenizer("\n".join([*shown, ""]), return_tensors="pt")["input_ids"][:, -room:]
            told = language.sample(given.repeat(TOGETHER, 1), _TOKENS, generator, ends_of(self.tokenizer))
            texts = self.tokenizer.batch_decode(told[:, given.shape[1] :].tolist(), skip_special_tokens=True)
            found += map(line_of, texts)
        return [line for line in dict.fromkeys(found) if line and line not in examples]


def _found(name: str) -> Source:
    from pathlib import Path

    from erase_plugins.families.source import find_source

    try:
        return find_source(str(Path(name).expanduser()) if name.startswith("~") else name)
    except HubError:
        raise
    except EraseError as error:
        raise RequestError("language model: ", error) from error


def line_of(text: str) -> str:
    """The first line of what was written, without the marks of a list and the stop at its end; empty if it is none."""
    line = text.lstrip().split("\n")[0].strip(" -*.\"'")
    return line if _LINE.fullmatch(line) else ""

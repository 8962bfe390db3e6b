"""What a sentence advises, kept as data, so that each surface says it in its own words: Python, terminal, a node.

A `Sentence` is made of texts and hints, and so is an error::

    raise RequestError(f"'{name}' would become itself; give ", ANOTHER_TO)

As a string, ``str(error)`` included, it is what Python says; terminal and nodes ask for their words (`in_words`).
What is stored with an artifact or a report is read on every surface: such a text names an option by its bare name
(`stored`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from string import Formatter

#: options of the command line that are arguments of another name or form in Python
_ARGUMENTS = {
    "all-files": "layouts=['all']",
    "pairs": "gallery=",
    "pair-prompt": "prompts=",
    "erase": "concepts=",
    "set": "options=",
    "base": "target=",
    "from": "get_manager().prefer(...)",
    "forget": "ForgetItem(..., data=DataRef(...))",
    "retain": "keep=[DataRef(...)]",
}
_SWITCHES = ("force", "personal", "prune", "private", "dry-run", "offline", "any-base", "resume", "create-pr")


@dataclass(frozen=True)
class Hint:
    """An option that a sentence speaks of.

    Args:
        option: its name on the command line, without dashes.
        value: what stands behind it; "" for nothing.
        before: words in front that another surface may need to say differently, such as "pass" or "another".
        after: such words behind it, as in "leave ... out".
    """

    option: str
    value: str = ""
    before: str = ""
    after: str = ""

    def in_terminal(self) -> str:
        """The option as it is typed."""
        return self._framed(f"--{self.option} {self.value}" if self.value else f"--{self.option}")

    def __str__(self) -> str:
        if self.option in _ARGUMENTS:
            argument = _ARGUMENTS[self.option]
            example = f"'{self.value}'" if argument.endswith("=") and self.value.islower() else ""
            return self._framed(argument + example)
        shown = f"'{self.value}'" if self.value and not self.value.isdigit() else self.value
        shown = "True" if self.option in _SWITCHES else shown
        return self._framed(f"{self.option.replace('-', '_')}={shown}")

    def by_name(self) -> str:
        """The option by its bare name."""
        return self._framed(f"'{self.option}' {self.value}".rstrip())

    def _framed(self, words: str) -> str:
        return " ".join(filter(None, (self.before, words, self.after)))


@dataclass(frozen=True)
class Setting:
    """An option of a method, suite or attack, with an example of its value.

    Args:
        name, value: as behind ``--set``.
        before: words in front, as in `Hint`.
    """

    name: str
    value: str
    before: str = ""

    def in_terminal(self) -> str:
        """The option as it is typed."""
        return " ".join(filter(None, (self.before, f"--set {self.name}={self.value}")))

    def __str__(self) -> str:
        return " ".join(filter(None, (self.before, f"options={{'{self.name}': '{self.value}'}}")))

    def by_name(self) -> str:
        """The option by its bare name."""
        return " ".join(filter(None, (self.before, f"{self.name}={self.value}")))


@dataclass(frozen=True)
class Command:
    """Something to run in a terminal; said by its name where no node does the same.

    Args:
        name: which command it is.
        words: how the sentence speaks of it.
    """

    name: str
    words: str

    def in_terminal(self) -> str:
        """The command itself: it is run in a terminal from Python too."""
        return self.words

    __str__ = by_name = in_terminal


AnyHint = Hint | Setting | Command

ANOTHER_OUT = Hint("out", before="another")
ANOTHER_TO = Hint("to", before="another")
ANY_BASE = Hint("any-base", before="pass")
KEEP = Hint("keep", before="with")
LIST_PLUGINS = Command("list plugins", "'erase-plugins list plugins'")
PAIRS = Command("card --pairs", "'erase-plugins card --pairs 3'")
AGAIN = Command("again", "run the same command again")
CONVERT_BASE = Command("convert --base", "convert --base BASE")


class Sentence(str):
    """Texts and hints in one sentence, as a string what Python says; sentences and errors inside it keep theirs."""

    parts: tuple[str | AnyHint, ...]

    def __new__(cls, *parts: str | AnyHint | BaseException) -> Sentence:
        """Joins the parts; a sentence among them, or what an error says, adds its own parts."""
        flat: list[str | AnyHint] = []
        for part in parts:
            part = sentence_of(part) if isinstance(part, BaseException) else part
            flat += part.parts if isinstance(part, Sentence) else (part,)
        made = super().__new__(cls, "".join(map(str, flat)))
        made.parts = tuple(flat)
        return made

    def mapped(self, change: Callable[[str], str]) -> Sentence:
        """The sentence with each of its texts changed; hints stay as they are."""
        return Sentence(*(change(part) if isinstance(part, str) else part for part in self.parts))

    def filled(self, **values: object) -> Sentence:
        """The sentence with fields of its texts filled in, as `str.format` does; hints among the values stay."""
        made: list[str | AnyHint] = []
        for part in self.parts:
            if not isinstance(part, str):
                made.append(part)
                continue
            for text, field, *_ in Formatter().parse(part):
                value = "" if field is None else values[field]
                made += [text, value if isinstance(value, str | Hint | Setting | Command) else str(value)]
        return Sentence(*made)


def in_words(sentence: object, write: Callable[[AnyHint], str]) -> str:
    """A sentence, or what an error says, with its hints as ``write`` puts them; anything without hints as a string."""
    if isinstance(sentence, BaseException):
        sentence = sentence_of(sentence)
    if not isinstance(sentence, Sentence):
        return str(sentence)
    return "".join(part if isinstance(part, str) else write(part) for part in sentence.parts)


def in_terminal(sentence: object) -> str:
    """A sentence as the command line says it."""
    return in_words(sentence, lambda hint: hint.in_terminal())


def stored(sentence: object) -> str:
    """A sentence, or an error's, as it is kept with an artifact, a report or a search, for every surface."""
    return in_words(sentence, lambda hint: hint.by_name())


@contextmanager
def said_as(option: str, out: str = "out") -> Iterator[None]:
    """Lets errors of a with-block, or of a function under it, call the option ``out`` what it is called here."""
    try:
        yield
    except Exception as error:
        if isinstance(sentence := sentence_of(error), Sentence):
            named = (replace(part, option=option) if isinstance(part, Hint) and part.option == out else part
                     for part in sentence.parts)  # fmt: skip
            error.args = (Sentence(*named),)
        raise


def joined(between: str, parts: Iterable[str]) -> Sentence:
    """As ``between.join(parts)``, with the hints of sentences among them."""
    return Sentence(*[text for part in parts for text in (between, part)][1:])


def sentence_of(error: BaseException) -> str:
    """What an error says, with its hints; ``str(error)`` has lost them."""
    first = error.args[0] if len(error.args) == 1 else None
    return first if isinstance(first, Sentence) else str(error)

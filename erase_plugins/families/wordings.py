"""How a language model is asked about a subject: sentences and names of one language, from a TOML file. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.presets import parse

_OURS = Path(__file__).with_name("person.toml")
#: lists in which every text names its place for the subject
_FORMS = ("begun", "asked", "leads")


@dataclass(frozen=True)
class Wording:
    """The texts of one language and kind of subject; ``person.toml`` beside this module says what each is for.

    Attributes:
        begun, asked: sentences that the model ends, and questions, with {} for the name.
        leads: what stands behind a description ({}), in front of the name.
        somebody: what stands for the name in descriptions.
        strangers: an odd number of names that mean nobody.
        others: well-known subjects of the kind.
        openers: beginnings of texts about anything.
    """

    begun: tuple[str, ...]
    asked: tuple[str, ...]
    leads: tuple[str, ...]
    somebody: str
    strangers: tuple[str, ...]
    others: tuple[str, ...]
    openers: tuple[str, ...]

    @classmethod
    def read(cls, place: str | Path | None = None) -> Wording:
        """The texts of a file; about a person and in English if None.

        Raises:
            RequestError: the file cannot be read, or something in it is missing, unknown or of another form.
        """
        path = _OURS if place is None else Path(place)
        try:
            found = parse(path.read_text(encoding="utf-8"), f"'{path.name}'")
        except (OSError, ValueError) as error:
            if isinstance(error, RequestError):
                raise
            raise RequestError(f"wording '{path.name}' cannot be read ({type(error).__name__})") from None
        names = [item.name for item in fields(cls)]
        odd = next((name for name in (*found, *names) if (name in found) != (name in names)), None)
        if odd is not None:
            what = "has no" if odd in names else "has an unknown"
            raise RequestError(f"wording '{path.name}' {what} entry '{odd}'; entries are {', '.join(names)}")
        for name, value in found.items():
            fault = _fault(name, value)
            if fault:
                raise RequestError(f"wording '{path.name}': {name} {fault}")
        texts: dict[str, Any] = {name: item if isinstance(item, str) else tuple(item) for name, item in found.items()}
        return cls(**texts)

    def described(self, text: str) -> str:
        """A description without the name, as a sentence with its end."""
        text = f"{self.somebody}{text}"
        return text if text.endswith(("。", "！", "？", "।")) else f"{text.rstrip('.')}."


def _fault(name: str, value: object) -> str:
    if name == "somebody":
        return "" if isinstance(value, str) and value.strip() else "is no text"
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        return "is no list of texts"
    if name in _FORMS:
        wrong = next((item for item in value if item.count("{}") != 1), None)
        return "" if wrong is None else f"holds '{wrong[:60]}', which does not say once where the subject stands ({{}})"
    if name == "strangers" and (len(value) % 2 == 0 or len(value) != len(set(value))):
        return "needs an odd number of different names, of which one is in the middle"
    return ""

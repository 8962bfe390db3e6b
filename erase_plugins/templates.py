"""Pages for the Hub from templates: every value is made harmless as prose unless a filter says what else it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from erase_plugins.markdown import Inert, block, code, commands, listed, literal, prose
from erase_plugins.readme import document


class Pages:
    """The templates of a folder.

    Args:
        folder: where they are.
        filters: further filters of theirs, by name.
    """

    def __init__(self, folder: Path, filters: Mapping[str, Callable[..., Any]]) -> None:
        self.folder, self.filters = folder, filters

    @cached_property
    def _templates(self) -> Any:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        made = Environment(
            loader=FileSystemLoader(self.folder), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
            finalize=lambda value: value if isinstance(value, Inert) else prose(value),
        )  # fmt: skip
        made.filters |= {item.__name__: item for item in (listed, code, block, literal)} | {
            "commands": lambda parts: commands(*parts), "raw": Inert, **self.filters,
        }  # fmt: skip
        return made

    def page(self, name: str, facts: Mapping[str, Any]) -> str:
        """The text of a template with its values."""
        text: str = self._templates.get_template(name).render(facts)
        return text.strip("\n") + "\n"

    def document(self, data: Mapping[str, Any], name: str, facts: Mapping[str, Any]) -> str:
        """The text of a README.md: front matter, its body, and room for what people write on the Hub.

        Args:
            data: of the front matter; what is None is left out.
            name: template of the body.
            facts: its values.
        """
        return document(data, self.page(name, facts))

"""The texts of all pages: templates in ``pages``, and the values that stand in them.

Every value is made harmless as prose unless a filter says what else it is.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from erase_plugins.evaluation import wording
from erase_plugins.evaluation.attack_summary import plain_name
from erase_plugins.markdown import Inert, block, code, commands, listed, literal, prose
from erase_plugins.options import as_setting
from erase_plugins.workflow import provenance
from hub_cards import usage
from hub_cards.front_matter import USER, USER_END, front_matter
from hub_cards.references import address


@cache
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"), trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Inert) else prose(value),
    )  # fmt: skip
    made.filters |= {item.__name__: item for item in (listed, code, block, literal)} | {
        "commands": lambda parts: commands(*parts),
        "raw": Inert, "number": wording.number, "percent": wording.percent,
        "cell": lambda row: Inert(wording.cell(row)), "share": lambda row: Inert(wording.counted(row)),
        "plain": wording.unpromising, "before_attack": plain_name, "option": as_setting,
        "again": provenance.again, "data": provenance.data_of, "short": provenance.short, "stated": provenance.stated,
        "paper": provenance.paper_link, "citations": provenance.citations,
        "address": lambda path: Inert(address(path)), "hub_id": usage.hub_id,
    }  # fmt: skip
    return made


def page(name: str, facts: dict[str, Any]) -> str:
    """The text of a template with its values."""
    text: str = _templates().get_template(name).render(facts)
    return text.strip("\n") + "\n"


def _known(data: dict[str, Any]) -> dict[str, Any]:
    return {key: _known(item) if isinstance(item, dict) else item for key, item in data.items() if item is not None}


def document(data: dict[str, Any], name: str, facts: dict[str, Any]) -> str:
    """The text of a README.md: front matter, its body, and room for what people write on the Hub.

    Args:
        data: of the front matter; what is None is left out.
        name: template of the body.
        facts: its values.
    """
    return f"{front_matter(_known(data))}\n{page(name, facts)}\n{USER}\n{USER_END}\n"

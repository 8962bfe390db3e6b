"""README.md as the Hub shows it: front matter, text, and room for what people write there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: the file that the Hub shows as a repository's page
CARD = "README.md"
#: tag for the Hub's notice, which asks visitors first
ADULT = "not-for-all-audiences"
#: what people write between these marks on the Hub is kept by the next push
USER, USER_END = "<!-- user -->", "<!-- /user -->"
#: a mark begins a line; inside of one it may be the name of what was erased
_USER = re.compile(f"^{USER}(.*?){USER_END}", re.DOTALL | re.MULTILINE)
_YAML = re.compile(r"\A---\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)


def document(data: Mapping[str, Any], text: str) -> str:
    """The text of a README.md; what is None in its front matter is left out."""
    return f"{front_matter(_known(data))}\n{text}\n{USER}\n{USER_END}\n"


def _known(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _known(item) if isinstance(item, dict) else item for key, item in data.items() if item is not None}


def front_matter(data: Mapping[str, Any]) -> str:
    """YAML front matter; everything that is not plainly a word is quoted by the writer."""
    from huggingface_hub.utils import yaml_dump

    return f"---\n{yaml_dump(dict(data), sort_keys=False)}---\n"


def is_ours(card: str) -> bool:
    """Whether a published page was made here: it has room for people's text, or says how something was erased."""
    return _USER.search(card) is not None or "\nerasure:" in card


def keep_user_text(new: str, old: str) -> str:
    """The new page with what people wrote between the marks of the old one; of a page of theirs, with its text."""
    found, theirs = _USER.search(old), "" if is_ours(old) else _YAML.sub("", old).strip()
    if found is None and not theirs:
        return new
    before, after = new.rsplit(f"{USER}\n{USER_END}", 1)
    text = found[1] if found else f"\n{theirs}\n"
    return f"{before}{USER}{text}{USER_END}{after}"


def read(card: str) -> dict[str, Any]:
    """The front matter of a page; empty if there is none that can be read."""
    from huggingface_hub import RepoCard

    try:
        return dict(RepoCard(card, ignore_metadata_errors=True).data.to_dict()) if card.startswith("---") else {}
    except Exception:  # whatever somebody wrote there: the new page replaces it
        return {}

"""What people wrote on a published page is kept: their YAML, and their text between the marks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from huggingface_hub import RepoCard
from huggingface_hub.utils import yaml_dump

#: keys that our pages write; every other key was added by somebody
OURS = frozenset({
    "base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "license_name", "license_link",
    "tags", "widget", "erased", "erasure", "model-index", "title", "emoji", "colorFrom", "colorTo", "sdk",
    "sdk_version", "python_version", "app_file", "pinned", "short_description", "models",
})  # fmt: skip
#: keys that show pictures and numbers about certain weights
EVIDENCE = frozenset({"widget", "model-index"})
#: tag for the Hub's notice
ADULT = "not-for-all-audiences"
#: what people write between these marks on the Hub is kept by the next push
USER, USER_END = "<!-- user -->", "<!-- /user -->"
#: a mark begins a line; inside of one it may be the name of what was erased
_USER = re.compile(f"^{USER}(.*?){USER_END}", re.DOTALL | re.MULTILINE)
_YAML = re.compile(r"\A---\n.*?^---[ \t]*$", re.DOTALL | re.MULTILINE)


def front_matter(data: Mapping[str, Any]) -> str:
    """YAML front matter; everything that is not plainly a word is quoted by the writer."""
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

    try:
        return dict(RepoCard(card, ignore_metadata_errors=True).data.to_dict()) if card.startswith("---") else {}
    except Exception:  # whatever somebody wrote there: the new page replaces it
        return {}


def merge(
    new: str, old: Mapping[str, Any], *, same: bool, dropped: Iterable[str], adult: bool | None, ours: Iterable[str]
) -> str:
    """The new page with what people added to the front matter of the old one.

    Args:
        new: page as it was made.
        old: front matter of the published page.
        same: the weights are those that are published; then also keys of ours that the new page lacks are kept.
        dropped: keys that leave.
        adult: False takes the Hub's notice off; otherwise a published one stays.
        ours: tags that this package gives; others are somebody's.
    """
    made, leave = read(new), set(dropped)
    if "license" in made:
        leave |= {"license_name", "license_link"}
    more = {key: value for key, value in old.items() if key not in made and key not in leave}
    if not same:
        more = {key: value for key, value in more.items() if key not in OURS}
    tags = _tags(made, old, adult, set(ours))
    if not more and tags == made.get("tags"):
        return new
    body = new.split("\n---\n", 1)[1]
    return front_matter({**made, **({"tags": tags} if tags else {}), **more}) + body


def _tags(made: Mapping[str, Any], old: Mapping[str, Any], adult: bool | None, ours: set[str]) -> Any:
    before, now = (found if isinstance(found, list) else [] for found in (old.get("tags"), made.get("tags")))
    erasure = old.get("erasure")
    known = {*ours, *([erasure.get("family")] if isinstance(erasure, Mapping) else ())}
    kept = [
        tag for tag in before
        if isinstance(tag, str) and tag not in now
        and (adult is not False if tag == ADULT else tag not in known and not tag.startswith("erased:"))
    ]  # fmt: skip
    return [*now, *kept] or made.get("tags")

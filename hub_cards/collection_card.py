"""The card of a collection: what is in it, and how to get some of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from erase_plugins.artifacts.places import INDEX
from erase_plugins.workflow.collection import Collection
from hub_cards import model_card, usage
from hub_cards.escape import block, code, commands, document, flat, prose
from hub_cards.front_matter import ADULT
from hub_cards.licences import Licence
from hub_cards.searching import COLLECTION
from hub_cards.sensitive import adults_only

_HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
#: artifacts that the table shows; the index has all
_SHOWN = 200
#: erased concepts that the front matter holds, for the search
_LISTED = 2000


def collection_card(
    library: Collection, concepts: Sequence[Any], *, repo: str, licence: Licence, lora: bool = True,
    requirement: str | None = None,
) -> str:  # fmt: skip
    """The text of README.md. Whatever came from prompts is inert in it.

    Args:
        library: the collection.
        concepts: concepts of all its artifacts.
        repo: where it will be published.
        licence: under which it is published.
        lora: every artifact has a LoRA file that stock diffusers loads.
        requirement: line for pip with which readers get this package.
    """
    names = library.names()
    texts = list(dict.fromkeys(flat(text) for name in names for text in library.entries[name].erased))
    base_id = str(library.base.get("model") or "")
    known = {"base_model": base_id, "base_model_relation": "adapter"} if re.fullmatch(_HUB_ID, base_id) else {}
    tags = (*(model_card.LORA if lora else ()), *model_card.PLAIN)
    data: dict[str, Any] = {
        **known,
        **model_card.library(lora),
        **licence.metadata(),
        "tags": [
            *tags,
            COLLECTION,
            flat(library.family),
            *model_card.erased_tags(texts),
            *([ADULT] if adults_only(concepts) else []),
        ],
        "erased": texts[:_LISTED],
        "erasure": {"family": flat(library.family), "base": flat(base_id), "members": len(names)},
    }
    data["erasure"] |= {} if requirement is None else {"requirement": requirement}
    return document(data, _body(library, repo, requirement))


def _body(library: Collection, repo: str, requirement: str | None) -> list[str]:
    names = library.names()
    some = list(names[:2])
    size = sum(entry.bytes for entry in library.entries.values()) / 1e6
    pulled = commands(("erase-plugins", "collection", "pull", repo, *some), ("--into", "mine"))
    used = commands(
        ("erase-plugins", "generate", f"hub:{repo}#{','.join(some)}"),
        ("--model", library.base.get("model") or "MODEL"), ("--prompt", "a photo", "--out", "picture.png"),
    )  # fmt: skip
    rows = ["| name | erased | method | MB |", "|---|---|---|---|"]
    for name in names[:_SHOWN]:
        entry = library.entries[name]
        erased = ", ".join(prose(text) for text in entry.erased[:5])
        rows.append(f"| {code(name)} | {erased} | {prose(entry.method)} | {entry.bytes / 1e6:.2f} |")
    more = len(names) - _SHOWN
    return [
        f"# {len(names)} erased concepts",
        f"One small file per concept, {len(names)} of them ({size:.1f} MB). Each makes an image model stop drawing its "
        f"concept; take the ones you want. All were made for {prose(library.base.get('model') or 'one base')} "
        f"(family {prose(library.family)}).",
        "## Take some of them\n\n"
        + "\n\n".join((usage.install(requirement), block(pulled, "bash"), block(used, "bash")))
        + "\n\nOnly the files of the named artifacts are downloaded. Several are merged on your machine.",
        "## What is in it\n\n" + "\n".join(rows) + (f"\n\nand {more} more in {code(INDEX)}" if more > 0 else ""),
        "## Limits\n\nWhoever has the base model can leave these files out; they are no proof of deletion. Many of "
        "them at once disturb the model more than a few.",
    ]  # fmt: skip

"""The first screen of a card: one sentence with the honest number, pictures, lines of code, where to try it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.types import AttackReport, EvalReport, EvalRow
from hub_cards import usage
from hub_cards.attacks import words
from hub_cards.escape import commands, prose
from hub_cards.evidence import ATTACK, percent
from hub_cards.gallery import Gallery

#: the Hub shows the pictures of the page's metadata where this stands
GALLERY = "<Gallery />"
#: metric -> what the sentence calls it
_TOLD = {"target_rate": None, "synonym_rate": "synonyms", "kept_rate": "other concepts"}
#: so many attacks are named in the sentence
_NAMED = 2


def names(manifest: Manifest, most: int = 5) -> str:
    """The erased concepts on one line."""
    texts = [prose(text) for text in manifest.erased[:most]]
    more = len(manifest.erased) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more > 0 else "")


def first_screen(
    loaded: Any, report: EvalReport | None, repo: str, gallery: Gallery | None, attacks: Sequence[AttackReport],
    space: str | None,
) -> list[str]:  # fmt: skip
    """Paragraphs above the first heading.

    Args:
        loaded: the artifact.
        report: its evaluation, if there is one.
        repo: "owner/name".
        gallery: pairs before and after, shown by the Hub's own strip of pictures.
        attacks: reports of attacks.
        space: "owner/name" of a Space that shows it.
    """
    manifest = loaded.manifest
    line = commands(("erase-plugins", "space", repo))
    at = f"https://huggingface.co/spaces/{space}"
    try_it = f"[Try it in the browser]({at})." if space else f"Try it in a browser: `{line}` writes the page."
    return [
        _opening(manifest),
        measured(manifest, report, attacks),
        *([] if gallery is None else [GALLERY]),
        usage.shortest(loaded, repo),
        *([try_it] if usage.task_of(manifest) == usage.TEXT_TO_IMAGE else []),
    ]


def _opening(manifest: Manifest) -> str:
    gone = "no longer draws" if usage.task_of(manifest) == usage.TEXT_TO_IMAGE else "is without"
    return (
        f"Load this small file and the model {gone} **{names(manifest)}**. "
        "Take it off and the model is as it was before."
    )


def measured(manifest: Manifest, report: EvalReport | None, attacks: Sequence[AttackReport]) -> str:
    """The numbers that matter in one sentence each: what is left, what else changed, what brings it back."""
    rows = {(row.metric, row.subject): row for row in (report.rows if report else ())}
    parts = []
    for metric, called in _TOLD.items():
        after = rows.get((metric, "edited"))
        if after is not None:
            parts.append(f"{called or names(manifest, 2)} {_change(rows.get((metric, 'base')), after)}")
    said = f"Measured: **{', '.join(parts)}** of the pictures." if parts else "How well it works was not measured."
    return f"{said} {_attacked(report, attacks)}"


def _change(before: EvalRow | None, after: EvalRow) -> str:
    return f"{percent(after.value)} %" if before is None else f"{percent(before.value)} % → {percent(after.value)} %"


def _attacked(report: EvalReport | None, attacks: Sequence[AttackReport]) -> str:
    if not attacks:
        there = any(ATTACK in f"{row.metric} {row.subject}" for row in (report.rows if report else ()))
        return "Attacks are among the numbers below." if there else "Nobody has attacked it yet."
    above = [item for item in attacks if item.success.low > item.control.high]  # the intervals do not touch
    back = sorted(above, key=lambda item: -item.success.value)
    if not back:
        return f"Of {len(attacks)} attacks none brought it back clearly more often than its control."
    told = ", ".join(f"{words(item.attack)} ({percent(item.success.value)} %)" for item in back[:_NAMED])
    more = f" and {len(back) - _NAMED} more" if len(back) > _NAMED else ""
    return f"{len(back)} of {len(attacks)} attacks brought it back: {told}{more}."

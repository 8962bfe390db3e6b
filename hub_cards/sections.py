"""The parts of a card that people read: what changes, on which base, how strong, what it does not promise."""

from __future__ import annotations

import re

from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.types import EvalReport
from hub_cards.citation import citations
from hub_cards.escape import block, code, prose
from hub_cards.evidence import attacked, number
from hub_cards.gallery import INDEX, Gallery
from hub_cards.licences import Licence

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: that many concepts are shown by name; erase.json has all
_SHOWN = 40


def hub_id(manifest: Manifest) -> str | None:
    """The base model's id on the Hub; None if it was a local model."""
    name = str(manifest.base.get("model") or "")
    return name if _HUB_ID.fullmatch(name) else None


def changes(manifest: Manifest) -> str:
    """A row per concept, then what was kept on purpose."""
    guards = manifest.changes_nothing and bool(manifest.guards)
    other = "blocked or steered away from while it runs" if guards else "something else (the method chose)"
    rows = ["| you ask for | you get | also covered |", "|---|---|---|"]
    for concept in manifest.concepts[:_SHOWN]:
        becomes = prose(concept.anchor) if concept.anchor else other
        also = ", ".join(prose(text) for text in concept.prompts) or "-"
        rows.append(f"| {prose(concept.name)} ({prose(concept.kind)}) | {becomes} | {also} |")
    more = len(manifest.concepts) - _SHOWN
    if more > 0:
        rows.append(f"| and {more} more, see erase.json | | |")
    kept = ", ".join(prose(text) for text in manifest.preserve[:_SHOWN])
    extra = len(manifest.preserve) - _SHOWN
    text = f"Kept on purpose: {kept}{f' and {extra} more' if extra > 0 else ''}. " if kept else ""
    rows += ["", f"{text}The rest should stay as it was; the table *How well* says how far that holds."]
    return "\n".join(rows)


def base(manifest: Manifest) -> str:
    """The base model with a link and its revision."""
    name = hub_id(manifest)
    model = str(manifest.base.get("model") or "not recorded")
    shown = f"[{prose(model)}](https://huggingface.co/{name})" if name else prose(model)
    revision = manifest.base.get("revision")
    at = f", revision {code(revision)}" if revision else ", revision not recorded" if name else ""
    return (
        f"{shown}{at} (family {code(manifest.family)}). It was made for these weights. "
        "On others it may do something else, and our own tools refuse it there."
    )


def pairs(gallery: Gallery) -> str:
    """A row per pair: prompt and seed, the base, the erased model."""
    rows = ["| prompt | before | after |", "|---|---|---|"]
    for pair in gallery.pairs:
        shown = f"![before]({pair.before}) | ![after]({pair.after})"
        rows.append(f"| {prose(pair.prompt)}, seed {pair.seed} | {shown} |")
    how = f"strength {number(gallery.strength)}, {gallery.steps} steps, guidance {number(gallery.guidance)}"
    rows += ["", f"Same prompt and same seed on both sides; {how}. {code(INDEX)} lists them."]
    if gallery.blurred:
        rows.append("The pictures are blurred on purpose.")
    return "\n".join(rows)


def stated(manifest: Manifest) -> dict[str, float]:
    """Strengths that somebody wrote into the manifest; the ones that every manifest starts with nobody measured."""
    found = dict(sorted(manifest.strength.items()))
    return {} if found == dict(sorted(Manifest("x", {"id": "x"}, ()).strength.items())) else found


def certificate(manifest: Manifest) -> list[str]:
    """The section with the certificate, if there is one; what is not certified says so first."""
    found = manifest.certificate
    if found is None:
        return []
    pairs = [(name, number(value)) for name, value in found.numbers]
    pairs += [] if found.epsilon is None else [("epsilon", f"{number(found.epsilon)} at delta {found.delta:g}")]
    lists = {"why not": found.reasons, "assumes": found.assumptions}
    rows = [
        ("certified", "yes, by its maker" if found.certified else "no"), *pairs, ("mechanism", found.mechanism),
        ("accountant", found.accountant), ("is about", found.scope),
        *((name, "; ".join(texts)) for name, texts in lists.items()),
        ("deleted records", str(len(found.subjects) or "")), ("ledger", found.ledger_hash), ("data", found.data_hash),
    ]  # fmt: skip
    table = ["| | |", "|---|---|", *(f"| {prose(name)} | {prose(text)} |" for name, text in rows if text)]
    return ["## Certificate\n\n" + "\n".join(table)]


def strength(manifest: Manifest, report: EvalReport | None) -> str:
    """What is known about strengths: what was measured, what its maker says, that 0 is the base."""
    measured = f"Measured at {number(report.strength)} only, see *How well*. " if report and report.rows else ""
    best, low, high = (stated(manifest).get(name) for name in ("recommended", "low", "high"))
    if best is None:
        said = "Other strengths were not measured. " if measured else "Not measured. Start with 1; "
    else:
        span = "" if low is None or high is None else f", and values from {number(low)} to {number(high)}"
        said = f"Its maker recommends {number(best)}{span}. "
    return f"{measured}{said}0 switches it off."


def limits(manifest: Manifest, report: EvalReport | None, tried_also: bool = False) -> str:
    """What this does not promise; ``tried_also`` if the card has a table of attacks."""
    there = tried_also or attacked(report)
    tried = "were measured only as the table above says" if there else "were not tried"
    lines = [
        "- **It can be taken off.** Whoever has the base and this file can leave it out.",
        "- **It is no proof of deletion.** What the base has learned is still in its weights.",
        f"- **It can be got around.** Prompts made to bring the concept back {tried}; other words, other languages "
        "and pictures as input may do it.",
        "- **A negative strength does the opposite**: it pushes towards the concept.",
        "- **It belongs to one base.** Fine-tunes, other LoRAs and other samplers were not tested with it.",
    ]
    return "\n".join([*lines, *(f"- {prose(text)}" for text in manifest.warnings)])


def licence(found: Licence | None) -> str:
    """The licence, and that the base model's conditions hold."""
    if found is None:
        return "That of the base model; look it up on its page before you use or pass on this file."
    shown = code(found.name or found.id)
    link = f" ([text]({found.link}))" if found.link else ""
    return f"{shown}{link}. The conditions of the base model's licence hold for this file as well."


def citing(manifest: Manifest) -> list[str]:
    """The section with BibTeX, if the method names a paper."""
    entries = citations(manifest.method)
    if not entries:
        return []
    return ["## Cite\n\nThe method is the work of its authors:\n\n" + block("\n\n".join(entries), "bibtex")]

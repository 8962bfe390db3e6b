"""How an artifact was made: the command that makes it again, and a table of everything the result depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.concept_text import written
from erase_plugins.errors import EraseError, UnknownName
from hub_cards.citation import paper_link
from hub_cards.escape import block, code, commands, flat, prose
from hub_cards.sections import stated


def metadata(manifest: Manifest) -> dict[str, Any]:
    """What the card's YAML repeats of the manifest."""
    method, base, told = manifest.method, manifest.base, stated(manifest)
    return {
        "name": flat(manifest.name),
        "method": flat(method.get("id", "")),
        "method_version": flat(method.get("version", "")),
        "family": flat(manifest.family),
        "base": flat(base.get("model") or ""),
        "base_revision": flat(base.get("revision") or ""),
        "becomes": [flat(concept.anchor or "") for concept in manifest.concepts],
        "kept": [flat(text) for text in manifest.preserve],
        "seed": manifest.seed,
        **({"strength": told} if told else {}),
    }


def made(manifest: Manifest) -> str:
    """The section's text."""
    if manifest.history:
        first = steps(manifest)
    elif any(item.data is not None or item.label is not None for item in manifest.concepts) or manifest.retain_data:
        first = "In Python, from the data that is named below and is not part of this page."
    else:
        first = block(again(manifest), "bash")
    return f"{first}\n\n{table(manifest)}"


def steps(manifest: Manifest) -> str:
    """What was done with an artifact that did not come out of one run."""
    lines = ["Not in one run, but step by step:", ""]
    for number, entry in enumerate(manifest.history, start=1):
        facts = {key: value for key, value in entry.items() if key != "action" and not isinstance(value, Mapping)}
        said = "; ".join(f"{prose(key)} {prose(_word(value))}" for key, value in facts.items())
        lines.append(f"{number}. {prose(entry.get('action', 'changed'))}{f': {said}' if said else ''}")
    return "\n".join(lines)


def again(manifest: Manifest) -> str:
    """The command that makes the artifact again."""
    method, base = manifest.method, manifest.base
    parts: list[tuple[object, ...]] = [("erase-plugins", "run", method.get("id", "METHOD"))]
    parts.append(("--model", base.get("model") or "MODEL"))
    if base.get("revision"):
        parts.append(("--revision", base["revision"]))
    parts += [("--erase", written(concept.text)) for concept in manifest.concepts]
    anchors = {concept.anchor for concept in manifest.concepts}
    if len(anchors) == 1 and None not in anchors:
        parts.append(("--to", *anchors))
    kinds = {concept.kind for concept in manifest.concepts}
    if len(kinds) == 1:
        parts.append(("--kind", *kinds))
    parts += [("--keep", text) for text in manifest.preserve]
    for name, value in sorted(_set_by_hand(manifest).items()):
        parts.append(("--set", f"{name}={_word(value)}"))
    parts.append(("--seed", manifest.seed, "--out", manifest.name))
    return commands(*parts)


def _set_by_hand(manifest: Manifest) -> Mapping[str, Any]:
    """Options that the method would not choose by itself everywhere; all of them if the method is not installed."""
    from erase_plugins.manager import get_manager
    from erase_plugins.options import describe

    try:
        known = {item.name: item for item in describe(get_manager().method(str(manifest.method["id"])).Options)}
    except (UnknownName, AttributeError, TypeError):
        return manifest.options
    return {
        name: value
        for name, value in manifest.options.items()
        if name not in known or known[name].per or _word(known[name].default) != _word(value)
    }


def _word(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def table(manifest: Manifest) -> str:
    """Base, method, options, seed, date, size and versions."""
    method, base = manifest.method, manifest.base
    link = paper_link(method)
    paper = f" ([paper]({link}))" if link else ""
    prints = (f"{code(name)} {code(_short(item))}" for name, item in sorted((base.get("fingerprint") or {}).items()))
    options = ", ".join(
        f"{prose(name)} = {prose(_word(value))}"
        for name, value in sorted(manifest.options.items())
        if value not in ((), [])
    )
    versions = ", ".join(f"{prose(name)} {prose(value)}" for name, value in sorted(manifest.versions.items()))
    origin = f"{code(method.get('id'))} {prose(method.get('version', ''))} of {prose(method.get('package', 'unknown'))}"
    data = [(item.name, item.data) for item in manifest.concepts if item.data is not None]
    data += [("retained", item) for item in manifest.retain_data]
    read = ", ".join(f"{prose(name)}: {prose(item.name)} ({code(item.sha256[:12])})" for name, item in data)
    rows = {
        "method": f"{prose(method.get('title') or method.get('id'))}{paper}, {origin}",
        "base": prose(base.get("model") or "not recorded"),
        "revision of the base": prose(base.get("revision") or "not recorded"),
        "fingerprint of the base": ", ".join(prints) or "not recorded",
        "options": options or "none",
        **({"data": read} if read else {}),
        "seed": str(manifest.seed),
        "made": f"{prose(manifest.created or 'not recorded')}, in {manifest.seconds:.3g} s",
        "size": f"{_plural(manifest.modules, 'module')} changed, rank {manifest.rank}",
        "versions": versions or "not recorded",
    }
    return "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _short(fingerprint: Any) -> str:
    from erase_plugins.artifacts.fingerprint import Fingerprint

    try:
        return Fingerprint.from_dict(fingerprint).short
    except (EraseError, AttributeError, TypeError, ValueError):
        return "not readable"

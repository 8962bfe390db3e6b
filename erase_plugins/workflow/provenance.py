"""How an artifact was made: data, strengths, papers, and the command that makes it again. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from erase_plugins.artifacts.fingerprint import Fingerprint
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.concept_text import written
from erase_plugins.errors import EraseError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.markdown import flat
from erase_plugins.options import as_setting, describe

_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")
_LINK = re.compile(r"https://[\w./-]+")


def data_of(manifest: Manifest) -> list[tuple[str, Any]]:
    """Data that it was made from, each with what it was used for."""
    data = [(item.name, item.data) for item in manifest.concepts if item.data is not None]
    return [*data, *(("retained", item) for item in manifest.retain_data)]


def stated(manifest: Manifest) -> dict[str, float]:
    """Strengths that somebody wrote into the manifest; the ones that every manifest starts with nobody measured."""
    found = dict(sorted(manifest.strength.items()))
    return {} if found == dict(sorted(Manifest("x", {"id": "x"}, ()).strength.items())) else found


def metadata(manifest: Manifest) -> dict[str, Any]:
    """What the front matter of a page repeats of the manifest."""
    method, base = manifest.method, manifest.base
    texts = {
        "name": manifest.name, "method": method.get("id", ""), "method_version": method.get("version", ""),
        "family": manifest.family, "base": base.get("model") or "", "base_revision": base.get("revision") or "",
    }  # fmt: skip
    return {name: flat(text) for name, text in texts.items()} | {
        "becomes": [flat(concept.anchor or "") for concept in manifest.concepts],
        "kept": [flat(text) for text in manifest.preserve], "seed": manifest.seed,
        "strength": stated(manifest) or None,
    }  # fmt: skip


def again(manifest: Manifest) -> Iterator[tuple[object, ...]]:
    """The command that makes the artifact again, in parts; nothing where no single command made it."""
    base, concepts = manifest.base, manifest.concepts
    if manifest.history or data_of(manifest) or any(item.label is not None for item in concepts):
        return
    yield "erase-plugins", "run", manifest.method.get("id", "METHOD")
    yield "--model", base.get("model") or "MODEL"
    if base.get("revision"):
        yield "--revision", base["revision"]
    yield from (("--erase", written(concept.text)) for concept in concepts)
    for name, values in (("--to", {item.anchor for item in concepts}), ("--kind", {item.kind for item in concepts})):
        if len(values) == 1 and None not in values:
            yield name, *values
    yield from (("--keep", text) for text in manifest.preserve)
    yield from (("--set", f"{name}={as_setting(value)}") for name, value in sorted(_set_by_hand(manifest).items()))
    yield "--seed", manifest.seed, "--out", manifest.name


def _set_by_hand(manifest: Manifest) -> Mapping[str, Any]:
    """Options that the method would not choose by itself everywhere; all of them if the method is not installed."""

    try:
        known = {item.name: item for item in describe(get_manager().method(str(manifest.method["id"])).Options)}
    except (UnknownName, AttributeError, TypeError):
        return manifest.options
    return {
        name: value for name, value in manifest.options.items()
        if name not in known or known[name].per or as_setting(known[name].default) != as_setting(value)
    }  # fmt: skip


def short(fingerprint: Any) -> str:
    """A fingerprint of a base model on a page."""

    try:
        return Fingerprint.from_dict(fingerprint).short
    except (EraseError, AttributeError, TypeError, ValueError):
        return "not readable"


def paper_link(method: Mapping[str, Any]) -> str | None:
    """The link to the method's paper, if it is a plain one."""
    link = str(method.get("paper") or "")
    return link if _LINK.fullmatch(link) else None


def citations(method: Mapping[str, Any]) -> list[str]:
    """BibTeX entries for the method of a manifest; none if it names no paper.

    A registered method may carry its entry as ``citation``. Otherwise one is made from title and link: for arXiv with
    number and year, else with the link alone.
    """

    found = []
    for name in str(method.get("id") or "").split("+"):  # a sum of several methods names them all
        try:
            item = get_manager().method(name)
        except UnknownName:
            continue
        own = str(getattr(item, "citation", "") or "").strip()
        found.append(own or _from_link(name, {"title": item.title, "paper": item.paper}))
    return [text for text in found or [_from_link(str(method.get("id")), method)] if text]


def _from_link(key: str, method: Mapping[str, Any]) -> str:
    link = paper_link(method)
    if link is None:
        return ""
    number_, rows = _ARXIV.search(link), {"title": re.sub(r"[{}\\\"%@]", "", flat(method.get("title") or key))}
    if number_:
        rows |= {"year": f"20{number_[1][:2]}", "eprint": number_[1], "archivePrefix": "arXiv"}
    told = ",\n".join(f"  {name} = {{{text}}}" for name, text in {**rows, "url": link}.items())
    return f"@misc{{{re.sub(r'[^A-Za-z0-9_]', '', key) or 'method'},\n{told}\n}}"

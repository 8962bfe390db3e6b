"""The model card of an artifact, from its manifest and, if there is one, the report of its evaluation.

It answers in the order in which people ask: what disappears, what it becomes, which base, how well, how to use it, how
strong, how it was made, what it does not promise, licence, whom to tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.errors import ArtifactError, EraseError, PushRefused
from erase_plugins.types import EvalReport
from hub_cards import usage
from hub_cards.bundle import read_report
from hub_cards.escape import block, code, command, flat, front_matter, prose
from hub_cards.evidence import evidence, model_index
from hub_cards.licences import licence_of

#: what people write between these marks on the Hub is kept by the next push
USER, USER_END = "<!-- user -->", "<!-- /user -->"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
TAGS = ("lora", "diffusers", "template:sd-lora", "concept-erasure", "machine-unlearning", "erase-plugins")
#: concept kinds whose page gets the Hub's notice
SENSITIVE = ("explicit",)


def card(
    artifact: Any,
    report: EvalReport | str | Path | None = None,
    *,
    repo: str | None = None,
    license: str | None = None,
    pictures: Sequence[str] = (),
    strict: bool = False,
) -> str:
    """The text of README.md: YAML front matter and Markdown. Whatever came from prompts is inert in it.

    Args:
        artifact: an `Artifact` or its path.
        report: its evaluation: a report, a report.json or the folder of one. Without it the card says "not measured".
        repo: where it will be published; a placeholder if None.
        license: licence id; that of the base model if None.
        pictures: names of pictures in the repository.
        strict: refuse where the licence is not known.

    Raises:
        PushRefused: ``strict`` and the licence is not known.
        ArtifactError: the artifact or the report cannot be read, or the report is about another one.
    """
    from erase_plugins.artifacts.artifact import load_artifact

    loaded = load_artifact(artifact)
    found, _ = read_report(report)
    manifest = loaded.manifest
    if found is not None and found.artifacts and manifest.name not in found.artifacts:
        raise ArtifactError(f"the report is about {', '.join(found.artifacts)[:80]}, not about '{manifest.name}'")
    licence = licence_of(manifest.base, license)
    if licence is None and strict:
        base = code(manifest.base.get("model"))
        raise PushRefused(f"the licence of the base model {base} is not known here; name it with --license ID")
    where = repo or "OWNER/NAME"
    data = metadata(manifest, found, where, licence, pictures)
    return front_matter(data) + "\n" + _body(loaded, found, where, licence, pictures) + "\n"


def metadata(
    manifest: Manifest, report: EvalReport | None, repo: str, licence: str | None, pictures: Sequence[str] = ()
) -> dict[str, Any]:
    """The card's YAML as a dictionary."""
    base = str(manifest.base.get("model") or "")
    data: dict[str, Any] = {}
    if _HUB_ID.match(base):
        data |= {"base_model": base, "base_model_relation": "adapter"}
    sensitive = {concept.kind for concept in manifest.concepts} & set(SENSITIVE)
    data |= {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "license": licence or "other",
        "tags": [*TAGS, *(["not-for-all-audiences"] if sensitive else [])],
    }
    if licence is None:
        data |= {"license_name": "as-the-base-model"}
    if pictures:
        data["thumbnail"] = pictures[0]
    data["erased"] = [flat(text) for text in manifest.erased]
    index = [] if report is None else model_index(manifest.name, report)
    return {**data, "model-index": index} if index else data


def _body(loaded: Any, report: EvalReport | None, repo: str, licence: str | None, pictures: Sequence[str]) -> str:
    manifest = loaded.manifest
    names = ", ".join(prose(text) for text in manifest.erased)
    parts = [
        f"# Erased: {names}",
        f"This small file makes an image model stop drawing **{names}**. The rest of the model stays as it is.",
        "## What disappears\n\n" + "\n".join(_concept(concept) for concept in manifest.concepts),
        "## Which base\n\n" + _base(manifest),
        "## How well\n\n" + evidence(report),
        *(f"![Pictures before and after]({name})" for name in pictures),
        "## How to use it\n\n" + usage.sections(loaded, repo),
        "## How strong\n\n" + _strength(manifest),
        "## How it was made\n\n" + _made(manifest),
        "## Limits\n\n" + _limits(manifest),
        *_further(loaded, report),
        "## Licence\n\n" + _licence(manifest, licence),
        "## Contact\n\nSomething is wrong, or this page should go? Open a discussion on it (tab *Community*).",
        f"{USER}\n{USER_END}",
    ]
    return "\n\n".join(parts)


def _concept(concept: Any) -> str:
    becomes = f"becomes {prose(concept.anchor)}" if concept.anchor else "what it becomes was left to the method"
    also = f"; also covered: {', '.join(prose(text) for text in concept.prompts)}" if concept.prompts else ""
    return f"- {prose(concept.text)} ({prose(concept.kind)}): {becomes}{also}"


def _base(manifest: Manifest) -> str:
    base = manifest.base
    model = str(base.get("model") or "not recorded")
    shown = f"[{prose(model)}](https://huggingface.co/{model})" if _HUB_ID.match(model) else prose(model)
    lines = [f"- model: {shown}", f"- revision: {code(base.get('revision') or 'not recorded')}"]
    lines.append(f"- family: {code(manifest.family)}")
    for component, item in sorted((base.get("fingerprint") or {}).items()):
        lines.append(f"- fingerprint of {code(component)}: {code(_short(item))}")
    return "\n".join([*lines, "", "It works on these weights. On others it is refused, or does something else."])


def _short(fingerprint: Any) -> str:
    from erase_plugins.artifacts.fingerprint import Fingerprint

    try:
        return Fingerprint.from_dict(fingerprint).short
    except (EraseError, AttributeError, TypeError, ValueError):
        return "not readable"


def _strength(manifest: Manifest) -> str:
    recommended, low, high = (manifest.strength.get(name) for name in ("recommended", "low", "high"))
    if recommended is None:
        return "not measured"
    span = "" if low is None or high is None else f" Usable range: {low:g} to {high:g}."
    return f"Recommended strength: {recommended:g}; 0 switches it off.{span}"


def _made(manifest: Manifest) -> str:
    method, base = manifest.method, manifest.base
    words: list[object] = ["erase-plugins", "run", method.get("id", "METHOD"), "--model", base.get("model", "MODEL")]
    for concept in manifest.concepts:
        words += ["--erase", concept.text]
    anchors = {concept.anchor for concept in manifest.concepts}
    if len(anchors) == 1 and None not in anchors:
        words += ["--to", next(iter(anchors))]
    kinds = {concept.kind for concept in manifest.concepts}
    words += ["--kind", next(iter(kinds))] if len(kinds) == 1 else []
    for text in manifest.preserve:
        words += ["--keep", text]
    for name, value in sorted(manifest.options.items()):
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            words += ["--set", f"{name}={value}"]
    words += ["--seed", manifest.seed, "--out", manifest.name]
    paper = str(method.get("paper") or "")
    link = f" ([paper]({paper}))" if re.fullmatch(r"https://[\w./-]+", paper) else ""
    versions = ", ".join(f"{prose(name)} {prose(value)}" for name, value in sorted(manifest.versions.items()))
    lines = [f"Method: {prose(method.get('title') or method.get('id'))}{link}.", "", block(command(*words), "bash")]
    if manifest.history:
        lines += ["", f"Changed afterwards in {len(manifest.history)} steps; erase.json lists them."]
    return "\n".join([*lines, "", f"Versions: {versions or 'not recorded'}."])


def _limits(manifest: Manifest) -> str:
    lines = [
        "- It can be taken off: whoever has the base and this file can leave it out.",
        "- A negative strength pushes towards the concept.",
        "- It is no proof of deletion. What the base has learned is still in its weights.",
        "- Prompts that were not tested, prompts made to get around it, and pictures as input may still bring it back.",
    ]
    return "\n".join([*lines, *(f"- {prose(text)}" for text in manifest.warnings)])


def _further(loaded: Any, report: EvalReport | None) -> list[str]:
    """Sections of plugins: their Markdown is their own responsibility, as their code is."""
    from erase_plugins.manager import get_manager

    return [str(section).strip() for section in get_manager().card_sections(loaded, report) if str(section).strip()]


def _licence(manifest: Manifest, licence: str | None) -> str:
    if licence is None:
        return "That of the base model; look it up on its page before you use or pass on this file."
    return f"{code(licence)}. The conditions of the base model's licence hold for this file as well."


def keep_user_text(new: str, old: str) -> str:
    """The new card with what people wrote between the marks of the old one."""
    found = re.search(f"{re.escape(USER)}(.*?){re.escape(USER_END)}", old, flags=re.DOTALL)
    if not found:
        return new
    before, after = new.rsplit(f"{USER}\n{USER_END}", 1)
    return f"{before}{USER}{found[1]}{USER_END}{after}"

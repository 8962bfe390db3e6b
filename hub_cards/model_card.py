"""The model card of an artifact, from its manifest, the report of its evaluation and pairs of pictures.

The first screen says what disappears, how well, what brings it back, and shows pictures and lines of code. Below it
stand the numbers; what few people need is folded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.manifest import Manifest, slug
from erase_plugins.errors import ArtifactError
from erase_plugins.types import AttackReport, EvalReport
from hub_cards import attacks as tried
from hub_cards import provenance, sections, summary, usage
from hub_cards.bundle import read_report
from hub_cards.errors import check_repo
from hub_cards.escape import USER, USER_END, document, flat, folded, prose
from hub_cards.evidence import alt_text, evidence, model_index
from hub_cards.front_matter import ADULT
from hub_cards.gallery import Gallery
from hub_cards.licences import Licence, licence_of, needed
from hub_cards.package import pinned
from hub_cards.sensitive import adults_only

#: tags of every page, and those of a page with a LoRA that stock diffusers loads
PLAIN = ("concept-erasure", "machine-unlearning", "erase-plugins")
LORA = ("lora", "diffusers", "template:sd-lora")
TAGS = (*LORA, *PLAIN, "erase-collection", "erase-full-checkpoint")
#: tag before the name of every erased concept, so that it can be searched for
ERASED = "erased:"
#: concepts that get such a tag
MOST_TAGS = 50


def card(
    artifact: Any,
    report: EvalReport | str | Path | None = None,
    *,
    repo: str | None = None,
    license: str | Licence | None = None,
    pictures: Sequence[str] = (),
    gallery: Gallery | None = None,
    adult: bool | None = None,
    strict: bool = False,
    requirement: str | None = None,
    attacks: Sequence[AttackReport] | None = None,
    space: str | None = None,
) -> str:
    """The text of README.md: YAML front matter and Markdown. Whatever came from prompts is inert in it.

    Args:
        artifact: an `Artifact` or its path.
        report: its evaluation: a report, a report.json or the folder of one. Without it the card says "not measured".
        repo: where it will be published; a placeholder if None.
        license: licence id; that of the base model if None.
        pictures: names of pictures of the report in the repository.
        gallery: pairs before and after (`hub_cards.draw_pairs`), as they will be published.
        adult: ask visitors first (tag "not-for-all-audiences"); by default for explicit concepts.
        strict: refuse where the licence is not known.
        requirement: line for pip with which readers get this package (see `hub_cards.package.pinned`). Without it the
            page says that no index has it.
        attacks: reports of attacks; those beside the report if None.
        space: "owner/name" of a Space where people can try it.

    Raises:
        RequestError: the requirement is not pinned, or a Space of another form than owner/name.
        PushRefused: ``strict`` and the licence is not known.
        ArtifactError: the artifact or the report cannot be read, or the report is about another one.
    """
    from erase_plugins.workflow.artifacts import load_artifact

    loaded = load_artifact(artifact)
    found, _ = read_report(report)
    manifest = loaded.manifest
    if found is not None and found.artifacts and manifest.name not in found.artifacts:
        raise ArtifactError(f"the report is about {', '.join(found.artifacts)[:80]}, not about '{manifest.name}'")
    against = tried.read_attacks(report)[0] if attacks is None else tuple(attacks)
    tried.check_about(against, manifest.name)
    line = None if requirement is None else pinned(requirement)
    shown = None if space is None else check_repo(space)
    licence = needed(manifest.base, license) if strict else licence_of(manifest.base, license)
    where = repo or "OWNER/NAME"
    asks = adults_only(manifest.concepts) if adult is None else adult
    data = metadata(manifest, found, licence, pictures=pictures, gallery=gallery, adult=asks)
    data["erasure"] |= {key: text for key, text in (("requirement", line), ("space", shown)) if text}
    body = _body(loaded, found, where, licence, pictures, gallery, line, against, shown)
    return document(absolute(data, repo), body)


def has_lora(manifest: Manifest) -> bool:
    """Whether one of the files is a LoRA that stock diffusers loads from the repository."""
    from hub_cards.usage import readers

    return any("diffusers" in readers(item.layout) for item in manifest.files)


def erased_tags(concepts: Iterable[str]) -> list[str]:
    """A tag for each concept, so that the Hub's own search finds what erases it; as many as a page has room for."""
    return list(dict.fromkeys(f"{ERASED}{slug(flat(text)).replace('_', '-')}" for text in concepts))[:MOST_TAGS]


def library(lora: bool, task: str = "text-to-image") -> dict[str, Any]:
    """The Hub's snippet follows the library: that of diffusers needs a file that diffusers loads."""
    return {"library_name": "diffusers" if lora else "erase-plugins", "pipeline_tag": flat(task)}


def metadata(
    manifest: Manifest,
    report: EvalReport | None,
    licence: Licence | None,
    *,
    pictures: Sequence[str] = (),
    gallery: Gallery | None = None,
    adult: bool = False,
) -> dict[str, Any]:
    """The card's YAML as a dictionary; ``erasure`` repeats what the manifest says."""
    base = sections.hub_id(manifest)
    data: dict[str, Any] = {} if base is None else {"base_model": base, "base_model_relation": "adapter"}
    if licence is not None:
        named = licence.metadata()
    else:
        link = {} if base is None else {"license_link": f"https://huggingface.co/{base}"}
        named = {"license": "other", "license_name": "as-the-base-model", **link}
    family = [flat(manifest.family)] if manifest.family else []
    data |= {
        **library(has_lora(manifest), usage.task_of(manifest)),
        **named,
        "tags": [
            *(LORA if has_lora(manifest) else ()),
            *PLAIN,
            *family,
            *erased_tags(manifest.erased),
            *([ADULT] if adult else []),
        ],
    }
    if gallery is not None:
        data["widget"] = [
            {"text": flat(pair.prompt), "output": {"url": name}}
            for pair in gallery.pairs
            for name in (pair.before, pair.after)
        ]
    thumbnail = [*pictures[:1], *([gallery.pairs[0].after] if gallery is not None else [])]
    if thumbnail:
        data["thumbnail"] = thumbnail[0]
    data["erased"] = [flat(text) for text in manifest.erased]
    data["erasure"] = provenance.metadata(manifest)
    index = [] if report is None else model_index(manifest.name, report)
    return {**data, "model-index": index} if index else data


def _body(
    loaded: Any, report: EvalReport | None, repo: str, licence: Licence | None, pictures: Sequence[str],
    gallery: Gallery | None, requirement: str | None, attacks: Sequence[AttackReport], space: str | None,
) -> list[str]:  # fmt: skip
    manifest = loaded.manifest
    return [
        f"# Erased: {summary.names(manifest)}",
        *summary.first_screen(loaded, report, repo, gallery, attacks, space),
        "## How well\n\n" + evidence(report, bool(attacks)),
        *(f"![{alt_text(report, name)}]({name})" for name in pictures),
        *(["## Under attack\n\n" + tried.section(attacks)] if attacks else []),
        *([] if gallery is None else ["## Before and after", folded("Every pair", sections.pairs(gallery))]),
        "## What disappears, what stays\n\n" + sections.changes(manifest),
        "## Which base\n\n" + sections.base(manifest),
        "## How strong\n\n" + sections.strength(manifest, report),
        "## How to use it\n\n" + usage.install(requirement),
        folded("Other programs, Python, command line", usage.use(loaded, repo)),
        folded("Combine it, take it back", usage.combine(loaded, repo)),
        "## Limits\n\n" + sections.limits(manifest, report, bool(attacks)),
        *sections.certificate(manifest),
        *_further(loaded, report),
        "## How it was made",
        folded("Settings, versions and the command", provenance.made(manifest)),
        "## Licence\n\n" + sections.licence(licence),
        *sections.citing(manifest),
        f"## Contact\n\nSomething is wrong, or this page should go? Open a discussion on it (tab *Community* of "
        f"{prose(repo)}).",
    ]


def _further(loaded: Any, report: EvalReport | None) -> list[str]:
    """Sections of plugins: their Markdown is their own responsibility, as their code is."""
    from erase_plugins.manager import get_manager

    return [str(section).strip() for section in get_manager().card_sections(loaded, report) if str(section).strip()]


def absolute(data: dict[str, Any], repo: str | None) -> dict[str, Any]:
    """The metadata with a thumbnail that other sites find; pictures of the page itself stay relative."""
    if repo is None or "thumbnail" not in data:
        return data
    return {**data, "thumbnail": f"https://huggingface.co/{repo}/resolve/main/{data['thumbnail']}"}


def keep_user_text(new: str, old: str) -> str:
    """The new card with what people wrote between the marks of the old one."""
    found = re.search(f"{re.escape(USER)}(.*?){re.escape(USER_END)}", old, flags=re.DOTALL)
    if not found:
        return new
    before, after = new.rsplit(f"{USER}\n{USER_END}", 1)
    return f"{before}{USER}{found[1]}{USER_END}{after}"

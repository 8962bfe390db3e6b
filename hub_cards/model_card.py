"""The pages of everything that is published: an artifact, a collection, a full checkpoint, a head.

The first screen says what disappears, how well, what brings it back, and shows pictures and lines of code. Below it
stand the numbers; what few people need is folded. The texts are the templates in ``pages``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

from erase_plugins.artifacts.reference import address, check_repo
from erase_plugins.evaluation.published import titles
from erase_plugins.evaluation.saved import read_about
from erase_plugins.evaluation.sensitive import adults_only
from erase_plugins.evaluation.wording import DRAWS, called, numbers, words_of
from erase_plugins.licences import Licence, licence_of, needed
from erase_plugins.manager import get_manager
from erase_plugins.markdown import flat, prose
from erase_plugins.page.package import pinned
from erase_plugins.readme import ADULT
from erase_plugins.records.release import section
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow import usage
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.collection import Collection
from erase_plugins.workflow.pairs import Gallery
from erase_plugins.workflow.provenance import metadata
from hub_cards.searching import COLLECTION, FULL, erased_tags
from hub_cards.templates import document

#: tags of every page, and those of a page with a LoRA that stock diffusers loads
PLAIN = ("concept-erasure", "machine-unlearning", "erase-plugins")
LORA = ("lora", "diffusers", "template:sd-lora")
TAGS = (*LORA, *PLAIN, COLLECTION, FULL)
#: erased concepts that a collection's front matter holds, for the search
_LISTED = 2000


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
        requirement: line for pip with which readers get this package, pinned (`erase_plugins.page.package`). Without
            it the page says that no index has it.
        attacks: reports of attacks; those beside the report if None.
        space: "owner/name" of a Space where people can try it.

    Raises:
        RequestError: the requirement is not pinned, or a Space of another form than owner/name.
        PushRefused: ``strict`` and the licence is not known.
        ArtifactError: the artifact or the report cannot be read, or the report is about another one.
    """
    loaded = load_artifact(artifact)
    manifest, task = loaded.manifest, usage.task_of(loaded.manifest)
    found, against, _ = read_about(report, loaded, attacks)
    line = None if requirement is None else pinned(requirement)
    shown = None if space is None else check_repo(space)
    licence = needed(manifest.base, license) if strict else licence_of(manifest.base, license)
    asks = adults_only(manifest.concepts) if adult is None else adult
    pairs = () if gallery is None else gallery.pairs
    drawn = [(pair.prompt, name) for pair in pairs for name in (pair.before, pair.after)]
    thumbnail = next(iter(pictures), pairs[0].after if pairs else None)
    if repo is not None and thumbnail:  # other sites need it in full; pictures of the page stay relative
        thumbnail = address(f"{repo}/resolve/main/{thumbnail}")
    lora = usage.has_lora(manifest)
    data = start(manifest.base, manifest.family, manifest.erased, licence, lora, adult=asks, task=task)
    data |= {
        "widget": [{"text": flat(prompt), "output": {"url": name}} for prompt, name in drawn] or None,
        "thumbnail": thumbnail, "erased": [flat(text) for text in manifest.erased],
        "erasure": metadata(manifest) | {"requirement": line, "space": shown},
        "model-index": None if found is None else model_index(manifest.name, found, task),
    }  # fmt: skip
    return document(data, "artifact.md.j2", {
        **usage.uses(loaded, repo or "OWNER/NAME"), **numbers(found, against, manifest.erased, task),
        "manifest": manifest, "licence": licence, "gallery": gallery, "requirement": line, "space": shown,
        "pictures": pictures, "titles": titles(found),
        # of plugins: their Markdown is their own responsibility, as their code is
        "further": [text for item in get_manager().card_sections(loaded, found) if (text := str(item).strip())],
    })  # fmt: skip


def model_index(name: str, report: EvalReport, task: str) -> list[dict[str, Any]] | None:
    """The report's numbers after erasing, in the form that the Hub shows; ``task`` is what the model does."""
    words, suite = words_of(report.suite, task), flat(report.suite)
    results = [
        EvalResult(
            flat(task), f"erase-plugins-{suite}", f"erase-plugins suite {suite}", flat(row.metric), row.value,
            metric_name=called(flat(row.metric), words) + (f" ({flat(row.note)})" if row.note else ""),
        ) for row in report.rows if row.subject == "edited"
    ]  # fmt: skip
    return eval_results_to_model_index(name, results) if results else None


def start(
    base: Any, family: str, erased: Iterable[str], licence: Licence | None, lora: bool, *, kind: str | None = None,
    task: str = DRAWS, adult: bool = False, relation: str = "adapter",
) -> dict[str, Any]:  # fmt: skip
    """How the YAML of every page begins: base, library, licence, tags.

    The Hub's snippet follows the library: that of diffusers needs a file that diffusers loads.
    """
    name = usage.hub_id(base)
    under = licence or Licence("other", "as-the-base-model", address(name) if name else None)
    tags = [*(LORA if lora else ()), *PLAIN, *([kind] if kind else ()), *([flat(family)] if family else ())]
    library = "diffusers" if lora or kind == FULL else "erase-plugins"
    return {
        "base_model": name, "base_model_relation": name and relation, "library_name": library,
        "pipeline_tag": flat(task), **under.metadata(),
        "tags": [*tags, *erased_tags(erased), *([ADULT] if adult else [])],
    }  # fmt: skip


def collection_card(
    library: Collection, concepts: Sequence[Any], *, repo: str, licence: Licence, lora: bool = True,
    requirement: str | None = None,
) -> str:  # fmt: skip
    """The page of a collection.

    Args:
        library: the collection.
        concepts: concepts of all its artifacts.
        repo: where it will be published.
        licence: under which it is published.
        lora: every artifact has a LoRA file that stock diffusers loads.
        requirement: line for pip with which readers get this package.
    """
    names = list(library.names())
    texts = list(dict.fromkeys(flat(text) for name in names for text in library.entries[name].erased))
    data = start(library.base, library.family, texts, licence, lora, kind=COLLECTION, adult=adults_only(concepts))
    facts = {"family": flat(library.family), "base": flat(library.base.get("model") or ""), "members": len(names)}
    data |= {"erased": texts[:_LISTED], "erasure": facts | {"requirement": requirement}}
    size = sum(entry.bytes for entry in library.entries.values()) / 1e6
    return document(data, "collection.md.j2", {
        "library": library, "names": names, "repo": repo, "requirement": requirement, "megabytes": size,
    })  # fmt: skip


def merged_card(loaded: Any, strength: float, repo: str, licence: Licence) -> str:
    """The page of a full checkpoint."""
    manifest = loaded.manifest
    adult = adults_only(manifest.concepts)
    data = start(manifest.base, manifest.family, (), licence, False, kind=FULL, adult=adult, relation="finetune")
    told = metadata(manifest)
    data["tags"].insert(0, "diffusers")
    data["erased"] = [flat(text) for text in manifest.erased]
    data["erasure"] = {key: told[key] for key in ("name", "method", "family", "base")} | {"strength": strength}
    facts = {"manifest": manifest, "licence": licence, "repo": repo, "strength": strength}
    return document(data, "full.md.j2", facts | numbers(None, (), ()))


def head_card(release: Any, licence: Licence, requirement: str | None) -> str:
    """The page of a head with its certificate."""
    data = {
        "library_name": "erase-plugins", **licence.metadata(), "tags": ["machine-unlearning", "erase-plugins"],
        "erasure": {"method": "noisy-gd", "requirement": requirement},
    }  # fmt: skip
    return document(data, "head.md.j2", {
        "release": release, "records": len(release.certificate["records"]), "requirement": requirement,
        "section": section(release.certificate), "base": prose(str(release.opened["base"])),
    })  # fmt: skip

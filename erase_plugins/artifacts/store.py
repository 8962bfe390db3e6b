"""Artifact folders on disk: written atomically in every layout that can carry the edit, verified when read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.absent import absent, family_of, readable
from erase_plugins.artifacts.artifact import DEFAULT_LAYOUTS, Artifact
from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.foreign import describe_foreign, foreign_manifest, guess_family
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.lowrank import lower
from erase_plugins.artifacts.manifest import FILENAME, HEADER_KEY, LAYOUT_KEY, PATCH, ArtifactFile, Manifest, slug
from erase_plugins.artifacts.overlap import with_marks
from erase_plugins.artifacts.places import check_place
from erase_plugins.artifacts.standin import stand_in
from erase_plugins.artifacts.tensors import all_finite
from erase_plugins.artifacts.verify import ADAPTER, named, refuse_unlisted, stated
from erase_plugins.artifacts.verify import MOST_FILES as MOST_FILES
from erase_plugins.artifacts.verify import MOST_MANIFEST_BYTES as MOST_MANIFEST_BYTES
from erase_plugins.artifacts.verify import file_hash as file_hash
from erase_plugins.artifacts.verify import read_manifest as read_manifest
from erase_plugins.artifacts.verify import verify_file as verify_file
from erase_plugins.errors import ArtifactError, CorruptArtifact, Unsupported
from erase_plugins.hints import Hint, Sentence, joined, stored

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.known import Known

#: stands in the file list for pictures and descriptions that user interfaces show
SIDECAR = "sidecar"
#: notes of `write_folder` about the files of one folder
_ABOUT_FILES = re.compile(r"(no )?[a-z0-9_-]+ file: ")
#: a LoRA of a context map of more directions and bytes than these is written where it is asked for only
MOST_RANK, MOST_LORA_BYTES = 96, 16 << 20


def write_folder(
    artifact: Artifact,
    folder: Path,
    layouts: Sequence[str],
    target: Any,
    force: bool,
    known: Known,
    extras: Callable[[Path, Path], object] | None = None,
) -> Artifact:
    """Writes ``artifact`` into ``folder``; see `Artifact.save`.

    Args:
        known: families and layouts.
        extras: called with the folder in the making and the last layout's file, to write files beside it.

    Raises:
        ArtifactError: the folder exists, or no layout can carry the edit.
    """
    check_place(folder, force)
    artifact.edit.check_finite()
    family = known.family(artifact.edit.family)
    manifest = replace(artifact.manifest, files=()).made_with(known.brought("family", family.id))
    bare = manifest.changes_nothing and not len(artifact.edit)
    if bare and (named := [item for item in layouts if item != PATCH]):
        raise Unsupported(
            f"'{manifest.name}' changes no weights, so a {named[0]} file would hold nothing of it; leave layouts out"
        )
    asked = bool(layouts)
    layouts = layouts or family.layouts or DEFAULT_LAYOUTS
    manifest = manifest if PATCH in layouts else with_marks(manifest, artifact.edit)
    files: list[ArtifactFile] = []
    notes: list[str] = []
    with atomic_folder(folder, force) as work:
        for layout_id in () if bare else layouts:
            layout = known.layout(layout_id)
            edit, reason = _for_layout(artifact.edit, layout, family, target, asked)
            if edit is None:
                notes.append(Sentence(f"no {layout_id} file: ", reason))
                continue
            if reason:
                notes.append(Sentence(f"{layout_id} file: ", reason))
            before = set(_members(work))
            manifest = manifest.made_with(known.brought("layout", layout_id))
            layout.write(
                edit,
                family,
                file_header(manifest, family, layout_id, edit),
                work / layout.filename(manifest.name, family),
            )
            files += [_describe(work, item, layout_id) for item in _members(work) if item not in before]
            place = work / files[-1].name
        if files and extras is not None:
            before = set(_members(work))
            extras(work, place)
            files += [_describe(work, item, SIDECAR) for item in _members(work) if item not in before]
        if not files and not bare:
            raise Unsupported(f"no layout of {', '.join(layouts)} can carry this edit: ", joined("; ", notes))
        earlier = tuple(text for text in manifest.notes if not _ABOUT_FILES.match(text))  # of files that lay elsewhere
        manifest = replace(manifest, files=tuple(files), notes=(*earlier, *map(stored, notes)))
        (work / FILENAME).write_text(manifest.to_json(), encoding="utf-8")
    return Artifact(manifest, artifact.edit, folder)


def _for_layout(edit: Edit, layout: Any, family: Any, target: Any, asked: bool) -> tuple[Edit | None, str]:
    """The form of ``edit`` that the layout can carry, or None with the reason; ``asked``: however large."""
    verdict = layout.accepts(edit, family)
    if verdict:
        return edit, verdict.reason
    if "contextmap" not in edit.kinds:
        return None, verdict.reason
    if target is None:
        return None, Sentence(verdict.reason, "; give the base model to write it as LoRA")
    if not asked and (reason := _too_large(edit, target)):
        return None, reason
    lowered = lower_for(edit, target)
    verdict = layout.accepts(lowered, family)
    return (lowered, verdict.reason) if verdict else (None, verdict.reason)


def in_layout(edit: Edit, layout: Any, family: Any, target: Any) -> Edit:
    """What a file of a layout holds of an edit, which is the edit itself unless something is lost.

    Raises:
        Unsupported: the layout cannot carry it; says why.
    """
    form, reason = _for_layout(edit, layout, family, target, True)
    if form is None:
        raise Unsupported(f"no {layout.id} file: ", reason)
    return stand_in(form) if layout.accepts(form, family).answer == "lossy" else edit


def _too_large(edit: Edit, target: Any) -> str:
    """Why a context map is not written out as a LoRA unasked; empty if it is."""
    size = sum(sum(ref.shape[:2]) for ref in target.readers() if len(ref.shape) > 1)
    if edit.rank <= MOST_RANK or 4 * edit.rank * size <= MOST_LORA_BYTES:
        return ""
    return (
        f"as a LoRA this map of rank {edit.rank} takes {4 * edit.rank * size / 1e6:.0f} MB; 'erase-plugins convert' "
        "with a rank writes one of fewer directions and says its error"
    )


def lower_for(edit: Edit, target: Any) -> Edit:
    """`lower` with the weights of a loaded target; an edit without a map stays what it is."""
    if "contextmap" not in edit.kinds:
        return edit
    refs = {(ref.component, ref.weight): ref for ref in target.readers()}
    projections: dict[str, list[str]] = {}
    for component, name in refs:
        projections.setdefault(component, []).append(name)
    return lower(
        edit,
        projections,
        lambda component, name: target.base_weight(refs[(component, name)]),
        lambda component, name: target.columns(refs[(component, name)]),
    )


def _members(path: Path) -> list[Path]:
    return sorted(item for item in path.rglob("*") if item.is_file())


def _describe(root: Path, path: Path, layout: str) -> ArtifactFile:
    name = path.relative_to(root).as_posix()
    return ArtifactFile(name=name, layout=layout, sha256=file_hash(path), bytes=path.stat().st_size)


def file_header(manifest: Manifest, family: Any, layout: str, edit: Edit) -> dict[str, str]:
    """String metadata of every file: our manifest without times, so that equal runs give equal bytes."""
    manifest = manifest if layout == PATCH else with_marks(manifest, edit)
    return {
        "format": "pt",
        HEADER_KEY: replace(manifest, files=(), history=(), created="", seconds=0.0).to_json(indent=None),
        LAYOUT_KEY: layout,
        "erase_plugins.family": family.id,
        "erase_plugins.rank": str(edit.rank),
    }


def read_folder(folder: Path, known: Known) -> Artifact:
    """A verified artifact folder: manifest, hashes, header, names, shapes, finiteness.

    Files for other programs may be absent (a pull leaves them out); what is there is verified. A folder as peft writes
    it (adapter_config.json) is read as well.

    Raises:
        CorruptArtifact: anything that does not fit.
    """
    with named(folder):
        return _read_folder(folder, known)


def _read_folder(folder: Path, known: Known) -> Artifact:
    manifest = stated(folder)
    if manifest is None:
        return read_file(folder / ADAPTER, None, known)
    family = family_of(manifest, folder.resolve().name, known)
    if not manifest.files:
        from erase_plugins.artifacts.edit import Edit

        return Artifact(manifest, Edit(family.id, {}), folder)
    essential = set(manifest.essential)
    for item in manifest.files:
        if item in essential or os.path.lexists(folder / item.name):
            verify_file(folder, item)
    chosen = readable(manifest, folder, known)
    layout = known.layout(chosen[0].layout)
    place = folder / chosen[0].name
    if len(chosen) > 1:  # a layout of several files finds all of them from the name it was written under
        place = folder / layout.filename(manifest.name, family)
        refuse_unlisted(folder, manifest)
    edit = layout.read(place, family)
    check_edit(edit, family)
    return Artifact(manifest, edit, folder)


def read_file(path: Path, family_id: str | None, known: Known) -> Artifact:
    """An artifact from one file of any registered layout, ours or foreign.

    Raises:
        CorruptArtifact: not safetensors, or damaged.
        ArtifactError: no registered layout knows the names in it.
    """
    header = read_header(path)
    layout = next((item for item in known.layouts.values() if item.sniff(list(header.tensors), header.metadata)), None)
    text = header.metadata.get(HEADER_KEY)
    if layout is None and text is not None and (named := header.metadata.get(LAYOUT_KEY)):
        raise absent(path.name, "layout", named, Manifest.from_json(text))
    if layout is None:
        raise ArtifactError(f"'{path.name}' is in no layout that can be applied: {describe_foreign(header)}")
    if text is not None:
        manifest = Manifest.from_json(text)
        family = known.family(family_id) if family_id else family_of(manifest, path.name, known)
        edit = layout.read(path, family)
    else:
        family, edit = foreign_edit(path, header, layout, family_id, known)
        manifest = foreign_manifest(path, header, family, edit)
    check_edit(edit, family, path.name)
    name = f"{slug(path.stem)}.safetensors"
    info = ArtifactFile(name=name, layout=layout.id, sha256=file_hash(path), bytes=path.stat().st_size)
    return Artifact(replace(manifest, files=(info,)), edit, path)


def foreign_edit(path: Path, header: Any, layout: Any, family_id: str | None, known: Known) -> tuple[Any, Edit]:
    """Family and edit of a file that is not ours; every registered family is tried, the likely one first."""
    every = list(known.families.values())
    likely = guess_family(header, every)
    families = [known.family(family_id)] if family_id else sorted(every, key=lambda item: item is not likely)
    problems, found = [], []
    for family in families:
        try:
            found.append((family, layout.read(path, family)))
            if family_id or family is likely:
                break
        except ArtifactError as error:
            problems.append(f"{family.id}: {stored(error)}")
        except Unsupported:  # it has no names for files of this layout, so the file is of another
            if family_id:
                raise
    if len(found) > 1 and found[0][0] is not likely:
        names = ", ".join(family.id for family, _ in found)
        raise ArtifactError(f"'{path.name}' may be of family {names}; say which with ", Hint("family"))
    if found:
        return found[0]
    if family_id:
        seems = f"; it looks like a file for family {likely.id}" if likely and likely.id != family_id else ""
        raise ArtifactError(f"'{path.name}' does not fit family {'; '.join(problems)[:400]}{seems}")
    raise ArtifactError(f"'{path.name}' fits no registered family ({'; '.join(problems)[:400]})")


def check_edit(edit: Edit, family: Any, file: str = "") -> None:
    """What every edit that was read must be: of this family and its components, not empty, finite everywhere.

    Args:
        edit: what was read.
        family: that it is for.
        file: name of the file that it was read from, to be told.

    Raises:
        CorruptArtifact: names the tensor.
    """
    from erase_plugins.errors import NotFiniteError

    if not len(edit):
        raise CorruptArtifact("the file holds no change at all")
    if edit.family != family.id:
        raise CorruptArtifact(f"the manifest says family {family.id}, the edit says {edit.family[:40]}")
    strange = sorted(set(edit.deltas) - set(family.components))
    if strange:
        raise CorruptArtifact(f"family {family.id} has no component '{strange[0][:40]}'")
    for name, tensor in edit.statistics.items():
        if tensor.is_floating_point() and (tensor.element_size() < 2 or not all_finite(tensor)):
            raise CorruptArtifact(f"damaged values: statistics {name[:40]} holds NaN, infinity or 8-bit numbers")
    try:
        edit.check_finite()
    except NotFiniteError as error:
        raise CorruptArtifact("damaged values", f" in '{file}'" if file else "", ": ", error) from error


def artifact_json(artifact: Artifact) -> dict[str, Any]:
    """What ``--json`` prints about an artifact."""
    found: dict[str, Any] = json.loads(artifact.manifest.to_json())
    return found

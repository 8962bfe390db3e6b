"""``erase-plugins inspect``: what a file or folder is, for which base, and what can be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import declare, existing, quote
from erase_plugins.cli.console import emit, human_bytes, say, say_fact, table
from erase_plugins.errors import EraseError
from erase_plugins.hints import in_terminal, sentence_of
from erase_plugins.types import ForgetItem

#: bytes up to which all values of a file are read; adapters are smaller, whole models take a minute
_SMALL = 1 << 30


@declare("inspect", example="somebodys-lora.safetensors")
@click.argument("paths", nargs=-1, required=True, metavar="PATH ...")
@click.option("--base", metavar="MODEL", help="Also say whether each artifact fits this model (loads its weights).")
def command(paths: tuple[str, ...], base: str | None) -> None:
    """Say what files or artifact folders are. Verifies hashes, headers and values."""
    target = None
    places = [existing(path, "file or folder") for path in paths]
    if base is not None:
        from erase_plugins.cli.command import load_target

        target = load_target(base)
    if len(places) == 1:
        facts = look(places[0], target)
        emit({"schema": 1, **facts})
        _show(facts)
        return
    rows = []
    for place in places:
        try:
            rows.append(look(place, target))
        except EraseError as error:
            rows.append({"path": place.name, "kind": "unreadable", "problem": sentence_of(error)})
    emit({"schema": 1, "items": rows})
    shown = [{**row, "size": human_bytes(row["bytes"]) if "bytes" in row else ""} for row in rows]
    columns = [
        name for name in ("path", "kind", "family", "erased", "method", "size", "fits", "problem")
        if any(row.get(name) not in (None, "", []) for row in shown)
    ]  # fmt: skip
    table("", columns, ([_cell(row.get(name, "")) for name in columns] for row in shown), ("size",))


def look(place: Path, target: Any = None) -> dict[str, Any]:
    """JSON-ready facts about an artifact folder or a file.

    Raises:
        ArtifactError: neither of both, or damaged.
    """
    from erase_plugins.artifacts.manifest import FILENAME

    if place.is_dir() and not (place / FILENAME).is_file():
        from erase_plugins.artifacts.eraser_folder import eraser_facts, is_eraser_folder

        if is_eraser_folder(place):
            return eraser_facts(place)
    facts = _folder_facts(place) if place.is_dir() else _file_facts(place)
    if facts.get("manifest") and (told := _without_method(place, facts["manifest"])):
        facts["method_absent"] = told
    if target is not None and facts.get("manifest"):
        facts["fits"], facts["fit"] = _fit(place, target)
    return facts


def _folder_facts(place: Path) -> dict[str, Any]:
    import json
    from itertools import chain

    from erase_plugins.artifacts.manifest import FILENAME
    from erase_plugins.artifacts.verify import check_folder
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.provenance import again

    command = ""
    if (place / FILENAME).is_file():
        manifest = check_folder(place, get_manager().known().layouts)
        statistics = _has_statistics(place, manifest)
        command = quote(*chain.from_iterable(again(manifest)))
    else:  # as another program wrote it
        artifact = load_artifact(place)
        manifest, statistics = artifact.manifest, bool(artifact.edit.statistics)
    absent = [item.name for item in manifest.files if not (place / item.name).is_file()]  # a pull leaves some out
    return {
        "path": place.name, "kind": "artifact", "title": "an erase-plugins artifact folder, verified",
        "family": manifest.family, "erased": list(manifest.erased), "kept": list(manifest.preserve),
        "method": manifest.method.get("id"), "rank": manifest.rank, "modules": manifest.modules,
        "bytes": sum(item.bytes for item in manifest.files if item.name not in absent), "statistics": statistics,
        "again": command, "absent": absent, "manifest": json.loads(manifest.to_json()),
    }  # fmt: skip


def _has_statistics(place: Path, manifest: Any) -> bool:
    """Whether the file that is read holds the statistics of a closed form."""
    from erase_plugins.artifacts.header import read_header

    names = (item.name for item in manifest.essential if item.name.endswith(".safetensors"))
    return any(key.startswith("statistics|") for name in names for key in read_header(place / name).tensors)


def _file_facts(place: Path) -> dict[str, Any]:
    from erase_plugins.artifacts.header import read_header
    from erase_plugins.artifacts.verify import check_values
    from erase_plugins.workflow.artifacts import inspect_file

    facts = {"path": place.name, **inspect_file(place)}
    small = facts["bytes"] <= _SMALL
    if small:
        check_values(place, read_header(place))
    facts["values"] = f"{'none is' if small else 'not read in so large a file; some may be'} NaN or infinite"
    manifest = facts.get("manifest")
    if manifest:
        facts["erased"] = [ForgetItem.from_dict(item).name for item in manifest["concepts"]]
        facts["method"] = manifest["method"].get("id")
    return facts


def _without_method(place: Path, data: dict[str, Any]) -> str:
    """What can be done without the method of an artifact, where no plugin here brings it; empty if one does."""
    from erase_plugins.artifacts.absent import absent, family_of, methods_of, readable
    from erase_plugins.artifacts.manifest import Manifest
    from erase_plugins.errors import PluginAbsent
    from erase_plugins.manager import get_manager

    here = {entry.item.id for entry in get_manager().methods()}
    gone = [name for name in methods_of(data["method"]) if name not in here]
    if not gone:
        return ""
    manifest, known = Manifest.from_dict(data), get_manager().known()
    told = in_terminal(absent(place.name, "method", " and ".join(gone), manifest))
    try:
        family_of(manifest, place.name, known)
        if place.is_dir():
            readable(manifest, place, known)
    except PluginAbsent as error:
        return f"{told}; {in_terminal(error)}"
    return (
        f"{told}; without, it can be applied, converted and measured, but not made again or solved anew (add, revoke)"
    )


def _fit(place: Path, target: Any) -> tuple[str, str]:
    from erase_plugins.errors import BaseMismatch
    from erase_plugins.runtime.guard import check_base
    from erase_plugins.workflow.artifacts import load_artifact

    try:
        artifact = load_artifact(place)
        notes = check_base(artifact.manifest, target, edit=artifact.edit)
    except BaseMismatch as error:
        return "no", sentence_of(error)
    return "yes", "; ".join((f"made for the weights of {target.info.model}", *notes))


def _show(facts: dict[str, Any]) -> None:
    say(f"{facts['path']}: {facts['title']}")
    manifest = facts.get("manifest") or {}
    base = manifest.get("base") or {}
    lines = {
        "family": facts.get("family"),
        "base": base.get("model"),
        "erased": facts.get("erased"),
        "kept": facts.get("kept"),
        "method": facts.get("method"),
        "rank": facts.get("rank") or None,
        "modules": facts.get("modules"),
        "components": facts.get("components"),
        "strength": _strength(manifest.get("strength")),
        "quality": manifest.get("quality"),
        "certificate": _certificate(manifest.get("certificate")),
        "guards": len(manifest.get("guards", ())) or None,
        "records": len(manifest.get("records", ())) or None,
        "retained data": [f"{item['uri']} ({item['sha256'][:12]})" for item in manifest.get("retain_data", ())],
        "evidence": facts.get("evidence"),
        "tensors": facts.get("tensors"),
        "dtypes": facts.get("dtypes"),
        "values": facts.get("values"),
        "size": human_bytes(facts.get("bytes")),
        "says": facts.get("says"),
        "next": facts.get("how"),
        "fits": facts.get("fit"),
    }
    for name, value in lines.items():
        if value not in (None, "", [], {}):
            say_fact(f"{name}: {_cell(value)}")
    for item in manifest.get("files", ()):
        there = "not here" if item["name"] in facts.get("absent", ()) else human_bytes(item["bytes"])
        say_fact(f"file: {item['name']} ({item['layout']}, {there})")
    gone = facts.get("method_absent", "")
    for text in (*([gone] if gone else ()), *manifest.get("warnings", ()), *manifest.get("notes", ())):
        say_fact(f"note: {text}")
    if facts.get("again"):
        say(f"  again: {facts['again']}")  # in one piece, to be copied
    if facts.get("statistics") and not gone:
        say_fact("add, revoke and joint merge are possible (holds its statistics)")


def _certificate(value: dict[str, Any] | None) -> str | None:
    from erase_plugins.types import Certificate

    return Certificate.from_dict(value).headline if value else None


def _strength(value: dict[str, float] | None) -> str | None:
    return f"{value['recommended']:g} recommended, {value['low']:g}..{value['high']:g} usable" if value else None


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:12]))
        return f"{shown} and {len(value) - 12} more" if len(value) > 12 else shown
    return in_terminal(value)

"""``erase-plugins clean-lora FOLDER``: every LoRA in it, on one base that is measured once; none holds up another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.cli.command import load_target, until_the_end
from erase_plugins.cli.console import emit, progress, say, table
from erase_plugins.cli.group import describe
from erase_plugins.errors import EraseError, RequestError
from erase_plugins.hints import ANOTHER_OUT

CLEANED, FAILED, EARLIER = "cleaned", "failed", "there already"


def clean_each(
    files: Sequence[Path], out: Path, concept: str, base: str, asked: Mapping[str, Any], *, revision: str | None,
    dtype: str, device: str, dry_run: bool,
) -> None:  # fmt: skip
    """Cleans files into a folder, says what became of each and ends with an error if any failed.

    Raises:
        RequestError: the output is no folder, or the one that the files lie in.
        EraseError: names the first file that failed.
    """
    from erase_plugins.artifacts.locks import locked
    from erase_plugins.workflow.lora_measured import BareBase
    from erase_plugins.workflow.lora_places import place_in
    from erase_plugins.workflow.models import find_model

    if out.is_file() or out.suffix.lower() == ".safetensors":
        raise RequestError(f"{len(files)} LoRAs need a folder, and '{out.name}' is a file; choose ", ANOTHER_OUT)
    if out.resolve() == files[0].parent.resolve():
        raise RequestError("the LoRAs lie there, and nothing is replaced; choose ", ANOTHER_OUT)
    found = find_model(base, revision)
    todo = [file for file in files if not place_in(out, file).exists()]
    if not dry_run and todo:
        out.mkdir(parents=True, exist_ok=True)
        until_the_end(locked(out / "clean-lora"))
    target = found if dry_run or not todo else load_target(found, dtype=dtype, device=device)
    rows = []
    asked = {**asked, "bare": BareBase()}
    with progress() as bar:
        for done, file in enumerate(files, 1):
            if file in todo:
                rows.append(_row(file, None if dry_run else place_in(out, file), concept, target, asked, dry_run))
            else:
                rows.append({"source": file.name, "status": EARLIER})
            bar.update(file.name, done, len(files))
    counts = {name: sum(row["status"] == name for row in rows) for name in (CLEANED, EARLIER, FAILED)}
    emit({"schema": 1, "dry_run": dry_run, **{name.replace(" ", "_"): count for name, count in counts.items()},
          "items": rows})  # fmt: skip
    table("", ("file", "what", "where named", "elsewhere", "told"), (_shown(row) for row in rows))
    say(", ".join(f"{count} {name}" for name, count in counts.items()) + (" (dry run)" if dry_run else ""))
    if failed := [row for row in rows if row["status"] == FAILED]:
        raise EraseError(f"{len(failed)} of {len(files)} LoRAs were not cleaned, first: {failed[0]['problem']}")


def _row(
    file: Path, place: Path | None, concept: str, base: Any, asked: Mapping[str, Any], dry_run: bool
) -> dict[str, Any]:
    """What became of one file, JSON-ready."""
    from erase_plugins.workflow.cleaning import clean_lora

    try:
        made = clean_lora(file, concept, base, out=place, dry_run=dry_run, **asked)
    except Exception as error:  # somebody's file may break what it likes
        return {"source": file.name, "status": FAILED, "problem": describe(error)[2]}
    return {"status": CLEANED, **made.to_dict(), "source": file.name}


def _shown(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One line for people: how much of the change of predictions is left, where the concept is named and elsewhere."""
    before, after = row.get("before"), row.get("after")
    told = row.get("problem") or "; ".join(row.get("notes", ())[-1:])
    kept = [f"{before[name]:.1%} -> {after[name]:.1%}" for name in ("effect", "elsewhere")] if before and after else []
    return (row["source"], row["status"], *(kept or ("", "")), told)

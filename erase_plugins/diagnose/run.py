"""The diagnosis: files first, then the model, then pictures. Goes on after a fault, so that all causes are listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase_plugins.diagnose.files import check_files, open_raw
from erase_plugins.diagnose.findings import Diagnosis, Finding, ordered
from erase_plugins.errors import EraseError


def diagnose(
    artifact: str | Path,
    target: Any,
    prompt: str,
    *,
    seed: int = 0,
    strength: float = 1.0,
    clip_skip: int = 1,
    loras: Sequence[str] = (),
    pictures: int = 4,
) -> Diagnosis:
    """Why a model may still draw what an artifact erases.

    Args:
        artifact: artifact folder or LoRA file.
        target: the loaded model as `Target`.
        prompt: what was asked for.
        seed: first seed.
        strength: as in the call that disappointed.
        clip_skip: as in that call; 1 is the usual layer.
        loras: other LoRA files that were active.
        pictures: pictures per side; 0 draws none.

    Raises:
        RequestError, CorruptArtifact: there is nothing that can be looked at.
    """
    from erase_plugins.diagnose import model as checks
    from erase_plugins.workflow.artifacts import load_artifact

    place = Path(artifact)
    files, manifest = open_raw(place)
    findings = [*check_files(place, files, manifest)]
    findings.append(checks.check_strength(strength, manifest))
    findings.append(checks.check_clip_skip(clip_skip, manifest))
    findings.append(checks.check_prompt(manifest, prompt))
    numbers: dict[str, Any] = {"strength": strength, "clip_skip": clip_skip, "files": len(files)}
    shown: dict[str, Any] = {}
    try:
        loaded = load_artifact(place)
    except EraseError:
        loaded = None  # reported by the check of the files
    edit = None if loaded is None else loaded.edit
    findings += _guarded(lambda: list(checks.check_base(manifest, target, edit)))
    findings += _guarded(lambda: list(checks.check_encoders(files, manifest, target)))
    fits = not any(item.verdict == "fault" and item.check in ("base", "text_encoder", "dtype") for item in findings)
    if loaded is not None:
        if not manifest:
            findings.append(checks.check_coverage(loaded, target))
        patched = checks.check_patched(loaded, target)
        findings.append(patched)
        if patched.verdict == "ok":
            findings += _guarded(lambda: list(checks.check_loras(loaded, loras, target)))
            if pictures and fits:
                more, measured, shown = checks.check_pictures(
                    loaded, target, prompt, seed, strength, loras, pictures
                )  # fmt: skip
                findings += more
                numbers |= measured
    return Diagnosis(place.name, target.info.model, prompt, ordered(findings), numbers, dict(manifest), shown)


def _guarded(check: Any) -> list[Finding]:
    from erase_plugins.diagnose.model import explain

    try:
        return check()
    except EraseError as error:
        return [explain(error)]

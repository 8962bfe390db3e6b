"""Loads and saves artifacts: one node for every kind of change that ComfyUI can carry."""

from __future__ import annotations

import shutil
from collections.abc import Set
from typing import Any

from ..opening import choices, problem, referred, state
from ..spec import METADATA, Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "unlearn", "remove concept", "forget", "lora", "esd", "negative lora", "guard", "safety")


def load_artifact(
    artifact: str, model: Any, strength: float, strength_clip: float, any_base: bool, clip: Any = None,
    reference: str = "", prompt: Any = None, extra_pnginfo: Any = None, unique_id: Any = None,
) -> Result:  # fmt: skip
    """MODEL and CLIP with a saved edit on them.

    Args:
        artifact: entry of the model folder erase_plugins, or of loras.
        model: what to change; stays as it is.
        strength: of changes of the denoiser.
        strength_clip: of changes of the text encoder.
        any_base: allow other weights of the same architecture.
        clip: needed only by artifacts that change the text encoder.
        reference: "hub:owner/name@revision" instead of an entry.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs; the commit is noted in the metadata of pictures.

    Raises:
        BaseMismatch, ArtifactError, Unsupported, HubError: nothing was changed.
    """
    from .. import host, hub
    from ..guards import guarded
    from ..opening import check_fits, open_artifact
    from ..patches import apply_edit
    from ..targets import target_of

    with host.computing():
        target = target_of(model, clip)
        opened = open_artifact(referred(reference) or artifact)
        loaded = opened.artifact
        if reference.strip():
            hub.write_down({"reference": opened.name}, prompt, extra_pnginfo, unique_id)
        told = check_fits(loaded, target, any_base)
        done = apply_edit(target, loaded.edit, strength, strength_clip)
        drawing, used, guards = done.model, done.clip, list[str]()
        if strength_clip:
            drawing, used, guards = guarded(done.model, done.clip, loaded, target, any_base)
        elif loaded.manifest.guards:
            guards = ["guards are off: strength_clip is 0"]
    text = "\n".join(
        [
            *([done.report(loaded.name, strength)] if loaded.manifest.kinds or not guards else []),
            *guards,
            f"erases: {', '.join(loaded.manifest.erased) or 'not named'}",
            f"made with: {loaded.manifest.method.get('title') or 'unknown'}",
            *([f"from {opened.name}"] if reference.strip() else []),
            *([opened.note] if opened.note else []),
            *told,
        ]
    )
    return Result((drawing, used, loaded, text), text)


def save_artifact(
    edit: Any, name: str, overwrite: bool, kohya_copy: bool, model: Any = None, clip: Any = None
) -> Result:
    """Writes an artifact folder below ``models/erase_plugins``, and a file for the stock LoRA loader.

    Args:
        edit: from an erase or a load node.
        name: folder; the edit's own name if empty.
        overwrite: replace a folder of that name; otherwise a number is added to a name that is taken.
        kohya_copy: put the LoRA file into ``models/loras`` too.
        model, clip: the base model; needed to write a context map as LoRA.

    Raises:
        ArtifactError: the folder is not ours.
        RequestError: a LoRA file was asked for and cannot be written. Without the base nothing is saved, or every new
            try would leave a folder.
    """
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.manifest import slug
    from erase_plugins.errors import RequestError

    from .. import files, host
    from ..targets import target_of

    with host.computing():
        target = None if model is None else target_of(model, clip)
        if kohya_copy and target is None and "contextmap" in edit.edit.kinds:
            raise RequestError(
                "the LoRA file of this erasure is computed from the base model; connect model and clip from in front "
                "of the erase node, or switch kohya_copy off; nothing was saved"
            )
        named = edit.with_manifest(name=slug(name)) if name.strip() else edit
        place = host.artifact_folders()[0]
        place.mkdir(parents=True, exist_ok=True)
        if not overwrite:
            named = named.with_manifest(name=files.free_name(place, named.name))
        folder = place / named.name
        saved = named.save(folder, target=target, force=overwrite)
    lines = [f"saved {folder.name}: {', '.join(item.name for item in saved.manifest.files)}"]
    if kohya_copy:
        kohya = next((item.name for item in saved.manifest.files if item.layout == "kohya"), None)
        if kohya is None:
            raise RequestError(
                f"'{folder.name}' was saved, but without a LoRA file: {'; '.join(saved.manifest.notes[-3:])}; connect "
                "model and clip"
            )
        goal = host.lora_folder() / kohya
        with atomic_file(goal, force=True) as work:
            shutil.copyfile(folder / kohya, work)
        lines.append(f"copied to loras: {kohya}")
    return Result((folder.name, "\n".join(lines)), "\n".join(lines))


def _artifact_problem(name: str, beside: Set[str]) -> str | None:
    """Why an artifact cannot be opened; beside a reference the entry is of whoever made the workflow, and not used."""
    return None if beside else problem(name)


_STRENGTH = {"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}
SPECS = (
    NodeSpec(
        id="EraseLoadArtifact",
        title="Erase: load artifact",
        category="erase/load",
        description=(
            "Puts a saved erasure on the model: artifact folders of erase-plugins and single LoRA files of others. "
            "Refuses what was made for another model, and what does not fit every module."
        ),
        inputs=(
            Input("artifact", "COMBO", "A folder or file in models/erase_plugins, or an erasure in models/loras; press "
                  "R after adding one.", choices=choices),
            Input("model", "MODEL", "The model that the artifact was made for. It stays as it is."),
            Input("strength", "FLOAT", "1 is what was evaluated, 0 leaves the model exactly as it is.",
                  options=_STRENGTH),
            Input("strength_clip", "FLOAT", "The same for changes of the text encoder, if the artifact has any.",
                  options=_STRENGTH),
            Input("any_base", "BOOLEAN", "Use it on a fine-tune of its base: same architecture, other weights.",
                  options={"default": False}),
            Input("clip", "CLIP", "The CLIP of this model; needed by artifacts that change the text encoder.",
                  required=False),
            Input("reference", "STRING", "Instead of the list: hub:owner/name@revision. A commit is fetched once and "
                  "stays the same; with a branch, or without a revision, the newest is looked up again in every run.",
                  required=False, options={"default": "", "placeholder": "hub:owner/name@revision"}),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model with the erasure."),
            Output("CLIP", "CLIP", "The CLIP with the erasure; the same as came in if it is not concerned."),
            Output("ERASE_EDIT", "ERASE_EDIT", "What was loaded; goes into the node that saves it."),
            Output("report", "STRING", "How many modules were patched, and what the artifact erases."),
        ),
        run=load_artifact,
        aliases=(*_ALIASES, "hub", "hugging face", "download", "pull"),
        checks={"artifact": _artifact_problem},
        beside={"artifact": ("reference",)},
        state=lambda artifact=None, reference=None, **_: state(referred(reference or "") or artifact or ""),
        hidden=METADATA,
        when=(
            "To erase something new, take a node that erases. A LoRA file saved for it also works in the stock LoRA "
            "loader, without the checks."
        ),
        cost="The file is read once; sampling is as fast as before, or slower by a few small products per layer.",
    ),
    NodeSpec(
        id="EraseSaveArtifact",
        title="Erase: save artifact",
        category="erase/make",
        description=(
            "Writes an erasure into models/erase_plugins, with its description, in every layout that can carry it. "
            "A copy in models/loras can be used with the stock LoRA loader."
        ),
        inputs=(
            Input("edit", "ERASE_EDIT", "From a node that erases, or from one that loads. A strength curve over time "
                  "cannot be saved: connect what goes into the strength node."),
            Input("name", "STRING", "Name of the folder; letters, digits, underscores. Empty: named by its concepts.",
                  options={"default": ""}),
            Input("overwrite", "BOOLEAN", "Replace a folder of the same name. Off: a number is added to a name that is "
                  "taken.", options={"default": False}),
            Input("kohya_copy", "BOOLEAN", "Also put the LoRA file into models/loras, for the stock LoRA loader.",
                  options={"default": True}),
            Input("model", "MODEL", "The base model, in front of the erase node; needed for the LoRA file.",
                  required=False),
            Input("clip", "CLIP", "The CLIP of the base model.", required=False),
        ),
        outputs=(
            Output("name", "STRING", "Name of the folder, as the load node lists it."),
            Output("report", "STRING", "The files that were written."),
        ),
        run=save_artifact,
        aliases=(*_ALIASES, "export lora"),
        is_output=True,
        when="To use an erasure in this graph only, connect the model of the node that erases; nothing need be saved.",
        cost="Seconds, and a few MB on disk.",
    ),
)  # fmt: skip

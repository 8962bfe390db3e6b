"""From any artifact or recognised file to any layout, with everything that was lost on the way written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.edit import Delta, Edit, is_bias
from erase_plugins.artifacts.eraser_folder import is_eraser_folder, read_eraser_folder
from erase_plugins.artifacts.locks import claim, claim_files
from erase_plugins.artifacts.overlap import with_marks
from erase_plugins.artifacts.places import ARTIFACT, FILE
from erase_plugins.errors import BaseMismatch, NotFiniteError, RequestError, Unsupported
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.runtime.sidecars import sidecar_files
from erase_plugins.workflow.artifacts import load_artifact, save_artifact

DTYPES = ("float32", "float16", "bfloat16")
#: share of a change that a dtype may lose
_LOST = 0.1


def convert(
    source: Artifact | str | Path,
    layout: str,
    *,
    out: str | Path,
    base: Any = None,
    rank: int | None = None,
    energy: float | None = None,
    drop_bias: bool = False,
    sidecars: bool = False,
    pictures: Sequence[Any] = (),
    dtype: str | None = None,
    family: str | None = None,
    force: bool = False,
) -> Artifact:
    """Writes an artifact or a foreign file in another layout.

    Args:
        source: artifact, artifact folder, a file of any recognised kind, or a folder of Receler's official erasers.
        layout: id of a registered layout.
        out: a new ``.safetensors`` file, or a new artifact folder.
        base: the base model as a `Target` (or what `erase_plugins.api.as_target` takes); needed for context maps and
            for files of absolute weights.
        rank: directions to keep per module; or
        energy: share of the squared norm to keep. Neither: nothing is cut.
        drop_bias: leave bias changes out (only then; otherwise a layout that cannot carry them refuses).
        sidecars: write a preview and a description for web interfaces beside the file.
        pictures: PIL images or their paths for the preview, at most two.
        dtype: float32, float16 or bfloat16 for the factors in the file.
        family: family of a file that does not say it.
        force: replace an earlier ``out``, never what somebody else wrote.

    Returns:
        The artifact as written. The last entry of ``manifest.history`` holds the relative error per parameter.

    Raises:
        Unsupported: the layout cannot carry the edit; says what would help.
        RequestError: contradictory options.
        BaseMismatch: the file does not belong to ``base``.
    """
    _check_options(rank, energy, dtype)
    place = Path(out)
    chosen = get_manager().layout(layout)
    single = place.suffix == ".safetensors"
    beside = [item.name for item in sidecar_files(place, bool(pictures))] if sidecars and single else []
    with claim(place, force, FILE if single else ARTIFACT), claim_files(place.parent, beside, force):
        return _convert(
            source, chosen, place, _target(base), rank, energy, drop_bias, tuple(pictures) if sidecars else None, dtype,
            family, force,
        )  # fmt: skip


def _convert(
    source: Artifact | str | Path, chosen: Any, place: Path, target: Any, rank: int | None, energy: float | None,
    drop_bias: bool, pictures: tuple[Any, ...] | None, dtype: str | None, family: str | None, force: bool,
) -> Artifact:  # fmt: skip
    artifact, errors = open_source(source, target, family)
    kind = get_manager().family(artifact.edit.family)
    edit, notes = artifact.edit, list(artifact.manifest.notes)
    if drop_bias:
        edit, note = without_bias(edit)
        notes += note
    edit = _fit(edit, chosen, kind, target, rank, energy, errors)
    if dtype is not None:
        edit = cast(edit, dtype, errors)
    if artifact.edit.statistics and not edit.statistics:
        notes.append("the statistics went, since they tell other values: no adding, no revoking, no joint merge")
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        notes.append(f"relative error per weight at most {errors[worst]:.2g} ({worst})")
    step = {
        "op": "convert", "layout": chosen.id, "rank": rank, "energy": energy, "drop_bias": drop_bias, "dtype": dtype,
        "errors": {name: float(f"{value:.3g}") for name, value in sorted(errors.items())},
    }  # fmt: skip
    manifest = replace(
        artifact.manifest, notes=tuple(notes), kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit),
        history=(*artifact.manifest.history, step), files=(),
    )  # fmt: skip
    manifest = manifest if edit.statistics else with_marks(manifest, artifact.edit)
    return _write(Artifact(manifest, edit), chosen, kind, place, force, pictures)


def open_source(source: Artifact | str | Path, target: Any, family: str | None) -> tuple[Artifact, dict[str, float]]:
    """The artifact in a source, files of absolute weights included, with the errors of their low-rank form.

    Raises:
        Unsupported: the file needs a base model, or can never be converted.
    """
    if not isinstance(source, Artifact) and is_eraser_folder(Path(source)):
        artifact = read_eraser_folder(Path(source), family)
        if target is not None:
            check_layers(artifact.edit, target)
        return artifact, {}
    if isinstance(source, Artifact) or not Path(source).is_file():
        return load_artifact(source), {}
    from erase_plugins.artifacts.foreign import classify, foreign_manifest
    from erase_plugins.artifacts.header import read_header
    from erase_plugins.artifacts.weights import ABSOLUTE, CHANGES, edit_from_weights

    path = Path(source)
    header = read_header(path)
    kind = classify(header)
    if kind.id not in ABSOLUTE | CHANGES:
        if not kind.convertible:
            raise Unsupported(f"'{path.name}' is {kind.title}; ", kind.how)
        return load_artifact(path, family), {}
    if target is None:
        raise Unsupported(f"'{path.name}' is {kind.title}; give the base model it was made from (", Hint("base"), ")")
    from erase_plugins.artifacts.manifest import describe_base

    edit, errors = edit_from_weights(path, kind.id, target)
    manifest = foreign_manifest(path, header, target.family, edit)
    return Artifact(replace(manifest, base=describe_base(target)), edit), errors


def check_layers(edit: Edit, target: Any) -> None:
    """Refuses erasers that are not exactly those of the base's cross-attention layers.

    Raises:
        Unsupported: another family.
        BaseMismatch: lists the layers without an eraser, the erasers without a layer, or a wrong size.
    """
    from erase_plugins.engine.attention import attention_refs

    check_fits(target, edit)
    sizes = {ref.path: ref.shape[0] for ref in attention_refs(target.info)}
    found = {key: int(addon.tensors()["up"].shape[0]) for _, key, addon in edit.items()}
    missing, extra = sorted(sizes.keys() - found.keys()), sorted(found.keys() - sizes.keys())
    if missing or extra:
        raise BaseMismatch(
            f"the erasers do not belong to {target.info.model}: without an eraser are {', '.join(missing) or 'none'}; "
            f"without a layer are {', '.join(extra) or 'none'}"
        )
    wrong = next((key for key in sorted(found) if found[key] != sizes[key]), None)
    if wrong is not None:
        raise BaseMismatch(f"the eraser at {wrong} is for {found[wrong]} channels, the layer has {sizes[wrong]}")


def without_bias(edit: Edit) -> tuple[Edit, list[str]]:
    """The edit without bias changes, and a note that says how much went."""
    kept: dict[str, dict[str, Delta]] = {}
    gone = []
    for component, key, delta in edit.items():
        if is_bias(delta):
            gone.append((f"{component} {key}", float(delta.tensors()["dW"].float().norm())))
        else:
            kept.setdefault(component, {})[key] = delta
    if not gone:
        return edit, []
    if not kept:
        raise Unsupported("the edit changes nothing but biases; there is nothing left without them")
    worst = max(gone, key=lambda item: item[1])
    note = f"{len(gone)} bias changes were left out on request, the largest of norm {worst[1]:.3g} ({worst[0]})"
    return replace(edit, deltas=kept, statistics={}, meta={}), [note]


def _fit(
    edit: Edit, layout: Any, family: Any, target: Any, rank: int | None, energy: float | None, errors: dict[str, float]
) -> Edit:
    """The edit in a form that the layout accepts; fills ``errors``."""
    from erase_plugins.artifacts.lowrank import compress
    from erase_plugins.artifacts.store import lower_for

    cut = rank is not None or energy is not None
    if "contextmap" in edit.kinds and (cut or not layout.accepts(edit, family)):
        if target is None:
            raise Unsupported(
                f"layout {layout.id} needs the base model to write a context map as weights (", Hint("base"), ")"
            )
        check_fits(target, edit)
        edit = replace(lower_for(edit, target), statistics={}, meta={})
    verdict = layout.accepts(edit, family)
    if cut or (not verdict and "dense" in edit.kinds):
        edit, found = compress(edit, rank, energy)
        errors |= found
        edit = replace(edit, statistics={}, meta={})
        verdict = layout.accepts(edit, family)
    if not verdict:
        raise Unsupported(f"layout {layout.id} refuses this edit: ", verdict.reason)
    return edit


def check_fits(target: Any, edit: Edit) -> None:
    """Refuses a base of another family.

    Raises:
        Unsupported: names both.
    """
    if target.family.id != edit.family:
        raise Unsupported(f"the artifact is for family {edit.family}, the base model is of family {target.family.id}")


def cast(edit: Edit, dtype: str, errors: dict[str, float]) -> Edit:
    """The edit as it will be after storing it in a smaller dtype, low-rank factors balanced for it.

    Args:
        edit: the edit.
        dtype: name of the dtype.
        errors: gets the relative error of every change added, by component and key.

    Raises:
        NotFiniteError: a value is too large for the dtype.
        Unsupported: so many values are too small for it that a change would be another one.
    """
    import torch

    from erase_plugins.artifacts.lowrank import balanced, difference

    kind = getattr(torch, dtype)

    def narrow(component: str, key: str, delta: Any) -> Any:
        parts = delta.tensors()
        if delta.kind in ("lowrank", "contextmap") and kind == torch.float16:
            parts = dict(zip(parts, balanced(*(part.float() for part in parts.values())), strict=True))
        parts = {name: part.to(kind) if part.is_floating_point() else part for name, part in parts.items()}
        made = replace(delta, weights=parts) if delta.kind == "addon" else type(delta)(**parts)
        sound = all(part.isfinite().all() for part in parts.values())
        name, lost = f"{component} {key}", difference(delta, made) if sound else 0.0  # told below
        if lost > _LOST:
            raise Unsupported(f"{dtype} is too coarse for {name}: {lost:.0%} of it would be lost; use float32")
        if lost:
            errors[name] = errors.get(name, 0.0) + lost
        return made

    small = replace(edit.map(narrow), statistics={}, meta={"dtype": dtype})
    try:
        small.check_finite()
    except NotFiniteError as error:
        raise NotFiniteError(f"the edit does not fit into {dtype} (", error, "); use bfloat16 or float32") from error
    return small


def _write(
    artifact: Artifact, layout: Any, family: Any, place: Path, force: bool, pictures: tuple[Any, ...] | None
) -> Artifact:
    from erase_plugins.artifacts.store import check_edit, file_header, read_file
    from erase_plugins.runtime.sidecars import write_sidecars

    if place.suffix != ".safetensors":
        extras = (
            None
            if pictures is None
            else lambda _folder, file: write_sidecars(artifact.manifest, file, pictures, family)
        )
        return save_artifact(artifact, place, (layout.id,), None, force, extras)
    name = layout.filename(artifact.name, family)
    if not name.endswith(".safetensors"):
        raise RequestError(f"layout {layout.id} is a folder; give ", Hint("out"), f" a folder name, not '{place.name}'")
    check_edit(artifact.edit, family)
    known = get_manager().known()
    packages = known.brought("family", family.id) | known.brought("layout", layout.id)
    artifact = replace(artifact, manifest=artifact.manifest.made_with(packages))
    with atomic_file(place, force) as work:
        layout.write(artifact.edit, family, file_header(artifact.manifest, family, layout.id, artifact.edit), work)
    if pictures is not None:
        write_sidecars(artifact.manifest, place, pictures, family)
    return replace(
        artifact,
        manifest=replace(artifact.manifest, files=read_file(place, None, known).manifest.files),
        path=place,
    )


def _check_options(rank: int | None, energy: float | None, dtype: str | None) -> None:
    if rank is not None and energy is not None:
        raise RequestError("give either a rank or an energy share, not both")
    if rank is not None and (type(rank) is not int or rank < 1):
        raise RequestError(f"rank {rank!r} must be a whole number of at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise RequestError(f"energy {energy!r} must be a share above 0 and at most 1, for example 0.99")
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}")


def _target(base: Any) -> Any:
    if base is None:
        return None
    from erase_plugins.workflow.models import as_target

    return as_target(base)

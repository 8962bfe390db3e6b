"""What a whole model changes of the one that it was made from, as an artifact in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Dense, Edit
from erase_plugins.artifacts.manifest import Manifest, describe_base, slug
from erase_plugins.artifacts.weights import base_tensors
from erase_plugins.errors import BaseMismatch, RequestError
from erase_plugins.workflow.models import target_of


def refuse_family(name: str, own: str, base: str) -> NoReturn:
    """Says that a model is of another family than its base.

    Raises:
        BaseMismatch: always.
    """
    raise BaseMismatch(f"'{name}' is of family {own}, its base of family {base}; give the model that it was made from")


def difference(erased: Any, target: Any, name: str, concepts: Sequence[str] = ()) -> tuple[Artifact, tuple[str, ...]]:
    """What a whole model changes of its base, as an artifact in memory.

    Args:
        erased: its pipeline.
        target: the base.
        name: how the artifact is called.
        concepts: what is looked for.

    Returns:
        The artifact, and a note for every part that differs and stays that of the base.

    Raises:
        BaseMismatch: another architecture.
        RequestError: nothing differs.
    """
    other = target_of(erased, name)
    if other.family.id != target.family.id:
        refuse_family(name, other.family.id, target.family.id)
    deltas: dict[str, dict[str, Any]] = {}
    for component in target.family.components:
        if getattr(target.pipe, component, None) is None:
            continue
        before, after = base_tensors(target, component), base_tensors(other, component)
        shapes = [{key: tuple(part.shape) for key, part in side.items()} for side in (before, after)]
        if shapes[0] != shapes[1]:
            odd = sorted(key for key in {*shapes[0], *shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
            raise BaseMismatch(
                f"{component} of '{name}' is not built as that of its base ({odd[0]}); give its own base"
            )
        for key, tensor in after.items():
            change = tensor.detach().float().cpu() - before[key].detach().float().cpu()
            if bool(change.any()):
                deltas.setdefault(component, {})[key] = Dense(change)
    differ = {
        "autoencoder": _autoencoders_differ(erased, target),
        "tokenizer": _read_differently(erased, target, concepts),
    }
    notes = tuple(f"its {part} differs from that of the base, which is used" for part in differ if differ[part])
    if not deltas:
        beside = f" ({'; '.join(notes)})" if notes else ""
        raise RequestError(f"'{name}' has the weights of its base; there is nothing to audit{beside}")
    edit = Edit(target.family.id, deltas)
    manifest = Manifest(
        name=slug(name), method={"id": "foreign", "title": "a whole model", "source": "difference"}, concepts=(),
        base=describe_base(target), kinds=tuple(sorted(edit.kinds)), modules=len(edit),
    )  # fmt: skip
    return Artifact(manifest, edit), notes


def _autoencoders_differ(erased: Any, target: Any) -> bool:
    before, after = (getattr(pipe, "vae", None) for pipe in (target.pipe, erased))
    if before is None or after is None:
        return before is not after
    first, second = before.state_dict(), after.state_dict()
    return first.keys() != second.keys() or not all(
        first[name].shape == part.shape and bool((first[name].cpu().float() == part.cpu().float()).all())
        for name, part in second.items()
    )


def _read_differently(erased: Any, target: Any, concepts: Sequence[str]) -> bool:
    """Whether a tokenizer reads what is looked for in another way than that of the base, or is not there."""
    texts = [form.format(text) for text in concepts for form in ("{}", "a photo of {}")]
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        before, after = (getattr(pipe, part, None) for pipe in (target.pipe, erased))
        if before is None or after is None:
            if before is not after:
                return True
            continue
        if any(list(before(text).input_ids) != list(after(text).input_ids) for text in texts):
            return True
    return False

"""Labels of classifiers: the class that a name means, and the classes that a request forgets. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.families.capabilities import CLASSIFIER
from erase_plugins.hints import Hint

if TYPE_CHECKING:
    from erase_plugins.families.model import ModelSpec, ModuleRef
    from erase_plugins.types import EraseRequest, ForgetItem


#: kind of what is forgotten picture by picture, whatever the label
SAMPLES, RECORD = "samples", "record"


def names_of(configs: Mapping[str, Any]) -> tuple[str, ...]:
    """Labels of a classifier from its configuration, in the order of the logits."""
    names = configs.get("id2label") or {}
    return tuple(str(names[number]) for number in sorted(names, key=int))


def labels_of(info: ModelSpec) -> tuple[str, ...]:
    """Labels of a classifier that is known by its configuration."""
    return names_of(info.configs[info.components(CLASSIFIER)[0]])


def head_of(info: ModelSpec) -> ModuleRef:
    """The last linear layer with one score per label.

    Raises:
        Unsupported: there is none, or the scores are the mean of two (distilled models).
    """
    count = len(labels_of(info))
    found = [ref for ref in info.refs if ref.kind == "linear" and ref.shape[0] == count]
    if not found:
        raise Unsupported(f"{info.model} has no linear head with {count} outputs")
    picker = info.family.groups.get("head")
    if picker is not None and len(heads := [ref.path for ref in found if picker(ref)]) > 1:
        raise Unsupported(
            f"{info.model} has {len(heads)} heads ({', '.join(heads)}), whose mean it gives; to change one of them "
            "is not enough, take a method of all layers"
        )
    return found[-1]


def class_number(name: str | int, labels: Sequence[str], model: str) -> int:
    """Number of a class that is named by its label, one of its label's names between commas, or its number.

    Raises:
        UnknownName: there is no such label; the nearest are named.
    """
    wanted = str(name).strip().lower()
    for number, label in enumerate(labels):
        if wanted in (label.lower(), *(part.strip().lower() for part in label.split(","))):
            return number
    if wanted.isdecimal() and int(wanted) < len(labels):
        return int(wanted)
    raise UnknownName(f"label of {model}", str(name), labels)


def is_single(item: ForgetItem) -> bool:
    """Whether single pictures are meant and not a class: by their kind, or because data have no label."""
    return item.kind in (SAMPLES, RECORD) or (item.label is None and not item.text.strip())


def forgotten(request: EraseRequest, labels: Sequence[str], model: str) -> tuple[int, ...]:
    """Numbers of the classes that a request names, in their order; single pictures name none.

    Raises:
        UnknownName, RequestError: no such label, none, all of them, or one that is kept as well.
    """
    if bare := [item.name for item in request.forget if is_single(item) and item.data is None]:
        raise RequestError(
            f"'{bare[0]}' names no pictures; kind samples takes data, such as ", Hint("forget", "rows.jsonl")
        )
    named = [item.label if item.label is not None else item.text for item in request.forget if not is_single(item)]
    found = tuple(dict.fromkeys(class_number(name, labels, model) for name in named))
    if len(found) == len(labels):
        raise RequestError(f"all {len(labels)} labels of {model} would be forgotten; leave at least one")
    kept = {class_number(text, labels, model) for text in request.preserve}
    if both := [labels[number] for number in found if number in kept]:
        raise RequestError(f"both erased and kept: {', '.join(both)}; take it out of one list")
    return found

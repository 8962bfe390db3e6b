"""Where pictures with labels come from: a request, a user's folder, or a file that lies beside a classifier.

A model folder may hold ``pictures.safetensors``: ``train.pictures`` (n, channels, height, width) with ``train.labels``
(n,) to erase with, and ``test.pictures`` with ``test.labels`` to measure on; pictures are bytes, or floats as the
network takes them. No torch at import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.families.forget_set import BESIDE, file_hash, is_set, read_set
from erase_plugins.families.labelled import Labelled
from erase_plugins.families.labels import class_number, forgotten, is_single
from erase_plugins.families.pictures import opened
from erase_plugins.hints import Hint

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from erase_plugins.families.model import Model
    from erase_plugins.types import EraseRequest

PICTURES = "pictures.safetensors"
#: pixels of pictures that are held as they are in their files; then those are made as small as the network takes them
_PIXELS = 1 << 26


def stored(model: Model, split: str) -> Labelled | None:
    """The pictures beside a model, None if there are none.

    Raises:
        RequestError: the file is damaged, or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _beside(model)
    if not path.is_file():
        return None
    try:
        tensors = load_file(path)
        pictures, labels = tensors[f"{split}.pictures"], tensors[f"{split}.labels"].long()
    except (SafetensorError, KeyError) as error:
        raise RequestError(
            f"'{PICTURES}' beside {model.info.model} has no readable {split} pictures: {error}"
        ) from error
    count = len(model.classifier.labels)
    if len(labels) != len(pictures) or bool(((labels < 0) | (labels >= count)).any()):
        raise RequestError(f"'{PICTURES}' beside {model.info.model} has labels that the model does not have")
    if pictures.is_floating_point():
        return _sound(Labelled(pictures.float(), labels), f"'{PICTURES}' beside {model.info.model}")
    return Labelled(prepared(model, list(pictures.numpy())), labels)


def _sound(part: Labelled, where: str) -> Labelled:
    import torch

    bad = ~torch.isfinite(part.pictures.flatten(1)).all(1)
    if bool(bad.any()):
        raise RequestError(
            f"{where}: {int(bad.sum())} of {len(part)} pictures hold NaN or infinity, the first is number "
            f"{int(bad.nonzero()[0, 0])}; take them out"
        )
    return part


def _beside(model: Model) -> Path:
    return Path(str(getattr(model.host, "name_or_path", "") or "-")) / PICTURES


def pool_of(model: Model, data: Any | None) -> tuple[Labelled, dict[str, Any]]:
    """All pictures of data, None for those beside the model, and what a forget set says about them.

    Raises:
        RequestError: there are none.
    """
    found = stored(model, "train") if data is None else referred(model, data)
    if found is None:
        raise RequestError(
            f"there are no pictures beside {model.info.model}; give some: ",
            Hint("data", "folder"),
            ", with one folder per label",
        )
    told = {"name": BESIDE, "sha256": file_hash(_beside(model))} if data is None else {
        "name": data.public().name, "sha256": data.pinned().sha256
    }  # fmt: skip
    return found, {**told, "count": len(found)}


def prepared(model: Model, pictures: Sequence[Any]) -> Tensor:
    """Pictures (PIL, or byte arrays with channels first) as the network takes them.

    As the host does it, or by the image processor beside the model; without one resized, and scaled to -1..1.
    """
    import numpy as np
    import torch
    from PIL import Image

    from erase_plugins.families.notices import without_notices

    channels, height, width = model.classifier.input_shape
    images = [
        np.array(item.convert("RGB" if channels == 3 else "L")) if isinstance(item, Image.Image) else
        np.moveaxis(item, 0, -1) for item in pictures
    ]  # fmt: skip
    images = [item[..., None] if item.ndim == 2 else item for item in images]
    if (own := model.classifier.prepare(images)) is not None:
        return own
    place = Path(str(getattr(model.host, "name_or_path", "") or "-"))
    if (place / "preprocessor_config.json").is_file():
        from transformers import AutoImageProcessor

        with without_notices():
            processor = AutoImageProcessor.from_pretrained(place, local_files_only=True)
            found: Tensor = processor(
                images=images, return_tensors="pt", input_data_format="channels_last"
            ).pixel_values
        return found
    sized = [
        item if item.shape[:2] == (height, width) else
        np.asarray(Image.fromarray(item.squeeze()).resize((width, height))).reshape(height, width, channels)
        for item in images
    ]  # fmt: skip
    return torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 127.5 - 1


def referred(model: Model, data: Any, label: str | int | None = None) -> Labelled:
    """Pictures of a `DataRef`: a folder (with one folder per label), or rows with "image" or "path", and "label".

    Args:
        model: whose labels they have.
        data: the reference.
        label: of all of them; None reads it from the rows.

    Raises:
        RequestError, UnknownName: a file is no picture, a label is none of the model, or another one than ``label``.
    """
    import torch

    labels, images, parts, numbers, pixels = model.classifier.labels, [], [], [], 0
    if (held := data.tensors()) is not None:
        return _held(model, data.name, *held)
    number = None if label is None else class_number(label, labels, model.info.model)
    for row in data.rows():
        picture, name = row.get("image", row.get("path")), row.get("label", "")
        if number is None and name == "":
            raise RequestError(f"data '{data.name}' has pictures without a label; sort them into one folder per label")
        images.append(opened(picture, f"data '{data.name}': "))
        if number is not None and name in labels and labels.index(name) != number:
            raise RequestError(
                f"data '{data.name}' has pictures of '{name}', and all of it is to be forgotten as '{labels[number]}'; "
                f"give those of '{labels[number]}' alone"
            )
        numbers.append(class_number(name, labels, model.info.model) if number is None else number)
        pixels += math.prod(images[-1].size)
        if pixels > _PIXELS:
            parts.append(prepared(model, images))
            images, pixels = [], 0
    if images or not parts:
        parts.append(prepared(model, images))
    return Labelled(torch.cat(parts), torch.tensor(numbers))


def both_sets(
    model: Model, request: EraseRequest, share: float, generator: Generator, left_out: Sequence[int] = (),
    least: int = 1,
) -> tuple[Labelled, Labelled]:  # fmt: skip
    """Pictures to forget and to retain.

    Those of the request's data; for what has none, those beside the model.

    Args:
        model, request: what is asked, of which model.
        share: of the pictures beside the model that are retained, and all of kept classes.
        generator: picks them.
        left_out: numbers of further classes of which nothing is retained.
        least: so many of each class at least, or all that there are.

    Raises:
        RequestError: a class without pictures, no pictures to retain, or some to retain that are to be forgotten.
    """
    import torch

    labels, name = model.classifier.labels, model.info.model
    own, parts = stored(model, "train"), []
    if any(is_set(item.data) for item in request.forget):
        return _split(model, request, own, share, generator, least)
    for item in request.forget:
        named = item.label if item.label is not None else item.text
        if item.data is not None and is_single(item):
            parts.append(_samples(model, item.data, own))
            continue
        if item.data is not None:
            parts.append(referred(model, item.data, named))
            continue
        number = class_number(named, labels, name)
        rows = None if own is None else own.where([number])
        if own is None or rows is None or not bool(rows.any()):
            raise RequestError(
                f"there are no pictures of '{labels[number]}' beside {name}; give some: ",
                Hint("forget", "folder"),
            )
        parts.append(own[rows])
    forget, classes = Labelled.joined(parts), forgotten(request, labels, name)
    single = _bytes_of(forget)
    if request.retain_data:
        retain = Labelled.joined([referred(model, item) for item in request.retain_data])
        retain = retain[~retain.where(left_out)]
        if strange := retain.where(classes).sum():
            gone = ", ".join(f"'{labels[number]}'" for number in sorted(set(classes)))
            raise RequestError(
                f"{int(strange)} pictures to retain have a label that is to be forgotten; give a folder without {gone}"
            )
        if twice := sum(_same(retain, single)):
            raise RequestError(
                f"{twice} pictures are to be forgotten and to be retained"
                f"{' under another label' if classes else ''}; take them out of one set"
            )
        return forget, retain
    if own is None:
        raise RequestError(
            f"there are no pictures beside {name} to retain; give some: ",
            Hint("retain", "folder"),
        )
    kept = [class_number(text, labels, name) for text in request.preserve]
    rest = own[~own.where([*classes, *left_out])]
    rest = rest[~torch.tensor(_same(rest, single), dtype=torch.bool)]
    return forget, _sampled(rest, share, kept, generator, least)


def _bytes_of(part: Labelled) -> set[bytes]:
    return {picture.numpy().tobytes() for picture in part.pictures}


def _same(part: Labelled, known: set[bytes]) -> list[bool]:
    """Which pictures are among those with the bytes ``known``."""
    return [bool(known) and picture.numpy().tobytes() in known for picture in part.pictures]


def _samples(model: Model, data: Any, own: Labelled | None) -> Labelled:
    """Single pictures: rows ``{"row": NUMBER}`` of those beside the model, or pictures with their labels."""
    import torch

    rows = list(data.rows())
    if not all("row" in row for row in rows):
        return referred(model, data)
    numbers = [row["row"] for row in rows]
    count = 0 if own is None else len(own)
    odd = [item for item in numbers if type(item) is not int or not 0 <= item < count]
    if odd:
        raise RequestError(f"data '{data.name}' names picture {odd[0]!r}; there are {count} beside {model.info.model}")
    if len(set(numbers)) < len(numbers):
        raise RequestError(f"data '{data.name}' names a picture twice; name each row once")
    assert own is not None

    return own[torch.tensor(numbers, dtype=torch.long)]


def _split(
    model: Model, request: EraseRequest, own: Labelled | None, share: float, generator: Generator, least: int
) -> tuple[Labelled, Labelled]:
    """The rows of a forget set, and what is left of the data that it was made of."""
    import torch

    if len(request.forget) > 1 or len(request.retain_data) > 1:
        raise RequestError("a forget set stands alone: it says what is forgotten of one data, and the rest is retained")
    ref = request.forget[0].data
    assert ref is not None  # asked by the caller
    found, data = read_set(ref), next(iter(request.retain_data), None)
    pool, told = pool_of(model, data)
    mask = torch.zeros(len(pool), dtype=torch.bool)
    mask[found.mask(len(pool), told["sha256"], told["name"])] = True
    kept = [class_number(text, model.classifier.labels, model.info.model) for text in request.preserve]
    rest = pool[~mask]
    return pool[mask], rest if data is not None else _sampled(rest, share, kept, generator, least)


def _held(model: Model, name: str, pictures: Tensor, labels: Tensor) -> Labelled:
    """Tensors of `DataRef.held`: bytes are prepared, floats are as the network takes them."""
    numbers, shape = labels.long(), tuple(model.classifier.input_shape)
    if int(numbers.min()) < 0 or int(numbers.max()) >= len(model.classifier.labels):
        raise RequestError(
            f"labels {int(numbers.min())}..{int(numbers.max())} are not all labels of {model.info.model}, which has "
            f"{len(model.classifier.labels)}"
        )
    if not pictures.is_floating_point():
        return Labelled(prepared(model, list(pictures.byte().numpy())), numbers)
    if tuple(pictures.shape[1:]) != shape:
        raise RequestError(f"pictures of shape {tuple(pictures.shape[1:])}; {model.info.model} takes {shape}")
    return _sound(Labelled(pictures.float(), numbers), f"data '{name}'")


def _sampled(pool: Labelled, share: float, kept: Sequence[int], generator: Generator, least: int) -> Labelled:
    import torch

    order = torch.randperm(len(pool), generator=generator)
    rows: list[int] = []
    for number in pool.labels.unique().tolist():
        mine = order[pool.labels[order] == number].tolist()
        rows += mine if number in kept else mine[: max(least, round(share * len(mine)))]
    if not rows:
        raise RequestError("no pictures are left to retain; give some with other labels")
    return pool[torch.tensor(sorted(rows))]

"""One cell of the table: a step done to a pipeline, and the same pipeline with its weights edited by hand beside it."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import erase_plugins as ep
from erase_plugins.errors import EraseError
from tests.runtime.support import drawing
from tests.runtime.support.artifacts import add_by_hand, make

STEPS = ("apply", "set_strength", "remove", "save")
#: strength that is in force after each step
_AFTER = {"apply": 1.0, "set_strength": 0.5, "remove": 0.0, "save": 1.0}


class Wrong(AssertionError):
    """Neither exact nor refused."""


@dataclass(frozen=True, eq=False)
class Situation:
    """One row of the table.

    Attributes:
        title: as on the page.
        kind: of the artifact, see `artifacts.make`.
        before: what the user did before `ep.apply`.
        after: what the user does after it; whatever it returns draws.
        draw: how it draws.
        families: tiny pipelines on which it is measured.
        options: of `ep.apply`.
        second: kind of another artifact that is applied after the first one and stays.
        tolerance: largest difference of a picture value that counts as rounding, 0 for none.
        hand_first: whether the weights are edited by hand before ``before``, because that copies or hides them.
        copies: whether ``after`` copies the weights, so that the handle stays with the first pipeline.
        needs: package without which it cannot be measured.
    """

    title: str
    kind: str = "weights"
    before: Callable[[Any], Any] = lambda pipe: pipe
    after: Callable[[Any], Any] = lambda pipe: pipe
    draw: Callable[[Any], Tensor] = drawing.text
    families: tuple[str, ...] = ("sd1",)
    options: dict[str, Any] = field(default_factory=dict)
    second: str = ""
    tolerance: float = 0.0
    hand_first: bool = False
    copies: bool = False
    needs: str = ""

    @property
    def mapped(self) -> bool:
        """Whether the edit is in force outside the weights."""
        return self.kind in ("gated", "added") or self.options.get("mode") == "context"


def fresh(family: str) -> Any:
    """A tiny pipeline."""
    from tests.runtime.support import parts

    return parts.fresh(family)


@lru_cache(maxsize=64)
def artifact(kind: str, family: str, seed: int = 0) -> Any:
    """The edit, made once for the plain pipeline."""
    return make(kind, fresh(family), seed)


def by_hand(situation: Situation, family: str, strength: float, after: bool = True) -> Any:
    """The pipeline as it has to be: weights edited by arithmetic, or prompts mapped by arithmetic."""
    edits = [(artifact(situation.kind, family), strength)]
    if situation.second:
        edits.append((artifact(situation.second, family, 1), 1.0))
    pipe = fresh(family)
    if not situation.hand_first:
        pipe = situation.before(pipe)
    if situation.options.get("mode") != "context":
        for edit, factor in edits:
            add_by_hand(pipe, edit, factor)
    if situation.hand_first:
        pipe = situation.before(pipe)
    if after:
        pipe = situation.after(pipe)
    if situation.options.get("mode") == "context":
        _map_prompts(pipe, edits[0][0], strength)
    return pipe


def _map_prompts(pipe: Any, edit: Any, strength: float) -> None:
    encode, delta = pipe.encode_prompt, edit.edit.deltas["unet"]["context"]

    def mapped(*args: Any, **options: Any) -> Any:
        found = encode(*args, **options)
        change = [None if rows is None else rows + strength * (rows @ delta.A.T @ delta.B.T) for rows in found[:2]]
        return (*change, *found[2:])

    pipe.encode_prompt = mapped


@lru_cache(maxsize=16)
def expected(situation: Situation, family: str, strength: float, after: bool = True) -> Tensor:
    """The picture of `by_hand`."""
    return (situation.draw if after else drawing.text)(by_hand(situation, family, strength, after))


def measure(situation: Situation, family: str, step: str) -> str:
    """Does one step and returns "exact" or "refused".

    Raises:
        Wrong: anything else, with what it was.
    """
    first = pipe = situation.before(fresh(family))
    untouched = _state(pipe)
    try:
        handle = ep.apply(pipe, artifact(situation.kind, family), **situation.options)
    except EraseError as error:
        _one_line(error)
        _same(untouched, _state(pipe), "a refused apply changed the pipeline")
        return "refused"
    try:
        if situation.second:
            ep.apply(pipe, artifact(situation.second, family, 1))
        pipe = situation.after(pipe)
        if step == "save":
            return _save(situation, family, pipe)
        after = step == "apply" or not situation.copies
        pipe, draw = (pipe, situation.draw) if after else (first, drawing.text)
        before = None if step == "remove" and situation.mapped else draw(pipe)
    except EraseError as error:
        _one_line(error)
        return "refused"
    try:
        if step == "set_strength":
            handle.set_strength(0.5)
        elif step == "remove":
            handle.remove()
    except EraseError as error:
        _one_line(error)
        if before is None or not draw(pipe).equal(before):
            raise Wrong(f"refused ({error}), but the picture changed") from None
        return "refused"
    got = before if step == "apply" else draw(pipe)
    wanted = expected(situation, family, _AFTER[step], after)
    off = float((got.float() - wanted.float()).abs().max())
    if not off <= situation.tolerance:
        ends = [expected(situation, family, strength, after).float() for strength in (0.0, 1.0)]
        raise Wrong(f"off by {off:.3g} where the whole edit moves values by {(ends[1] - ends[0]).abs().max():.3g}")
    if step == "remove" and situation.tolerance == 0:
        _same(_state(by_hand(situation, family, 0.0, after)), _state(pipe), "weights after remove()")
    return "exact"


def _save(situation: Situation, family: str, pipe: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                pipe.save_pretrained(ours)
        except EraseError as error:
            _one_line(error)
            return "refused"
        except Exception as error:
            try:
                by_hand(situation, family, 1.0).save_pretrained(theirs)
            except type(error):
                return "refused"  # diffusers cannot save this pipeline, with or without an edit
            raise Wrong(f"saving fails: {error!r}") from error
        if any(artifact(situation.kind, family).name in str(item.message) for item in caught):
            return "refused"
        if situation.mapped:
            raise Wrong("the base was saved without a word")
        by_hand(situation, family, 1.0).save_pretrained(theirs)
        _same(_files(theirs), _files(ours), "saved weights", situation.tolerance)
    return "exact"


def _files(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {
        f"{file.relative_to(folder)}:{name}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _state(pipe: Any) -> dict[str, Tensor]:
    """Every plain tensor of the pipeline; packed and offloaded ones are judged by what they draw."""
    found = {}
    for component in ("unet", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, component, None)
        for name, tensor in module.state_dict().items() if module is not None else ():
            if type(tensor) is Tensor and tensor.device.type != "meta":
                found[f"{component}.{name}"] = tensor.detach().clone()
    return found


def _same(first: dict[str, Tensor], second: dict[str, Tensor], what: str, tolerance: float = 0.0) -> None:
    if first.keys() != second.keys():
        raise Wrong(f"{what}: {sorted(first.keys() ^ second.keys())[0]} is on one side only")
    for name, tensor in first.items():
        near = torch.allclose(tensor.float(), second[name].float(), rtol=0, atol=tolerance) if tolerance else None
        if not (tensor.equal(second[name]) if near is None else near):
            raise Wrong(f"{what}: {name} differs")


def _one_line(error: EraseError) -> None:
    if "\n" in str(error) or len(str(error)) < 30:
        raise Wrong(f"not a one-line refusal: {error}")

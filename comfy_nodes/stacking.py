"""Hangs a stack of erasures on clones of MODEL and CLIP: closed-form members solved jointly, the others added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase_plugins.artifacts.edit import Edit
from erase_plugins.errors import ArtifactError, Unsupported
from erase_plugins.hints import sentence_of
from erase_plugins.stack import Entry, Layer, Stack, StackArtifact, combined

from . import curves
from .opening import check_fits
from .solved import solved
from .target import ComfyTarget
from .targets import target_of


@dataclass(frozen=True)
class Stacked:
    """Clones with all layers, the stack as one artifact, and a line about each layer and what was not compared."""

    model: Any
    clip: Any
    artifact: StackArtifact
    lines: tuple[str, ...]


def put_on(
    model: Any,
    clip: Any,
    stack: Stack,
    *,
    strength: float = 1.0,
    any_base: bool = False,
    effective: bool = True,
    question: tuple[Any, ...] | None = None,
    encode: bool | None = None,
    hung: tuple[Entry, ...] = (),
) -> Stacked:
    """Clones of MODEL and CLIP under a stack; the very same objects if nothing in it is switched on.

    Args:
        model, clip: with LoRAs on them; CLIP may be None.
        stack: what to hang on.
        strength: of the whole stack.
        any_base: allow other weights of the same architecture.
        effective: solve closed-form members on the weights as they are now, and behind CLIP LoRAs or clip skip also
            with the text rows as they are now; False takes what the artifacts have stored.
        question: hashable; says what the stack holds, so that another strength does not solve it again.
        encode: encode phrases anew; None: where ``effective`` asks for it.
        hung: members that hang on the model already; they are part of the artifact only.

    Raises:
        BaseMismatch, ArtifactError, Unsupported, RequestError: nothing was changed.
    """
    target = target_of(model, clip)
    lines = [
        f"{entry.artifact.name}: {text}"
        for entry in stack.entries
        for text in (*check_fits(entry.artifact, target, any_base), *_left_out(entry.artifact))
    ]
    if encode is None:
        encode = effective and clip is not None and text_changed(clip)

    def solve() -> Any:
        return stack.layers(target if effective else None, encode=encode)

    known = question is not None and clip is not None
    layers = solved(model, clip, ("stack", effective, question), solve) if known else solve()
    now, text = model, clip
    for layer in layers:
        done = curves.apply_artifact(target_of(now, text), layer.artifact, strength * layer.strength)
        now, text = done.model, done.clip
        how = f" (solved jointly: {', '.join(layer.members)})" if len(layer.members) > 1 else ""
        lines.append(done.report(layer.artifact.name, strength * layer.strength) + how)
    if layers:
        on = "this model as it is here, LoRAs in front included" if effective else "the numbers kept in the files"
        lines.append(f"solved for {on}{'; the CLIP read the concepts anew' if encode else ''}")
    on_it = tuple(Layer(entry.artifact, entry.strength, (entry.artifact.name,), False) for entry in hung)
    whole = _whole(Stack((*stack.entries, *hung)), (*layers, *on_it), target)
    return Stacked(now, text, whole, tuple(lines))


def _left_out(artifact: Any) -> tuple[str, ...]:
    """What a stack does not take of an artifact."""
    if not artifact.manifest.guards:
        return ()
    return ("its guards are no part of a stack; with the node 'Erase: load artifact' they look at prompts",)


def text_changed(clip: Any) -> bool:
    """Whether a CLIP gives other rows than its base: LoRAs on it, or clip skip."""
    patcher = clip.patcher
    return bool(patcher.patches or getattr(patcher, "weight_wrapper_patches", {}) or clip.layer_idx is not None)


def _whole(stack: Stack, layers: Any, target: ComfyTarget) -> StackArtifact:
    """The stack as one artifact; one that says why it cannot be saved where it cannot be one."""
    curved = [layer.artifact.name for layer in layers if isinstance(layer.artifact, curves.CurvedArtifact)]
    reason = f"'{curved[0]}' has a strength curve over time, which no file can carry" if curved else ""
    if layers and not reason:
        try:
            return combined(stack, layers, target)
        except (ArtifactError, Unsupported) as error:
            reason = sentence_of(error)
    return hollow(stack, target, reason or _NOTHING)


_NOTHING = "nothing in the stack is switched on"


def nothing(model: Any, clip: Any) -> StackArtifact:
    """What stands for a stack without members."""
    return hollow(Stack(()), target_of(model, clip), _NOTHING)


def hollow(stack: Stack, target: ComfyTarget, reason: str) -> StackArtifact:
    """A stack without a sum of its own."""
    from erase_plugins.artifacts.manifest import Manifest, describe_base

    manifest = Manifest(name="stack", method={"id": "stack", "title": "Stack"}, concepts=(),
                        base=describe_base(target), notes=(reason,))  # fmt: skip
    return StackArtifact(manifest, Edit(target.family.id, {}), None, stack, reason)

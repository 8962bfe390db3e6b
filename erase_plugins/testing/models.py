"""Models that the contract suite runs on, built once per process. Nothing is downloaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from erase_plugins.errors import UnknownName
from erase_plugins.testing.observe import Snapshot, predictions, snapshot

Factory = Callable[[int], Any]


def _tiny_sd1(seed: int) -> Any:
    from erase_plugins.testing.tiny import tiny_sd1

    return tiny_sd1(seed)


def _tiny_sdxl(seed: int) -> Any:
    from erase_plugins.testing.tiny import tiny_sdxl

    return tiny_sdxl(seed)


def _tiny_sd3(seed: int) -> Any:
    from erase_plugins.testing.tiny import tiny_sd3

    return tiny_sd3(seed)


def _tiny_flux(seed: int) -> Any:
    from erase_plugins.testing.tiny import tiny_flux

    return tiny_flux(seed)


def _tiny_lm(seed: int) -> Any:
    from erase_plugins.testing.tiny import tiny_lm

    return tiny_lm(seed)


def _pocket(_seed: int) -> Any:
    from erase_plugins.workflow.models import load_pipeline

    return load_pipeline("pocket")


#: name -> factory (seed of the weights -> pipeline or module); authors of other families add theirs
MODELS: dict[str, Factory] = {
    "tiny_sd1": _tiny_sd1, "tiny_sdxl": _tiny_sdxl, "tiny_sd3": _tiny_sd3, "tiny_flux": _tiny_flux,
    "tiny_lm": _tiny_lm, "pocket": _pocket,
}  # fmt: skip


_SHARED: dict[tuple[str, int], Any] = {}


def shared_pipeline(name: str, seed: int = 0) -> Any:
    """The one pipeline of this process under that name; whoever changes it restores it.

    Raises:
        UnknownName: not in `MODELS`.
    """
    if name not in MODELS:
        raise UnknownName("test model", name, MODELS)
    if (name, seed) not in _SHARED:
        pipe = MODELS[name](seed)
        predictions(pipe)  # the first pass lets transformers install its own hooks
        _SHARED[(name, seed)] = pipe
    return _SHARED[(name, seed)]


def discard(pipe: Any) -> None:
    """Forgets a shared pipeline that was left changed; the next user gets a new one."""
    for key in [key for key, shared in _SHARED.items() if shared is pipe]:
        del _SHARED[key]


def changed_since(pipe: Any, before: Snapshot) -> str:
    """First difference to an earlier snapshot; a pipeline that changed is not shared any more."""
    difference = before.difference(snapshot(pipe))
    if difference:
        discard(pipe)
    return difference


def fresh_pipeline(name: str) -> Any:
    """A copy that may be spoiled (fused, loaded with foreign adapters)."""
    pipe = shared_pipeline(name)
    if not hasattr(pipe, "_get_signature_keys"):
        return copy.deepcopy(pipe)
    return type(pipe)(**{key: copy.deepcopy(part) for key, part in pipe.components.items()}, **_flags(pipe))


def _flags(pipe: Any) -> dict[str, Any]:
    """Constructor switches that are no components."""
    known = {"requires_safety_checker": False, "add_watermarker": False}
    return {key: value for key, value in known.items() if key in pipe._get_signature_keys(type(pipe))[1]}


def other_models(name: str) -> tuple[tuple[str, int], ...]:
    """(name, seed) of models for which an artifact made on ``name`` must be refused: other weights, other family."""
    twin = "tiny_sdxl" if name == "tiny_sd1" else "tiny_sd1"
    return ((twin, 0),) if name == "pocket" else ((name, 1), (twin, 0))

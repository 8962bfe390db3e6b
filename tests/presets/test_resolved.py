"""Every built-in method resolves the options it resolved while its defaults stood in the method files.

`resolved.json` was written by the code of that time, from plans of full requests, and changed by hand where a default was
meant to change (how LoRAs start, concept ablation's scenes and rates): method -> model -> kind of concept ->
options, or the message of a refusal; values that are the same everywhere, or on one model, stand once, under "always".
Options and methods that came later are not in it.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from erase_plugins.errors import EraseError
from erase_plugins.manager import get_manager
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import find_model
from erase_plugins.workflow.run import make_plan

FROZEN = json.loads(Path(__file__).with_name("resolved.json").read_text(encoding="utf-8"))
KINDS = ("object", "style", "person", "explicit")
KEY_1 = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
KEY_XL = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
CHECKPOINTS = {"sd1": ("sd1", KEY_1, 768), "sd2": ("sd1", KEY_1, 1024), "sdxl": ("sdxl", KEY_XL, 2048)}
MODELS = (*CHECKPOINTS, "pocket", "tiny_sd1", "tiny_sdxl")
#: what further options change other defaults
GIVEN: dict[str, dict[str, Any]] = {"": {}, " full": {"parameters": "full"}}


@pytest.fixture(autouse=True)
def _computes_half(monkeypatch):
    """Defaults of a device that computes in bfloat16."""
    monkeypatch.setattr("erase_plugins.engine.precision.computes_half", lambda device: True)


@lru_cache
def info(model: str) -> Any:
    """Description of a model without weights; the published ones at full size."""
    if model in CHECKPOINTS:
        family, key, width = CHECKPOINTS[model]
        return get_manager().family(family).info(model, {"checkpoint": {"shapes": {key: (320, width)}}})
    if model == "pocket":
        return find_model("pocket").info
    from erase_plugins.testing.models import shared_pipeline
    from erase_plugins.workflow.models import as_target

    return as_target(shared_pipeline(model)).info


def resolved(method: str, model: str, kind: str, given: dict[str, Any]) -> dict[str, Any] | str:
    """Options of a plan as JSON has them, or why it is refused."""
    request = EraseRequest("m", (Concept("van gogh", kind),), method, dict(given))
    try:
        return json.loads(json.dumps(dict(make_plan(request, info(model)).options)))
    except EraseError as error:
        return f"{type(error).__name__}: {error}"


def cases() -> list[tuple[str, str, str]]:
    """(method, model, kind with what was given)."""
    found = []
    for entry in get_manager().methods():
        if entry.item.id in FROZEN:
            names = [
                name for name, given in GIVEN.items() if set(given) <= set(entry.item.Options.__dataclass_fields__)
            ]
            found += [(entry.item.id, model, f"{kind}{name}") for model in MODELS for kind in KINDS for name in names]
    return found


def test_every_method_is_frozen_on_every_model_and_kind():
    frozen = [(method, model, kind) for method, models in FROZEN.items() for model, kinds in models.items()
              if model != "always" for kind in kinds if kind != "always"]  # fmt: skip
    assert sorted(frozen) == sorted(cases())
    assert len(FROZEN) == 13


@pytest.mark.parametrize(("method", "model"), [(method, model) for method in sorted(FROZEN) for model in MODELS])
def test_options_are_those_of_before(method, model):
    always = {**FROZEN[method]["always"], **FROZEN[method][model]["always"]}
    for name, expected in FROZEN[method][model].items():
        if name != "always":
            kind, _, given = name.partition(" ")
            want = expected if isinstance(expected, str) else {**always, **expected}
            found = resolved(method, model, kind, GIVEN[f" {given}" if given else ""])
            if not isinstance(found, str) and not isinstance(want, str):
                found = {option: value for option, value in found.items() if option in want}
            assert found == want, name

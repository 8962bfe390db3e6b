"""Numbers of a model that defaults depend on, in one JSON file that a user can send back or give as a preset.

Nothing in it comes from the user: concepts and captions are ours, the model goes by architecture and fingerprint.
"""

from __future__ import annotations

import json
import math
import platform
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.gating import GateRecipe, make_gate
from erase_plugins.engine.own_preset import CALIBRATION
from erase_plugins.engine.precision import accelerator_name
from erase_plugins.engine.vocabulary import Vocabulary
from erase_plugins.engine.words import real_words
from erase_plugins.errors import EraseError, Unsupported
from erase_plugins.extras import installed
from erase_plugins.families.base import Target
from erase_plugins.hints import stored
from erase_plugins.needs import lacks
from erase_plugins.plain_text import one_line, scrub
from erase_plugins.presets import parse
from erase_plugins.types import Concept
from erase_plugins.workflow.first_steps import first_steps

SCHEMA = 1
#: told what is measured and how far it is
Progress = Callable[[str, int, int], None]
_PACKAGES = ("torch", "diffusers", "transformers", "peft")
_CAPTIONS, _QUICK_CAPTIONS = 200, 40
_GATED, _QUICK_GATED = 5, 1
#: words that a probe learns from here, and scores that are told apart
_GATE_WORDS, _SPAN = 300, 4.0
_CLOSENESS = (0.95, 0.9, 0.85, 0.8, 0.7)
_LISTED = 10
#: cosine from which the first rows behind a word stand for all of them
_ALIKE = 0.999
_LINKS = ("a {}", "and a {}", "with a {}", "near the {}", "in a {}", "{}")


@lru_cache(maxsize=1)
def concepts() -> Mapping[str, Mapping[str, str]]:
    """Concept -> what means nearly the same, and what is near and must stay, as words."""
    path = Path(__file__).with_name("calibration.toml")
    return parse(path.read_text(encoding="utf-8"), path.name)


def calibrate(
    target: Any, methods: Sequence[Any], quick: bool = False, limit: float = 60.0,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:  # fmt: skip
    """Measures a loaded model; JSON-ready.

    Args:
        target: the `Model`.
        methods: registered methods whose first steps are timed; those that the model cannot run are left out.
        quick: fewer captions and gates, and methods in their cheapest setting, which says little about memory.
        limit: seconds after which a method is stopped.
        progress: see `Progress`.

    Raises:
        Unsupported: the model has no text encoder.
    """
    if lacking := [name for name in ("text", "denoiser") if not target.info.supports(name)]:
        raise Unsupported(f"{target.info.model} has no {lacking[0]}, and a calibration looks at prompts and pictures")
    ours = [method for method in methods if not lacks(method, target.info) and "object" in method.kinds]
    total = len(ours) + 3
    progress("padding rows", 0, total)
    found: dict[str, Any] = {"kind": CALIBRATION, "schema": SCHEMA, "quick": quick, **_machine(target)}
    found["padding"] = padding(target)
    progress("neighbours", 1, total)
    table = Vocabulary.whole(target)
    found["words"] = {"listed": len(table.searched), "own": len(target.vocabulary())}
    found["neighbours"] = neighbours(target, table)
    progress("gates", 2, total)
    found["gates"] = gates(target, _QUICK_GATED if quick else _GATED, _QUICK_CAPTIONS if quick else _CAPTIONS)
    found["methods"] = {}
    for place, method in enumerate(ours):
        progress(method.id, place + 3, total)
        found["methods"][method.id] = first_steps(target, method, quick, limit)
    found["preset"] = preset(found)
    return _finite(found)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def save(found: Mapping[str, Any], path: Path, force: bool = False) -> None:
    """Writes the JSON file, atomically.

    Raises:
        ArtifactError: something is in the way.
    """
    with atomic_file(path, force) as work:
        work.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _machine(target: Any) -> dict[str, Any]:
    from erase_plugins import __version__

    device, info = target.device, target.info
    name = accelerator_name(device) or platform.machine()
    return {
        "version": __version__,
        "packages": {package: installed(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.system(),
        "device": {"type": device.type, "name": name, "dtype": str(target.dtype).removeprefix("torch.")},
        "model": {
            "family": info.family.id, "width": info.width, "tokens": info.tokens,
            "prediction": str(target.host.scheduler.config.get("prediction_type", "epsilon"))
            if hasattr(target.host, "scheduler") else None,
        },
    }  # fmt: skip


def padding(target: Target) -> dict[str, Any]:
    """How alike the rows behind a word are, and how long rows are; means over all concepts and the empty prompt."""
    names = list(concepts())
    cond = target.encode(["", *names])
    rows = cond.embeds.cpu().double()
    norms = rows.norm(dim=2)
    behind = [part[last + 1 :] for part, last in zip(rows[1:], cond.last[1:], strict=True)]
    cosine = torch.nn.functional.cosine_similarity
    first = min(len(part) for part in behind)
    to_end = torch.stack([cosine(part[:first], part[:1]) for part in behind]).mean(0)
    mean = {
        size: float(torch.stack([cosine(part[:size].mean(0), part.mean(0), dim=0) for part in behind]).mean())
        for size in (1, 2, 3, 4, 6, 8)
        if size < first
    }
    content = torch.cat([norms[place, 1 : last + 1] for place, last in enumerate(cond.last) if place])
    return {
        "cosine_to_end_row": [round(float(value), 5) for value in to_end[[*range(min(8, first)), first - 1]]],
        "cosine_of_first_rows_to_mean": {str(size): round(value, 5) for size, value in mean.items()},
        "norms": {
            "start": round(float(norms[:, 0].mean()), 4),
            "content": round(float(content.mean()), 4),
            "end": round(float(torch.stack([norms[p, last + 1] for p, last in enumerate(cond.last) if p]).mean()), 4),
            "last": round(float(norms[1:, -1].mean()), 4),
            "empty": round(float(norms[0, 1:].mean()), 4),
        },
    }


def neighbours(target: Target, table: Vocabulary) -> dict[str, Any]:
    """For each concept its closest words, how many are how close, and the closeness of what is the same or near."""
    return {concept: _around(target, table, concept, row) for concept, row in concepts().items()}


def _around(target: Target, table: Vocabulary, concept: str, row: Mapping[str, str]) -> dict[str, Any]:
    close = table.closeness(target.encode([concept]))[0]
    values, places = close.sort(descending=True)
    listed = [
        [table.searched[place], round(float(value), 4)]
        for value, place in zip(values[: _LISTED + 1], places[: _LISTED + 1].tolist(), strict=True)
        if table.searched[place] != concept
    ]
    others = [row["same"], *row["near"].split()]
    known = table.between(target.encode([concept]), target.encode(others))[0]
    return {
        "closest": listed[:_LISTED],
        "at_least": {str(level): int((close >= level).sum()) for level in _CLOSENESS},
        "same": round(float(known[0]), 4),
        "near": [round(float(value), 4) for value in known[1:]],
    }


def captions(target: Target, count: int, concept: str) -> tuple[list[str], list[bool]]:
    """Captions of 5 to 60 tokens out of the model's words, and which of them name ``concept``; the same every time."""
    draw = random.Random(0)
    words = [word for word in real_words(target) if word != concept]
    room = min(60, target.info.tokens - 2)
    texts, named = [], []
    for number in range(count):
        parts = [draw.choice(_LINKS).format(draw.choice(words)) for _ in range(draw.randint(2, max(room // 3, 2)))]
        named.append(number % 2 == 0)
        if named[-1]:
            parts[draw.randrange(len(parts))] = f"a {concept}"
        texts.append(" ".join(parts))
    return texts, named


def gates(target: Target, count: int, many: int) -> dict[str, Any]:
    """Scores of captions that name a gate's concept and of others, by measure: quantiles 5, 50 and 95 %."""
    from erase_plugins.runtime.gates import gate_values

    found: dict[str, Any] = {}
    for measure in ("probe", "cosine"):
        scores: dict[bool, list[Tensor]] = {True: [], False: []}
        try:
            for concept in list(concepts())[:count]:
                recipe = GateRecipe(measure, _GATE_WORDS, 0.85, -_SPAN, _SPAN)
                gate = make_gate(target, [concept], [[concept]], [Concept(concept)], recipe, RunContext("calibrate"))
                texts, named = captions(target, many, concept)
                context = target.encode(texts).embeds
                opened = gate_values(context, gate.weights["embeddings"], gate.config).cpu().double()
                values = (2 * opened - 1) * _SPAN  # scores, not how open
                for part in (True, False):
                    scores[part].append(values[torch.tensor([name is part for name in named])])
        except EraseError as error:
            found[measure] = {"error": scrub(one_line(stored(error)))[:200]}
            continue
        found[measure] = {
            name: [round(float(value), 4) for value in torch.cat(scores[part]).quantile(_quantiles())]
            for name, part in (("named", True), ("others", False))
        }
    return found


def _quantiles() -> Tensor:
    return torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


def preset(found: Mapping[str, Any]) -> dict[str, Any]:
    """Options that follow from the numbers; an option whose cases cannot be told apart is left out."""
    options: dict[str, Any] = {}
    alike = found["padding"]["cosine_of_first_rows_to_mean"]
    enough = [int(size) for size, value in alike.items() if value >= _ALIKE]
    if enough and found["model"]["tokens"] > 32:
        options["vocabulary_tail"] = min(enough)
    rows = found["neighbours"].values()
    same = torch.tensor([row["same"] for row in rows], dtype=torch.float64)
    near = torch.tensor([value for row in rows for value in row["near"]], dtype=torch.float64)
    low, high = float(near.quantile(0.95)), float(same.quantile(0.25))
    if 0 < low < high:
        options["near"] = round((low + high) / 2, 3)
    if 0 < float(near.max()) < float(same.median()):
        options["alias_threshold"] = round((float(near.max()) + float(same.median())) / 2, 3)
    probe = found["gates"].get("probe", {})
    if "named" in probe and probe["others"][2] < probe["named"][0]:
        options["gate_low"], options["gate_high"] = probe["others"][2], probe["named"][0]
    return options

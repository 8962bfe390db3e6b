"""Pairs of pictures: the base and the erased model, same prompt, same seed; drawn, kept beside a page, read back."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.evaluation.sensitive import blurred, is_png, png
from erase_plugins.hints import PAIRS, Hint
from erase_plugins.plain_text import an
from erase_plugins.types import EvalReport, Record

FOLDER = "images"
#: what was drawn and how, so that anybody can draw it again
INDEX = f"{FOLDER}/pairs.json"
MOST = 50
#: prompt sets of an evaluation in the order in which they tell most
_SETS = ("target", "neighbour", "synonym", "kept")
#: kind of concept -> prompt that shows it
_PROMPTS = {"style": "a cat in the style of {}", "person": "a portrait of {}"}


@dataclass(frozen=True)
class Pair(Record):
    """One prompt and seed; ``before`` and ``after`` are names of pictures in the repository."""

    prompt: str
    seed: int
    before: str
    after: str


@dataclass(frozen=True)
class Gallery:
    """Pairs with the bytes of their pictures (name -> PNG) and how they were drawn."""

    pairs: tuple[Pair, ...]
    pictures: Mapping[str, bytes]
    strength: float = 1.0
    steps: int = 20
    guidance: float = 4.0
    blurred: bool = False
    labelled: bool = False
    scheduler: str = "dpm++"

    @property
    def names(self) -> list[str]:
        """Names of all pictures, pair by pair."""
        return [name for pair in self.pairs for name in (pair.before, pair.after)]

    def blur(self) -> Gallery:
        """The same pairs, unrecognisable."""
        if self.blurred:
            return self
        pictures = {name: blurred(data) for name, data in self.pictures.items()}
        return replace(self, pictures=pictures, blurred=True, labelled=False)

    def index(self) -> str:
        """JSON text of `INDEX`."""
        facts = {
            "schema": 1, "strength": self.strength, "steps": self.steps, "guidance": self.guidance,
            "scheduler": self.scheduler, "blurred": self.blurred, "pairs": [item.to_dict() for item in self.pairs],
        }  # fmt: skip
        return json.dumps(facts, indent=2, sort_keys=True)

    def files(self) -> dict[str, bytes]:
        """Name in the repository -> bytes; every picture says in its corner which side it is."""
        shown = dict(self.pictures)
        if not self.labelled:
            for pair in self.pairs:
                shown[pair.before] = label(shown[pair.before], "before")
                shown[pair.after] = label(shown[pair.after], "after")
        return {INDEX: self.index().encode(), **shown}


def names(number: int) -> tuple[str, str]:
    """Names of the pictures of a pair, counted from 1."""
    return f"{FOLDER}/pair_{number}_before.png", f"{FOLDER}/pair_{number}_after.png"


def of_gallery(name: str) -> bool:
    """Whether a file of a repository is the picture of a pair, or their list."""
    return name == INDEX or re.fullmatch(f"{FOLDER}/pair_[0-9]+_(before|after)\\.png", name) is not None


def choose_prompts(manifest: Any, count: int, report: EvalReport | None = None) -> list[str]:
    """Prompts that show what an artifact does: the erased concepts, then something that is kept.

    Args:
        manifest: concepts and kept prompts.
        count: how many.
        report: its evaluation; prompts that were measured are taken first.
    """
    sets = {} if report is None else dict(report.details.get("prompts") or {})
    measured = [list(dict.fromkeys(map(str, sets.get(name) or ()))) for name in _SETS]
    chosen = [items[turn] for turn in range(count) for items in measured if turn < len(items)]
    if not chosen:
        erased = [
            _PROMPTS[concept.kind].format(concept.text) if concept.kind in _PROMPTS else an(concept.text)
            for concept in manifest.concepts
        ]
        kept = list(manifest.preserve[:1]) if count > 1 else []
        chosen = [*erased[: max(1, count - len(kept))], *kept]
    return [chosen[turn % len(chosen)] for turn in range(count if chosen else 0)]


def draw_pairs(
    artifact: Any,
    count: int = 3,
    *,
    model: Any = None,
    prompts: Sequence[str] = (),
    report: EvalReport | None = None,
    seed: int = 1,
    strength: float | None = None,
    steps: int = 20,
    guidance: float = 4.0,
    guard_key: str | Path | None = None,
    **load: Any,
) -> Gallery:
    """Draws pairs; the pipeline is left as it was.

    Args:
        artifact: an `Artifact` or its path.
        count: pairs; as many as ``prompts`` if those are given.
        model: name, path or pipeline; the base that the artifact names if None.
        prompts: what to draw; chosen by `choose_prompts` if empty.
        report: evaluation to take prompts from.
        seed: of the first pair; each further pair has the next one.
        strength: of the artifact; the recommended one if None.
        steps, guidance: sampler.
        guard_key: file with the key of a guard whose keywords are HMACs.
        load: revision, dtype, device for a model given by name.

    Raises:
        RequestError: no pair asked for, nothing known to draw, or the base is neither named nor known.
    """
    from erase_plugins.api import generate
    from erase_plugins.evaluation.draw import sampler_name
    from erase_plugins.workflow.artifacts import load_artifact
    from erase_plugins.workflow.models import load_pipeline, target_of

    loaded = load_artifact(artifact)
    texts = list(prompts) or choose_prompts(loaded.manifest, count, report)
    if not texts and count:
        raise RequestError(
            f"'{loaded.name}' does not say what it erases; name what to draw ",
            Hint("pair-prompt", "TEXT", before="with"),
        )
    if not texts:
        raise RequestError("no pairs to draw; ask for at least one")
    base = loaded.manifest.base
    if model is None:
        model, load = base.get("model") or "", {"revision": base.get("revision"), **load}
    pipe = load_pipeline(str(model), **load) if isinstance(model, str | Path) else model
    weight = float(loaded.manifest.strength.get("recommended", 1.0)) if strength is None else strength
    seeds = [seed + turn for turn in range(len(texts))]
    before = generate(pipe, texts, seeds=seeds, steps=steps, guidance=guidance)
    after = generate(
        pipe, texts, [loaded], seeds=seeds, strength=weight, steps=steps, guidance=guidance, guard_key=guard_key
    )
    pairs = tuple(
        Pair(text, number, *names(turn)) for turn, (text, number) in enumerate(zip(texts, seeds, strict=True), start=1)
    )
    pictures: dict[str, bytes] = {}
    for turn, pair in enumerate(pairs):
        pictures |= {pair.before: picture(before[turn]), pair.after: picture(after[turn])}
    sampler = sampler_name(pipe, target_of(pipe).network("denoiser"))
    return Gallery(pairs, pictures, weight, steps, guidance, scheduler=sampler)


def picture(drawn: Any) -> bytes:
    """PNG of a picture (3, height, width) in 0..1; a small one is enlarged by a whole factor, pixels stay pixels."""
    from erase_plugins.evaluation.sheet import enlarged

    return png(enlarged(drawn))


def label(data: bytes, text: str) -> bytes:
    """A PNG with a word in its lower left corner: in a gallery of many pictures nothing else tells them apart."""
    from PIL import Image, ImageDraw, ImageFont

    with Image.open(io.BytesIO(data)) as file:
        shown = file.convert("RGB")
    size = max(14, min(shown.size) // 18)
    font, edge = ImageFont.load_default(size), size // 3
    pen = ImageDraw.Draw(shown)
    width, top = pen.textlength(text, font=font), shown.height - size - 3 * edge
    pen.rectangle((0, top, width + 4 * edge, shown.height), fill="black")
    pen.text((2 * edge, top + edge), text, fill="white", font=font)
    return png(shown)


def read_gallery(folder: str | Path) -> Gallery:
    """The pairs that were written with a card.

    Args:
        folder: where the card lies, or its folder of pictures.

    Raises:
        ArtifactError: no pairs there, or not what they should be.
    """
    place, found = _read_index(Path(folder))
    pictures: dict[str, bytes] = {}
    for name in found.names:
        try:
            pictures[name] = (place / name).read_bytes()
        except OSError as error:
            raise ArtifactError(f"the picture {name} is missing; make the pictures again") from error
        if not is_png(pictures[name]):
            raise ArtifactError(f"{name} is no PNG picture; make the pictures again")
    return replace(found, pictures=pictures)


def _read_index(folder: Path) -> tuple[Path, Gallery]:
    place = folder if (folder / INDEX).is_file() else folder.parent
    try:
        text = (place / INDEX).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"no pictures at '{folder.name}'; make them with ", PAIRS) from error
    return place, parse_index(text)


def parse_index(text: str) -> Gallery:
    """The pairs of `INDEX`, without their pictures.

    Raises:
        ArtifactError: not what it should be.
    """
    try:
        data = json.loads(text)
        pairs = tuple(Pair.from_dict(item) for item in data["pairs"])
        sampler = str(data.get("scheduler", "dpm++"))
        numbers = (float(data["strength"]), int(data["steps"]), float(data["guidance"]), bool(data["blurred"]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"'{INDEX}' is damaged; make the pictures again with ", PAIRS) from error
    for turn, pair in enumerate(pairs, start=1):
        texts = isinstance(pair.prompt, str) and isinstance(pair.seed, int)
        if (pair.before, pair.after) != names(turn) or not texts or turn > MOST:
            raise ArtifactError(f"'{INDEX}' lists pictures that it should not; make them again")
    return Gallery(pairs, {}, *numbers, labelled=True, scheduler=sampler)

"""Takes a concept out of somebody's LoRA: same file format back, with what it cannot remove measured and said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Delta, Edit, LowRank
from erase_plugins.artifacts.manifest import HEADER_KEY
from erase_plugins.errors import CorruptArtifact, RequestError, Unsupported
from erase_plugins.families.model import EMBEDDING_MAP
from erase_plugins.given import checked
from erase_plugins.manager import get_manager
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.found import FoundModel
from erase_plugins.workflow.lora_measured import BareBase, in_force, measured
from erase_plugins.workflow.lora_places import lora_file, written_at
from erase_plugins.workflow.models import as_target, find_model

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CleanedLora:
    """What was taken out of a LoRA and what was not.

    Attributes:
        path: what was written; None for a dry run.
        source: name of the file that was read.
        format: layout of both files.
        family: of the base.
        cleaned: modules that read text and were projected, per component.
        left: modules that read no text, per component; they are as they were.
        left_share: their share of the squared size of the whole update, 0..1.
        before, after: what was measured with the LoRA as it was, and with the new one: ``effect`` (change of the
            prediction on prompts that name the concept, over the size of the prediction), ``elsewhere`` (the same on
            other prompts), ``moved`` (change of the new LoRA against the old one on other prompts) and, where a judge
            knows the concept, ``rate`` (share of pictures that show it).
        base: ``rate`` of the base without any LoRA, where a judge knows the concept.
        notes: what a user has to know.
    """

    path: Path | None
    source: str
    format: str
    family: str
    cleaned: Mapping[str, int]
    left: Mapping[str, int]
    left_share: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    base: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": 1, **asdict(self), "path": None if self.path is None else str(self.path)}


@checked
def clean_lora(
    lora: str | Path,
    erase: str,
    base: Any = "pocket",
    *,
    out: str | Path | None = None,
    aliases: Sequence[str] = (),
    keep: Sequence[str] = (),
    strict: bool = False,
    steps: int = 0,
    images: int = 16,
    seed: int = 0,
    dry_run: bool = False,
    bare: BareBase | None = None,
    **load: Any,
) -> CleanedLora:
    """Takes a concept out of a LoRA, in closed form or with some training, without data; nothing is ever overwritten.

    Args:
        lora: .safetensors file in Kohya, diffusers or peft naming, or the folder that holds it.
        erase: the concept, as prompts name it (a trigger word, for example).
        base: model that the LoRA is for: name, folder, Hub id, `FoundModel` or pipeline.
        out: file to write, for peft a folder; None is a dry run.
        aliases: other words for the concept.
        keep: words or prompts that must stay as the LoRA has them.
        strict: also switch off the modules that read no text, which often bring the concept back by themselves; what
            the LoRA does elsewhere gets weaker.
        steps: training steps after the closed form, on states that the model draws itself; they reach the modules
            that read no text too. 0 is the closed form alone; 200 are usual.
        images: pictures per measurement, where a judge knows the concept; 0 draws none.
        seed: of prompts and noise.
        dry_run: only look at names and shapes; loads no weights of the base.
        bare: keeps what the base does without any LoRA for the next call on the same base.
        load: revision, dtype, device of a base that is given by name.

    Raises:
        EraseError: no LoRA of this base, nothing in it that reads text, an empty concept, something at ``out``.
    """
    phrases = list(dict.fromkeys(text.strip() for text in (erase, *aliases)))
    if not all(phrases):
        raise RequestError("a concept or alias is empty; name it in words")
    if strict and steps:
        raise RequestError("'strict' switches off what 'steps' would train; choose one of them")
    clash = [text for text in keep if text.strip().lower() in {phrase.lower() for phrase in phrases}]
    if clash:
        raise RequestError(f"'{clash[0]}' cannot be both erased and kept")
    file = lora_file(Path(lora))
    found = find_model(str(base), load.get("revision")) if isinstance(base, str | Path) else base
    info = found.info if isinstance(found, FoundModel) else as_target(found).info
    if not info.supports(EMBEDDING_MAP):
        raise Unsupported(f"{info.model} has no cross-attention that reads text rows; a LoRA of it cannot be cleaned")
    loaded = load_artifact(file, info.family.id)
    layout = _checked(file, loaded, info)
    made = _plan(file, loaded, layout.id, info)
    if not keep:
        told = "nothing was named to keep; other words that this LoRA was trained for can suffer, so name them"
        made = replace(made, notes=(*made.notes, told))
    if strict or steps:
        made = replace(made, notes=tuple(note for note in made.notes if "stay as they are" not in note))
    if steps:
        made = replace(made, notes=(*made.notes, _time(steps)))
    if dry_run or out is None:
        return made
    place, bare = Path(out), bare or BareBase()
    with written_at(place, file) as work:
        target = as_target(found, **load) if isinstance(found, FoundModel) else as_target(found)
        asked = _Asked(phrases, keep, strict, steps, seed)
        clean = _run(file, loaded, layout, target, asked, work, bare)
        before, after, alone = measured(target, loaded, clean, phrases, keep, images, seed, bare)
        if not all(map(math.isfinite, (*before.values(), *after.values()))):
            raise CorruptArtifact(
                f"with '{file.name}' predictions are no numbers any more; its values or alphas are damaged"
            )
    if not (before["effect"] or before["elsewhere"]):
        nothing = "the LoRA changes no prediction here, so there was nothing to take out"
        made = replace(made, notes=(*made.notes, nothing))
    return replace(made, path=place, before=before, after=after, base=alone)


def _checked(file: Path, loaded: Artifact, info: Any) -> Any:
    from erase_plugins.artifacts.header import read_header

    if HEADER_KEY in read_header(file).metadata:
        raise RequestError(f"'{file.name}' is an artifact of erase-plugins, not somebody's LoRA; see add and revoke")
    if loaded.edit.kinds != {"lowrank"}:
        raise Unsupported(f"'{file.name}' is no plain LoRA ({', '.join(sorted(loaded.edit.kinds))}); it stays as it is")
    shapes = {(ref.component, ref.weight): ref.shape for ref in info.refs}
    for component, key, delta in loaded.edit.items():
        A, B = delta.tensors().values()
        has = shapes.get((component, key))
        if has is None:
            raise Unsupported(f"'{file.name}' changes {component} {key}, which {info.model} does not have")
        if has[0] != B.shape[0] or has[1:2] != tuple(A.shape[1:2]):
            raise Unsupported(f"'{file.name}' is for another base: {component} {key} has shape {has} in {info.model}")
    return get_manager().layout(loaded.manifest.files[0].layout)


def _plan(file: Path, loaded: Artifact, layout: str, info: Any) -> CleanedLora:
    from erase_plugins.workflow.lora_projection import readers

    refs, left = readers(info, loaded.edit.deltas)
    if not refs:
        raise Unsupported(
            f"no layer of '{file.name}' reads text, so the closed form can take nothing out; all {len(left)} modules "
            "answer to pictures only"
        )
    sizes = {
        (component, key): float(delta.dense().square().sum())
        for component, key, delta in loaded.edit.items()
        if isinstance(delta, LowRank)  # all are, which was checked
    }
    share = sum(sizes[place] for place in left) / max(sum(sizes.values()), 1e-30)
    notes = []
    if left:
        notes.append(
            f"{len(left)} modules that read no text stay as they are ({share:.0%} of the update's squared size); what "
            "they learnt of the concept's look can still show in other prompts"
        )
    if any(component.startswith("text_encoder") for component, _ in refs):
        notes.append("text encoder: cleaned on the rows that its layers read, so other phrasings keep a remainder")
    return CleanedLora(
        None, file.name, layout, info.family.id, _counts(refs), _counts(left), round(share, 4), {}, {}, {}, tuple(notes)
    )


def _time(steps: int) -> str:
    """What training costs, in a unit that says the same on every device."""
    from erase_plugins.workflow.lora_prompts import COMMON
    from erase_plugins.workflow.lora_unlearning import Schedule

    pictures = round((COMMON + Schedule(steps=steps).evaluations()) / 40)
    return f"training takes about as long as drawing {pictures} pictures of 20 guided steps on this device"


def _counts(places: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for component, _ in places:
        found[component] = found.get(component, 0) + 1
    return found


@dataclass(frozen=True)
class _Asked:
    """What is to be taken out and how, as in `clean_lora`; ``phrases`` are the concept and its aliases."""

    phrases: Sequence[str]
    keep: Sequence[str]
    strict: bool
    steps: int
    seed: int


def _run(file: Path, loaded: Artifact, layout: Any, target: Any, asked: _Asked, work: Path, bare: BareBase) -> Artifact:
    """Solves, trains if asked to, writes, and reads what was written back."""
    from erase_plugins.artifacts.lora_rewrite import down_names, rewrite
    from erase_plugins.workflow.lora_projection import project
    from erase_plugins.workflow.lora_prompts import common_words, quiet_words
    from erase_plugins.workflow.lora_unlearning import Schedule, taught_off

    names = down_names(file, layout, target.family)
    phrases, keep = asked.phrases, asked.keep
    schedule, own = Schedule(steps=asked.steps), (*phrases, *keep)
    words = common_words(target, own)
    if asked.steps:  # a closed form alone would take less than predictions for hundreds of words
        words = bare.answer(target, ("quiet words", *own), lambda: quiet_words(target, words))
    new, tried = project(
        target, loaded.edit.deltas, phrases, keep, words, lambda: in_force(target, loaded),
        schedule.tries if asked.steps else (),
    )  # fmt: skip
    if asked.steps:
        solved = replace(loaded, edit=_with(loaded.edit, new))
        new |= taught_off(
            target, loaded.edit.deltas, tried, phrases, keep, words, asked.seed, lambda: in_force(target, loaded),
            lambda: in_force(target, solved), schedule,
        )  # fmt: skip
    if asked.strict:
        places = [(component, key) for component, group in loaded.edit.deltas.items() for key in group]
        off = {place: loaded.edit.deltas[place[0]][place[1]] for place in places if place not in new}
        new |= {place: delta.A.double() * 0 for place, delta in off.items() if isinstance(delta, LowRank)}
    left = sum(map(len, loaded.edit.deltas.values())) - len(new)
    facts = {"modules": len(new), "left": left, "by": "erase-plugins clean-lora", "concepts": 1}
    rewrite(file, work, {names[place]: factor for place, factor in new.items()}, facts)
    edit = layout.read(work, target.family)
    return replace(loaded, edit=edit)


def _with(edit: Edit, factors: Mapping[tuple[str, str], Tensor]) -> Edit:
    """The LoRA with other "down" factors where there are some."""

    def changed(component: str, key: str, delta: Delta) -> Delta:
        factor = factors.get((component, key))
        if factor is None or not isinstance(delta, LowRank):
            return delta
        return LowRank(factor.to(delta.A.dtype), delta.B)

    deltas = {
        component: {key: changed(component, key, delta) for key, delta in group.items()}
        for component, group in edit.deltas.items()
    }
    return Edit(edit.family, deltas)

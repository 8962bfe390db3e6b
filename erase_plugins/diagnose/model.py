"""Checks that need the loaded model: base, text encoders, patching, settings, other LoRAs, prompt, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.fingerprint import Fingerprint
from erase_plugins.diagnose.files import RawFile
from erase_plugins.diagnose.findings import Finding
from erase_plugins.errors import BaseMismatch, EraseError, Unsupported
from erase_plugins.hints import Command, Hint, Sentence, sentence_of
from erase_plugins.workflow.artifacts import load_artifact

#: cosine between a LoRA's change and the erasing change from which on the two work against each other
_OPPOSED = -0.2


def check_strength(strength: float, manifest: Mapping[str, Any]) -> Finding:
    """Strength of the call against what was evaluated."""
    stated = manifest.get("strength") or {}
    wanted = float(stated.get("recommended", 1.0)) if isinstance(stated, Mapping) else 1.0
    fix = Sentence(Hint("strength", f"{wanted if wanted > 0 else 1.0:g}", before="use"))
    if strength == 0:
        return Finding("strength", "fault", "strength 0 switches the artifact off", fix)
    if strength < 0:
        return Finding("strength", "fault", f"strength {strength:g} is negative: it strengthens the concept", fix)
    if wanted == 0:
        return Finding("strength", "fault", "the manifest recommends strength 0", fix)
    if strength < 0.75 * wanted:
        text = f"strength {strength:g} is below the evaluated {wanted:g}; the concept may survive"
        return Finding("strength", "warning", text, fix)
    return Finding("strength", "ok", f"strength {strength:g}, evaluated at {wanted:g}")


def check_clip_skip(clip_skip: int, manifest: Mapping[str, Any]) -> Finding:
    """Whether prompts are taken from the layer of the text encoder that the artifact was made for."""
    if clip_skip > 1:
        text = f"clip skip {clip_skip} takes the prompt from an earlier layer than the one the artifact was made for"
        return Finding("clip_skip", "fault", text, "set clip skip to 1 (diffusers: leave clip_skip out)")
    return Finding("clip_skip", "ok", "the prompt comes from the text encoder's usual layer")


def check_base(manifest: Mapping[str, Any], target: Any, edit: Edit | None = None) -> Iterator[Finding]:
    """Fingerprints of what ``edit`` touches (of everything if None); a foreign text encoder is told apart."""
    from erase_plugins.runtime.guard import touched

    base = manifest.get("base") or {}
    stored = base.get("fingerprint") or {}
    name, family = target.info.model, base.get("family")
    if family and family != target.family.id:
        text = f"made for family {family}, {name} is of family {target.family.id}"
        yield Finding("base", "fault", text, f"use a {family} model, or run the method again on {name}")
        return
    if not stored:
        yield Finding("base", "unknown", "the file does not say which weights it was made for")
        return
    found = target.fingerprint()
    names = dict.fromkeys(stored) if edit is None else touched(edit, target)
    differ: dict[str, str] = {}
    for component, data in stored.items():
        if component not in names:
            continue
        if component not in found:
            differ[component] = "missing in this model"
            continue
        result = Fingerprint.from_dict(data).compare(found[component], names[component])
        if result.verdict != "same":
            differ[component] = str(result)
    text_only = bool(differ) and all(component.startswith("text_encoder") for component in differ)
    if text_only:
        which = "; ".join(f"{component}: {text}" for component, text in differ.items())
        fix = f"use the text encoder of {base.get('model', 'the base')}, or run the method again on {name}"
        yield Finding(
            "text_encoder", "fault", f"the model has another text encoder than the artifact's base ({which})", fix
        )
    elif differ:
        which = "; ".join(f"{component}: {text}" for component, text in differ.items())
        fix = f"use the base it was made for ({base.get('model', 'unknown')}), or run the method again on {name}"
        yield Finding("base", "fault", f"made for another base model ({which})", fix)
    else:
        yield Finding("base", "ok", f"made for the weights of {name}")


def check_encoders(files: Sequence[RawFile], manifest: Mapping[str, Any], target: Any) -> Iterator[Finding]:
    """LoRA pairs of a text encoder must belong to a module of that encoder, with its width."""
    refs = {(ref.component, ref.path): ref for ref in target.info.refs}
    have = {ref.component for ref in target.info.refs}
    for file in files:
        layout = "kohya" if any(name.startswith("lora_") for name in file.pairs) else "diffusers"
        for module, halves in file.pairs.items():
            component = named_encoder(module)
            if component is None or module in file.padding:
                continue
            others = sorted(item for item in have if item.startswith("text_encoder") and item != component)
            place = target.family.locate(layout, module)
            ref = refs.get(place) if place is not None else None
            width = halves["down"][1][1] if "down" in halves and len(halves["down"][1]) > 1 else None
            if component in have and ref is not None and (width is None or ref.shape[1] == width):
                continue
            problem = "which the model lacks" if component not in have else "which has no such module of that width"
            fix = "use the adapter for this model's text encoder" + (f" ({', '.join(others)})" if others else "")
            yield Finding("text_encoder", "fault", f"{file.path.name} changes {component}, {problem} ({module})", fix)
            return
    wanted = manifest.get("extra", {}).get("components") or manifest.get("components") or {}
    yield Finding("text_encoder", "ok", f"text encoder parts fit{' as recorded' if wanted else ''}")


def named_encoder(module: str) -> str | None:
    """The text encoder that a tensor name claims to change."""
    for component, starts in {
        "text_encoder_2": ("lora_te2_", "text_encoder_2."),
        "text_encoder_3": ("lora_te3_", "text_encoder_3."),
        "text_encoder": ("lora_te_", "lora_te1_", "text_encoder."),
    }.items():
        if module.startswith(starts):
            return component
    return None


def check_coverage(artifact: Artifact, target: Any) -> Finding:
    """A foreign file should cover a whole module group; half of one means that keys went missing."""
    changed = {(component, key.removesuffix(".weight")) for component, key, _ in artifact.edit.items()}
    best: tuple[int, str] | None = None
    for group in target.family.groups:
        try:
            members = {(ref.component, ref.path) for ref in target.modules(group)}
        except Unsupported:
            continue
        if changed <= members and (best is None or len(members) < best[0]):
            best = (len(members), group)
    if best is not None and len(changed) <= 0.75 * best[0]:
        text = f"the file changes {len(changed)} of the {best[0]} modules of group {best[1]}; keys may be missing"
        return Finding("keys", "fault", text, "fetch the file again and compare its size and hash")
    return Finding("keys", "ok", f"{len(changed)} modules")


def check_patched(artifact: Artifact, target: Any) -> Finding:
    """Applies the artifact and counts."""
    from erase_plugins.runtime.apply import attach_edit

    try:
        handle = attach_edit(target.pipe, target, artifact, 1.0, "weights")
    except BaseMismatch as error:
        return Finding("patched", "fault", sentence_of(error), "use the base model named in the manifest")
    except Unsupported as error:
        about = "dtype" if "apply before quantising" in str(error) else "patched"
        return Finding(about, "fault", sentence_of(error), "load the model in float32, float16 or bfloat16")
    count = handle.patched
    handle.remove()
    return Finding("patched", "ok", f"patched {count} of {count} modules")


def check_loras(artifact: Artifact, loras: Sequence[str], target: Any) -> Iterator[Finding]:
    """Whether another LoRA works against the erasing change, parameter by parameter."""
    import torch

    from erase_plugins.artifacts.store import lower_for

    if not loras:
        yield Finding("other_lora", "ok", Sentence("no other LoRA named (", Hint("lora", "FILE"), ")"))
    mine = {(component, key): delta for component, key, delta in lower_for(artifact.edit, target).items()}
    for file in loras:
        other = load_artifact(file, target.family.id)
        dot = size = within = own = 0.0
        for component, key, delta in lower_for(other.edit, target).items():
            change = getattr(delta, "dense", lambda: torch.zeros(1))().double()
            size += float(change.square().sum())
            erase: Any = mine.get((component, key))
            if erase is None or not hasattr(erase, "dense"):
                continue
            removal = erase.dense().double()
            own += float(removal.square().sum())
            dot += float((removal * change).sum())
            if erase.kind == "lowrank" and removal.ndim == 2:
                basis = torch.linalg.qr(erase.A.double().T)[0]
                within += float((change @ basis).square().sum())
        cosine = dot / (size * own) ** 0.5 if size and own else 0.0
        share = (within / size) ** 0.5 if size else 0.0
        text = f"{Path(file).name}: {share:.0%} of its change lies in the erased directions, cosine {cosine:+.2f}"
        if cosine < _OPPOSED:
            fix = "leave that LoRA out, or lower its weight"
            yield Finding("other_lora", "fault", f"a second LoRA works against the erasure; {text}", fix)
        else:
            yield Finding("other_lora", "ok", text)


def check_prompt(manifest: Mapping[str, Any], prompt: str) -> Finding:
    """Whether the prompt says the erased name, or something else."""
    names = [str(item.get("text", "")) for item in manifest.get("concepts", ()) if isinstance(item, Mapping)]
    words = [
        str(word)
        for item in manifest.get("concepts", ())
        if isinstance(item, Mapping)
        for word in item.get("prompts", ())
    ]
    if not names:
        return Finding("prompt", "unknown", "the artifact does not say what it erases")
    low = prompt.lower()
    if any(name and name.lower() in low for name in (*names, *words)):
        return Finding("prompt", "ok", f"the prompt names what is erased ({', '.join(names[:5])})")
    method = manifest.get("method", {}).get("id", "uce")
    retry = Sentence(
        Command("run", f"erase-plugins run {method} ... --erase '{names[0]}' --erase 'WORD OF THE PROMPT'")
    )
    text = f"the prompt does not say {' or '.join(names[:5])}; a paraphrase may reach the concept by another way"
    return Finding("prompt", "warning", text, retry)


def check_pictures(
    artifact: Artifact, target: Any, prompt: str, seed: int, strength: float, loras: Sequence[str], count: int
) -> tuple[list[Finding], dict[str, Any], dict[str, Any]]:
    """Pictures with the artifact off and on, judged where a judge knows the model.

    Returns:
        findings, numbers, and the first picture of each side.
    """
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.manager import get_manager
    from erase_plugins.runtime.apply import attach_edit

    others = [load_artifact(file, target.family.id) for file in loras]
    seeds = [seed + index for index in range(count)]
    sides = {"off": others, "on": [artifact, *others]} | ({"alone": [artifact]} if others else {})
    drawn = {}
    for side, items in sides.items():
        handles = [
            attach_edit(target.pipe, target, item, strength if item is artifact else 1.0, "weights") for item in items
        ]
        try:
            drawn[side] = draw(target.pipe, [prompt] * count, seeds, fast=False, denoiser=target.network("denoiser"))
        finally:
            for handle in reversed(handles):
                handle.remove()
    change = float((drawn["on"] - drawn["off"]).abs().mean())
    numbers: dict[str, Any] = {"pictures": count, "seed": seed, "mean_change": round(change, 5)}
    shown = {"without": drawn["off"][0], "with": drawn["on"][0]}
    judge = next((item.item for item in get_manager().evaluators("judge") if item.item.accepts(target.info)), None)
    known = [name for name in artifact.manifest.erased if judge is not None and name in judge.axes.get("concept", ())]
    if judge is None or not known:
        verdict = "unknown" if change > 1e-4 else "warning"
        text = f"no judge can tell; the pictures change by {change:.3f} on average"
        return [Finding("pictures", verdict, text)], numbers, shown
    best = {side: judge.score(pictures)["concept"].argmax(-1).tolist() for side, pictures in drawn.items()}
    rates = {
        side: sum(judge.axes["concept"][index] in known for index in found) / count for side, found in best.items()
    }
    numbers["rates"] = rates
    text = f"{', '.join(known)} in {rates['off']:.0%} of pictures without the artifact, {rates['on']:.0%} with it"
    if rates["off"] < 0.2:
        return [Finding("pictures", "ok", f"{text}; the prompt does not draw it in the first place")], numbers, shown
    if rates["on"] <= 0.25 * rates["off"]:
        return [Finding("pictures", "ok", text)], numbers, shown
    found = [Finding("pictures", "warning", text, "a stronger method: erase-plugins run esd (see 'list methods')")]
    if others and rates["alone"] < 0.5 * rates["on"]:
        text = f"a second LoRA brings the concept back: {rates['alone']:.0%} without it, {rates['on']:.0%} with it"
        found.append(Finding("other_lora", "fault", text, "leave that LoRA out, or lower its weight"))
    return found, numbers, shown


def explain(error: EraseError) -> Finding:
    """A finding from an error that stopped a check."""
    return Finding("files", "fault", sentence_of(error), "fetch the artifact again")

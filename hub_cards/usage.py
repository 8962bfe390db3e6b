"""How to use an artifact, combine it and take it back: lines that can be pasted, for the readers its files are for."""

from __future__ import annotations

from typing import Any

from erase_plugins.families.source import EMBEDDED, POCKET
from hub_cards.escape import block, code, commands, flat, literal
from hub_cards.gallery import choose_prompts

TEXT_TO_IMAGE = "text-to-image"
#: what a model does -> class of transformers that loads it
AUTO = {"image-classification": "AutoModelForImageClassification", "text-generation": "AutoModelForCausalLM"}
STOCK = "pytorch_lora_weights.safetensors"
ADAPTER = "adapter_model.safetensors"
#: layout that the user interfaces read -> program, where its LoRA files are, and what to do then
INTERFACES = (
    ("ComfyUI", "ComfyUI/models/loras", "Load it with the node *Load LoRA*, strength {weight}."),
    (
        "A1111, Forge",
        "stable-diffusion-webui/models/Lora",
        "Then write {tag} into the prompt; it needs no trigger word.",
    ),
)


def shortest(artifact: Any, repo: str) -> str:
    """The fewest lines that use it: with stock diffusers or peft where a file is for them, else with ours.

    Args:
        artifact: a saved `Artifact`; the names of its files and their layouts decide.
        repo: "owner/name".
    """
    manifest = artifact.manifest
    if task_of(manifest) != TEXT_TO_IMAGE:
        return _peft(manifest, repo) or _ours_other(manifest, repo)
    name = _files(manifest).get("diffusers")
    return _ours(manifest, repo) if name is None else _diffusers(manifest, repo, name)


def use(artifact: Any, repo: str) -> str:
    """One part per further reader that has a file; says so where there is none. Arguments as for `shortest`."""
    manifest = artifact.manifest
    if task_of(manifest) != TEXT_TO_IMAGE:
        python = _ours_other(manifest, repo)
        return "**Python** (checks the files and the base first):\n\n" + python
    weight, parts, files = _weight(manifest), [], _files(manifest)
    if "diffusers" not in files:
        parts.append("**diffusers**: there is no file for it here; `erase-plugins convert` may write one.")
    stock = next((item.name for item in manifest.files if item.layout == "kohya"), None)
    if stock is None:
        parts.append("**ComfyUI, A1111**: there is no file for them here; `erase-plugins convert` may write one.")
    else:
        tag = code(f"<lora:{stock.removesuffix('.safetensors')}:{weight:g}>")
        for program, folder, then in INTERFACES:
            fetch = commands(("hf", "download", repo, stock), ("--local-dir", folder))
            after = then.format(weight=f"{weight:g}", tag=tag)
            parts.append(f"**{program}** ({code(stock)}):\n\n{block(fetch, 'bash')}\n\n{after}")
    wrapped = _peft_parts(manifest, repo)
    if wrapped:
        parts.append(f"**peft** (its layers go into the pipeline's own modules):\n\n{block(wrapped, 'python')}")
    if "diffusers" in files:
        parts.append(
            "**Python, every kind of change** (checks the files and the base first):\n\n" + _ours(manifest, repo)
        )
    line = commands(
        ("erase-plugins", "generate", f"hub:{repo}"), ("--model", _model(manifest)), ("--prompt", _prompt(manifest)),
        ("--strength", f"{weight:g}", "--out", "picture.png"),
    )  # fmt: skip
    parts.append("**Command line**:\n\n" + block(line, "bash"))
    return "\n\n".join(parts)


def _files(manifest: Any) -> dict[str, str]:
    """Reader -> its first file."""
    found: dict[str, str] = {}
    for item in manifest.files:
        for reader in readers(item.layout):
            found.setdefault(reader, item.name)
    return found


def task_of(manifest: Any) -> str:
    """What the base model does, by the Hub's name for it."""
    return str(manifest.base.get("task") or TEXT_TO_IMAGE)


def _peft(manifest: Any, repo: str) -> str:
    """Lines for stock peft; empty where there is no file or no class for it."""
    loader = AUTO.get(task_of(manifest))
    folder = next((item.name.split("/")[0] for item in manifest.files if item.layout == "peft"), None)
    if folder is None or loader is None:
        return ""
    name = _model(manifest)
    ours = name in EMBEDDED  # which come with this package
    first = "import erase_plugins" if ours else f"from transformers import {loader}"
    load = f"erase_plugins.load({literal(name)})" if ours else f"{loader}.from_pretrained({literal(name)})"
    if manifest.base.get("library") == "timm":
        first, load = "import timm", f"timm.create_model({literal(f'hf-hub:{name}')}, pretrained=True)"
    lines = (
        f"from peft import PeftModel\n{first}\n\nmodel = {load}\n"
        f"model = PeftModel.from_pretrained(model, {literal(repo)}, subfolder={literal(folder)})"
    )
    return block(lines, "python")


def _peft_parts(manifest: Any, repo: str) -> str:
    """The base, and a line of stock peft for each part of a pipeline that has an adapter; empty where there is none."""
    places = [item.name.rpartition("/")[0] for item in manifest.files if item.name.endswith(ADAPTER)]
    if not places:
        return ""
    lines = ["from peft import PeftModel", _load(manifest), ""]
    for place in places:
        part = place.removeprefix("peft_") or _denoiser(manifest)
        folder = f", subfolder={literal(place)}" if place else ""
        lines.append(f"PeftModel.from_pretrained(pipe.{part}, {literal(repo)}{folder})")
    return "\n".join(lines)


def _denoiser(manifest: Any) -> str:
    from erase_plugins.manager import get_manager

    return str(get_manager().family(manifest.family).denoiser)


def _ours_other(manifest: Any, repo: str) -> str:
    lines = (
        f"import erase_plugins as ep\n\nmodel = ep.load({literal(_model(manifest))})\n"
        f"with ep.apply(model, {literal(f'hub:{repo}')}, strength={_weight(manifest):g}) as applied:\n"
        "    print(applied.report())"
    )
    return block(lines, "python")


def install(requirement: str | None) -> str:
    """Where this package comes from: a pinned source, or the word that no index has it."""
    if requirement is None:
        return (
            "The lines of this page that name it need the program `erase-plugins`, from its authors' own repository. "
            "It is on no package index: do not install a package of that name from there, it would be somebody else's."
        )
    return "Lines of this page that name it need `erase-plugins`, pinned here to one state of its source:\n\n" + block(
        commands(("pip", "install", requirement)), "bash"
    )


def combine(artifact: Any, repo: str) -> str:
    """Several at once, one more concept, one less, and off again."""
    manifest = artifact.manifest
    if task_of(manifest) != TEXT_TO_IMAGE:
        return "Several artifacts work at once: apply one after the other. Revoke it: leave the file out."
    parts = [
        "Several files work at once: in diffusers give each its own adapter name and weight, in ComfyUI chain the LoRA "
        "loaders, on the command line name them one after the other."
    ]
    if isinstance(artifact.edit.meta.get("statistics"), dict):
        words = ("erase-plugins", "add", f"hub:{repo}", "--erase", "watermark")
        more = commands(words, ("--model", _model(manifest), "--out", "one-more"))
        parts.append(
            "This one can also be solved again with further concepts, which disturbs the rest less than piling files "
            f"up (two published ones: {code('erase-plugins merge')}):\n\n{block(more, 'bash')}"
        )
        if len(manifest.erased) > 1:
            words = ("erase-plugins", "revoke", f"hub:{repo}", "--erase", manifest.erased[0])
            less = commands(words, ("--out", "one-less"))
            parts.append(f"Bring one of its concepts back, without the base model:\n\n{block(less, 'bash')}")
    if any("diffusers" in readers(item.layout) for item in manifest.files):
        lines = "pipe.disable_lora()  # the base again\npipe.enable_lora()\npipe.unload_lora_weights()  # gone for good"
        parts.append("Take it off in diffusers:\n\n" + block(lines, "python"))
    parts.append("Revoke it: leave the file out. Nothing else was changed.")
    return "\n\n".join(parts)


def readers(layout: str) -> tuple[str, ...]:
    from erase_plugins.errors import UnknownName
    from erase_plugins.manager import get_manager

    try:
        return tuple(get_manager().layout(layout).readers)
    except UnknownName:
        return ()


def _weight(manifest: Any) -> float:
    return float(manifest.strength.get("recommended", 1.0))


def _model(manifest: Any) -> str:
    return flat(manifest.base.get("model") or "MODEL")


def _prompt(manifest: Any) -> str:
    return flat(choose_prompts(manifest, 1)[0])


def _load(manifest: Any) -> str:
    """Lines that load the base into ``pipe`` without anything of ours, as far as that is possible."""
    model, revision = _model(manifest), manifest.base.get("revision")
    if model == POCKET:  # the embedded model is nowhere else
        return 'import erase_plugins\n\npipe = erase_plugins.load("pocket")'
    pinned = f", revision={literal(revision)}" if revision else ""
    return (
        "from diffusers import AutoPipelineForText2Image\n\n"
        f"pipe = AutoPipelineForText2Image.from_pretrained({literal(model)}{pinned})"
    )


def _diffusers(manifest: Any, repo: str, name: str) -> str:
    extra = "" if name == STOCK else f", weight_name={literal(name)}"
    weight = _weight(manifest)
    load = f"pipe.load_lora_weights({literal(repo)}{extra}"
    lines = f"{load})" if weight == 1 else f'{load}, adapter_name="erased")\npipe.set_adapters("erased", {weight:g})'
    return block(
        f'{_load(manifest)}\n{lines}\npipe({literal(_prompt(manifest))}).images[0].save("erased.png")', "python"
    )


def _ours(manifest: Any, repo: str) -> str:
    lines = (
        f"import erase_plugins as ep\n\npipe = ep.load({literal(_model(manifest))})\n"
        f"with ep.apply(pipe, {literal(f'hub:{repo}')}, strength={_weight(manifest):g}) as applied:\n"
        f'    print(applied.report())\n    pipe({literal(_prompt(manifest))}).images[0].save("applied.png")'
    )
    return block(lines, "python")

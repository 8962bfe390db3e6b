"""Graphs that our nodes must refuse on the real server: models and text encoders that do not go together, wrong files."""

from __future__ import annotations

from typing import Any

MODELS = {"flux": "OddFlux", "sd3": "OddSD3", "aura": "OddAura"}


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def on_a_model(model: list[Any], clip: list[Any]) -> dict[str, tuple[dict[str, Any], int]]:
    """Every node that takes a MODEL, by its id, and the place of its report; node 2 of the graph is an edit for pocket."""
    both, edit = {"model": model, "clip": clip}, ["2", 1]
    whole = {**both, "strength": 1.0}
    stacked = {**both, "any_base": False, "effective": True}
    return {
        "EraseUCE": (node("EraseUCE", **whole, erase="pizza", kind="object"), 2),
        "EraseRECE": (node("EraseRECE", **whole, erase="pizza", kind="object"), 2),
        "EraseMethodEsd": (node("EraseMethodEsd", **whole, erase="pizza", kind="object", keep="", seed=0, checkpoint="",
                                any_base=False, preview_every=0), 3),
        "EraseLoadArtifact": (node("EraseLoadArtifact", **whole, artifact="with_text", strength_clip=1.0,
                                   any_base=False), 3),
        "EraseStack": (node("EraseStack", **stacked, rows="", edit_1=edit), 4),
        "EraseRevoke": (node("EraseRevoke", **stacked, edit=edit, names="dog", protect=False), 3),
        "EraseEmbeddingPatch": (node("EraseEmbeddingPatch", model=model, edit=edit, strength=1.0), 1),
        "ErasePromptGate": (node("ErasePromptGate", **whole, edit=edit, phrases="", measure="probe", low=0.3, high=0.6,
                                 words=50, prompts=""), 2),
        "EraseStrength": (node("EraseStrength", **whole, edit=edit, over_time="0 : 1\n1 : 0", layers=""), 3),
        "EraseProbe": (node("EraseProbe", **both, erase="pizza", kind="object", keep=""), 1),
        "EraseReport": (node("EraseReport", **whole, edit=edit, vae=["1", 2], erase="", images=1, steps=1, guidance=4.0,
                             seed=0, judge="none"), 2),
    }  # fmt: skip


def shown(item: dict[str, Any], output: int, other: str) -> dict[str, Any]:
    """A graph that ends in the report of a node; node 3 is what does not belong there."""
    return {
        "1": node("ErasePocketLoader"),
        "2": node("EraseUCE", model=["1", 0], clip=["1", 1], erase="dog", strength=1.0, kind="object"),
        "3": node(other), "4": item, "5": node("PreviewAny", source=["4", output]),
    }  # fmt: skip


def architectures() -> dict[str, dict[str, Any]]:
    """Every node on a Flux model, and three of them on Stable Diffusion 3 and on AuraFlow."""
    return {
        f"{name} {kind}": shown(item, output, MODELS[name])
        for name in MODELS
        for kind, (item, output) in on_a_model(["3", 0], ["1", 1]).items()
        if name == "flux" or kind in ("EraseUCE", "EraseLoadArtifact", "EraseStack")
    }


def encoders() -> dict[str, dict[str, Any]]:
    """Text encoders that do not belong to the model."""
    nodes = on_a_model(["1", 0], ["3", 0])
    chosen = ("EraseUCE", "EraseMethodEsd", "EraseLoadArtifact", "EraseStack", "EraseProbe", "ErasePromptGate")
    return {
        f"{name} {kind}": shown(*nodes[kind], name) for name in ("OddClip", "OddT5") for kind in chosen
    }  # fmt: skip


def wrong_files() -> dict[str, dict[str, Any]]:
    """Files that are not opened, and those that fit nothing."""
    load = {"model": ["1", 0], "clip": ["1", 1], "strength": 1.0, "strength_clip": 1.0, "any_base": False}

    def case(artifact: str, reference: str = "", kind: str = "ErasePocketLatent") -> dict[str, Any]:
        item = node("EraseLoadArtifact", **load, artifact=artifact, reference=reference)
        graph = shown(item, 3, kind)
        graph["3"]["inputs"] = {"batch_size": 1}
        return graph

    return {
        "pickle by reference": case("with_text", "old.ckpt"),
        "outside by reference": case("with_text", "../secret.safetensors"),
        "disguised": case("disguised.safetensors"),
        "nothing fits": case("nothing_fits.safetensors"),
    }


def cases() -> dict[str, dict[str, Any]]:
    return {**architectures(), **encoders(), **wrong_files()}

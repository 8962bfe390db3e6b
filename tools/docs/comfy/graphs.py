"""Puts a graph together in the form that the editor saves: nodes in columns, links, widget values by place."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from comfy_nodes.spec import WIDGETS, NodeSpec

#: name of this pack in the registry; where it is not installed, the editor tells it
REGISTRY = "erase-plugins"
#: stock nodes: sockets with their types, outputs, width and height
STOCK: dict[str, tuple[dict[str, str], list[str], tuple[int, int]]] = {
    "CLIPTextEncode": ({"clip": "CLIP"}, ["CONDITIONING"], (340, 130)),
    "KSampler": (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        ["LATENT"], (300, 280),
    ),
    # of other packs, as they declare them: ComfyUI-NAG, ComfyUI-ppm (and cd-tuner_negpip, where it is called Negpip)
    "KSamplerWithNAG": (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "nag_negative": "CONDITIONING",
         "latent_image": "LATENT"},
        ["LATENT"], (320, 400),
    ),
    "CLIPNegPip": ({"model": "MODEL", "clip": "CLIP"}, ["MODEL", "CLIP"], (280, 60)),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"], (200, 60)),
    "SaveImage": ({"images": "IMAGE"}, [], (420, 560)),
    "PreviewImage": ({"images": "IMAGE"}, [], (420, 480)),
    "PreviewAny": ({"source": "*"}, [], (320, 190)),
    "VAEEncode": ({"pixels": "IMAGE", "vae": "VAE"}, ["LATENT"], (200, 60)),
    "LoraLoaderModelOnly": ({"model": "MODEL"}, ["MODEL"], (320, 100)),
    "FluxGuidance": ({"conditioning": "CONDITIONING"}, ["CONDITIONING"], (320, 80)),
    "Note": ({}, [], (320, 120)),
}  # fmt: skip
#: stock nodes behind whose seed the editor keeps what it does with it after a run
_SEEDED = ("KSampler", "KSamplerWithNAG")
#: names in the registry of packs that nodes of others come from
_PACKS = {"KSamplerWithNAG": "ComfyUI-NAG", "CLIPNegPip": "ComfyUI-ppm"}
#: modes of a node: it runs, or lets through what comes in
RUNNING, BYPASSED = 0, 4


@dataclass(frozen=True)
class Ref:
    """Output ``slot`` of a node."""

    node: int
    slot: int


class Graph:
    """A graph of our nodes and stock nodes.

    Args:
        specs: descriptions of our nodes by id.
    """

    def __init__(self, specs: dict[str, NodeSpec]) -> None:
        self.specs = specs
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.known: dict[int, dict[str, Any]] = {}
        self.optional: list[dict[str, Any]] = []
        self._wires = 0

    @contextmanager
    def where_installed(self, kinds: tuple[str, ...], note: int, absent: str, present: str) -> Iterator[None]:
        """What is added inside joins the graph where an editor knows one of ``kinds``; the pack's script sees to it.

        Args:
            kinds: ids of nodes of other packs, alike in their sockets; the first is added inside.
            note: number of the note that says how it is.
            absent, present: sentences of that note, the first one is in its text.
        """
        nodes, links = len(self.nodes), len(self.links)
        yield
        own: dict[str, Any] = {"kinds": list(kinds), "note": note, "absent": absent, "present": present,
               "nodes": self.nodes[nodes:], "links": self.links[links:]}  # fmt: skip
        del self.nodes[nodes:], self.links[links:]
        inside = {node["id"] for node in own["nodes"]}
        for number, source, slot, *_ in own["links"]:
            if source not in inside:
                self.known[source]["outputs"][slot]["links"].remove(number)
        self.optional.append(own)

    def add(
        self, kind: str, at: tuple[int, int], *values: Any, title: str = "", size: tuple[int, int] | None = None,
        mode: int = RUNNING, **sources: Ref,
    ) -> list[Ref]:  # fmt: skip
        """Adds a node and gives its outputs.

        Args:
            kind: id of the node.
            at: left and top edge.
            values: widgets in their order, optional ones at the end may be left out; "fixed" is added behind the seed
                of a stock sampler.
            title: shown instead of the node's own.
            size: width and height; a usual one if not given.
            mode: `RUNNING` or `BYPASSED`.
            sources: what is connected, by socket or by widget; the value of a connected widget is not used.

        Raises:
            ValueError: a socket that the node does not have, or the wrong number of widgets.
        """
        sockets, outputs, usual, widgets = self._shape(kind)
        if kind in self.specs:
            values += self.specs[kind].defaults[len(values) :]
        number = len(self.known) + 1
        strange = set(sources) - set(sockets) - set(widgets or ())
        if strange:
            raise ValueError(f"{kind} has no socket {sorted(strange)}")
        if widgets is not None and len(values) != len(widgets):
            raise ValueError(f"{kind} has the widgets {widgets}, {len(values)} values were given")
        entries: list[dict[str, Any]] = []
        for slot, (name, type_) in enumerate(sockets.items()):
            link = self._link(sources[name], number, slot) if name in sources else None
            entries.append({"name": name, "type": type_, "link": link})
        for name in widgets or ():
            if name in sources:
                link = self._link(sources[name], number, len(entries))
                entries.append({"name": name, "type": self.links[-1][5], "link": link, "widget": {"name": name}})
        stored = [values[0], "fixed", *values[1:]] if kind in _SEEDED else list(values)
        pack = REGISTRY if kind in self.specs else _PACKS.get(kind, "comfy-core")
        node = {
            "id": number, "type": kind, "pos": list(at), "size": list(size or usual), "flags": {}, "order": number - 1,
            "mode": mode, "inputs": entries,
            "outputs": [
                {"name": name, "type": type_, "links": [], "slot_index": slot}
                for slot, (name, type_) in enumerate(outputs)
            ],
            "properties": {"Node name for S&R": kind, "cnr_id": pack},
            "widgets_values": stored,
        }  # fmt: skip
        if title:
            node["title"] = title
        self.nodes.append(node)
        self.known[number] = node
        return [Ref(number, slot) for slot in range(len(outputs))]

    def _shape(self, kind: str) -> tuple[dict[str, str], list[tuple[str, str]], tuple[int, int], list[str] | None]:
        if kind in STOCK:
            sockets, outputs, size = STOCK[kind]
            return sockets, [(item, item) for item in outputs], size, None
        spec = self.specs[kind]
        ordered = [item for item in spec.inputs if item.required] + [item for item in spec.inputs if not item.required]
        sockets = {item.name: item.type for item in ordered if item.type not in WIDGETS}
        widgets = list(spec.widgets)
        boxes = sum(bool(item.options.get("multiline")) for item in ordered)
        height = 60 + 22 * max(len(sockets), len(spec.outputs)) + 28 * (len(widgets) - boxes) + 84 * boxes
        height += 44 if "erase" in widgets else 0  # chips
        return sockets, [(item.name, item.type) for item in spec.outputs], (340, height), widgets

    def _link(self, source: Ref, target: int, slot: int) -> int:
        self._wires = number = self._wires + 1
        entry = self.known[source.node]["outputs"][source.slot]
        entry["links"].append(number)
        self.links.append([number, source.node, source.slot, target, slot, entry["type"]])
        return number

    def content(self) -> dict[str, Any]:
        """The workflow."""
        extra = {"erase_plugins": {"where_installed": self.optional}} if self.optional else {}
        return {
            "last_node_id": len(self.known), "last_link_id": self._wires, "nodes": self.nodes, "links": self.links,
            "groups": [], "config": {}, "extra": extra, "version": 0.4,
        }  # fmt: skip


def dump(content: Any) -> str:
    """The text of a file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

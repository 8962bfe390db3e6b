"""What the example workflows ask for: a style LoRA, a collection of twenty concepts, and a repository on a Hub of our own."""

from __future__ import annotations

import shutil
from pathlib import Path

import erase_plugins as ep
import hub_cards
from erase_plugins.testing.hub_server import HubServer
from erase_plugins.workflow.collection import build_collection
from tools.docs.comfy.examples import HUB_REPO, LIBRARY, STYLE_LORA


def prepare(base: Path, hub: HubServer, work: Path) -> None:
    """Fills the model folders below ``base`` and the Hub.

    Args:
        base: folder of the server.
        hub: running; gets `HUB_REPO`.
        work: for files on the way.
    """
    from erase_plugins.workflow.models import target_of

    target = target_of(ep.load("pocket"), "pocket")
    style = ep.erase(target, [ep.Concept("blue", anchor="red")], "uce").save(work / "red", target=target)
    kohya = next(item.name for item in style.manifest.files if item.layout == "kohya")
    shutil.copyfile(work / "red" / kohya, base / "models" / "loras" / STYLE_LORA)
    single = [ep.erase(target, [ep.Concept(name, anchor=other)], "uce") for name, other in LIBRARY.items()]
    build_collection(single, base / "models" / "erase_plugins" / "pocket_20")
    ep.erase(target, [ep.Concept("pizza", anchor="hamburger")], "uce").save(work / "published", target=target)
    with hub.as_default(work / "cache"):
        hub_cards.push(work / "published", HUB_REPO, license="apache-2.0")

"""Translation files of the editor, from the node descriptions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy_nodes.method_options import option_words
from comfy_nodes.spec import NodeSpec

from .translations import translate, translated_languages

#: the editor runs texts with these as a program, and may not draw the node; without an entry it shows our English text
SPECIAL = frozenset("@{}|$")
#: parts of our menu paths
MENU = ("erase", "load", "make", "apply", "check")
#: section of main.json with the texts of our scripts, which lie in `WEB` and call ``say("...")``
SCRIPTS = "erasePlugins"
#: commands of our scripts as the editor looks them up, with their names
COMMANDS = {
    "ErasePlugins_EraseSelection": "Erase this from the model",
    "ErasePlugins_Explain": "What does this erase?",
}
WEB = Path(__file__).parents[3] / "comfy_nodes" / "web"
_SAID = re.compile(r'\bsay\("([^"]+)"')


def languages() -> list[str]:
    """Languages that files are written for."""
    return ["en", *translated_languages()]


def node_file(specs: Sequence[NodeSpec], language: str) -> str:
    """nodeDefs.json: title, description, names and tooltips of every node in the menu; others say theirs in English."""
    shown = sorted((spec for spec in specs if not spec.instead), key=lambda spec: spec.id)
    return _dump({spec.id: _node(spec, language) for spec in shown})


def main_file(language: str) -> str:
    """main.json: names of the menu and of commands, and what our scripts show in the editor."""
    names = {name: _in(name, language) for name in MENU}
    said = {text: translate(text, language) for text in script_texts()} if language != "en" else {}
    shown: dict[str, Any] = {"nodeCategories": names}
    if said:
        shown["commands"] = {key: {"label": _in(text, language)} for key, text in COMMANDS.items()}
        shown[SCRIPTS] = {key: text for key, text in said.items() if text}
    return _dump(shown)


def script_texts() -> list[str]:
    """Texts that our scripts ask to be translated, each once, and what the form calls the options of methods."""
    found = (text for path in sorted(WEB.glob("*.js")) for text in _SAID.findall(path.read_text(encoding="utf-8")))
    return sorted({*found, *option_words().values()})


def coverage(specs: Sequence[NodeSpec], language: str) -> tuple[int, int]:
    """How many tooltips are translated, of how many."""
    tooltips = [item.tooltip for spec in specs for item in spec.inputs]
    tooltips += [item.tooltip for spec in specs for item in spec.outputs]
    return sum(translate(text, language) is not None for text in tooltips), len(tooltips)


def coverage_table(specs: Sequence[NodeSpec]) -> str:
    """One row per language: how much is translated of the nodes in the menu."""
    specs = [spec for spec in specs if not spec.instead]
    rows = ["| language | titles and descriptions | tooltips |", "|---|---|---|"]
    for language in translated_languages():
        texts = [text for spec in specs for text in (spec.title, spec.description)]
        done, every = coverage(specs, language)
        whole = sum(translate(text, language) is not None for text in texts)
        rows.append(f"| {language} | {100 * whole // len(texts)} % | {100 * done // every} % |")
    return "\n".join(rows)


def _in(text: str, language: str) -> str:
    return translate(text, language) or text


def _node(spec: NodeSpec, language: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "display_name": _in(spec.short or spec.title, language),
        "description": _in(spec.description, language),
    }
    if spec.short and language == "en":
        del found["display_name"]  # the server knows which of the two this editor shows
    if spec.inputs:
        found["inputs"] = {item.name: _socket(item.name, item.tooltip, language) for item in spec.inputs}
    places = enumerate(spec.outputs)
    found["outputs"] = {str(place): _socket(item.name, item.tooltip, language) for place, item in places}
    return found


def _socket(name: str, tooltip: str, language: str) -> dict[str, str]:
    found = {"name": name.replace("_", " "), "tooltip": _in(tooltip, language)}
    if SPECIAL & set(found["tooltip"]):
        del found["tooltip"]
    return found


def _dump(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

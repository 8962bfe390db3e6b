"""The Hub package, imported when a node needs it. Whoever is logged in is known to the Hub's client alone.

No node has a place for a token: widgets are saved into every workflow file and picture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import ArtifactError, HubUnreachable
from erase_plugins.hints import Sentence, sentence_of

from .hub_package import HubMissing, part

__all__ = ["HubMissing", "part"]

_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
#: characters of a name that `slug` leaves
_LONGEST = 40


@dataclass(frozen=True)
class Pulled:
    """An artifact from the Hub, "owner/name@commit" of it, and where it came from if the Hub was not asked."""

    artifact: Any
    reference: str
    note: str = ""


def pulled(spec: str, offline: bool = False) -> Pulled:
    """A verified artifact from the Hub, or from the client's cache where the Hub does not answer.

    Args:
        spec: "owner/name", "owner/name@revision" or, of a collection, "owner/name#member,member"; "hub:" may precede.
        offline: do not ask the Hub.

    Raises:
        HubMissing: a package is not installed.
        HubError: not there, or damaged on the way; `HubUnreachable` says what to copy by hand.
    """
    pulling = part("pulling")
    source = pulling.parse(spec)
    commit = source.revision if source.revision and _COMMIT.match(source.revision) else None
    note = "the Hub was not asked" if offline else ""
    if not offline and commit is None:
        try:
            commit = pulling.commit_of(spec)
        except HubUnreachable:
            note = "the Hub did not answer"
    try:
        artifact = _fetched(pulling, spec, source.names, offline=bool(note))
    except HubUnreachable as error:
        raise HubUnreachable(_by_hand(source, sentence_of(error))) from error
    commit = commit_in_cache(artifact) or commit
    if note:
        note += f"; this is revision {commit or 'unknown'} from the cache"
    members = f"#{','.join(source.names)}" if source.names else ""
    return Pulled(artifact, source.repo + (f"@{commit}" if commit else "") + members, note)


def _fetched(pulling: Any, spec: str, members: Sequence[str], offline: bool) -> Any:
    from . import host

    if members:
        from erase_plugins.workflow.artifacts import load_artifact

        return load_artifact(pulling.fetch(spec, offline=offline))
    with host.downloading() as tell:
        return pulling.pull(spec, offline=offline, progress=tell)


def _by_hand(source: Any, reason: str) -> str:
    from erase_plugins.artifacts.manifest import FILENAME
    from erase_plugins.artifacts.reference import address

    folder, page = folder_name(source.repo), address(source.repo).partition("//")[2]
    return Sentence(
        reason,
        f"; or copy {FILENAME} and the .safetensors files of {page} by hand into "
        f"models/erase_plugins/{folder} and take '{folder}' in the load node",
    )


def folder_name(repo: str) -> str:
    """Name of the folder below models/erase_plugins that a repository is copied into; another one for each.

    Long names are cut, and then end in what tells them apart: the copy of one must not replace that of another.
    """
    from erase_plugins.artifacts.manifest import slug

    name = repo.replace("/", "_")
    told = hashlib.sha256(repo.encode()).hexdigest()[:8]
    return slug(name) if len(name) <= _LONGEST else f"{slug(name)[: _LONGEST - 9].strip('_')}_{told}"


def commit_in_cache(artifact: Any) -> str | None:
    """The commit of what was pulled, as far as the client's cache tells it."""
    place = artifact.path if artifact.path.is_dir() else artifact.path.parent
    return next((item for item in (place.name, place.parent.name) if _COMMIT.match(item)), None)


def is_pinned(spec: str) -> bool:
    """Whether a reference names a commit, which never changes."""
    return bool(_COMMIT.match(spec.partition("#")[0].partition("@")[2].strip()))


def write_down(widgets: Mapping[str, str], prompt: Any, extra_pnginfo: Any, unique_id: Any) -> None:
    """Puts pinned references where ComfyUI takes a picture's metadata from, so that the picture can be made again.

    A text that came from another node is replaced by what it was, and the wire goes: it could bring another revision.

    Args:
        widgets: name of a widget -> its text.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs.
    """
    inputs = (prompt or {}).get(str(unique_id), {}).get("inputs", {})
    inputs.update({name: text for name, text in widgets.items() if name in inputs})
    workflow = (extra_pnginfo or {}).get("workflow")
    found = _place(workflow, str(unique_id)) if isinstance(workflow, Mapping) else None
    if found is not None:
        _in_workflow(widgets, *found)


def _place(workflow: Mapping[str, Any], unique_id: str) -> tuple[dict[str, Any], Any] | None:
    """A node, "3" or "13:3" for one in a subgraph, and the graph that it is in; None if it cannot be told alone.

    What a subgraph is made of stands in the file once. Where it is used several times, the others would change, too.
    """
    parts = (workflow.get("definitions") or {}).get("subgraphs") or ()
    graphs = {str(item.get("id")): item for item in parts}
    kinds = [str(node.get("type")) for graph in (workflow, *parts) for node in graph.get("nodes", ())]
    here, *inside = unique_id.split(":")
    graph: Any = workflow
    while True:
        node = next((item for item in graph.get("nodes", ()) if str(item.get("id")) == here), None)
        if node is None or not inside:
            return None if node is None else (node, graph)
        kind = str(node.get("type"))
        if kind not in graphs or kinds.count(kind) > 1:
            return None
        graph = graphs[kind]
        here, *inside = inside


def _in_workflow(widgets: Mapping[str, str], node: dict[str, Any], workflow: Any) -> None:
    from .registry import SPECS

    known = SPECS.get(str(node.get("type")))
    order = known.widgets if known is not None else ()
    values = node.get("widgets_values")
    for name, text in widgets.items():
        if isinstance(values, list) and name in order and order.index(name) < len(values):
            values[order.index(name)] = text
        for socket in node.get("inputs", ()):
            if socket.get("name") == name and socket.get("link") is not None:
                _cut(workflow, socket["link"])
                socket["link"] = None


def _cut(workflow: Any, number: Any) -> None:
    """Takes a wire out of a workflow."""

    def number_of(link: Any) -> Any:
        return link.get("id") if isinstance(link, Mapping) else link[0]

    workflow["links"] = [link for link in workflow.get("links", ()) if number_of(link) != number]
    for node in workflow["nodes"]:
        for output in node.get("outputs", ()):
            output["links"] = [link for link in output.get("links") or () if link != number]
    for entrance in workflow.get("inputs", ()):  # of a subgraph
        entrance["linkIds"] = [link for link in entrance.get("linkIds") or () if link != number]


def saved(name: str) -> Any:
    """The saved artifact of this name.

    Raises:
        ArtifactError: it is a single file, or not there.
    """
    from erase_plugins.workflow.artifacts import load_artifact

    from . import files

    place = files.find(name)
    if not place.is_dir():
        raise ArtifactError(f"'{name}' is a single file; load it and save it with the save node, then publish that")
    return load_artifact(place)

"""Sharing from the graph: find, pull and publish erasures on the Hub."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..spec import METADATA, Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "hugging face", "huggingface", "hub", "share", "online")


def pull(
    repo: str, keep: bool, offline: bool, prompt: Any = None, extra_pnginfo: Any = None, unique_id: Any = None
) -> Result:
    """A verified artifact from the Hub.

    Args:
        repo: ``owner/name`` or ``owner/name@revision``.
        keep: also copy it into models/erase_plugins.
        offline: take what was pulled before.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs; the commit is noted in the metadata of pictures.

    Raises:
        HubMissing: a package is not installed.
        HubError: not there, not reachable, or damaged on the way.
    """
    from .. import host, hub, moving

    moving.came_over_a_wire(unique_id, repo.strip())
    with host.computing():
        pulling = hub.part("pulling")
        name, _ = pulling.split(repo.strip())
        found = hub.pulled(repo.strip(), offline)
        artifact, reference = found.artifact, found.reference
        hub.write_down({"repo": reference}, prompt, extra_pnginfo, unique_id)
        manifest = artifact.manifest
        lines = [
            f"{reference}: verified",
            f"erases: {', '.join(manifest.erased) or 'not named'}",
            f"made for: {manifest.base.get('model') or 'unknown'} (family {manifest.family or 'unknown'})",
            *([found.note] if found.note else []),
        ]
        if keep:
            folder = host.artifact_folders()[0] / hub.folder_name(name)
            folder.parent.mkdir(parents=True, exist_ok=True)
            artifact = pulling.pull(reference, folder, force=True, offline=bool(found.note) or offline)
            lines.append(f"copied to models/erase_plugins: {folder.name}")
    text = "\n".join(lines)
    return Result((artifact, f"hub:{reference}", text), text)


def push(
    name: str, repo: str, publish: bool, private: bool, create_pr: bool, license: str, message: str, report: Any = None
) -> Result:
    """Shows what would be published; with the switch on, asks whoever queued the graph whether to publish it.

    Args:
        name: saved artifact, as the save node calls it.
        repo: ``owner/name``.
        publish: False looks and does not ask. Nothing is ever sent from here, see `publishing`.
        private: make a new repository private.
        create_pr: open a pull request instead of changing the branch.
        license: id, where that of the base is not known.
        message: first line of the commit.
        report: `EvalReport` of this artifact, for the card.

    Raises:
        HubMissing, HubError, NotAllowed, PushRefused: nothing was changed.
    """
    from .. import host, hub, publishing

    pushing = hub.part("pushing")
    lines: list[str] = []

    def show(bundle: Any) -> None:
        who = "private" if bundle.private else "public"
        lines.append(f"{bundle.repo}: {'exists' if bundle.exists else 'new'}, {who}, {bundle.bytes} bytes to send")
        lines.extend(f"{item.state} {item.name} ({item.size} bytes)" for item in bundle.files)
        lines.extend(f"removed {item}" for item in bundle.removed)

    if publish:
        pushing.token_needed()
    artifact = hub.saved(name)
    settings: dict[str, Any] = {
        "report": report, "private": private, "create_pr": create_pr, "license": license.strip() or None,
        "message": message.strip() or None,
    }  # fmt: skip
    send = partial(pushing.push, artifact, repo.strip(), **settings)
    with host.computing():
        done = send(dry_run=True, show=show)
    commit = ""
    if not (done.bundle.changed or done.bundle.removed):
        commit = done.commit or ""
        lines.append(f"everything is there already at {commit[:12]}; no commit was made")
    elif not publish:
        lines.append("nothing was sent; switch publish on, and the editor asks whether to send exactly this")
    else:
        lines.append(publishing.offer(done.bundle, lambda same: send(show=same), host.client()))
    text = "\n".join(lines)
    return Result((text, commit), text)


def search(query: str, concept: str, base_model: str, limit: int) -> Result:
    """Published artifacts and collections that fit.

    Args:
        query: words of the name or of what is erased; all must occur.
        concept: an erased concept, or part of it.
        base_model: Hub id of a base model or a family; empty for any.
        limit: most results.

    Raises:
        HubMissing, HubError: see `hub.part`; not reachable.
    """
    from .. import hub

    found = _find(hub.part("searching"), query, concept, base_model, limit)
    lines = [
        f"{item.id}@{item.revision}: {', '.join(item.concepts) or 'not named'}"
        f" ({'collection, ' if item.collection else ''}{item.base or item.family or 'base unknown'},"
        f" {item.downloads} downloads)"
        for item in found
    ]
    text = "\n".join(lines) or "nothing published fits; leave a field empty to look wider"
    first = f"{found[0].id}@{found[0].revision}" if found else ""
    return Result((text, first), text)


def repo_problem(text: str) -> str | None:
    """Why this is no repository; None if it may be one."""
    name = text.strip().removeprefix("hub:").partition("@")[0]
    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest or " " in name:
        return f"'{text[:80]}' is not a repository; write owner/name, for example me/no-pizza"
    return None


def _pull_state(repo: str | None = None, offline: bool = False, unique_id: Any = None, **_: Any) -> Any:
    """Differs when the reference names another commit."""
    from .. import moving

    if not isinstance(repo, str):  # it comes over a wire
        return moving.linked_state(unique_id, bool(offline))
    return moving.state(repo.strip(), bool(offline))


def _search_state(**values: Any) -> Any:
    """Differs when other commits are found."""
    from .. import hub, moving

    if None in values.values():  # it comes over a wire
        return float("nan")
    key = tuple(sorted((name, str(value).strip()) for name, value in values.items()))
    return moving.found(key, lambda: _find(hub.part("searching"), **values))


def _find(searching: Any, query: str, concept: str, base_model: str, limit: int) -> Any:
    return searching.search(
        query.strip(), concept=concept.strip() or None, base_model=base_model.strip() or None, limit=limit
    )


SPECS = (
    NodeSpec(
        id="EraseHubPull",
        title="Erase: pull from the Hub",
        category="erase/load",
        description=(
            "Fetches a published erasure, checks every byte, and keeps it in the Hub's cache. The commit is "
            "written into "
            "the metadata of pictures, so that anybody can make them again."
        ),
        inputs=(
            Input("repo", "STRING", "owner/name, or owner/name@revision with a branch, a tag or a commit. A commit "
                                    "stays "
                  "the same for ever; anything else is looked up anew in every run.",
                  options={"default": "", "placeholder": "me/no-pizza"}),
            Input("keep", "BOOLEAN", "Also copy it into models/erase_plugins, where the load node lists it.",
                  options={"default": False}),
            Input("offline", "BOOLEAN", "Use what was pulled before, without asking the Hub.",
                  options={"default": False}),
        ),
        outputs=(
            Output("ERASE_EDIT", "ERASE_EDIT", "The erasure; goes into the stack node or the probe."),
            Output("reference", "STRING", "hub:owner/name@commit; the stack node takes it as a name."),
            Output("report", "STRING", "What it erases, for which base, and where it came from."),
        ),
        run=pull,
        aliases=(*_ALIASES, "download", "civitai"),
        checks={"repo": repo_problem},
        state=_pull_state,
        hidden=METADATA,
        when="For files that are on disk already take the load node. Private repositories need a login: run 'hf auth "
             "login' or set HF_TOKEN where ComfyUI starts.",
        cost="A few megabytes once; a request in every run unless a commit is named.",
        instead="'reference' of 'Erase: load artifact', or a line hub:owner/name of 'Erase: stack'",
    ),
    NodeSpec(
        id="EraseHubPush",
        title="Erase: publish on the Hub",
        category="erase/make",
        description=(
            "Publishes a saved erasure with a card that says what it does. It shows the exact list of files with "
            "their sizes; nothing is sent before you agree to that list in the editor, each time anew."
        ),
        inputs=(
            Input("name", "STRING", "Saved artifact in models/erase_plugins: connect the name of the save node, or "
                                    "write "
                  "it.", options={"default": "", "placeholder": "erase_pizza"}),
            Input("repo", "STRING", "owner/name; made if it does not exist.",
                  options={"default": "", "placeholder": "me/no-pizza"}),
            Input("publish", "BOOLEAN", "Off shows what would be sent. On asks you in the editor whether to send "
                  "exactly that. It is off again after every question and in every file that is opened.",
                  options={"default": False}),
            Input("private", "BOOLEAN", "Make a new repository private; an existing public one is refused.",
                  options={"default": False}),
            Input("create_pr", "BOOLEAN", "Open a pull request instead of changing the branch.",
                  options={"default": False}),
            Input("license", "STRING", "Licence id, where that of the base model is not known.",
                  options={"default": ""}),
            Input("message", "STRING", "First line of the commit; empty says what is erased.",
                  options={"default": ""}),
            Input("report", "ERASE_REPORT", "From the node that measures; goes onto the card.", required=False),
        ),
        outputs=(
            Output("report", "STRING", "The list of files, and what was done."),
            Output("commit", "STRING", "The commit that holds exactly this; empty while something is still to be "
                   "sent."),
        ),
        run=push,
        aliases=(*_ALIASES, "upload", "publish"),
        is_output=True,
        checks={"repo": repo_problem},
        state=lambda **_: float("nan"),
        when="Log in outside of ComfyUI, with 'hf auth login' or HF_TOKEN: a token in a widget would be saved into "
             "every picture, so there is no such widget. No workflow, API graph or picture can send by itself. A "
             "program that queues graphs with a client_id gets the event erase_plugins.publish on its websocket and "
             'posts {"key": KEY, "send": true} as JSON to /erase_plugins/publish; the key works once.',
        cost="The size of the files, a few megabytes.",
    ),
    NodeSpec(
        id="EraseHubSearch",
        title="Erase: search the Hub",
        category="erase/load",
        description=(
            "Finds published erasures by name, concept and base model. Each line can be pasted into the node that "
            "pulls, "
            "with the commit that it has now."
        ),
        inputs=(
            Input("query", "STRING", "Words of the name or of what is erased; all must occur. Empty lists everything.",
                  options={"default": ""}),
            Input("concept", "STRING", "An erased concept, or part of it.",
                  options={"default": "", "placeholder": "van gogh"}),
            Input("base_model", "STRING", "Hub id of the base model, or a family such as sd1. Empty: any.",
                  options={"default": ""}),
            Input("limit", "INT", "Most results in the list.", options={"default": 20, "min": 1, "max": 200}),
        ),
        outputs=(
            Output("report", "STRING", "One result a line: owner/name@commit, what it erases, base, downloads."),
            Output("first", "STRING", "The best result as owner/name@commit; empty if there is none."),
        ),
        run=search,
        aliases=(*_ALIASES, "find", "browse"),
        is_output=True,
        state=_search_state,
        when="To look at cards and pictures, open the Hub's page of a result.",
        cost="One or a few requests.",
        instead="'erase-plugins search' in a terminal, or the search of the Hub",
    ),
)  # fmt: skip

"""Several erasures at once, each with its strength, and taking one out again."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from .. import files, opening
from ..concepts import read_lines
from ..rows import read_rows, renamed, rows_problem
from ..spec import METADATA, Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "unlearn", "remove concept", "lora stack", "stacker", "combine", "merge", "multi lora")


def stack(
    model: Any, rows: str, any_base: bool, effective: bool, clip: Any = None, edit_1: Any = None, edit_2: Any = None,
    edit_3: Any = None, lora_stack: Any = None, prompt: Any = None, extra_pnginfo: Any = None, unique_id: Any = None,
) -> Result:  # fmt: skip
    """MODEL and CLIP under a stack of erasures.

    Args:
        model, clip: stay as they are.
        rows: ``name : strength`` lines; a name of a connected artifact sets its strength.
        any_base: allow other weights of the same architecture.
        effective: solve closed-form members on the weights and text rows as they are now.
        edit_1, edit_2, edit_3: further members; a stack among them brings its own.
        lora_stack: LoRAs that are put on first.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs; commits are noted in the metadata of pictures.

    Raises:
        EraseError: nothing was changed.
    """
    from erase_plugins.stack import Entry, Stack, stack_of

    from .. import chaining, host, hub
    from .. import lora_stack as loras
    from ..opening import open_artifact

    with host.computing():
        first = loras.read_stack(lora_stack)
        now, text, lines = loras.put_on(model, clip, first)
        connected = [entry for edit in (edit_1, edit_2, edit_3) if edit is not None for entry in stack_of(edit).entries]
        strengths = dict(read_rows(rows))
        entries = [Entry(entry.artifact, strengths.pop(entry.artifact.name, entry.strength)) for entry in connected]
        opened = {name: open_artifact(name) for name in strengths}
        entries += [Entry(opened[name].artifact, strength) for name, strength in strengths.items()]
        moved = {name: item.name for name, item in opened.items() if item.name != name}
        if moved:
            hub.write_down({"rows": renamed(rows, moved)}, prompt, extra_pnginfo, unique_id)
        whole = Stack(tuple(entries))
        done = chaining.over(now, text, whole, any_base=any_base, effective=effective)
        found = {entry.artifact.name: loras.kohya_file(entry.artifact) for entry in entries if entry.strength != 0}
    emitted = [
        *first,
        *((found[e.artifact.name], e.strength, e.strength) for e in entries if found.get(e.artifact.name)),
    ]
    lines += [f"{item.name}: {item.note}" for item in opened.values() if item.note]
    lines += done.lines or ["nothing is switched on; the model goes through as it is"]
    missing = [name for name, file in found.items() if file is None]
    if missing:
        lines.append(f"not in LORA_STACK, since models/loras has no file of it: {', '.join(missing)}")
    report = "\n".join(lines)
    return Result((done.model, done.clip, done.artifact, emitted, report), report)


def revoke(
    edit: Any, model: Any, names: str, protect: bool, any_base: bool, effective: bool, clip: Any = None
) -> Result:
    """MODEL and CLIP under the stack without some members: what a stack gives that never held them, to the last bit.

    Args:
        edit: a stack, or one artifact.
        model, clip: as they were in front of the stack.
        names: one member or concept a line.
        protect: keep the revoked concepts safe from the others from now on, instead of forgetting them.
        any_base, effective: as for `stack`.

    Raises:
        UnknownName: not in the stack, with close matches.
        ArtifactError: a member of several concepts that cannot be taken apart.
    """
    from erase_plugins.errors import RequestError
    from erase_plugins.stack import stack_of

    from .. import host
    from ..stacking import put_on

    gone = read_lines(names)
    if not gone:
        raise RequestError("nothing to take out is named; write a concept or an artifact of the stack, one a line")
    with host.computing():
        left = stack_of(edit).without(gone, forget=not protect)
        done = put_on(model, clip, left, any_base=any_base, effective=effective)
    report = "\n".join([f"taken out: {', '.join(gone)}", f"left: {', '.join(left.erased) or 'nothing'}", *done.lines])
    return Result((done.model, done.clip, done.artifact, report), report)


def library(
    collection: str, names: str, model: Any, strength: float, any_base: bool, effective: bool, clip: Any = None
) -> Result:
    """MODEL and CLIP without some concepts of a collection, solved jointly.

    Args:
        collection: folder with a collection, below models/erase_plugins.
        names: ``name : strength`` lines; names of artifacts or of concepts.
        model, clip: stay as they are.
        strength: of all together.
        any_base, effective: as for `stack`.

    Raises:
        UnknownName: not in the collection, with close matches.
        RequestError: nothing named.
    """
    from erase_plugins.errors import RequestError
    from erase_plugins.stack import Entry, Stack
    from erase_plugins.workflow.collection import Collection

    from .. import chaining, host

    rows = read_rows(names)
    if not rows:
        raise RequestError("no name is given; write names of the collection, one a line")
    with host.computing():
        place = files.find(collection)
        shelf = Collection.open(place)
        artifacts = [shelf.load([name])[0] for name, _ in rows]
        whole = Stack(tuple(Entry(item, value) for item, (_, value) in zip(artifacts, rows, strict=True)))
        question = ("library", str(place), tuple(shelf.entries[item.name].sha256 for item in artifacts), rows)
        done = chaining.over(
            model, clip, whole, strength=strength, any_base=any_base, effective=effective, question=question
        )
    lines = [f"{len(rows)} of {len(shelf.entries)} in {place.name}: {', '.join(whole.erased)}", *done.lines]
    report = "\n".join(lines)
    return Result((done.model, done.clip, done.artifact, report), report)


def _stack_problem(text: str, beside: Set[str]) -> str | None:
    """Why the rows of a stack cannot be used; None if they can. What is not here may be the name of a connected one."""
    from erase_plugins.artifacts.reference import is_reference

    if (found := rows_problem(text)) is not None:
        return found
    for name, _ in read_rows(text):
        known = is_reference(name) or (beside and not opening.is_here(name))
        if not known and (found := opening.problem(name)) is not None:
            return found
    return None


def _rows_state(rows: str | None = None, **_: Any) -> str:
    if rows is None or rows_problem(rows):
        return ""
    return "|".join(opening.state(name) for name, _ in read_rows(rows))


_STRENGTH = {"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}
_MODEL = Input("model", "MODEL", "The model, with your LoRAs on it: connect this node last in the chain.")
_CLIP = Input("clip", "CLIP", "The CLIP that feeds the prompts. Behind CLIP LoRAs and clip skip the phrases are "
                              "encoded "
              "anew with it.", required=False)  # fmt: skip
_ANY = Input("any_base", "BOOLEAN", "Use them on a fine-tune of their base: same architecture, other weights.",
             options={"default": False})  # fmt: skip
_EFFECTIVE = Input("effective", "BOOLEAN", "Solve closed-form erasures on the weights as they are here, LoRAs "
      "included; "
                   "off takes what the artifacts have stored.", options={"default": True})  # fmt: skip
_OUT = (
    Output("MODEL", "MODEL", "The model with all erasures; goes into a sampler."),
    Output("CLIP", "CLIP", "The CLIP with all erasures; the same as came in if it is not concerned."),
    Output("ERASE_EDIT", "ERASE_EDIT", "All of them together; goes into nodes that save, take out or measure."),
)
_REPORT = Output("report", "STRING", "What was solved jointly, what was added, and how many modules it reached.")
SPECS = (
    NodeSpec(
        id="EraseStack",
        title="Erase: stack",
        category="erase/apply",
        description=(
            "Puts several erasures on a model, each with its own strength. Closed-form ones are solved jointly on the "
            "weights as they are here, LoRAs included, so they do not disturb each other; all others add up."
        ),
        inputs=(
            _MODEL,
            Input("rows", "STRING", "One artifact a line: name : strength. Names are folders of models/erase_plugins, "
                  "files of models/loras, or hub:owner/name; a connected artifact is named to set its strength.",
                  options={"default": "", "multiline": True, "placeholder": "erase_pizza : 1\nerase_van_gogh : 0.8"}),
            _ANY, _EFFECTIVE, _CLIP,
            Input("edit_1", "ERASE_EDIT", "An erasure from another node; its strength is 1 unless a row names it.",
                  required=False),
            Input("edit_2", "ERASE_EDIT", "One more erasure from another node.", required=False),
            Input("edit_3", "ERASE_EDIT", "One more erasure from another node.", required=False),
            Input("lora_stack", "LORA_STACK", "LoRAs from a stacker of another pack; they are put on first.",
                  required=False),
        ),
        outputs=(
            *_OUT,
            Output("LORA_STACK", "LORA_STACK", "The same as files for a stack loader of another pack, instead of "
                  "MODEL: "
                   "what came in, and every erasure that has a LoRA file in models/loras. Added up, not solved "
                   "jointly."),
            _REPORT,
        ),
        run=stack,
        aliases=_ALIASES,
        checks={"rows": _stack_problem},
        beside={"rows": ("edit_1", "edit_2", "edit_3")},
        state=_rows_state,
        hidden=METADATA,
        when="Take the load node for a single artifact, and the library node for many out of one collection.",
        cost="A joint solution takes well under a second on Stable Diffusion 1.5; encoding anew takes as long as "
             "erasing.",
    ),
    NodeSpec(
        id="EraseRevoke",
        title="Erase: take out of a stack",
        category="erase/apply",
        description=(
            "Brings back concepts that a stack erases. The rest is exactly what it would be had the concept never been "
            "in the stack, to the last bit."
        ),
        inputs=(
            Input("edit", "ERASE_EDIT", "The stack, or a closed-form artifact that erases several concepts."),
            Input("model", "MODEL", "The model as it was in front of the stack."),
            Input("names", "STRING", "One concept or artifact of the stack a line.",
                  options={"default": "", "multiline": True, "placeholder": "pizza"}),
            Input("protect", "BOOLEAN", "Also keep the concepts safe from the remaining erasures, instead of "
                  "forgetting "
                  "that they were ever erased.", options={"default": False}),
            _ANY, _EFFECTIVE, _CLIP,
        ),
        outputs=(*_OUT, Output("report", "STRING", "What was taken out and what is left.")),
        run=revoke,
        aliases=(*_ALIASES, "undo", "restore concept", "uncensor"),
        when="To switch one off for a moment, set its strength to 0 in the stack.",
        cost="One joint solution.",
        instead="# in front of the concept in 'Erase' (remove concepts), or strength 0 in 'Erase: stack'",
    ),
    NodeSpec(
        id="EraseLibrary",
        title="Erase: pick from a library",
        category="erase/apply",
        description=(
            "Erases concepts by name out of a collection of ready-made erasures, hundreds of them in one folder. "
            "What is "
            "picked is solved jointly, so twenty concepts disturb the rest as little as one request for all of "
            "them would."
        ),
        inputs=(
            Input("collection", "COMBO", "A collection in models/erase_plugins; press R after adding one.",
                  choices=files.collections),
            Input("names", "STRING", "One concept or artifact of the collection a line; name : strength is possible.",
                  options={"default": "", "multiline": True, "placeholder": "pizza\nvan gogh : 0.8"}),
            _MODEL,
            Input("strength", "FLOAT", "Of all together: 1 is what was evaluated, 0 leaves the model exactly as it is.",
                  options=_STRENGTH),
            _ANY, _EFFECTIVE, _CLIP,
        ),
        outputs=(*_OUT, _REPORT),
        run=library,
        aliases=(*_ALIASES, "collection", "catalogue", "many concepts"),
        checks={"collection": files.entry_problem, "names": rows_problem},
        state=lambda collection=None, **_: files.state(collection) if collection else "",
        when="Take the stack node for artifacts from different places or with weight changes.",
        cost="Reading and solving twenty concepts takes about a second; hundreds take a few.",
    ),
)  # fmt: skip

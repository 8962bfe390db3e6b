"""One node for every registered method, with its own options as widgets; methods of other packages included."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from erase_plugins.families.capabilities import DENOISER
from erase_plugins.manager import get_manager
from erase_plugins.needs import changes_weights, fitting
from erase_plugins.types import KINDS, Registered

from .. import needs, registry
from ..concepts import concept_problem, read_concepts, read_lines
from ..option_inputs import given_options, option_inputs
from ..spec import Input, NodeSpec, Output, Result

PREFIX = "EraseMethod"
#: what older workflows hold behind a seed, see `web/loading.js`
AFTER_RUN = ("fixed", "increment", "decrement", "randomize")
_ALIASES = ("erase plugins", "unlearn", "remove concept", "forget", "train", "concept erasure")


def make(
    method: str,
    erase: str,
    kind: str,
    strength: float,
    keep: str,
    seed: int,
    checkpoint: str,
    any_base: bool,
    preview_every: int,
    model: Any = None,
    clip: Any = None,
    vae: Any = None,
    **options: Any,
) -> Result:
    """MODEL and CLIP with what a method makes, the edit, and a report.

    Args:
        method: id of a registered method.
        erase: text box of concepts, see `concepts.read_concepts`.
        kind: kind of all concepts.
        strength: of the edit on the connected MODEL and CLIP.
        keep: one prompt a line.
        seed: of everything random in the method.
        checkpoint: work on this model instead of the connected one: "pocket", or a name in ComfyUI's model folders.
        any_base: allow the connected model to be a fine-tune of ``checkpoint``.
        preview_every: training steps between pictures; 0 shows none.
        model, clip: the connected model; neither is changed.
        vae: decodes the pictures.
        options: widgets of the method's own options.

    Raises:
        PackageMissing, RequestError, Unsupported, BaseMismatch: nothing was changed.
    """
    from .. import host
    from ..making import Job
    from ..opening import check_fits
    from ..patches import apply_edit, check_strength
    from ..targets import target_of
    from .closed_form import report

    missing = needs.problem(get_manager().method(method), checkpoint)
    if missing:
        raise needs.PackageMissing(missing)
    concepts = read_concepts(erase, kind)
    check_strength(strength)
    given = given_options(get_manager().method(method).Options, OWN, options)
    job = Job(method, concepts, tuple(read_lines(keep)), given, seed, checkpoint.strip(), preview_every)
    artifact, notes = job.made(model, clip, vae)
    if model is None:
        nothing = host.blocked(
            "connect MODEL (and CLIP) to the erase node: it made the edit, but had no model to put it on"
        )
        text = "\n".join([f"{artifact.name}: made for {artifact.manifest.base['model']}", *notes])
        return Result((nothing, nothing, artifact, text), text)
    with host.computing():
        target = target_of(model, clip)
        if checkpoint.strip():
            check_fits(artifact, target, any_base)
        done = apply_edit(target, artifact.edit, strength)
    text = "\n".join([report(artifact, done, strength, clip), *notes])
    return Result((done.model, nothing_for(clip, done.clip), artifact, text), text)


def nothing_for(clip: Any, edited: Any) -> Any:
    """The edited CLIP, or what says that none is connected."""
    from .. import host

    return host.blocked("connect CLIP to the erase node to get it here") if clip is None else edited


_INPUTS = (
    Input("erase", "STRING", "One concept a line; # starts a comment. 'pizza -> hamburger' where the method takes a "
          "replacement.", options={"default": "pizza", "multiline": True, "placeholder": "van gogh"}),
    Input("kind", "COMBO", "What the concepts are; some options depend on it.", options={"default": "object"},
          choices=KINDS),
    Input("strength", "FLOAT", "1 erases, 0 leaves the model exactly as it is. Another strength does not train again.",
          options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
    Input("keep", "STRING", "One prompt a line that must stay as it is.",
          options={"default": "", "multiline": True, "placeholder": "hamburger"}),
    Input("seed", "INT", "Seed of everything random in the method; the same seed gives the same edit.",
          options={"default": 0, "min": 0, "max": 2**32 - 1}),
    Input("checkpoint", "STRING", "Empty: work on the connected MODEL and CLIP. Otherwise on this model: 'pocket', or "
          "the name of a file or diffusers folder in models/checkpoints or models/diffusers.",
          options={"default": ""}),
    Input("any_base", "BOOLEAN", "Put an edit made on 'checkpoint' on a connected fine-tune of it.",
          options={"default": False}),
    Input("preview_every", "INT", "Training steps between pictures of the first concept; 0 shows none.",
          options={"default": 20, "min": 0, "max": 100_000}),
    Input("model", "MODEL", "The model to erase from, behind its LoRAs. It stays as it is.", False),
    Input("clip", "CLIP", "The CLIP that feeds the prompts; needed unless 'checkpoint' names a model.", False),
    Input("vae", "VAE", "Decodes the pictures shown while training; without it they are rough colours.", False),
)  # fmt: skip
_OUTPUTS = (
    Output("MODEL", "MODEL", "The model without the concepts; goes into a sampler."),
    Output("CLIP", "CLIP", "The CLIP with the erasure; the same as came in if it is not concerned."),
    Output("ERASE_EDIT", "ERASE_EDIT", "The edit itself; goes into the node that saves it."),
    Output("report", "STRING", "What was made and how, and where a finished or interrupted run is kept."),
)
#: inputs of every generated node; an option of the same name is called option_...
OWN = frozenset(item.name for item in _INPUTS)


def _checkpoint_problem(method: Any, checkpoint: str) -> str | None:
    if checkpoint in AFTER_RUN:
        return (
            f"'{checkpoint}' stands in 'checkpoint': the workflow is from an older version and its values are one "
            "place too far; load it again with the pack's script switched on, or write the values behind 'seed' again"
        )
    return needs.problem(method, checkpoint)


def node_id(method: str) -> str:
    """Node id of a method: "null-value" is EraseMethodNullValue."""
    parts = re.findall(r"[A-Za-z0-9]+", method)
    return PREFIX + "".join(part[:1].upper() + part[1:] for part in parts)


def method_spec(entry: Registered) -> NodeSpec:
    """The node of a registered method."""
    method = entry.item
    kinds = tuple(kind for kind in KINDS if kind in method.kinds) or KINDS
    inputs = tuple(
        Input(item.name, item.type, item.tooltip, item.required, {"default": kinds[0]}, kinds)
        if item.name == "kind"
        else item
        for item in _INPUTS
    )
    paper = method.paper if method.paper.startswith("https://") else ""
    summary = method.summary[:1].upper() + method.summary[1:]
    return NodeSpec(
        id=node_id(method.id),
        title=f"Erase: {method.title} (all options)",
        category="erase/make",
        description=(
            f"{summary}. Runs on the connected MODEL and CLIP or on a checkpoint, with every option of the method "
            f"'{method.id}' from {entry.package}; can be stopped and goes on where it was when run again."
        ),
        inputs=(*inputs, *option_inputs(method.Options, OWN)),
        outputs=_OUTPUTS,
        run=partial(make, method.id),
        aliases=(method.id, method.title, *_ALIASES),
        checks={"erase": concept_problem, "checkpoint": partial(_checkpoint_problem, method)},
        experimental=True,
        when="Take the UCE and RECE nodes for an erasure in seconds, and the load node for what is saved already.",
        cost=(
            "As long as the method takes on the command line, in this queue; while it trains, a copy of the denoiser "
            "in float32. The result is kept in output/erase_plugins: the same request is not run twice."
        ),
        paper=paper,
        instead=f"'Erase' (remove concepts) with the method {method.id}, and its options in 'options'",
        package=entry.package,
    )


def drawing_methods() -> tuple[Registered, ...]:
    """Registered methods that change weights of a model that draws; others, and guards, have no node.

    Nor have methods with ``graph_node = False``, whose artifacts ComfyUI cannot carry.
    """
    families = [entry.item for entry in get_manager().families() if DENOISER in entry.item.roles]
    return tuple(
        entry
        for entry in get_manager().methods()
        if changes_weights(entry.item)
        and getattr(entry.item, "graph_node", True)
        and (hasattr(entry.item, "families") or fitting(entry.item, families))
    )


def method_specs() -> tuple[NodeSpec, ...]:
    """Nodes of all registered methods that fit; one that cannot be described is noted for the doctor."""
    found: dict[str, NodeSpec] = {}
    for entry in drawing_methods():
        name = PREFIX + str(entry.item.id)
        try:
            spec = method_spec(entry)
            if spec.id in found:
                raise ValueError(
                    f"methods '{found[spec.id].aliases[0]}' and '{entry.item.id}' share the node {spec.id}"
                )
        except Exception as error:  # a plugin's mistake must not take the other nodes along
            registry.FAILURES[name] = f"{entry.package}: {type(error).__name__}: {error}"
            continue
        found[spec.id] = spec
    return tuple(found.values())


SPECS = method_specs()

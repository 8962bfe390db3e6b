"""The one node to erase with: rows of concepts, any method, solved jointly with erase nodes in front of it."""

from __future__ import annotations

from typing import Any

from erase_plugins.hints import sentence_of
from erase_plugins.manager import get_manager

from .. import needs
from ..behind import brought_back, merged
from ..concepts import read_phrases
from ..erasing import Row, erasures_problem, id_of, label, labels, method_of, read_erasures, split_options, trains
from ..search_options import AUTO
from ..spec import Input, NodeSpec, Output, Result
from ..wording import in_the_graph
from .closed_form import KINDS
from .methods import drawing_methods

#: rows whose numbers are told
_TOLD = 12
#: strength of a row times that of the node, which by itself goes up to 2
_MOST = 4.0


def erase(
    model: Any, clip: Any, erase: str, method: str, strength: float, kind: str, keep: str = "", options: str = "",
    vae: Any = None, behind: str = "",
) -> Result:  # fmt: skip
    """MODEL and CLIP without the concepts, everything erased so far as one artifact, and a report.

    Args:
        model, clip: the connected model; neither is changed.
        erase: rows, see `erasing.read_erasures`.
        method: entry of the list of methods, or an id.
        strength: times that of every row.
        kind: kind of all concepts.
        keep: one prompt a line.
        options: ``name = value`` lines for the method.
        vae: draws the first concept before and after, if connected.
        behind: LoRAs that the graph puts on behind this node, see `behind.read_behind`.

    Raises:
        PackageMissing, RequestError, Unsupported, BaseMismatch: nothing was changed.
    """
    from .. import chaining, host
    from ..patches import check_strength

    chosen = method_of(method)
    missing = needs.problem(chosen)
    if missing:
        raise needs.PackageMissing(missing)
    check_strength(strength)
    rows = tuple(row for row in read_erasures(erase, kind) if row.strength * strength != 0)
    given, training = split_options(chosen, options)
    kept = read_phrases(keep)
    found = _searched(rows, kept, given, model, clip) if rows and chosen is AUTO else None
    if found is not None:
        artifact, notes = found.artifact, []
    else:
        artifact, notes = _made(chosen, rows, kept, given, training, model, clip, vae) if rows else (None, [])
    left: dict[str, float] = {}
    back = merged(behind) if artifact is not None else []
    with host.computing():
        entries = () if artifact is None else _entries(artifact, rows, strength)
        done = chaining.put_on(model, clip, entries, fresh=True)
        lines: list[str] = []
        if artifact is not None:
            lines, left = _numbers(done, clip, kept) if found is None else _told(found, rows[0], strength)
            back = brought_back(
                behind, (done.model, done.clip), (done.bare, clip), done.artifact.manifest.concepts, left
            )
    told = {f"{row.concept.text} -> {row.concept.anchor}" for row in rows}
    lines += [*done.lines, *(note for note in notes if note not in told)]
    if artifact is not None:
        manifest = artifact.manifest
        lines.append(f"{manifest.method['title']}, {manifest.seconds:g} s, {manifest.base['model']}")
        lines = [*(f"warning: {text}" for text in (*_too_strong(rows, strength), *manifest.warnings)), *lines]
    shown: dict[str, list[Any]] = {"erase_left": [{"concept": name, "left": share} for name, share in left.items()]}
    if vae is not None and rows:
        prompt = rows[0].concept.text
        shown["erase_pictures"] = [_pictures(done, clip, vae, prompt)]
        lines.append(f"pictures: '{prompt}' before and after, from the same noise")
    if found is not None and found.picture is not None:
        shown["images"] = [found.picture]
    shown["erase_back"] = back
    text = "\n".join([*(f"warning: {line}" for line in back), *lines])
    return Result((done.model, done.clip, done.artifact, text), "\n".join(lines), shown=shown)


def _too_strong(rows: tuple[Row, ...], strength: float) -> list[str]:
    """What to say of strengths that were probably meant as percentages."""
    return [
        f"strength {row.strength * strength:g} of '{row.concept.text}' damages other pictures; 1 erases"
        for row in rows
        if abs(row.strength * strength) > _MOST
    ]


def _pictures(done: Any, clip: Any, vae: Any, prompt: str) -> dict[str, Any]:
    """The pair for the line to drag on the node: files, what they show, and the seed that both are from."""
    from .. import host
    from ..drawing import SEED, before_and_after

    with host.computing():
        images = before_and_after((done.bare, clip), (done.model, done.clip), vae, prompt)
    return {"images": host.previews(images), "prompt": prompt, "seed": SEED}


def _searched(rows: tuple[Row, ...], keep: tuple[str, ...], given: dict[str, str], model: Any, clip: Any) -> Any:
    """What a search for one concept took."""
    from erase_plugins.errors import RequestError

    from ..searching import searched

    if len(rows) > 1:
        raise RequestError("auto searches for one concept; put an erase node for each, one behind the other")
    return searched(rows[0].concept, keep, given, model, clip)


def _told(found: Any, row: Row, strength: float) -> tuple[list[str], dict[str, float]]:
    """The lines of a search, and the share that is left by concept, which it measures at strength 1 alone."""
    return list(found.lines), {row.concept.text: found.left} if row.strength * strength == 1.0 else {}


def _made(
    method: Any, rows: tuple[Row, ...], keep: tuple[str, ...], given: dict[str, str], training: dict[str, int],
    model: Any, clip: Any, vae: Any,
) -> tuple[Any, list[str]]:  # fmt: skip
    """The artifact of all rows at strength 1, so that another strength neither solves nor trains again."""
    import erase_plugins as ep
    from erase_plugins.errors import RequestError

    from .. import host
    from ..solved import solved
    from ..targets import target_of

    concepts = tuple(row.concept for row in rows)
    if trains(method):
        from ..making import Job

        with host.computing():
            target_of(model, clip).check_trainable()

        if len({row.strength for row in rows}) > 1:
            raise RequestError(
                f"'{method.id}' trains all rows together; give them one strength, in the widget 'strength', or take a "
                "method that works in seconds"
            )
        options: dict[str, Any] = dict(given)
        return Job(method.id, concepts, keep, options, training["seed"], "", training["preview_every"]).made(
            model, clip, vae
        )
    asked = ("erase", method.id, tuple((item.text, item.anchor, item.kind) for item in concepts), keep,
             tuple(sorted(given.items())))  # fmt: skip
    with host.computing(), host.Progress(len(concepts)) as bar:
        target = target_of(model, clip)
        found = solved(
            model, clip, asked,
            lambda: ep.erase(
                target, list(concepts), method.id, keep=keep, options=given, listeners=(bar,), cancel=bar.cancel
            ),
        )  # fmt: skip
    return found, list(found.manifest.notes)


def _entries(artifact: Any, rows: tuple[Row, ...], strength: float) -> tuple[Any, ...]:
    """Members of a stack: rows of one strength together."""
    from erase_plugins.compose import revoke
    from erase_plugins.stack import Entry

    groups: dict[float, list[str]] = {}
    for row in rows:
        groups.setdefault(row.strength * strength, []).append(row.concept.text)
    if len(groups) == 1:
        return (Entry(artifact, next(iter(groups))),)
    texts = [row.concept.text for row in rows]
    return tuple(
        Entry(revoke(artifact, [text for text in texts if text not in names], forget=True), value)
        for value, names in groups.items()
    )


def _numbers(done: Any, clip: Any, keep: tuple[str, ...]) -> tuple[list[str], dict[str, float]]:
    """Residual of every erased concept and drift of what stays, where the keys and values tell them; as lines, and the
    share that is left by concept."""
    from erase_plugins.errors import EraseError

    from ..probing import probe, residuals
    from ..targets import target_of

    manifest = done.artifact.manifest
    if done.artifact.edit.kinds != {"contextmap"}:
        return [
            "how much is left cannot be read off the weights with this method; connect vae, or take the measure node"
        ], {}
    now, before = target_of(done.model, done.clip), target_of(done.bare, clip)
    concepts = manifest.concepts[:_TOLD]
    try:
        found = probe(now, concepts, keep, before)
    except EraseError as error:
        return [f"how much is left cannot be told: {in_the_graph(error)}"], {}
    more = len(manifest.concepts) - len(concepts)
    return [*(item.line() for item in found), *([f"and {more} more"] if more > 0 else [])], residuals(found)


def _choices() -> list[str]:
    return labels([entry.item for entry in drawing_methods()])


def method_problem(entry: str) -> str | None:
    """Why a method cannot be taken; None if it can."""
    from erase_plugins.errors import EraseError, UnknownName

    try:
        return needs.problem(method_of(entry))
    except UnknownName as error:  # names only what this node can run
        known = [AUTO.id, *(found.item.id for found in drawing_methods())]
        return sentence_of(UnknownName("method", id_of(entry), known, error.left_out))
    except EraseError as error:
        return sentence_of(error)


SPECS = (
    NodeSpec(
        id="EraseNegative",  # editors that know no aliases search ids, and only the first 30 letters of a title
        title="Erase: remove concepts (ban, unlearn, negative)",
        short="Erase",
        category="erase",
        description=(
            "Removes concepts from the connected model, each with what it becomes, how strongly, and on or off. It is "
            "the negative that works at CFG 1, holds for every prompt and can be saved as a file; several of these "
            "nodes are solved jointly."
        ),
        inputs=(
            Input("model", "MODEL", "The model to erase from. Put this node last in the chain of LoRAs."),
            Input("clip", "CLIP", "The CLIP that feeds the prompts, behind clip skip and CLIP LoRAs."),
            Input("erase", "STRING", "One concept a line: pizza -> cake : 0.8 says what it becomes and how strongly, "
                  "both may be left out. # in front switches a line off.",
                  options={"default": "pizza -> hamburger", "multiline": True,
                           "placeholder": "pizza -> cake : 0.8\nvan gogh -> painting"}),
            Input("method", "COMBO", "How to erase. 'auto' tries methods and settings on one concept for some minutes. "
                  "The others solve in seconds, or train, which takes as long as on the command line. What takes long "
                  "can be stopped and resumed.",
                  choices=_choices, options={"default": label(get_manager().method("uce"))}),
            Input("strength", "FLOAT", "Times that of every line: 1 erases, 0 leaves the model exactly as it is, below "
                  "0 strengthens the concept.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
            Input("kind", "COMBO", "What the concepts are; decides what they become where no replacement is written.",
                  choices=KINDS, options={"default": "object"}),
            Input("keep", "STRING", "One prompt a line that must stay as it is. Common words are kept by themselves.",
                  required=False, options={"default": "", "multiline": True, "placeholder": "hamburger"}),
            Input("options", "STRING", "Options of the method, name = value, one a line; 'erase-plugins info' and the "
                  "name of the method, in a terminal, lists them. Empty is what was tested.",
                  required=False, options={"default": "", "multiline": True, "placeholder": "aliases = true",
                                           "advanced": True}),
            Input("vae", "VAE", "Draws the first concept before and after, on the node. Without it nothing is drawn.",
                  required=False),
            Input("behind", "STRING", "LoRAs and merges behind this node, name : strength of the model : strength of "
                  "the text encoder, one a line; the editor fills it in. The node says what they bring back.",
                  required=False, options={"default": "", "multiline": True, "advanced": True}),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model without the concepts; goes into a sampler."),
            Output("CLIP", "CLIP", "The CLIP with the erasure; the same as came in if it is not concerned."),
            Output("ERASE_EDIT", "ERASE_EDIT", "Everything that erase nodes up to here erase; goes into nodes that "
                   "save, take out or measure."),
            Output("report", "STRING", "How much of each concept is left, how far kept ones moved, and what was done."),
        ),
        run=erase,
        is_output=True,  # a loader and this node are a whole graph: it shows before and after by itself
        aliases=("erase plugins", "forget", "delete", "censor", "safety", "nsfw", "nudity", "style", "artist",
                 "celebrity", "negative prompt", "NAG", "NegPip", "UCE", "RECE"),
        # ComfyUI repeats a refusal for every checked input, so the other boxes are looked at when the node runs
        checks={"erase": erasures_problem, "method": method_problem},
        when="Take the load node for what is saved already, and the library node for concepts by name out of a "
             "collection.",
        cost="Seconds with the first methods: common words of the vocabulary are encoded once for a CLIP and kept in "
             "the cache folder, then it is one small system of equations. Another strength does not start over. With "
             "vae connected, two pictures more. The search takes as many minutes as its options say; it asks the model "
             "itself and makes no copy of it, but methods that train do.",
        paper="https://arxiv.org/abs/2308.14761",
    ),
)  # fmt: skip

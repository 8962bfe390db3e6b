"""What the page's buttons do, without Gradio: erase a typed concept, draw, measure, attack, publish."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.saved import REPORT, record_name
from erase_plugins.evaluation.wording import cell
from erase_plugins.hints import AnyHint, Hint, in_words
from erase_plugins.reports import AttackReport, EvalReport
from erase_plugins.types import Concept

#: characters of a prompt or concept that are looked at
_LONGEST = 300
#: erasures that are kept in memory
_KEPT = 8
_SEEDS = 2**31
#: what an address can say, in the order of `Studio.linked`
WORDS = ("concept", "becomes", "prompt", "seed", "strength")
#: a page's strength -> what manifests call it
_SPAN = (("low", "low"), ("best", "recommended"), ("high", "high"))
#: options that advice speaks of -> the page's fields for them
_FIELDS = {"erase": "Forget", "to": "Becomes", "out": "Folder", "model": "Model", "license": "Licence"}


@dataclass(frozen=True)
class Settings:
    """What one page shows.

    Attributes:
        title, heading, about: texts; the last two are Markdown.
        model, revision: what is loaded first, or only.
        artifact: folder beside the page or published artifact that is shown for ``concept``; "" for none.
        concept, prompt: what the fields say at first.
        low, best, high: strengths; 0 is the base.
        steps, guidance: of the sampler.
        method: id of a closed-form method that erases what is typed.
        images: pictures for each kind of prompt when it is measured; the suite's own number if None.
        budget: of the attack, by name or as a number of queries.
        local: the page serves its own user: models can be chosen, and results measured, attacked and published.
    """

    title: str = "erase-plugins"
    heading: str = "Take a concept out of a model"
    about: str = "Write what the model should forget, and a prompt. Left: the model. Right: the same seed without it."
    model: str = "pocket"
    revision: str | None = None
    artifact: str = ""
    concept: str = "pizza"
    prompt: str = "a pizza on a table"
    low: float = 0.0
    best: float = 1.0
    high: float = 1.2
    steps: int = 20
    guidance: float = 4.0
    method: str = "uce"
    images: int | None = None
    budget: str | int = "quick"
    local: bool = False

    @classmethod
    def showing(cls, manifest: Any, artifact: str, **more: Any) -> Settings:
        """The page about one artifact: its base model, what it erased, and its strengths where it names some.

        Args:
            manifest: of the artifact.
            artifact: where the page finds it; see the attribute.
            more: further attributes.
        """
        from erase_plugins.workflow.pairs import choose_prompts

        base, concept = manifest.base, ", ".join(manifest.erased)
        span = {name: float(manifest.strength[key]) for name, key in _SPAN if key in manifest.strength}
        return cls(
            model=base.get("model") or "MODEL", revision=base.get("revision") or None, artifact=artifact,
            concept=concept, prompt=choose_prompts(manifest, 1)[0], **{**span, **more},
        )  # fmt: skip


@dataclass
class Studio:
    """A page's models and erasures. People share one pipeline, so everything that touches it is done one at a time.

    Args:
        settings: of the page.
        folder: where the page's own files lie.
        device: torch device; a graphics card where there is one, if None.
        on_card: puts a function on a graphics card that is lent for each call, as ZeroGPU does it; asked once, at the
            start, since it wants to know the functions before the first call.
    """

    settings: Settings
    folder: Path | None = None
    device: str | None = None
    on_card: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda work: work
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _models: dict[str, Any] = field(default_factory=dict, repr=False)
    _erased: OrderedDict[tuple[str, str, str], Any] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        self._lent = self.on_card(self._pair)

    def open(self, model: str = "") -> Any:
        """The `Model` of that name, or the first one; only the last one is held.

        Raises:
            EraseError: it cannot be loaded, or another one than the page's own is asked of a public page.
        """
        from erase_plugins.workflow.models import as_target

        name = model.strip() or self.settings.model
        own = name == self.settings.model
        if not own and not self.settings.local:
            raise RequestError(f"this page has one model, {self.settings.model}")
        with self._lock:
            if name not in self._models:
                self._models.clear()
                self._erased.clear()
                revision = self.settings.revision if own else None
                found = as_target(name, revision, device=self.device or _best_device())
                if not {"text", "denoiser"} <= set(found.info.capabilities):
                    raise RequestError(
                        f"this page erases from models that draw by a prompt, and {found.info.model} does not; "
                        "in a terminal the command 'run' does for others"
                    )
                self._models[name] = found
            return self._models[name]

    def artifact(self, concept: str, becomes: str = "", model: str = "") -> Any:
        """The erasure of a typed concept: the page's own artifact where it is about it, else solved now.

        Args:
            concept: what is erased; several with commas between.
            becomes: what takes its place; the method's default if empty.
            model: see `open`.

        Raises:
            EraseError: no concept, one that the model does not know, or it cannot be erased.
        """
        from erase_plugins import api
        from erase_plugins.workflow.artifacts import load_artifact
        from erase_plugins.workflow.run import check_known

        text, other = _short(concept), _short(becomes)
        name = model.strip() or self.settings.model
        if not text:
            raise RequestError("write what the model should forget")
        key, own = (name, text, other), (self.settings.model, _short(self.settings.concept), "")
        with self._lock:
            target = self.open(name)
            if key not in self._erased:
                if self.settings.artifact and key == own:
                    beside = (self.folder or Path()) / self.settings.artifact
                    made = load_artifact(beside if beside.is_dir() else self.settings.artifact)
                else:
                    items = [Concept(part.strip(), anchor=other or None) for part in text.split(",") if part.strip()]
                    check_known(api.build_request(target, self.settings.method, items), target)
                    made = api.erase(target, items, self.settings.method)
                self._erased[key] = made
                while len(self._erased) > _KEPT:
                    self._erased.popitem(last=False)
            return self._erased[key]

    def draw(
        self, concept: str, becomes: str, prompt: str, seed: float | None, strength: float, model: str = "",
        warn: Callable[[str], object] = lambda text: None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Two PIL pictures of one prompt and seed: the base, and erased. The model is left as it was.

        Args:
            concept, becomes, model: as for `artifact`.
            prompt: what to draw; the page's own if empty.
            seed: of the noise.
            strength: of the erasure, within the page's bounds.
            warn: told what speaks against the concept, such as a word that the model does not know.
        """
        settings = self.settings
        weight = min(max(float(strength), settings.low), settings.high)
        words = (concept, becomes, model, _short(prompt) or settings.prompt, _number(seed), weight)
        base, erased, warnings = self._lent(*words)
        if warnings:
            warn("; ".join(warnings))  # one message, which the page shows whole
        return base, erased

    def _pair(
        self, concept: str, becomes: str, model: str, prompt: str, seed: int, weight: float
    ) -> tuple[Any, Any, tuple[str, ...]]:
        from erase_plugins import api
        from erase_plugins.evaluation.sheet import enlarged

        with self._lock:  # taken here: where cards are lent, this runs in a process of its own
            target, made = self.open(model), self.artifact(concept, becomes, model)
            how: dict[str, Any] = {"seeds": seed, "steps": self.settings.steps, "guidance": self.settings.guidance}
            base = api.generate(target, prompt, **how)
            erased = api.generate(target, prompt, [made], strength=weight, **how)
        return enlarged(base[0]), enlarged(erased[0]), tuple(made.manifest.warnings)

    def measure(self, concept: str, becomes: str = "", model: str = "", tell: Any = None) -> EvalReport:
        """The quick suite on the erasure."""
        from erase_plugins import api

        with self._lock:
            made, settings = self.artifact(concept, becomes, model), self.settings
            more: dict[str, Any] = {} if settings.images is None else {"images": settings.images}
            return api.evaluate(self.open(model), made, "quick", progress=tell, **more)

    def attack(self, concept: str, becomes: str = "", model: str = "", tell: Any = None) -> AttackReport:
        """The cheapest attack on the erasure, with the smallest budget."""
        from erase_plugins import api

        with self._lock:
            made = self.artifact(concept, becomes, model)
            return api.attack(self.open(model), made, budget=self.settings.budget, progress=tell)

    def save(self, folder: str, concept: str, becomes: str = "", model: str = "") -> Any:
        """The erasure as a new artifact folder, with a LoRA for every program."""
        from erase_plugins.workflow.artifacts import save_artifact

        if not folder.strip():
            raise RequestError("write the folder that the files go to")
        with self._lock:
            made = self.artifact(concept, becomes, model)
            return save_artifact(made, Path(folder.strip()).expanduser(), target=self.open(model))

    def publish(
        self, repo: str, concept: str, becomes: str = "", model: str = "", report: EvalReport | None = None,
        attacked: AttackReport | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Publishes the erasure with its card; see `erase_plugins.push`.

        Args:
            repo: "owner/name".
            concept, becomes, model: as for `artifact`.
            report, attacked: what was measured, and what an attack reached.
            options: private, license, dry_run.
        """
        from erase_plugins.sharing import push

        if not self.settings.local:
            raise RequestError("this page publishes nothing")
        with tempfile.TemporaryDirectory(prefix="erase-plugins-page-") as place:
            made = self.save(f"{place}/made", concept, becomes, model)
            found: dict[str, EvalReport | AttackReport] = {REPORT: report} if report is not None else {}
            found |= {record_name(attacked.attack): attacked} if attacked is not None else {}
            told = Path(place) / "found"
            told.mkdir()
            for name, item in found.items():
                (told / name).write_text(json.dumps(item.to_dict()), encoding="utf-8")
            return push(made, repo.strip(), report=told if found else None, **options)

    def examples(self) -> list[tuple[str, str]]:
        """Pictures that were drawn beforehand: (file, caption), before and after by turns."""
        place = (self.folder or Path()) / "images"
        if self.folder is None or not (place / "pairs.json").is_file():
            return []
        pairs = json.loads((place / "pairs.json").read_text(encoding="utf-8"))["pairs"]
        return [
            (str(self.folder / pair[side]), f"{pair['prompt']}, seed {pair['seed']}")
            for pair in pairs
            for side in ("before", "after")
        ]

    def link(self, concept: str, becomes: str, prompt: str, seed: float | None, strength: float) -> str:
        """The part of the page's address that brings these words back; nothing is stored anywhere."""
        said = (_short(concept), _short(becomes), _short(prompt), _number(seed), f"{float(strength):g}")
        return "?" + urlencode([(key, value) for key, value in zip(WORDS, said, strict=True) if value != ""])

    def linked(self, query: Mapping[str, str]) -> tuple[str, str, str, int, float]:
        """The words of an address that `link` made; the page's own where it says nothing that can be used."""
        settings, strength = self.settings, self.settings.best
        with suppress(ValueError):
            asked = float(query.get("strength", ""))
            strength = strength if isnan(asked) else min(max(asked, settings.low), settings.high)
        concept, prompt = _short(query.get("concept")), _short(query.get("prompt"))
        seed = query.get("seed", "")
        return (
            concept or settings.concept, _short(query.get("becomes")), prompt or settings.prompt,
            _number(int(seed) if seed.isdecimal() and len(seed) < 12 else 0), strength,
        )  # fmt: skip


def on_card(work: Callable[..., Any], seconds: int = 90) -> Callable[..., Any]:
    """The function on a card of ZeroGPU for so long at most; as it is where the package ``spaces`` is missing."""
    try:
        import spaces
    except ImportError:
        return work
    lent: Callable[..., Any] = spaces.GPU(duration=seconds)(work)
    return lent


def rates(report: EvalReport) -> list[list[str]]:
    """Rows of a table: what was measured, before, after."""
    found = {(row.metric, row.subject): row for row in report.rows}
    metrics = dict.fromkeys(row.metric for row in report.rows if row.subject in ("base", "edited"))
    return [[name.replace("_", " "), *(cell(found.get((name, at))) for at in ("base", "edited"))] for name in metrics]


def on_page(error: object) -> str:
    """What an error says, with the page's fields in place of options; what the page has not is the terminal's."""

    def write(hint: AnyHint) -> str:
        if isinstance(hint, Hint) and hint.option in _FIELDS:
            return replace(hint, option=_FIELDS[hint.option], value="").by_name()
        return hint.in_terminal()

    said = in_words(error, write)
    return f"{said}." if said.endswith("'") else said  # Gradio takes quotes at both ends for its own


def sentence(report: AttackReport) -> str:
    """One line on an attack."""
    found = report.success
    return (
        f"Attack {report.attack} ({found.subject}): came back in {100 * found.value:.3g} % of {found.n} pictures "
        f"({100 * found.low:.3g} to {100 * found.high:.3g}); {report.queries} pictures were drawn for it."
    )


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _short(text: object) -> str:
    return " ".join(str(text or "").split())[:_LONGEST].strip()


def _number(seed: float | None) -> int:
    return int(seed or 0) % _SEEDS

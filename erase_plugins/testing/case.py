"""One method on one model, with the runs that several checks share."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from erase_plugins.data import DataRef
from erase_plugins.families.capabilities import LANGUAGE, TEXT
from erase_plugins.needs import changes_weights, lacks, needs_of
from erase_plugins.testing.models import fresh_pipeline, shared_pipeline
from erase_plugins.types import Concept, EditPlan, EraseRequest, ForgetItem

#: kept prompts of every request
KEEP = ("hamburger",)
_TEXT = {
    "object": "pizza",
    "style": "watercolor",
    "person": "a tall man",
    "explicit": "pizza",
    "fact": "pizza",
    "class": "pizza",
}
#: the first of four invented people; what is said of the others stays; for methods that read texts
_PERSON = ForgetItem("person 1", "person", data=DataRef(str(Path(__file__).with_name("facts.jsonl"))))


@dataclass(frozen=True)
class Observation:
    """One run seen from outside.

    Attributes:
        artifact: its result.
        events: what it reported.
        work_files, stray_files: files in its work folder and in the working directory.
        drew: whether the process-wide random generators moved.
        difference: how the model differs from before; empty if it does not.
    """

    artifact: Any
    events: tuple[Any, ...]
    work_files: frozenset[str]
    stray_files: frozenset[str]
    drew: bool
    difference: str

    @property
    def checkpoints(self) -> bool:
        """Whether a checkpoint was saved."""
        return any(event.kind == "checkpoint" for event in self.events)

    @property
    def steps(self) -> tuple[Any, ...]:
        """Progress events."""
        return tuple(event for event in self.events if event.kind == "step")


class Case:
    """A method under test.

    Args:
        method_id: registered id.
        model: name in `erase_plugins.testing.models.MODELS`.
        options: replaces the method's ``contract_options``.
        concept: what is erased; by default a word that the embedded tokenizer knows, of a kind the method supports.
    """

    def __init__(
        self, method_id: str, model: str, options: Mapping[str, Any] | None = None, concept: Concept | None = None
    ) -> None:
        from erase_plugins.manager import get_manager

        self.method = get_manager().method(method_id)
        self.model = model
        self.options = dict(getattr(self.method, "contract_options", {}) if options is None else options)
        kind = "object" if "object" in self.method.kinds else sorted(self.method.kinds)[0]
        self.concept = concept or (_PERSON if self._reads_texts else Concept(_TEXT.get(kind, "pizza"), kind))
        self._observed: Observation | Exception | None = None

    def __str__(self) -> str:
        return f"{self.method.id}-{self.model}"

    @property
    def _reads_texts(self) -> bool:
        return LANGUAGE in needs_of(self.method) and getattr(self.method, "reads_data", False)

    @property
    def pipe(self) -> Any:
        """The shared pipeline; every check leaves it as it was."""
        return shared_pipeline(self.model)

    def fresh(self) -> Any:
        """A pipeline that may be spoiled."""
        return fresh_pipeline(self.model)

    def target(self, pipe: Any = None) -> Any:
        """A new target with an empty cache."""
        from erase_plugins.workflow.models import target_of

        return target_of(self.pipe if pipe is None else pipe, self.model)

    @cached_property
    def info(self) -> Any:
        """Model configuration."""
        return self.target().info

    @property
    def supported(self) -> bool:
        """Whether the model offers what the method needs."""
        return not lacks(self.method, self.info)

    @property
    def guard(self) -> bool:
        """Whether the method changes no weights, and acts while the model runs."""
        return not changes_weights(self.method)

    @property
    def keep(self) -> tuple[str, ...]:
        """Prompts that must stay, for a model that reads prompts."""
        return KEEP if TEXT in self.info.capabilities else ()

    def request(self, **options: Any) -> EraseRequest:
        """The request, with single options replaced."""
        return EraseRequest(
            model=self.model, concepts=(self.concept,), method=self.method.id, preserve=self.keep,
            options={**self.options, **options},
        )  # fmt: skip

    def plan(self, **options: Any) -> EditPlan:
        """The method's plan."""
        from erase_plugins.workflow.run import make_plan

        return make_plan(self.request(**options), self.info)

    def run(self, pipe: Any = None, **arguments: Any) -> Any:
        """A run through the engine (`erase_plugins.workflow.run.run_plan`)."""
        from erase_plugins.testing.models import changed_since
        from erase_plugins.testing.observe import snapshot
        from erase_plugins.workflow.run import run_plan

        pipe = self.pipe if pipe is None else pipe
        before = snapshot(pipe)
        try:
            return run_plan(self.plan(), self.target(pipe), **arguments)
        finally:
            changed_since(pipe, before)

    def erase(self, out: Path, **arguments: Any) -> Any:
        """A run through the public function, which writes ``out``."""
        from erase_plugins.api import erase

        return erase(
            self.target(), self.concept, self.method.id, keep=self.keep, options=self.options, out=out, **arguments
        )  # fmt: skip

    @property
    def artifact(self) -> Any:
        """The result of one undisturbed run, shared by the checks."""
        return self.observed.artifact

    @cached_property
    def edited(self) -> Any:
        """What the model predicts with the artifact applied, computed once; see `observe.predictions`."""
        from erase_plugins.testing.observe import applied_predictions

        return applied_predictions(self.pipe, self.artifact)

    @property
    def observed(self) -> Observation:
        """The shared run and what it did besides; an error is raised again without running again."""
        if isinstance(self._observed, Exception):
            raise self._observed
        if self._observed is None:
            try:
                self._observed = self._observe()
            except Exception as error:
                self._observed = error
                raise
        return self._observed

    def _observe(self) -> Observation:
        from erase_plugins.testing.models import changed_since
        from erase_plugins.testing.observe import files_below, global_random_state, global_seed, no_network, snapshot

        events: list[Any] = []
        pipe = self.pipe
        before = snapshot(pipe)
        with scratch() as folder, global_seed(1):
            work = folder / "work"
            work.mkdir()
            state = global_random_state()
            with working_directory(folder / "here"), no_network():
                artifact = self.run(pipe, work=work, listeners=(events.append,))
            drew, difference = global_random_state() != state, changed_since(pipe, before)
            stray = files_below(folder / "here")
            return Observation(artifact, tuple(events), files_below(work), stray, drew, difference)

    def plain(self, artifact: Any) -> Any:
        """The artifact without what differs from run to run: time and duration."""
        return replace(artifact, manifest=replace(artifact.manifest, created="", seconds=0.0))


class StopAfter:
    """Listener that cancels a run after the given event kind was seen ``times`` times."""

    def __init__(self, kind: str, times: int = 1) -> None:
        self.kind, self.left = kind, times
        self.cancel = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.seen.append(event)
        if event.kind == self.kind:
            self.left -= 1
            if self.left <= 0:
                self.cancel.set()


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="contract-") as name:
        yield Path(name).resolve()


@contextmanager
def working_directory(folder: Path) -> Iterator[Path]:
    """Runs the with-block inside a new folder, so that stray files are noticed."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)

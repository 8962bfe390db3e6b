"""The contract that model families keep, as a pytest class.

    from erase_plugins.testing.families import FamilyContract

    class TestMyFamily(FamilyContract):
        models = {"my-family": build}

``build(seed)`` gives a tiny model with random weights as a user would hold it, a pipeline or a module. That methods run
on it is for `MethodContract` with the same function in `testing.models.MODELS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.testing.capable import CAPABLE
from erase_plugins.testing.items import ItemContract, described

#: configurations that belong to no model
NOBODY: tuple[Mapping[str, Any], ...] = (
    {},
    {"model": {}},
    {"unet": {}, "transformer": {}},
    {"model": {"architectures": None}},
)


@dataclass
class Hosted:
    """A family, and a tiny model of it."""

    family: Any
    build: Callable[[int], Any]

    @cached_property
    def host(self) -> Any:
        """The model as a user holds it."""
        return self.build(0)

    @cached_property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """What is known of it without weights."""
        from erase_plugins.families.hosts import host_configs

        return host_configs(self.host)

    @cached_property
    def model(self) -> Any:
        """The model as methods see it."""
        from erase_plugins.workflow.models import target_of

        return target_of(self.host, "tiny")

    @cached_property
    def edit(self) -> Any:
        """A random low-rank change of a few modules."""
        from erase_plugins.testing.edits import random_edits

        return random_edits(self.model)["lowrank"].scaled(20.0)


def describes_itself(case: Hosted) -> None:
    """The registry accepts it; it has a title."""
    described("erase_families", case.family)


def knows_its_models(case: Hosted) -> None:
    """`detect` says yes to its own model and to no configuration of another; no other family takes its model."""
    from erase_plugins.families.source import EMBEDDED, find_source
    from erase_plugins.manager import get_manager

    assert case.family.detect(case.configs), f"detect does not know its own model: {', '.join(case.configs)}"
    taken = [configs for configs in NOBODY if case.family.detect(configs)]
    assert not taken, f"detect takes {taken[0] if taken else ''}, which is no model"
    others = [entry.item for entry in get_manager().families() if entry.item.id != case.family.id]
    odd = [item.id for item in others if item.detect(case.configs)]
    assert not odd, f"its model is taken by {', '.join(odd)} too"
    for name in EMBEDDED:
        configs = find_source(name).configs
        owner = next((item.id for item in others if item.detect(configs)), None)
        assert owner is None or not case.family.detect(configs), f"detect takes {name}, of {owner}"


def spec_needs_no_weights(case: Hosted) -> None:
    """`info` gives the same each time, from configuration alone, without files, network or global random numbers."""
    import copy

    from erase_plugins.testing.case import scratch, working_directory
    from erase_plugins.testing.observe import files_below, global_random_state, no_network

    given, state = copy.deepcopy(dict(case.configs)), global_random_state()
    with scratch() as folder, working_directory(folder / "here"), no_network():
        first, second = (case.family.info("tiny", given) for _ in range(2))
        stray = files_below(folder)
    assert not stray, f"info wrote {', '.join(sorted(stray))}"
    assert given == case.configs, "info changes the configurations that it is given"
    assert first.refs == second.refs, "asked twice, info lists other modules"
    assert global_random_state() == state, "info draws from or seeds the global random generators"
    assert case.family.id in first.profiles, (
        f"profiles {first.profiles} lack the family's id, by which presets are found"
    )
    shown = {ref.component for ref in first.refs} - set(case.family.components)
    assert not shown, f"modules of {', '.join(sorted(shown))}, which is none of its components"


def modules_are_the_models(case: Hosted) -> None:
    """Every listed module is there, once, with its shape and its bias; at least one group has modules."""
    refs = case.model.info.refs
    assert refs, "info lists no modules, so that nothing can be edited"
    assert len({(ref.component, ref.path) for ref in refs}) == len(refs), "a module is listed twice"
    for ref in refs:
        try:
            weight, module = case.model.weight(ref), case.model.module(ref)
        except Exception as error:
            raise AssertionError(f"{ref.component}.{ref.path} is listed and cannot be read: {error}") from error
        assert tuple(weight.shape) == ref.shape, f"{ref.path} has the shape {tuple(weight.shape)}, not {ref.shape}"
        there = getattr(module, "bias", None) is not None
        assert there == ref.bias, f"{ref.path} has {'a' if there else 'no'} bias, and info says otherwise"
    full = [name for name, picker in case.family.groups.items() if any(map(picker, refs))]
    assert full, f"no module is in any of the groups {', '.join(case.family.groups)}"


def names_go_both_ways(case: Hosted) -> None:
    """`locate` is the inverse of `stem` in every layout that the family has names for; no two modules share a name."""
    from erase_plugins.manager import get_manager

    info = case.model.info
    for layout in sorted({item.stems for entry in get_manager().layouts() if hasattr(item := entry.item, "stems")}):
        named: dict[str, str] = {}
        for ref in (ref for ref in info.refs if ref.kind in ("linear", "conv")):
            try:
                stem = case.family.stem(layout, ref.component, ref.path, info.configs.get(case.family.denoiser))
            except Unsupported:
                continue  # it has no names for this layout, or for this module
            assert stem not in named, f"{ref.path} and {named.get(stem)} have the same name in {layout}: {stem}"
            named[stem] = ref.path
            back = case.family.locate(layout, stem, info.configs.get(case.family.denoiser))
            wanted = (ref.component, ref.path)
            assert back == wanted, f"{stem} in {layout} is located at {back}, not at {'.'.join(wanted)}"
        if named:
            lost = case.family.locate(layout, "no_such_module_anywhere")
            assert lost is None or lost not in _places(info), f"locate finds a module for a name that is none: {lost}"


def _places(info: Any) -> set[tuple[str, str]]:
    return {(ref.component, ref.path) for ref in info.refs}


def capabilities_are_there(case: Hosted) -> None:
    """What `roles` promises can be asked: encoded, predicted, classified, continued, the same each time."""
    from erase_plugins.testing.observe import global_random_state

    assert case.model.family.id == case.family.id, f"the model is taken for one of {case.model.family.id}"
    state = global_random_state()
    for role in sorted(case.model.info.capabilities & set(CAPABLE)):
        CAPABLE[role](case.model)
    assert global_random_state() == state, "asking draws from or seeds the global random generators"


def weights_have_a_fingerprint(case: Hosted) -> None:
    """Every component with modules has one, the same each time, and another for other weights."""
    from erase_plugins.workflow.models import target_of

    first, again = case.model.fingerprint(), case.model.fingerprint()
    other = target_of(case.build(1), "other").fingerprint()
    parts = {ref.component for ref in case.model.info.refs}
    assert parts <= set(first), f"no fingerprint of {', '.join(sorted(parts - set(first)))}"
    assert first == again, "two fingerprints of the same weights differ"
    assert any(first[part] != other[part] for part in parts), "build(0) and build(1) have the same weights"


def edits_go_on_and_off(case: Hosted) -> None:
    """A random change shows in what the model says; it is saved and read in the family's own layouts, and taken off."""
    import torch

    from erase_plugins.testing.models import changed_since
    from erase_plugins.testing.observe import applied_predictions, predictions, snapshot
    from erase_plugins.workflow.artifacts import load_artifact

    base = predictions(case.host)
    before = snapshot(case.host)  # after the first pass, in which transformers installs its own hooks
    artifact = _artifact(case)
    with tempfile.TemporaryDirectory(prefix="family-") as name:
        saved = artifact.save(Path(name) / "out", target=case.model)
        with_edit = applied_predictions(case.host, load_artifact(Path(name) / "out"))
    assert saved.manifest.files, "no layout takes a low-rank change of it"
    assert bool(torch.isfinite(with_edit).all()), "with a small change, the model says NaN or infinity"
    assert not torch.equal(with_edit, base), "a change of its modules does not show in what the model says"
    difference = changed_since(case.host, before)
    assert not difference, f"the model does not become what it was: {difference}"
    assert torch.equal(predictions(case.host), base), "taken off again, the model says something else"


def _artifact(case: Hosted) -> Any:
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.manifest import Manifest, describe_base
    from erase_plugins.types import Concept

    return Artifact(Manifest(
        name="erase_pizza", method={"id": "test", "title": "Test"}, concepts=(Concept("pizza"),),
        base=describe_base(case.model), kinds=("lowrank",), rank=case.edit.rank, modules=len(case.edit),
    ), case.edit)  # fmt: skip


def opens_what_was_saved(case: Hosted) -> None:
    """A folder that the model is saved into is opened with the same weights (hosts with ``save_pretrained``)."""
    from erase_plugins.workflow.models import as_target

    if not hasattr(case.host, "save_pretrained"):
        return
    with tempfile.TemporaryDirectory(prefix="family-") as name:
        case.host.save_pretrained(Path(name) / "model")
        opened = as_target(str(Path(name) / "model"))
        assert opened.family.id == case.family.id, f"the saved model is taken for one of {opened.family.id}"
        assert opened.fingerprint() == case.model.fingerprint(), "opened again, the weights are others"
        assert opened.info.refs == case.model.info.refs, "opened again, other modules are listed"


CHECKS = (
    describes_itself, knows_its_models, spec_needs_no_weights, modules_are_the_models, names_go_both_ways,
    capabilities_are_there, weights_have_a_fingerprint, edits_go_on_and_off, opens_what_was_saved,
)  # fmt: skip


class FamilyContract(ItemContract):
    """Subclass it under a name that starts with ``Test``.

    Attributes:
        models: id of a family -> function that makes a tiny model of it, from a seed of its weights.
    """

    checks = CHECKS
    models: ClassVar[Mapping[str, Callable[[int], Any]]] = {}

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]  # those with a model
        """Ids of the families under test."""
        return tuple(self.models)

    def case(self, name: str) -> Hosted:
        from erase_plugins.manager import get_manager

        if name not in self.models:
            raise RequestError(f"no model of family {name}; give {type(self).__name__} one in 'models'")
        return Hosted(get_manager().family(name), self.models[name])

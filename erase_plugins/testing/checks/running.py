"""A run gives the same valid edit for the same seed and leaves the model, the folder and the process alone."""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch

from erase_plugins.errors import EraseError
from erase_plugins.testing.case import Case, scratch
from erase_plugins.testing.checks import check
from erase_plugins.testing.observe import global_seed
from erase_plugins.types import STAND_IN


@check
def edit_is_valid(case: Case) -> None:
    """Finite, of declared kinds, for this family; every key and shape fits the model."""
    from erase_plugins.artifacts.store import lower_for
    from erase_plugins.runtime.guard import resolve_parameters

    try:
        edit = case.artifact.edit
    except EraseError as error:
        raise AssertionError(f"the run was refused: {error}") from error
    assert len(edit), "the edit changes nothing"
    assert edit.family == case.info.family.id, f"the edit is for family {edit.family}"
    edit.check_finite()
    undeclared = edit.kinds - case.method.produces
    assert not undeclared, f"kinds {', '.join(sorted(undeclared))} are not in produces"
    promised = {"addon" if kind == STAND_IN else kind for kind in case.plan().produces} - edit.kinds
    assert not promised, f"the plan says that the edit holds {', '.join(sorted(promised))}"
    parameters = resolve_parameters(lower_for(edit, case.target()), case.target())
    assert parameters or edit.kinds == {"addon"}, "no parameter of the model is changed"


@check
def run_is_deterministic(case: Case) -> None:
    """Two runs with one seed give the same bits, whatever the state of the global generators."""
    import torch

    first = case.artifact
    with global_seed(2):
        second = case.run()
    mine, theirs = list(first.edit.items()), list(second.edit.items())
    assert [item[:2] for item in mine] == [item[:2] for item in theirs], "two runs change different parameters"
    for (component, key, delta), (_, _, other) in zip(mine, theirs, strict=True):
        for name, tensor in delta.tensors().items():
            same = torch.equal(tensor, other.tensors()[name])
            assert same, f"{component} {key}: {name} differs between two runs; draw from ctx.generator(...) only"
    assert artifact_hash(case, first) == artifact_hash(case, second), "equal tensors, but the files differ"


def artifact_hash(case: Case, artifact: object) -> str:
    """SHA-256 of the lossless file, time and duration left out."""
    with scratch() as folder:
        saved = case.plain(artifact).save(folder / "out", ("patch",), case.target())
        names = [item.name for item in saved.manifest.files]
        return hashlib.sha256(b"".join((folder / "out" / name).read_bytes() for name in names)).hexdigest()


@check
def run_leaves_the_model_alone(case: Case) -> None:
    """Weights bit for bit, hooks, modes and flags as before; global generators untouched."""
    observed = case.observed
    assert not observed.difference, f"the run changed the base model: {observed.difference}"
    assert not observed.drew, "the run drew from or seeded the global random generators"


@check
def run_writes_no_files(case: Case) -> None:
    """Nothing but the checkpoint and what ``work_files`` declares appears, all of it safetensors or JSON."""
    from erase_plugins.engine.checkpoint import FILE, RECORD

    work, here = case.observed.work_files, case.observed.stray_files
    allowed = (FILE, RECORD, *getattr(case.method, "work_files", ()))
    undeclared = sorted(name for name in work if not any(fnmatch(name, pattern) for pattern in allowed))
    assert not here, f"the run wrote into the working directory: {', '.join(sorted(here))}"
    assert not undeclared, f"the run wrote undeclared files: {', '.join(undeclared)}; name them in work_files"
    odd = sorted(name for name in work if not name.endswith((".safetensors", ".json")))
    assert not odd, f"the run wrote {', '.join(odd)}; only safetensors and JSON are safe to read back"


@check
def run_reports_progress(case: Case) -> None:
    """At least one step is reported, never beyond the total."""
    steps = case.observed.steps
    assert steps, "the run never calls ctx.step(done, total), so it cannot show progress or be cancelled"
    for event in steps:
        assert 0 <= event.done <= event.total, f"step {event.done} of {event.total}"

"""A method that changes no weights says so, and what it puts in front of a model is sound and goes without a trace."""

from __future__ import annotations

import json

from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import guard_check
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import global_seed, snapshot


@guard_check
def policies_are_sound(case: Case) -> None:
    """The run gives policies and no change of weights; they survive JSON, and each stage is of a known type."""
    from erase_plugins.artifacts.policy import check_action, policies

    assert not len(case.artifact.edit), "a guard's run returns RunResult(None, guards=...), and no edit"
    found = policies(case.artifact.manifest)
    assert found, "the run gives no policy: RunResult(None, guards=(policy,))"
    for policy in found:
        assert json.loads(json.dumps(policy, allow_nan=False)) == policy, "the policy changes on its way through JSON"
        check_action(policy["action"], policy["message"])
        named = case.concept.name in policy["concept"]
        assert named or not policy["shareable"], f"the policy says '{policy['concept']}', not what it guards"


@guard_check
def policies_are_equal(case: Case) -> None:
    """Two runs with one seed give the same policies."""
    with global_seed(2):
        again = case.run()
    same = again.manifest.guards == case.artifact.manifest.guards
    assert same, "two runs give two policies; draw from ctx.generator(...) only"


@guard_check
def guard_goes_on_and_off(case: Case) -> None:
    """Saved, loaded and put in front of the model, it can be switched off and goes without a trace."""
    from erase_plugins.testing.case import scratch
    from erase_plugins.workflow.applying import apply
    from erase_plugins.workflow.artifacts import load_artifact

    before = snapshot(case.pipe)
    with scratch() as folder:
        case.artifact.save(folder / "out", target=case.target())
        loaded = load_artifact(folder / "out")
    with apply(case.pipe, loaded) as handle:
        handle.set_strength(0.0)
        handle.set_strength(1.0)
    difference = changed_since(case.pipe, before)
    assert not difference, f"taken off again, the guard left a trace: {difference}"

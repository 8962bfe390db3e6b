"""Plans need no weights, change nothing, survive JSON, and refuse bad options before any work."""

from __future__ import annotations

import json
from functools import partial

from erase_plugins.errors import RequestError
from erase_plugins.options import describe
from erase_plugins.testing.case import Case, scratch, working_directory
from erase_plugins.testing.checks import check, refused
from erase_plugins.testing.observe import files_below, global_random_state, no_network
from erase_plugins.types import EditPlan


@check
def plan_is_pure(case: Case) -> None:
    """Same plan every time, from configuration alone, without files, network or global random numbers."""
    request, info = case.request(), case.info
    asked, state = request.to_dict(), global_random_state()
    with scratch() as folder, working_directory(folder / "here"), no_network():
        first, second = case.method.plan(request, info), case.method.plan(request, info)
        stray = files_below(folder)
    assert isinstance(first, EditPlan), f"plan returned {type(first).__name__} instead of an EditPlan"
    assert not stray, f"plan wrote {', '.join(sorted(stray))}"
    assert first.to_dict() == second.to_dict(), "planning twice gives two different plans"
    assert request.to_dict() == asked, "plan changed the request it was given"
    assert global_random_state() == state, "plan drew from or seeded the global random generators"


@check
def plan_survives_json(case: Case) -> None:
    """A plan written as JSON and read back is the same plan."""
    plan = case.plan().to_dict()
    again = EditPlan.from_dict(json.loads(json.dumps(plan))).to_dict()
    assert json.dumps(again, sort_keys=True) == json.dumps(plan, sort_keys=True), (
        "the plan changes on its way through JSON"
    )


@check
def plan_is_complete(case: Case) -> None:
    """Modules exist in the model, estimates are not negative, every option has a value."""
    plan = case.plan()
    known = {f"{ref.component}.{ref.path}" for ref in case.info.refs}
    assert plan.modules, "the plan names no modules"
    odd = [name for name in plan.modules if name not in known]
    assert not odd, f"the plan names {odd[0]}, which is not component.path of a module of {case.model}"
    assert plan.steps >= 1, f"the plan has {plan.steps} steps"
    for name in ("seconds", "memory_bytes", "file_bytes"):
        value = getattr(plan, name)
        assert value is None or value >= 0, f"the plan's {name} is {value}"
    missing = [item.name for item in describe(case.method.Options) if item.name not in plan.options]
    assert not missing, f"the plan's options lack {', '.join(missing)}; put options.as_dict(resolved) into it"
    assert plan.request.method == case.method.id


@check
def bad_options_are_refused(case: Case) -> None:
    """Unknown names, wrong types and values outside the bounds are errors at plan time."""
    bad: list[tuple[str, object]] = [("no_such_option", 1)]
    for item in describe(case.method.Options):
        kinds = item.type.split(" or ")
        if "int" in kinds or "float" in kinds:
            bad += [(item.name, value) for value in ("not a number", "nan")]
            bad += [(item.name, item.low - 1)] if item.low is not None else []
            bad += [(item.name, item.high + 1)] if item.high is not None else []
        if item.choices:
            bad.append((item.name, "no such choice"))
    for name, value in bad:
        refused(RequestError, partial(case.plan, **{name: value}), f"plan with {name}={value!r}")

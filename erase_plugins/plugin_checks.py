"""What a plugin and the objects it registers must look like; every refusal says what to change."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from erase_plugins import hookspecs, protocols
from erase_plugins.api_range import API_ATTRIBUTE, check_api
from erase_plugins.errors import PluginError, RequestError
from erase_plugins.options import describe
from erase_plugins.plain_text import an
from erase_plugins.types import BUDGETS

PREFIX = "erase_"
MARK = f"{hookspecs.PROJECT}_impl"
#: kinds of changes; what changes a bias was "bias" in 0.1 and is dense now
DELTA_KINDS = ("lowrank", "dense", "bias", "sparse", "rows", "contextmap", "addon")
#: where a method acts: what it changes, or what it looks at while the model runs
LEVELS = (WEIGHTS := "weights", "guidance", "prompt", "picture")
_FAMILY_OWN = "id, title, components, groups, detect and info"
REQUIRED = {
    "erase_methods": ("id", "title", "paper", "summary", "needs", "kinds", "produces", "Options", "plan", "run"),
    "erase_families": (
        "id",
        "title",
        "components",
        "roles",
        "groups",
        "denoiser",
        "detect",
        "info",
        "open",
        "load",
        "modules",
        "names",
        "stem",
        "locate",
        "encode_ids",
        "text_layers",
        "causal",
        "modelspec",
        "base_version",
        "ui_versions",
    ),
    "erase_layouts": ("id", "title", "readers", "accepts", "filename", "write", "sniff", "read"),
    "erase_judges": ("id", "title", "needs", "axes", "fingerprint", "accepts", "score", "world"),
    "erase_suites": ("id", "title", "needs", "run"),
    "erase_attacks": ("id", "title", "needs", "budgets", "run"),
    "erase_guard_stages": ("id", "title", "roles", "attach"),
}
#: whose functions are looked at for their arguments; suites and attacks have rules of their own
CONTRACTS = {
    "erase_methods": protocols.Method, "erase_layouts": protocols.Layout, "erase_judges": protocols.Judge,
    "erase_guard_stages": protocols.GuardStage,
}  # fmt: skip
_ID = re.compile(r"^[a-z0-9][a-z0-9._-]*$")


def hook_names() -> tuple[str, ...]:
    """All hooks of this version, as declared."""
    return tuple(name for name, item in vars(hookspecs).items() if name.startswith(PREFIX) and inspect.isfunction(item))


def hook_arguments(hook: str) -> tuple[str, ...]:
    """Names of the arguments that a hook passes."""
    return tuple(inspect.signature(getattr(hookspecs, hook)).parameters)


def check_plugin(plugin: Any) -> None:
    """Refuses a plugin that pluggy would accept only in part, or for another version of the hooks.

    Raises:
        PluginError: not a module or instance, other hook version, unknown hook, old arguments, or no hook at all.
    """
    if plugin is None or isinstance(plugin, type | str | int | float | list | tuple | dict):
        what = f"the class {plugin.__name__}" if isinstance(plugin, type) else an(type(plugin).__name__)
        raise PluginError(f"the plugin is {what}; register a module or an instance")
    check_api(getattr(plugin, API_ATTRIBUTE, hookspecs.API_VERSION))
    found = dict(_marked(plugin))
    _check_unmarked(plugin)
    if not found:
        raise PluginError("defines no hook; decorate at least one with @erase_plugins.hookimpl")
    for name, function in found.items():
        _check_hook(name, function)


def _marked(plugin: Any) -> Iterator[tuple[str, Any]]:
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        if inspect.isroutine(function) and isinstance(getattr(function, MARK, None), dict):
            yield name, function


def _check_unmarked(plugin: Any) -> None:
    home = getattr(plugin, "__name__", None)
    for name in hook_names():
        function = getattr(plugin, name, None)
        if inspect.isfunction(function) and function.__module__ == home and not hasattr(function, MARK):
            raise PluginError(f"{name} is not decorated with @erase_plugins.hookimpl and would never be called")


def _check_hook(name: str, function: Any) -> None:
    marks = getattr(function, MARK)
    hook = marks.get("specname") or name
    if hook not in hook_names():
        if marks.get("optionalhook"):  # the plugin's own word that this version may not have it
            return
        close = get_close_matches(hook, hook_names(), n=1)
        hint = f", did you mean {close[0]}?" if close else f"; known: {', '.join(hook_names())}"
        raise PluginError(f"unknown hook {hook}{hint}")
    if marks.get("wrapper") or marks.get("hookwrapper"):
        raise PluginError(f"{hook} is a hook wrapper; these hooks take plain functions")
    passed = hook_arguments(hook)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    asked = [
        item.name
        for item in inspect.signature(function).parameters.values()
        if item.kind in kinds and item.default is inspect.Parameter.empty
    ]
    unknown = [argument for argument in asked if argument not in passed]
    if unknown:
        raise PluginError(
            f"{hook} asks for {', '.join(unknown)}, this version passes {', '.join(passed) or 'nothing'}; the package "
            "was written for another erase-plugins, update it"
        )


def check_items(hook: str, result: Any) -> list[Any]:
    """The objects that a registration hook returned, as a list.

    Raises:
        PluginError: not an iterable of objects.
    """
    if result is None:
        raise PluginError(f"{hook} returned None; return a list")
    if isinstance(result, str | bytes | dict) or not hasattr(result, "__iter__"):
        raise PluginError(f"{hook} returned one {type(result).__name__}; return a list: [{type(result).__name__}()]")
    return list(result)


def check_item(hook: str, item: Any) -> None:
    """Refuses an object that lacks part of its contract (`erase_plugins.protocols`).

    Raises:
        PluginError: names the object and what is missing or wrong.
    """
    if isinstance(item, type):
        raise PluginError(f"{hook} returned the class {item.__name__}; return an instance: {item.__name__}()")
    name = type(item).__name__
    missing = [attribute for attribute in REQUIRED[hook] if not hasattr(item, attribute)]
    if hook == "erase_methods" and hasattr(item, "families"):  # what methods said before there were capabilities
        missing = [attribute for attribute in missing if attribute != "needs"]
    if missing:
        base = f"; subclass erase_plugins.families.base.Family, which has all but {_FAMILY_OWN}"
        raise PluginError(f"{name} lacks {', '.join(missing)}{base if hook == 'erase_families' else ''}")
    if not isinstance(item.id, str) or not _ID.match(item.id):
        raise PluginError(f"{name} has the id {item.id!r}; use lower-case letters, digits, '-', '_' and '.'")
    if hook in CONTRACTS:
        _check_calls(name, item, CONTRACTS[hook])
    if hook == "erase_methods":
        _check_method(name, item)
    elif hook == "erase_families":
        _check_family(name, item)
    elif hook == "erase_suites":
        _check_suite(name, item)
    elif hook == "erase_attacks":
        _check_attack(name, item)


def _check_calls(name: str, item: Any, contract: type) -> None:
    """Refuses functions that cannot be called as the contract declares them."""
    for member, declared in vars(contract).items():
        if inspect.isfunction(declared) and not member.startswith("_"):
            names = tuple(inspect.signature(declared).parameters)
            wanted = f"{member}({', '.join(names)})"
            _check_call(f"{name}.{member}", getattr(item, member), ((None,) * (len(names) - 1),), wanted)


def _check_method(name: str, item: Any) -> None:
    asked = "families" if hasattr(item, "families") else "needs"
    for attribute, allowed in ((asked, None), ("kinds", None), ("produces", DELTA_KINDS)):
        value = getattr(item, attribute)
        bare = attribute == "produces" and getattr(item, "level", WEIGHTS) in LEVELS[1:]
        if not isinstance(value, set | frozenset) or not (value or bare) or not all(isinstance(n, str) for n in value):
            guard = f" (a guard, which changes no weights, says level: {' or '.join(LEVELS[1:])})"
            more = guard if attribute == "produces" else ""
            raise PluginError(f"{name}.{attribute} is {value!r}; give a non-empty frozenset of strings{more}")
        odd = sorted(value - set(allowed)) if allowed else []
        if odd:
            raise PluginError(f"{name}.{attribute} holds {', '.join(odd)}; known: {', '.join(allowed or ())}")
    if not isinstance(item.Options, type) or not dataclasses.is_dataclass(item.Options):
        raise PluginError(f"{name}.Options is not a dataclass; make its fields with erase_plugins.options.option")
    try:
        describe(item.Options)
    except RequestError as error:
        raise PluginError(f"{name}.Options: ", error) from error


def _check_family(name: str, item: Any) -> None:
    parts, groups = item.components, item.groups
    if not isinstance(parts, tuple) or not parts or not all(isinstance(part, str) for part in parts):
        raise PluginError(f"{name}.components is {parts!r}; give a non-empty tuple of attribute names of the pipeline")
    if not isinstance(item.roles, Mapping) or not item.roles or not all(isinstance(role, str) for role in item.roles):
        raise PluginError(f"{name}.roles is {item.roles!r}; map what its models can do to their parts")
    if "denoiser" in item.roles and item.denoiser not in parts:
        raise PluginError(f"{name}.denoiser is {item.denoiser!r}, which is none of its components {', '.join(parts)}")
    if not isinstance(groups, Mapping) or not groups or not all(map(callable, groups.values())):
        raise PluginError(f"{name}.groups is no mapping of group names to functions of a ModuleRef")
    if not getattr(item, "pipeline", "") and getattr(item.open, "__qualname__", "") == "Family.open":
        raise PluginError(f"{name} cannot load a model: name a diffusers class in pipeline, or define open()")


def _check_suite(name: str, item: Any) -> None:
    _check_call(f"{name}.run", item.run, ((None, None), (None,)), "run(self, subject, ctx)")
    _check_measuring(name, item)


def _check_attack(name: str, item: Any) -> None:
    _check_call(f"{name}.run", item.run, ((None, None),), "run(self, subject, budget)")
    sizes = item.budgets
    if not isinstance(sizes, Mapping) or any(not isinstance(sizes.get(key), int) or sizes[key] < 1 for key in BUDGETS):
        raise PluginError(f"{name}.budgets is {sizes!r}; map {', '.join(BUDGETS)} to numbers of queries")
    least = getattr(item, "least", 1)
    if not callable(least) and (not isinstance(least, int) or least < 1):
        raise PluginError(f"{name}.least is {least!r}; give a number of queries from 1, or a function of the options")
    _check_measuring(name, item)


def _check_measuring(name: str, item: Any) -> None:
    """The optional attributes that suites and attacks share."""
    options = getattr(item, "Options", None)
    if options is not None and not (isinstance(options, type) and dataclasses.is_dataclass(options)):
        raise PluginError(f"{name}.Options is not a dataclass; make its fields with erase_plugins.options.option")
    if isinstance(getattr(type(item), "attachments", None), property):
        return  # it may ask what else is registered, and the registry is being filled
    files = getattr(item, "attachments", ())
    if not isinstance(files, tuple) or not all(isinstance(file, str) for file in files):
        raise PluginError(f"{name}.attachments is {files!r}; give a tuple of file names")


def _check_call(what: str, function: Any, calls: tuple[tuple[None, ...], ...], wanted: str) -> None:
    """Refuses a function that none of the argument lists fits."""
    if not callable(function):
        raise PluginError(f"{what} is not a function; declare {wanted}")
    signature = inspect.signature(function)
    fits = signature.bind
    for arguments in calls:
        try:
            fits(*arguments)
            return
        except TypeError:
            continue
    raise PluginError(f"{what} takes {signature}; declare {wanted}")


def file_of(*candidates: Any) -> str:
    """File that defines the first candidate with one, relative to its top package: no user path is shown."""
    for item in candidates:
        owner = getattr(item, "__module__", None) or getattr(item, "__name__", "")
        module = sys.modules.get(str(owner)) or item
        file = getattr(module, "__file__", None)
        if file:
            path, depth = Path(file), getattr(module, "__name__", "").count(".") + 1
            return "/".join(path.parts[-(depth + (path.stem == "__init__")) :])
    return ""

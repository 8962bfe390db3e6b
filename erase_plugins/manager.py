"""Loads plugins one by one, keeps broken ones apart, and answers what is registered and by whom.

Environment: ``ERASE_PLUGINS_DISABLE=a,b`` blocks plugins, ``ERASE_PLUGINS_ONLY=a,b`` loads only these,
``ERASE_PLUGINS_TRACE=1`` logs hook calls.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

import pluggy

from erase_plugins import hookspecs
from erase_plugins.defaults import BUILTIN_PLUGINS
from erase_plugins.errors import PluginError, RequestError, UnknownName
from erase_plugins.types import EditPlan, Event, PluginProblem, Registered

log = logging.getLogger("erase_plugins")
GROUP = hookspecs.PROJECT
PREFIX = "erase_"
_REQUIRED = {
    "erase_methods": ("id", "title", "paper", "summary", "families", "kinds", "produces", "Options", "plan", "run"),
    "erase_families": ("id", "title", "components", "detect", "load", "modules"),
    "erase_layouts": ("id", "title", "readers", "accepts", "filename", "write", "sniff", "read"),
    "erase_evaluators": ("id", "kind", "title", "needs"),
}


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")


class Manager:
    """The registry: one typed method per hook on top of a pluggy manager."""

    def __init__(self) -> None:
        self.pluggy = pluggy.PluginManager(GROUP)
        self.pluggy.add_hookspecs(hookspecs)
        self.problems: list[PluginProblem] = []
        self._origin: dict[str, tuple[str, str]] = {}
        self._cache: dict[str, tuple[Registered, ...]] = {}

    # ---- loading -----------------------------------------------------------------------------------------------

    def load(self, name: str, find: Callable[[], Any], package: str, version: str) -> None:
        """Imports and registers one plugin; whatever goes wrong becomes a `PluginProblem`."""
        if self.pluggy.has_plugin(name):
            self._problem(name, package, version, "register", f"another plugin is already registered as '{name}'")
            return
        try:
            plugin = find()
            self._refuse_unknown_hooks(plugin)
            self.pluggy.register(plugin, name)
        except Exception as error:  # a stranger's import may raise anything
            log.debug("plugin %s failed", name, exc_info=True)
            self._problem(name, package, version, "load", _first_line(error))
            return
        self._origin[name] = (package, version)
        self._cache.clear()

    def load_builtins(self) -> None:
        """Registers the plugins listed in `erase_plugins.defaults`."""
        from erase_plugins import __version__

        for path in BUILTIN_PLUGINS:
            name = path.removeprefix("erase_plugins.")
            if _wanted(name):
                self.load(name, lambda path=path: importlib.import_module(path), "erase-plugins", __version__)

    def load_entry_points(self) -> None:
        """Registers installed packages that declare the entry point group."""
        for point in importlib.metadata.entry_points(group=GROUP):
            if _wanted(point.name):
                dist = point.dist
                package, version = (dist.name, dist.version) if dist is not None else ("unknown", "")
                self.load(point.name, point.load, package, version)

    def load_file(self, path: str | Path) -> None:
        """Registers a single-file plugin that the user named explicitly.

        Raises:
            RequestError: the file is missing or does not import.
        """
        file = Path(path)
        if not file.is_file():
            raise RequestError(f"no plugin file at '{file.name}'; give the path of a .py file")
        name = f"file:{file.stem}"

        def find() -> Any:
            spec = importlib.util.spec_from_file_location(f"erase_plugins_file_{file.stem}", file)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            return module

        before = len(self.problems)
        self.load(name, find, file.name, "")
        if len(self.problems) > before:
            raise RequestError(f"plugin file '{file.name}' does not load: {self.problems[-1].message}")

    @contextmanager
    def temporary(self, plugin: Any, name: str = "temporary") -> Iterator[Manager]:
        """Registers ``plugin`` for the length of a with-block (tests, notebooks)."""
        self._refuse_unknown_hooks(plugin)
        self.pluggy.register(plugin, name)
        self._origin[name] = (getattr(plugin, "__name__", type(plugin).__name__), "")
        self._cache.clear()
        problems = len(self.problems)
        try:
            yield self
        finally:
            self.pluggy.unregister(name=name)
            self._origin.pop(name, None)
            self._cache.clear()
            del self.problems[problems:]

    def _refuse_unknown_hooks(self, plugin: Any) -> None:
        known = [name for name in dir(hookspecs) if name.startswith(PREFIX)]
        for name in dir(plugin):
            function = getattr(plugin, name, None)
            marked = getattr(function, f"{GROUP}_impl", None) is not None
            if marked and name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f", did you mean {close[0]}" if close else ""
                raise PluginError(f"unknown hook {name}{hint}")

    def _problem(self, plugin: str, package: str, version: str, stage: str, message: str) -> None:
        found = PluginProblem(plugin=plugin, package=package, version=version, stage=stage, message=message)
        if found not in self.problems:
            self.problems.append(found)

    # ---- registries --------------------------------------------------------------------------------------------

    def plugins(self) -> tuple[dict[str, Any], ...]:
        """Loaded plugins: name, package, version, file, hooks."""
        rows = []
        for name, plugin in self.pluggy.list_name_plugin():
            if plugin is None:
                continue
            package, version = self._origin.get(name, ("unknown", ""))
            callers = self.pluggy.get_hookcallers(plugin) or []
            rows.append(
                {
                    "name": name,
                    "package": package,
                    "version": version,
                    "file": _file_of(plugin),
                    "hooks": sorted(caller.name for caller in callers),
                }
            )
        return tuple(rows)

    def registered(self, hook: str) -> tuple[Registered, ...]:
        """Everything a registration hook returned, plugin by plugin; duplicates and broken objects left out."""
        if hook not in self._cache:
            self._cache[hook] = self._collect(hook)
        return self._cache[hook]

    def _collect(self, hook: str) -> tuple[Registered, ...]:
        found: list[Registered] = []
        for name, plugin in self.pluggy.list_name_plugin():
            if plugin is None:
                continue
            package, version = self._origin.get(name, ("unknown", ""))
            others = [other for other_name, other in self.pluggy.list_name_plugin() if other_name != name and other]
            try:
                groups = self.pluggy.subset_hook_caller(hook, others)()
                items = [item for group in groups for item in group]
                for item in items:
                    self._check(hook, item)
            except Exception as error:
                self._problem(name, package, version, hook, _first_line(error))
                continue
            found.extend(Registered(item, name, package, version, _file_of(plugin)) for item in items)
        return self._without_duplicates(hook, found)

    def _check(self, hook: str, item: Any) -> None:
        if isinstance(item, type):
            raise PluginError(f"{hook} returned the class {item.__name__}; return an instance: {item.__name__}()")
        missing = [name for name in _REQUIRED[hook] if not hasattr(item, name)]
        if missing:
            raise PluginError(f"{type(item).__name__} lacks {', '.join(missing)}")

    def _without_duplicates(self, hook: str, found: list[Registered]) -> tuple[Registered, ...]:
        """An id claimed twice is left out on both sides, unless ERASE_PLUGINS_FROM names the plugin to prefer."""
        preferred = _names("ERASE_PLUGINS_FROM")
        groups: dict[str, list[Registered]] = {}
        for entry in found:
            groups.setdefault(entry.item.id, []).append(entry)
        kept = []
        for name, entries in groups.items():
            chosen = [entry for entry in entries if entry.plugin in preferred]
            if len(entries) == 1 or len(chosen) == 1:
                kept.append((chosen or entries)[0])
                continue
            claims = " and ".join(f"{entry.plugin} ({entry.package} {entry.version})".strip() for entry in entries)
            last = entries[-1]
            message = f"id '{name}' is claimed by {claims}; choose with --from PLUGIN"
            self._problem(last.plugin, last.package, last.version, hook, message)
        return tuple(kept)

    def _get(self, hook: str, what: str, name: str) -> Any:
        entries = {entry.item.id: entry.item for entry in self.registered(hook)}
        if name not in entries:
            clash = next((item.message for item in self.problems if f"id '{name}' is claimed" in item.message), None)
            if clash:
                raise RequestError(clash)
            raise UnknownName(what, name, entries)
        return entries[name]

    def methods(self) -> tuple[Registered, ...]:
        """All methods with their provenance."""
        return self.registered("erase_methods")

    def method(self, name: str) -> Any:
        """The method with this id.

        Raises:
            UnknownName: not registered.
        """
        return self._get("erase_methods", "method", name)

    def families(self) -> tuple[Registered, ...]:
        """All model families with their provenance."""
        return self.registered("erase_families")

    def family(self, name: str) -> Any:
        """The family with this id."""
        return self._get("erase_families", "family", name)

    def layouts(self) -> tuple[Registered, ...]:
        """All file layouts with their provenance."""
        return self.registered("erase_layouts")

    def layout(self, name: str) -> Any:
        """The layout with this id."""
        return self._get("erase_layouts", "layout", name)

    def evaluators(self, kind: str | None = None) -> tuple[Registered, ...]:
        """Judges, suites, metrics and attacks, or those of one kind."""
        entries = self.registered("erase_evaluators")
        return tuple(entry for entry in entries if kind is None or entry.item.kind == kind)

    def evaluator(self, name: str, kind: str) -> Any:
        """The evaluator with this id and kind."""
        entries = {entry.item.id: entry.item for entry in self.evaluators(kind)}
        if name not in entries:
            raise UnknownName(kind, name, entries)
        return entries[name]

    # ---- lifecycle ---------------------------------------------------------------------------------------------

    def adjust_plan(self, plan: EditPlan) -> EditPlan:
        """Chains `erase_adjust_plan` over the plugins, in registration order."""
        for impl in self.pluggy.hook.erase_adjust_plan.get_hookimpls():
            changed = impl.function(plan=plan)
            plan = plan if changed is None else changed
        return plan

    def before_run(self, plan: EditPlan, target: Any) -> None:
        """Calls `erase_before_run`; a veto passes through."""
        self.pluggy.hook.erase_before_run(plan=plan, target=target)

    def on_event(self, event: Event) -> None:
        """Calls `erase_on_event`; a failing plugin is recorded and the run goes on."""
        for impl in self.pluggy.hook.erase_on_event.get_hookimpls():
            try:
                impl.function(event=event)
            except Exception as error:
                package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
                self._problem(impl.plugin_name, package, version, "erase_on_event", _first_line(error))

    def after_run(self, plan: EditPlan, edit: Any, error: BaseException | None) -> None:
        """Calls `erase_after_run`."""
        self.pluggy.hook.erase_after_run(plan=plan, edit=edit, error=error)

    def artifact_saved(self, artifact: Any) -> None:
        """Calls `erase_artifact_saved`."""
        self.pluggy.hook.erase_artifact_saved(artifact=artifact)

    def card_sections(self, artifact: Any, report: Any) -> list[Any]:
        """All extra card sections."""
        groups: Iterable[Any] = self.pluggy.hook.erase_card_sections(artifact=artifact, report=report)
        return [section for group in groups for section in group]

    def before_push(self, bundle: Any, destination: str) -> None:
        """Calls `erase_before_push`; a veto passes through."""
        self.pluggy.hook.erase_before_push(bundle=bundle, destination=destination)

    def cli_commands(self, cli: Any) -> None:
        """Lets every plugin add its sub-commands; a failing one is recorded."""
        for impl in self.pluggy.hook.erase_cli_commands.get_hookimpls():
            try:
                impl.function(cli=cli)
            except Exception as error:
                package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
                self._problem(impl.plugin_name, package, version, "erase_cli_commands", _first_line(error))


def _names(variable: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in os.environ.get(variable, "").split(",") if part.strip())


def _wanted(name: str) -> bool:
    only = _names("ERASE_PLUGINS_ONLY")
    return name not in _names("ERASE_PLUGINS_DISABLE") and (not only or name in only)


def _file_of(plugin: Any) -> str:
    """Path of the defining file relative to its package, so that no user path is shown."""
    module = sys.modules.get(getattr(plugin, "__module__", None) or getattr(plugin, "__name__", ""))
    file = getattr(module or plugin, "__file__", None)
    name = getattr(module or plugin, "__name__", "")
    return "/".join(Path(file).parts[-(name.count(".") + 1) :]) if file else ""


@lru_cache(maxsize=1)
def get_manager() -> Manager:
    """The one registry of this process, built on first use."""
    manager = Manager()
    manager.load_builtins()
    manager.load_entry_points()
    if os.environ.get("ERASE_PLUGINS_TRACE"):
        manager.pluggy.trace.root.setwriter(lambda text: log.warning("%s", text.rstrip()))
        manager.pluggy.enable_tracing()
    return manager

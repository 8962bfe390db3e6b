"""Loads plugins one by one and keeps broken ones apart: built-ins, installed packages, single files."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Self

import pluggy

from erase_plugins import hookspecs, late
from erase_plugins.defaults import BUILTIN_PLUGINS
from erase_plugins.errors import PluginError, RequestError, UnknownName
from erase_plugins.plain_text import first_line
from erase_plugins.plugin_checks import check_plugin, file_of
from erase_plugins.types import PluginProblem, Registered

log = logging.getLogger("erase_plugins")
GROUP = hookspecs.PROJECT
OWN_PACKAGE = "erase-plugins"
#: how plugins loaded from single files are called
FILE_PREFIX = "file:"


class PluginLoader:
    """Loaded plugins with their origin, and the problems of those that did not load."""

    def __init__(self) -> None:
        self.pluggy = pluggy.PluginManager(GROUP)
        self.pluggy.add_hookspecs(hookspecs)
        self.problems: list[PluginProblem] = []
        self.preferred: tuple[str, ...] = names_in("ERASE_PLUGINS_FROM")
        self.trace = bool(os.getenv("ERASE_PLUGINS_TRACE", "").strip("0 "))
        self._origin: dict[str, tuple[str, str]] = {}
        self._cache: dict[str, tuple[Registered, ...]] = {}
        self._clashes: dict[tuple[str, str], str] = {}
        #: plugin and package names that were met, loaded or not
        self._met: set[str] = set()

    # ---- loading -----------------------------------------------------------------------------------------------

    def load(self, name: str, find: Callable[[], Any], package: str, version: str) -> None:
        """Imports and registers one plugin; whatever goes wrong becomes a `PluginProblem`."""
        if self.pluggy.has_plugin(name):
            other, number = self._origin.get(name, ("unknown", ""))
            message = f"the name '{name}' is taken by a plugin of {other} {number}".rstrip()
            self._problem(name, package, version, "register", message)
            return
        try:
            with redirect_stdout(sys.stderr):  # what an import prints is no output of the command
                plugin = find()
            self._register(plugin, name)
        except (Exception, SystemExit) as error:  # a stranger's import may raise anything, or try to exit
            log.debug("plugin %s failed", name, exc_info=True)
            self._problem(name, package, version, "load", first_line(error))
            return
        self._origin[name] = (package, version)

    def _register(self, plugin: Any, name: str) -> None:
        check_plugin(plugin)
        if self.pluggy.is_registered(plugin):
            raise PluginError(f"the same module is registered as '{self.pluggy.get_name(plugin)}' already")
        try:
            self.pluggy.register(plugin, name)
        except Exception:
            if self.pluggy.has_plugin(name):  # pluggy keeps what it registered before the failure
                self.pluggy.unregister(name=name)
            raise
        self._forget()

    def load_builtins(self) -> None:
        """Registers the plugins listed in `erase_plugins.defaults`."""
        for path in BUILTIN_PLUGINS:
            name = path.removeprefix("erase_plugins.")
            if self._wanted(name, OWN_PACKAGE):
                self.load(name, partial(importlib.import_module, path), OWN_PACKAGE, late.VERSION)

    def load_entry_points(self) -> None:
        """Registers installed packages that declare the entry point group."""
        for point, package, version in self._entry_points():
            if self._wanted(point.name, package):
                self.load(point.name, point.load, package, version)
        self._check_environment()

    def _wanted(self, name: str, package: str) -> bool:
        self._met |= {name, package}
        only, blocked = set(names_in("ERASE_PLUGINS_ONLY")), set(names_in("ERASE_PLUGINS_DISABLE"))
        return not {name, package} & blocked and (not only or bool({name, package} & only))

    def _check_environment(self) -> None:
        """Tells of names in the environment that belong to no plugin: a misspelt switch switches nothing."""
        known = self._met | {path.removeprefix("erase_plugins.") for path in BUILTIN_PLUGINS} | {OWN_PACKAGE}
        for variable in ("ERASE_PLUGINS_DISABLE", "ERASE_PLUGINS_ONLY", "ERASE_PLUGINS_FROM"):
            for name in names_in(variable):
                if name in known or name.startswith(FILE_PREFIX):  # files are loaded later
                    continue
                close = get_close_matches(name, sorted(known), n=1)
                meant = f"; did you mean '{close[0]}'?" if close else "; 'erase-plugins list plugins' names all"
                message = f"{variable} names '{name}', which is no installed plugin or package{meant}"
                if self._problem(name, "", "", "environment", message):
                    log.warning("%s", message)

    def _entry_points(self) -> Iterator[tuple[importlib.metadata.EntryPoint, str, str]]:
        """Entry points of the group, package by package, so that damaged metadata stays alone."""
        seen = set()
        for dist in importlib.metadata.distributions():
            name, version = "unknown", ""
            try:
                if GROUP not in (dist.read_text("entry_points.txt") or ""):  # names cost a parse of all metadata
                    continue
                name, version = dist.metadata["Name"] or name, dist.metadata["Version"] or version
                if name in seen:  # the first one on the path is the one that gets imported
                    continue
                seen.add(name)
                points = list(dist.entry_points.select(group=GROUP))
            except Exception as error:
                self._problem(name, name, version, "metadata", f"entry points cannot be read: {first_line(error)}")
                continue
            for point in points:
                yield point, name, version

    def load_file(self, path: str | Path) -> None:
        """Registers a single-file plugin that the user named explicitly.

        Raises:
            RequestError: the file is missing or does not import.
        """
        file = Path(path)
        if not file.is_file() or file.suffix != ".py":
            raise RequestError(f"no plugin file at '{file.name}'; give the path of a .py file")
        name, module_name = f"{FILE_PREFIX}{file.stem}", f"erase_plugins_file_{file.stem}"

        def find() -> Any:
            spec = importlib.util.spec_from_file_location(module_name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                sys.modules.pop(spec.name, None)
                raise
            return module

        before = len(self.problems)
        self.load(name, find, file.name, "")
        if len(self.problems) > before:
            problem = self.problems.pop()
            raise RequestError(f"plugin file '{file.name}' does not load: {problem.message}")

    @contextmanager
    def temporary(self, plugin: Any, name: str = "temporary") -> Iterator[Self]:
        """Registers ``plugin`` for the length of a with-block (tests, notebooks).

        Raises:
            PluginError: the plugin does not follow the contract.
        """
        problems = list(self.problems)
        self._register(plugin, name)
        self._origin[name] = (getattr(plugin, "__name__", type(plugin).__name__), "")
        try:
            yield self
        finally:
            self.pluggy.unregister(name=name)
            self._origin.pop(name, None)
            self._forget()
            self.problems[:] = problems

    def prefer(self, *names: str) -> None:
        """Decides ids that several plugins claim: these plugins (or packages) win (``--from``).

        Raises:
            UnknownName: no such plugin.
        """
        known = {name for row in self.plugins() for name in (row["name"], row["package"])}
        for name in names:
            if name not in known:
                raise UnknownName("plugin", name, known)
        self.preferred = (*names, *self.preferred)
        self._forget()

    def _forget(self) -> None:
        clashes = set(self._clashes.values())
        self.problems[:] = [problem for problem in self.problems if problem.message not in clashes]
        self._cache.clear()
        self._clashes.clear()

    def _problem(self, plugin: str, package: str, version: str, stage: str, message: str) -> bool:
        """Records a problem; False if it was known."""
        found = PluginProblem(plugin=plugin, package=package, version=version, stage=stage, message=message)
        if found in self.problems:
            return False
        self.problems.append(found)
        return True

    def plugins(self) -> tuple[dict[str, Any], ...]:
        """Loaded plugins: name, package, version, file, hooks."""
        rows = []
        for name, plugin in self._plugins():
            package, version = self._origin.get(name, ("unknown", ""))
            callers = self.pluggy.get_hookcallers(plugin) or []
            rows.append(
                {
                    "name": name,
                    "package": package,
                    "version": version,
                    "file": file_of(plugin),
                    "hooks": sorted(caller.name for caller in callers),
                }
            )
        return tuple(rows)

    def _plugins(self) -> list[tuple[str, Any]]:
        return [(name, plugin) for name, plugin in self.pluggy.list_name_plugin() if plugin is not None]


def names_in(variable: str) -> tuple[str, ...]:
    """Comma-separated names in an environment variable."""
    return tuple(part.strip() for part in os.getenv(variable, "").split(",") if part.strip())

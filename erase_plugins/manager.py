"""The registry: what is registered and by whom, and one typed method per hook.

Environment: ``ERASE_PLUGINS_DISABLE=a,b`` blocks plugins, ``ERASE_PLUGINS_ONLY=a,b`` loads only these,
``ERASE_PLUGINS_FROM=a`` prefers a plugin where two claim one id, ``ERASE_PLUGINS_TRACE=1`` logs hook calls. Each takes
plugin names or package names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError, PluginError, RequestError, UnknownName
from erase_plugins.hints import Hint, Sentence
from erase_plugins.known import Known
from erase_plugins.plain_text import first_line
from erase_plugins.plugin_checks import check_item, check_items, file_of
from erase_plugins.plugin_loading import OWN_PACKAGE, PluginLoader, log
from erase_plugins.types import EditPlan, Event, PluginProblem, Registered

#: what measures -> the hook that registers it
EVALUATORS = {"judge": "erase_judges", "suite": "erase_suites", "attack": "erase_attacks"}
REGISTRIES = ("erase_methods", "erase_families", "erase_layouts", "erase_guard_stages", *EVALUATORS.values())
#: the hook that held all of `EVALUATORS` and is still understood
OLD_HOOK = "erase_evaluators"


class Manager(PluginLoader):
    """Plugins and what they registered, on top of a pluggy manager."""

    def check(self) -> tuple[PluginProblem, ...]:
        """Asks every registration hook once and returns all problems known so far."""
        for hook in REGISTRIES:
            self.registered(hook)
        return tuple(self.problems)

    # ---- registries --------------------------------------------------------------------------------------------

    def registered(self, hook: str) -> tuple[Registered, ...]:
        """Everything a registration hook returned, plugin by plugin; duplicates and broken objects left out."""
        if hook not in self._cache:
            self._cache[hook] = self._collect(hook)
        return self._cache[hook]

    def _collect(self, hook: str) -> tuple[Registered, ...]:
        found: list[Registered] = []
        for impl, source in self._sources(hook):
            name = impl.plugin_name
            package, version = self._origin.get(name, ("unknown", ""))
            try:
                items = check_items(source, self._call(impl, source, {}))
            except (Exception, SystemExit) as error:
                self._problem(name, package, version, source, first_line(error))
                continue
            for item in items:
                if source != hook and not self._of_kind(impl, item, hook):
                    continue
                try:
                    check_item(hook, item)
                except Exception as error:
                    self._problem(name, package, version, hook, first_line(error))
                    continue
                found.append(Registered(item, name, package, version, file_of(type(item), impl.plugin)))
        return self._without_duplicates(hook, found)

    def _sources(self, hook: str) -> list[tuple[Any, str]]:
        """Implementations of a hook, and those of the old hook by plugins that have no new one."""
        sources = [(impl, hook) for impl in self._impls(hook)]
        if hook in EVALUATORS.values():
            sources += [(impl, OLD_HOOK) for impl in self._old_impls()]
        return sources

    def _old_impls(self) -> list[Any]:
        new = {impl.plugin_name for hook in EVALUATORS.values() for impl in self._impls(hook)}
        return [impl for impl in self._impls(OLD_HOOK) if impl.plugin_name not in new]

    def _of_kind(self, impl: Any, item: Any, hook: str) -> bool:
        """Whether an object of the old hook belongs to ``hook``; one that belongs nowhere is a problem."""
        kind = getattr(item, "kind", None)
        if kind not in EVALUATORS:
            package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
            message = f"PluginError: {type(item).__name__} has the kind {kind!r}; known: {', '.join(EVALUATORS)}"
            self._problem(impl.plugin_name, package, version, OLD_HOOK, message)
            return False
        return EVALUATORS[kind] == hook

    @property
    def notices(self) -> tuple[PluginProblem, ...]:
        """Plugins that work, but use what will go; for their authors."""
        found = []
        for impl in self._old_impls():
            package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
            message = f"{OLD_HOOK} is deprecated and will go; use {', '.join(EVALUATORS.values())} (no 'kind' needed)"
            found.append(PluginProblem(impl.plugin_name, package, version, OLD_HOOK, message))
        return tuple(found)

    def _without_duplicates(self, hook: str, found: list[Registered]) -> tuple[Registered, ...]:
        """An id claimed twice is left out on both sides, unless one of the plugins is preferred."""
        groups: dict[str, list[Registered]] = {}
        for entry in found:
            groups.setdefault(entry.item.id, []).append(entry)
        kept = []
        for key, entries in groups.items():
            chosen = [entry for entry in entries if {entry.plugin, entry.package} & set(self.preferred)]
            if len(entries) == 1 or len(chosen) == 1:
                kept.append((chosen or entries)[0])
                continue
            claims = " and ".join(f"{entry.plugin} ({f'{entry.package} {entry.version}'.strip()})" for entry in entries)
            last = entries[-1]
            message = Sentence(
                f"id '{last.item.id}' is claimed by {claims}; ", Hint("from", "PLUGIN", before="choose with")
            )
            self._clashes[(hook, key)] = message
            self._problem(last.plugin, last.package, last.version, hook, message)
        return tuple(kept)

    def _get(self, hook: str, what: str, name: str) -> Any:
        entries = {entry.item.id: entry.item for entry in self.registered(hook)}
        if name not in entries:
            plain = name.strip().lower().replace("_", "-").replace(" ", "-")  # as people write it: "UCE", "few shot"
            if plain in entries:
                return entries[plain]
            clash = self._clashes.get((hook, name))
            if clash:
                raise RequestError(clash)
            raise UnknownName(what, name, entries, self._left_out(hook))
        return entries[name]

    def _left_out(self, hook: str) -> list[str]:
        """Plugins that did not load, or whose objects of one hook were refused."""
        lost = [item for item in self.problems if item.stage in ("load", "metadata", hook)]
        return sorted({item.plugin for item in lost if item.message not in self._clashes.values()})

    def methods(self) -> tuple[Registered, ...]:
        """All methods with their provenance."""
        return self.registered("erase_methods")

    def method(self, name: str) -> Any:
        """The method with this id.

        Raises:
            UnknownName: not registered.
            RequestError: claimed by two plugins.
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
        """The layout with this id; the name of a program is answered with what that reads."""
        try:
            return self._get("erase_layouts", "layout", name)
        except UnknownName as error:
            found = [entry.item for entry in self.layouts()]
            read = [item.id for item in found if name.lower() in f"{item.title} {' '.join(item.readers)}".lower()]
            if name and read:
                raise RequestError(f"no layout named '{name}'; for {name} take {' or '.join(read)}") from error
            raise

    def known(self) -> Known:
        """Families and layouts as plain data, for readers and writers of artifacts."""
        hooks = {"erase_families": "family", "erase_layouts": "layout"}
        entries = {what: self.registered(hook) for hook, what in hooks.items()}
        tables = {what: {entry.item.id: entry.item for entry in found} for what, found in entries.items()}
        packages = {
            (what, entry.item.id): (entry.package, entry.version)
            for what, found in entries.items()
            for entry in found
            if entry.package != OWN_PACKAGE
        }
        clashes = {
            (hooks[hook], key.removeprefix(":")): text for (hook, key), text in self._clashes.items() if hook in hooks
        }
        return Known(tables["family"], tables["layout"], clashes, packages)

    def evaluators(self, kind: str | None = None) -> tuple[Registered, ...]:
        """Judges, suites and attacks, or those of one kind, with their provenance."""
        hooks = EVALUATORS.values() if kind is None else (EVALUATORS[kind],)
        return tuple(entry for hook in hooks for entry in self.registered(hook))

    def evaluator(self, name: str, kind: str) -> Any:
        """The judge, suite or attack (``kind``) with this id.

        Raises:
            UnknownName: not registered.
            RequestError: claimed by two plugins.
        """
        return self._get(EVALUATORS[kind], kind, name)

    def guard_stages(self) -> tuple[Registered, ...]:
        """All types of stages of guards, with their provenance."""
        return self.registered("erase_guard_stages")

    def guard_stage(self, name: str) -> Any:
        """The type of stages with this id."""
        return self._get("erase_guard_stages", "guard stage", name)

    # ---- lifecycle ---------------------------------------------------------------------------------------------

    def _impls(self, hook: str) -> list[Any]:
        """Implementations in registration order, those marked tryfirst before, trylast behind the others."""
        order = {name: index for index, (name, _) in enumerate(self._plugins())}
        impls = getattr(self.pluggy.hook, hook).get_hookimpls()
        return sorted(impls, key=lambda impl: (impl.trylast - impl.tryfirst, order.get(impl.plugin_name, 0)))

    def _call(self, impl: Any, hook: str, arguments: dict[str, Any]) -> Any:
        if self.trace:
            log.warning("hook %s: %s", hook, impl.plugin_name)
        return impl.function(*(arguments[name] for name in impl.argnames))

    def _recorded(self, hook: str, **arguments: Any) -> list[Any]:
        """Calls every plugin; a failing one is recorded and the others still run."""
        results = []
        for impl in self._impls(hook):
            try:
                results.append(self._call(impl, hook, arguments))
            except Exception as error:
                package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
                if self._problem(impl.plugin_name, package, version, hook, first_line(error)):
                    log.warning("%s failed in %s: %s", self._who(impl), hook, first_line(error))
        return results

    def _asked(self, impl: Any, hook: str, **arguments: Any) -> Any:
        """Calls a plugin that may veto; any other error is its own fault and says so."""
        try:
            return self._call(impl, hook, arguments)
        except EraseError:
            raise
        except Exception as error:
            raise PluginError(f"{self._who(impl)} failed in {hook}: {first_line(error)}") from error

    def _who(self, impl: Any) -> str:
        package, version = self._origin.get(impl.plugin_name, ("unknown", ""))
        return f"plugin {impl.plugin_name} ({f'{package} {version}'.strip()})"

    def adjust_plan(self, plan: EditPlan) -> EditPlan:
        """Chains `erase_adjust_plan` over the plugins, in registration order.

        Raises:
            PluginError: a plugin fails or returns something else than a plan.
        """
        for impl in self._impls("erase_adjust_plan"):
            changed = self._asked(impl, "erase_adjust_plan", plan=plan)
            if changed is not None and not isinstance(changed, EditPlan):
                raise PluginError(
                    f"{self._who(impl)} returned {type(changed).__name__} from erase_adjust_plan, not a plan or None"
                )
            plan = plan if changed is None else changed
        return plan

    def before_run(self, plan: EditPlan, target: Any) -> None:
        """Calls `erase_before_run`; a veto passes through."""
        for impl in self._impls("erase_before_run"):
            self._asked(impl, "erase_before_run", plan=plan, target=target)

    def on_event(self, event: Event) -> None:
        """Calls `erase_on_event`; a failing plugin is recorded and the run goes on."""
        self._recorded("erase_on_event", event=event)

    def after_run(self, plan: EditPlan, edit: Any, error: BaseException | None) -> None:
        """Calls `erase_after_run`; a failing plugin is recorded and must not hide the run's own error."""
        self._recorded("erase_after_run", plan=plan, edit=edit, error=error)

    def artifact_saved(self, artifact: Any) -> None:
        """Calls `erase_artifact_saved`; the artifact is complete, so a failing plugin is only recorded."""
        self._recorded("erase_artifact_saved", artifact=artifact)

    def card_sections(self, artifact: Any, report: Any) -> list[Any]:
        """All extra card sections."""
        groups = self._recorded("erase_card_sections", artifact=artifact, report=report)
        return [section for group in groups for section in (group or ())]

    def comfy_nodes(self, spec: Any) -> list[Any]:
        """All nodes that plugins bring for ComfyUI; a failing plugin is recorded."""
        groups = self._recorded("erase_comfy_nodes", spec=spec)
        return [node for group in groups for node in (group or ())]

    def before_push(self, bundle: Any, destination: str) -> None:
        """Calls `erase_before_push`; a veto passes through."""
        for impl in self._impls("erase_before_push"):
            self._asked(impl, "erase_before_push", bundle=bundle, destination=destination)

    def resolve_artifact(self, reference: str) -> Any:
        """Path of a reference: the first answer of `erase_resolve_artifact`, None if nobody knows it.

        Raises:
            PluginError: a plugin fails or returns something else than a path.
        """
        for impl in self._impls("erase_resolve_artifact"):
            place = self._asked(impl, "erase_resolve_artifact", reference=reference)
            if place is not None and not isinstance(place, Path):
                raise PluginError(
                    f"{self._who(impl)} returned {type(place).__name__} from erase_resolve_artifact, not a path or None"
                )
            if place is not None:
                return place
        return None

    def function(self, name: str) -> Any:
        """The function that a plugin offers under a public name by `erase_functions`, None if there is none.

        Raises:
            PluginError: a plugin fails or returns something else than a mapping.
        """
        for impl in self._impls("erase_functions"):
            offered = self._asked(impl, "erase_functions")
            if not isinstance(offered, Mapping):
                raise PluginError(
                    f"{self._who(impl)} returned {type(offered).__name__} from erase_functions, not a mapping"
                )
            if name in offered:
                return offered[name]
        return None

    def cli_commands(self, cli: Any) -> None:
        """Lets every plugin add its sub-commands; a failing one is recorded."""
        self._recorded("erase_cli_commands", cli=cli)


@lru_cache(maxsize=1)
def get_manager() -> Manager:
    """The one registry of this process, built on first use."""
    manager = Manager()
    manager.load_builtins()
    manager.load_entry_points()
    return manager


def registered_guard_stage(name: str) -> Any:
    """The type of stages of guards with this id.

    Raises:
        UnknownName: not registered.
    """
    return get_manager().guard_stage(name)


def registered_attacks(names: Sequence[str] = ()) -> list[Any]:
    """Attacks by their ids; all that are registered without any.

    Raises:
        UnknownName: not registered.
    """
    return _evaluators("attack", names)


def registered_suites(names: Sequence[str] = ()) -> list[Any]:
    """Suites by their ids; all that are registered without any.

    Raises:
        UnknownName: not registered.
    """
    return _evaluators("suite", names)


def _evaluators(kind: str, names: Sequence[str]) -> list[Any]:
    manager = get_manager()
    if not names:
        return [entry.item for entry in manager.evaluators(kind)]
    return [manager.evaluator(name, kind) for name in names]

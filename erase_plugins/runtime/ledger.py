"""What is in force on a component, kept on the component itself, so that every pipeline that shares it knows.

While an edit is in force, a few methods of the component and its pipelines are watched: fusing a LoRA takes place on
the weights below the edit, saving and copying say what the result does not hold, and the same change does not come in
a second time as a LoRA.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any, Protocol

import torch
from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.names import CONTEXT_HOOK, LEDGER, live_parameters
from erase_plugins.errors import NotInFile, PipelineChanged
from erase_plugins.families.hosts import parts_of
from erase_plugins.runtime.addons import Attached
from erase_plugins.runtime.integrity import check_records, copy_fused, fused_projections
from erase_plugins.runtime.patcher import LOCK, Patch, Record
from erase_plugins.runtime.twice import mark, refuse_parts, refuse_twin_adapters, refuse_twin_state, told_by


class Handle(Protocol):
    """What a ledger knows of an edit in force; `runtime.applied.Applied` is one."""

    artifact: Artifact
    pipe: Any
    strength: float

    @property
    def weights(self) -> Edit:
        """The edit as changes of weights."""

    def hangs_on(self, component: str) -> bool:
        """Whether part of it acts while this component runs."""


class Ledger:
    """Edits in force on one component.

    Attributes:
        handles: of the edits, in the order in which they came.
        records: parameter key -> what is known of a changed parameter.
        attached: whatever hangs on modules of the component.
        copied: names and marks of edits that hang here because this is a copy of a component; they have no handle.
        busy: whether a call that is watched is on its way; what it calls itself is not looked at again.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.handles: list[Handle] = []
        self.records: dict[str, Record] = {}
        self.attached: list[Attached] = []
        self.copied: tuple[tuple[str, Any], ...] = ()
        self._pipes: list[weakref.ref[Any]] = []
        self._hooks: list[Any] = []
        self._filled: Any = None
        self.busy = False

    def __getstate__(self) -> dict[str, Any]:
        acting = [(item.artifact.name, mark(item.artifact.edit)) for item in self.handles if self._acts(item)]
        return {"name": self.name, "module": self.module, "copied": (*self.copied, *acting)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a copy of the component cannot give back what was there before, but it knows what hangs on it
        Ledger.__init__(self, state["name"], state["module"])
        self.copied = state["copied"]

    def record(self, key: str, parameter: nn.Parameter) -> Record:
        """What is known of a parameter that is about to be changed."""
        if key not in self.records:
            self.records[key] = Record(self.name, key, parameter)
        return self.records[key]

    def check(self, what: str, keys: Any = None, contents: bool = True) -> None:
        """Refuses where changed parameters are not as they were left; see `integrity.check_records`."""
        late = _late(self)
        records = [self.records[key] for key in (self.records if keys is None else keys)]
        if records and (late is None or not late.checked):
            check_records(what, records, live_parameters(self.name, self.module), self.module, contents)
        if late is not None:
            late.checked = late.checked or keys is None

    def write(self, keys: Any) -> None:
        """Writes changed parameters anew, and what was made of them; those without a change left go back and out."""
        keys = list(keys)
        late = _late(self)
        if late is not None:
            late.keys |= dict.fromkeys(keys)
            return
        for key in keys:
            record = self.records[key]
            if record.patches:
                record.refresh()
            else:
                record.restore()
                record.settle()
                del self.records[key]
        copy_fused(self.module, keys)

    def drop(self, keys: Any, patches: list[Patch]) -> None:
        """Takes changes out of the records; `write` puts that into effect."""
        for key in keys:
            record = self.records[key]
            record.patches = [item for item in record.patches if not any(item is patch for patch in patches)]

    def enter(self, handle: Handle) -> None:
        """Notes an edit and watches component and pipeline from now on."""
        if not self.handles:
            _watch(self.module, _OF_COMPONENT)
            self._filled = self.module.register_load_state_dict_post_hook(self._loaded)
        self.handles.append(handle)
        _watch(handle.pipe, _OF_PIPELINE)
        self._pipes.append(weakref.ref(handle.pipe))

    def watch_passes(self) -> None:
        """From now on checks before every pass that what hangs here is in place, and before every copy."""
        if not self._hooks:
            hooked = [self.module, *(child for child in self.module.children() if _stateful(child))]
            self._hooks = [item.register_state_dict_pre_hook(self._copied) for item in hooked]
            self._hooks.append(self.module.register_forward_pre_hook(self._before_pass, prepend=True))

    def leave(self, handle: Handle) -> None:
        """Forgets an edit; with the last one, nothing of ours is left on the component."""
        if handle not in self.handles:
            return
        self.handles.remove(handle)
        if not any(item.hangs_on(self.name) for item in self.handles):
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
        if not self.handles and self._filled is not None:
            self._filled.remove()
            self._filled = None
        if self.handles or self.copied:
            return
        object.__delattr__(self.module, LEDGER)
        _unwatch(self.module, _OF_COMPONENT)
        for reference in self._pipes:
            pipe = reference()
            if pipe is not None and not ledgers(pipe):
                _unwatch(pipe, _OF_PIPELINE)

    @property
    def hooked(self) -> list[str]:
        """Names of the edits that act by hooks at a strength that is not 0: what no file of weights holds."""
        return [*dict(self.copied), *(item.artifact.name for item in self.handles if self._acts(item))]

    def _acts(self, handle: Handle) -> bool:
        return handle.strength != 0 and handle.hangs_on(self.name)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Has the original tensors in place inside the block; what they are afterwards is the new base of all edits."""
        live = live_parameters(self.name, self.module)
        records = list(self.records.values())
        try:
            check_records("fuse", records, live, self.module)
            usable = not any(fused_projections(self.module, self.records))
        except PipelineChanged:
            usable = False  # told when one of our edits is to be changed or removed
        if not usable:
            yield
            return
        for record in records:
            record.restore()
        try:
            yield
        finally:
            for record in records:
                record.take()
                record.refresh()

    def _before_pass(self, _module: nn.Module, _args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        hook = getattr(self.module, CONTEXT_HOOK, None)
        for item in (*self.attached, *([hook] if hook else [])):
            item.keep(self.module)

    def _loaded(self, _module: nn.Module, _keys: Any) -> None:
        if not self.busy:
            refuse_twin_state(self)  # `PeftModel` calls nothing of the model itself, but fills its layers from here

    def _copied(self, module: nn.Module, prefix: str, _keep_vars: bool) -> None:
        if prefix or self.busy or not self.hooked:
            return
        if module is self.module:
            text = f"this state dict of {self.name} does not hold {_listed(self.hooked)}: {_BY_HOOKS}"
            warnings.warn(text, stacklevel=4)
        else:
            raise NotInFile(
                f"a copy of parts of {self.name}, as AnimateDiff and ControlNet make it, would not hold "
                f"{_listed(self.hooked)}: {_BY_HOOKS}; remove() first, and apply to the new pipeline"
            )


@dataclass(eq=False)
class _Late:
    """What is left for the end of `together` on one component."""

    keys: dict[str, None] = field(default_factory=dict)
    checked: bool = False


#: components whose writing is put off: one table inside `together`, whose caller holds the lock, none elsewhere
_BATCH: list[dict[Ledger, _Late]] = []


def _late(ledger: Ledger) -> _Late | None:
    return _BATCH[0].setdefault(ledger, _Late()) if _BATCH else None


@contextmanager
def together() -> Iterator[None]:
    """Edits that come in inside are checked once, at the first, and every parameter is written once, at the end.

    The sums are those of edits that come in one after the other, to the last bit.
    """
    with LOCK:
        if _BATCH:
            yield
            return
        _BATCH.append({})
        try:
            yield
        finally:
            for ledger, late in _BATCH.pop().items():
                ledger.write(key for key in late.keys if key in ledger.records)


_BY_HOOKS = "it acts while the model runs, not in its weights"


def ledger_of(name: str, module: nn.Module) -> Ledger:
    """The ledger of a component; a fresh one if nothing is in force."""
    found = getattr(module, LEDGER, None)
    if found is None:
        found = Ledger(name, module)
        object.__setattr__(module, LEDGER, found)
    return found


def ledgers(pipe: Any) -> list[Ledger]:
    """Ledgers of all components of a pipeline, or of one component, on which an edit is in force."""
    parts = [pipe] if isinstance(pipe, nn.Module) else parts_of(pipe).values()
    whole = [getattr(part, "_orig_mod", part) for part in parts]
    found = [getattr(part, LEDGER, None) for part in whole if isinstance(part, nn.Module)]
    return [ledger for ledger in found if ledger is not None and (ledger.handles or ledger.copied)]


def _stateful(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _fusing(owner: Any, inner: Callable[[], Any], _args: Any, _more: Any) -> Any:
    with LOCK:
        found = ledgers(owner)
        if any(ledger.busy for ledger in found):
            return inner()  # a pipeline that calls its component
        with ExitStack() as stack:
            for ledger in found:
                stack.enter_context(ledger.lifted())
            stack.enter_context(_busy(found))
            return inner()


@contextmanager
def _busy(found: list[Ledger]) -> Iterator[None]:
    before = [ledger.busy for ledger in found]
    for ledger in found:
        ledger.busy = True
    try:
        yield
    finally:
        for ledger, value in zip(found, before, strict=True):
            ledger.busy = value


def _saving(owner: Any, inner: Callable[[], Any], _args: Any, _more: Any) -> Any:
    names = [name for ledger in ledgers(owner) for name in ledger.hooked]
    if names:
        raise NotInFile(
            f"the saved files would not hold {_listed(list(dict.fromkeys(names)))}: {_BY_HOOKS}; nothing was written: "
            "apply with mode='weights' if it can be, or remove() it (a copy of a pipeline cannot: save the first one), "
            "save, and apply it after loading"
        )
    return inner()


def _loading(owner: Any, inner: Callable[[], Any], args: Any, more: Any) -> Any:
    with LOCK:
        found = ledgers(owner)

        def load() -> Any:
            with _busy(found):
                return inner()

        if not any(ledger.busy for ledger in found):
            refuse_parts(told_by(args, more), found)
        return refuse_twin_adapters(owner, found, load)


_OF_COMPONENT: Mapping[str, Any] = {
    "save_pretrained": _saving,
    "fuse_lora": _fusing,
    "unfuse_lora": _fusing,
    "load_lora_adapter": _loading,
    "load_adapter": _loading,
}
_OF_PIPELINE: Mapping[str, Any] = {
    "save_pretrained": _saving,
    "fuse_lora": _fusing,
    "unfuse_lora": _fusing,
    "load_lora_weights": _loading,
}


def _watch(owner: Any, methods: Mapping[str, Any]) -> None:
    """Puts our function around methods of one object; its class stays as it is, and copies are bound to themselves."""
    for name, around in methods.items():
        own = getattr(type(owner), name, None)
        if own is not None and name not in vars(owner):
            vars(owner)[name] = MethodType(_around(own, around), owner)


def _unwatch(owner: Any, methods: Mapping[str, Any]) -> None:
    for name in methods:
        if getattr(vars(owner).get(name), "_erase_watched", False):
            del vars(owner)[name]


def _around(own: Any, around: Any) -> Any:
    @functools.wraps(own)
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(self, lambda: own(self, *args, **kwargs), args, kwargs)

    watched._erase_watched = True  # type: ignore[attr-defined]
    return watched

"""Node classes in today's form (V3), made from the same `NodeSpec` as the classic ones.

Needs the part of ComfyUI that describes nodes, which is loaded while ComfyUI loads packs.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from . import running
from .classic import options_of
from .spec import Input, NodeSpec

API = "comfy_api.latest"


def available() -> bool:
    """Whether this is a ComfyUI whose form of nodes has settled, 0.8 or later; asks nothing that is not loaded yet."""
    io = getattr(sys.modules.get(API), "io", None)
    return hasattr(io, "DynamicCombo")


def node_class(spec: NodeSpec) -> type:
    """The class that ComfyUI registers for ``spec``."""
    from comfy_api.latest import io

    hidden = {name: io.Hidden(kind) for name, kind in spec.hidden.items()}

    def define_schema(_cls: Any) -> Any:
        more = {"search_aliases": list(spec.searched)} if "search_aliases" in _fields(io.Schema) else {}
        ordered = [item for item in spec.inputs if item.required] + [item for item in spec.inputs if not item.required]
        return io.Schema(
            node_id=spec.id, display_name=(spec.short if more else "") or spec.title, category=spec.category,
            description=spec.description,
            inputs=[_input(io, item) for item in ordered],
            outputs=[
                io.Custom(item.type).Output(display_name=item.name, tooltip=item.tooltip) for item in spec.outputs
            ],
            hidden=list(hidden.values()), is_output_node=spec.is_output, is_deprecated=bool(spec.instead),
            is_experimental=spec.experimental, **more,
        )  # fmt: skip

    def execute(cls: Any, **values: Any) -> Any:
        given = {name: getattr(cls.hidden, kind.name) for name, kind in hidden.items()}
        found, shown = running.run(spec, {**values, **given})
        return io.NodeOutput(*found, ui=shown or None)

    members: dict[str, Any] = {
        "__doc__": spec.description, "SPEC": spec, "SEARCH_ALIASES": list(spec.searched),
        "define_schema": classmethod(define_schema), "execute": classmethod(execute),
    }  # fmt: skip
    if spec.checks:
        members["validate_inputs"] = classmethod(running.validator(spec, "cls"))
    if spec.state is not None:
        state = spec.state
        members["fingerprint_inputs"] = classmethod(lambda _cls, **values: state(**values))
    return type(spec.id, (io.ComfyNode,), members)


def _fields(schema: Any) -> frozenset[str]:
    return frozenset(inspect.signature(schema).parameters)


def _input(io: Any, item: Input) -> Any:
    more = {"options": item.entries()} if item.type == "COMBO" else {}
    return io.Custom(item.type).Input(
        item.name, optional=not item.required, tooltip=item.tooltip, extra_dict={**options_of(item), **more}
    )

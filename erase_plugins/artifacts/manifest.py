"""What an artifact says about itself. No torch; no user paths, host names or tokens."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any

from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact, EraseError, RequestError
from erase_plugins.hints import stored
from erase_plugins.types import Certificate, DataRef, ForgetItem, Record

FILENAME = "erase.json"
#: layout that holds all of an edit; read in preference to the others
PATCH = "patch"
#: stands for every layout
ALL = "all"
HEADER_KEY = "erase_plugins.manifest"
#: key of the layout in the header of a file that we wrote
LAYOUT_KEY = "erase_plugins.layout"
#: what `package_versions` looks for, besides Python and this package
_STACK = ("torch", "diffusers", "transformers", "peft", "safetensors")
#: names in ``versions`` that are no plugins
LIBRARIES = ("python", "erase-plugins", *_STACK)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\Z")
#: names that Windows gives to devices whatever their ending, or takes for the name without the dot
_WINDOWS = re.compile(r"(?i)(?:(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?|.*\.)\Z")


@dataclass(frozen=True)
class ArtifactFile(Record):
    """One file of an artifact: plain relative name, layout id, SHA-256 and size in bytes."""

    name: str
    layout: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        check_name(self.name)
        texts = isinstance(self.layout, str) and isinstance(self.sha256, str)
        if not texts or type(self.bytes) is not int or self.bytes < 0:
            raise CorruptArtifact(f"the manifest describes {self.name} wrongly")


def check_name(name: str) -> None:
    """Refuses anything but one or two plain path parts.

    Raises:
        CorruptArtifact: absolute, with "..", hidden, with odd characters, or no file on every system.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    plain = all(_NAME.match(part) and not _WINDOWS.match(part) for part in parts)
    if not 1 <= len(parts) <= 2 or "\\" in str(name) or not plain:
        raise CorruptArtifact(f"the manifest names a file that is not allowed: {str(name)[:60]!r}")


@dataclass(frozen=True)
class Manifest(Record):
    """Provenance and content of an artifact.

    ``base`` holds model, revision, family and one fingerprint per component; ``strength`` the evaluated value and the
    usable range. ``concepts`` is what was forgotten, ``preserve`` the retained prompts and ``retain_data`` the retained
    data. All fields, also in the file, are described in docs/format.md.
    """

    name: str
    method: Mapping[str, Any]
    concepts: tuple[ForgetItem, ...]
    preserve: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    kinds: tuple[str, ...] = ()
    rank: int = 0
    modules: int = 0
    strength: Mapping[str, float] = field(default_factory=lambda: {"recommended": 1.0, "low": 0.0, "high": 1.2})
    files: tuple[ArtifactFile, ...] = ()
    created: str = ""
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    quality: str = "not measured"
    history: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    retain_data: tuple[DataRef, ...] = field(default=(), metadata={"sparse": True})
    certificate: Certificate | None = field(default=None, metadata={"sparse": True})
    guards: tuple[Mapping[str, Any], ...] = field(default=(), metadata={"sparse": True})
    records: tuple[Mapping[str, Any], ...] = field(default=(), metadata={"sparse": True})

    @classmethod
    def _revive(cls, known: dict[str, Any]) -> dict[str, Any]:
        known = super()._revive(known)
        known["concepts"] = tuple(
            item if isinstance(item, ForgetItem) else ForgetItem.from_dict(item) for item in known.get("concepts", ())
        )
        known["retain_data"] = tuple(
            item if isinstance(item, DataRef) else DataRef.from_dict(item) for item in known.get("retain_data", ())
        )
        if isinstance(known.get("certificate"), Mapping):
            known["certificate"] = Certificate.from_dict(known["certificate"])
        known["files"] = tuple(
            item if isinstance(item, ArtifactFile) else ArtifactFile.from_dict(item) for item in known.get("files", ())
        )
        return known

    def changed(self, **changes: Any) -> Manifest:
        """The manifest of another edit that was made from this one's: what was proven or measured no longer holds.

        That goes for the numbers and the duration of its run as well.
        """
        lost = ("the certificate of the original is about other weights; it was left out",) if self.certificate else ()
        warnings = (*changes.pop("warnings", self.warnings), *lost)
        extra = {name: value for name, value in self.extra.items() if name != "numbers"}
        return replace(
            self,
            **{
                "files": (),
                "quality": "not measured",
                "certificate": None,
                "records": (),
                "seconds": 0.0,
                "extra": extra,
                **changes,
            },
            warnings=warnings,
        )

    def made_with(self, packages: Mapping[str, str]) -> Manifest:
        """The manifest, naming packages of others (name -> version) that are needed to read what is written."""
        return replace(self, versions={**self.versions, **packages}) if packages else self

    def to_json(self, indent: int | None = 2) -> str:
        """JSON text with sorted keys."""
        separators = None if indent else (",", ":")
        return json.dumps(self.to_dict(), indent=indent, sort_keys=True, ensure_ascii=False, separators=separators)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Manifest from JSON text.

        Raises:
            CorruptArtifact: not JSON, wrong types, newer schema.
        """
        try:
            data = parse(text)
            if not isinstance(data, dict):
                raise CorruptArtifact("the manifest is not a JSON object")
            manifest = cls.from_dict(data)
            manifest.check()
            manifest.to_json().encode()  # what cannot be written again (nesting, lone surrogates) is refused now
            return manifest
        except CorruptArtifact:
            raise
        except (EraseError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise CorruptArtifact(
                f"the manifest is damaged: {stored(error)[:200]!r}; fetch the artifact again"
            ) from error

    def check(self) -> None:
        """Types of the fields that other code relies on.

        Raises:
            CorruptArtifact: names the field.
        """
        expected = {
            "name": str, "method": Mapping, "concepts": tuple, "options": Mapping, "base": Mapping, "files": tuple,
            "strength": Mapping, "versions": Mapping, "kinds": tuple, "notes": tuple, "warnings": tuple,
        }  # fmt: skip
        numbers = {"seed": int, "rank": int, "modules": int, "seconds": int | float}
        for name, kind in {**expected, **numbers, "history": tuple, "created": str, "quality": str}.items():
            if not isinstance(getattr(self, name), kind):
                raise CorruptArtifact(f"the manifest field '{name}' has the wrong type")
        for name in ("preserve", "kinds", "notes", "warnings"):
            if not all(isinstance(item, str) for item in getattr(self, name)):
                raise CorruptArtifact(f"the manifest field '{name}' is not a list of texts")
        if not isinstance(self.certificate, Certificate | None):
            raise CorruptArtifact("the manifest field 'certificate' has the wrong type")
        for name in ("guards", "records"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, Mapping) for item in value):
                raise CorruptArtifact(f"the manifest field '{name}' is not a list of objects")
        names = {FILENAME, *(item.name.casefold() for item in self.files)}  # two names may be one file elsewhere
        if len(names) <= len(self.files):
            raise CorruptArtifact("the manifest lists a file twice, or two whose names differ in case only")
        if not _NAME.match(self.name):
            raise CorruptArtifact(f"the manifest has an unusable name: {self.name[:60]!r}")
        for key, value in self.strength.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1000:
                raise CorruptArtifact(f"the manifest field 'strength' has an unusable '{key[:40]}'")
        if not isinstance(self.base.get("fingerprint") or {}, Mapping):
            raise CorruptArtifact("the manifest field 'base' has no usable fingerprint")
        for concept in self.concepts:
            texts = (*concept.prompts, *concept.images, *(() if concept.anchor is None else (concept.anchor,)))
            if not all(isinstance(item, str) for item in texts):
                raise CorruptArtifact("a concept in the manifest is damaged")
        if not isinstance(self.method.get("id"), str) or not isinstance(self.base.get("family"), str):
            raise CorruptArtifact("the manifest names no method or no model family")

    @property
    def family(self) -> str:
        """Family id of the base model."""
        return str(self.base.get("family", ""))

    @property
    def essential(self) -> tuple[ArtifactFile, ...]:
        """The files that are read: those of our layout, else of the first; the others are for other programs."""
        layouts = [item.layout for item in self.files]
        chosen = PATCH if PATCH in layouts else next(iter(layouts), "")
        return tuple(item for item in self.files if item.layout == chosen)

    def wanted(self, layouts: Sequence[str]) -> list[ArtifactFile]:
        """The files that are read, and those of further layouts; "all" stands for every one.

        Raises:
            RequestError: no file is in a layout that was asked for.
        """
        there, essential = {item.layout for item in self.files}, set(self.essential)
        for name in layouts:
            if name != ALL and name not in there:
                raise RequestError(f"it has no file in layout '{name}'; there are {', '.join(sorted(there))}")
        return [item for item in self.files if item in essential or item.layout in layouts or ALL in layouts]

    @property
    def erased(self) -> tuple[str, ...]:
        """What was forgotten, by name."""
        return tuple(item.name for item in self.concepts)

    @property
    def changes_nothing(self) -> bool:
        """Whether it stands for a result without weights: a certificate, guards or records alone."""
        return not self.kinds and bool(self.certificate or self.guards or self.records)


def package_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    # a clone in custom_nodes is not installed, an editable installation keeps its first number
    from erase_plugins.late import VERSION

    found = {"python": platform.python_version(), "erase-plugins": VERSION}
    for name in _STACK:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def slug(text: str) -> str:
    """File-name form of a text: lower case ASCII letters, digits and underscores, at most 40 characters.

    Accents are left out. Letters of other scripts are told apart by eight digits of a hash of the whole text.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    known = "".join(sign for sign in folded if not unicodedata.combining(sign))
    plain = re.sub(r"[^a-z0-9]+", "_", known).strip("_")
    if any(sign.isalnum() and not sign.isascii() for sign in known):
        told = hashlib.sha256(folded.encode()).hexdigest()[:8]
        return f"{plain[:31].strip('_') or 'concept'}_{told}"
    return plain[:40].strip("_") or "concept"


def describe_base(target: Any, revision: str | None = None) -> dict[str, Any]:
    """What a manifest says about the base model."""
    return {
        "model": target.info.model,
        "revision": revision,
        "family": target.family.id,
        **target.info.facts(),
        "fingerprint": {name: item.to_dict() for name, item in target.fingerprint().items()},
    }

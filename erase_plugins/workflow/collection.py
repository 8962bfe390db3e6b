"""A collection: many artifacts of one base as one folder each, and one small index that says what is there.

The index holds, per artifact, the erased concepts, the method, the size and the SHA-256 of its manifest, which in turn
holds the hashes of its files. Whoever has the index can fetch single artifacts and verify them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.artifacts.fingerprint import base_difference
from erase_plugins.artifacts.locks import locked
from erase_plugins.artifacts.manifest import FILENAME, Manifest, check_name
from erase_plugins.artifacts.places import COLLECTION, INDEX
from erase_plugins.artifacts.store import file_hash
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import ArtifactError, BaseMismatch, CorruptArtifact, UnknownName
from erase_plugins.hints import Hint
from erase_plugins.workflow.artifacts import copy_artifact, load_artifact, locate, save_artifact

SCHEMA = 1
#: what an index may have
MOST_INDEX_BYTES = 64_000_000
#: names that files and folders beside the artifacts have
_TAKEN = (INDEX, "readme.md", "images")
#: artifacts or their paths; a mapping names them
Artifacts = Iterable[Artifact | str | Path] | Mapping[str, Artifact | str | Path]


@dataclass(frozen=True)
class CollectionEntry:
    """What the index says about one artifact.

    Attributes:
        erased: texts of the erased concepts.
        method: id of the method.
        bytes: size of all its files, manifest included.
        sha256: hash of its manifest.
    """

    erased: tuple[str, ...]
    method: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, manifest: Manifest, file: Path) -> CollectionEntry:
        """The entry of an artifact with its manifest in ``file``."""
        size = file.stat().st_size + sum(item.bytes for item in manifest.files)
        return cls(manifest.erased, str(manifest.method["id"]), size, file_hash(file))

    @classmethod
    def from_dict(cls, name: str, data: Any) -> CollectionEntry:
        """Checked entry from the index.

        Raises:
            CorruptArtifact: unusable name or fields.
        """
        check_name(name)
        try:
            entry = cls(tuple(data["erased"]), data["method"], data["bytes"], data["sha256"])
        except (KeyError, TypeError) as error:
            raise CorruptArtifact(f"{INDEX}: the entry of {name} is damaged") from error
        texts = all(isinstance(item, str) for item in (*entry.erased, entry.method, entry.sha256))
        if "/" in name or not texts or type(entry.bytes) is not int or entry.bytes < 0 or len(entry.sha256) != 64:
            raise CorruptArtifact(f"{INDEX}: the entry of {name} is damaged")
        return entry


@dataclass(frozen=True)
class Collection:
    """A folder with an index. Artifacts that the index lists may be absent, if only a part of it was fetched.

    Attributes:
        path: the folder.
        base: the base model of all artifacts, as in their manifests.
        entries: name -> entry.
    """

    path: Path
    base: Mapping[str, Any]
    entries: Mapping[str, CollectionEntry]

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """The collection in a folder; only the index is read.

        Args:
            path: the folder, its index, or a reference that a plugin resolves ("hub:owner/name").

        Raises:
            ArtifactError: no collection there; `CorruptArtifact` if the index is damaged.
        """
        folder = locate(path)
        folder = folder.parent if folder.name == INDEX else folder
        file = folder / INDEX
        if not file.is_file():
            raise ArtifactError(f"'{folder.name}' has no {INDEX}; not a collection (make one with 'collection build')")
        if file.stat().st_size > MOST_INDEX_BYTES:
            raise CorruptArtifact(f"{INDEX} has {file.stat().st_size} bytes; not an index")
        try:
            return cls(folder, *read_index(file.read_text(encoding="utf-8")))
        except (UnicodeDecodeError, OSError) as error:
            raise CorruptArtifact(f"{INDEX} is not readable UTF-8 text") from error

    @property
    def family(self) -> str:
        """Family id of the base model."""
        return str(self.base.get("family", ""))

    def names(self) -> tuple[str, ...]:
        """Names of all artifacts in the index, sorted."""
        return tuple(sorted(self.entries))

    def find(self, names: str | Iterable[str]) -> tuple[str, ...]:
        """Artifact names for names or for texts of erased concepts ("Van Gogh"); each once, in the order given.

        Raises:
            UnknownName: suggests close matches.
        """
        texts: dict[str, str] = {}
        for name in self.names():
            for text in self.entries[name].erased:
                if len(self.entries[name].erased) == 1:
                    texts.setdefault(text.casefold().strip(), name)
        found = []
        for name in [names] if isinstance(names, str) else names:
            key = name if name in self.entries else texts.get(name.casefold().strip())
            if key is None:
                raise UnknownName("artifact in this collection", name, {*self.entries, *texts})
            found.append(key)
        return tuple(dict.fromkeys(found))

    def present(self) -> tuple[str, ...]:
        """Names of the artifacts that are on disk."""
        return tuple(name for name in self.names() if (self.path / name / FILENAME).is_file())

    def load(self, names: str | Iterable[str] | None = None) -> list[Artifact]:
        """Verified artifacts.

        Args:
            names: names or texts of erased concepts; None loads all that are on disk.

        Raises:
            UnknownName: not in the index.
            ArtifactError: in the index and not on disk; `CorruptArtifact` if verification fails.
        """
        wanted = self.present() if names is None else self.find(names)
        return [self._one(name) for name in wanted]

    def _one(self, name: str) -> Artifact:
        folder = self.path / name
        if not (folder / FILENAME).is_file():
            raise ArtifactError(
                f"{name} is in the index of '{self.path.name}' but was not fetched; pull it by its name"
            )
        if file_hash(folder / FILENAME) != self.entries[name].sha256:
            raise CorruptArtifact(f"{name}: its manifest is not the one that the index lists; fetch it again")
        return load_artifact(folder)

    def append(self, artifacts: Artifacts, force: bool = False) -> Collection:
        """The collection with more artifacts. The index is written last: it never lists what is not complete.

        Args:
            artifacts: as for `build_collection`, made for the same base.
            force: replace artifacts of the same name.

        Raises:
            ArtifactError: a name is taken by another artifact.
            BaseMismatch: made for another base. What came before it is in the collection.
        """
        with locked(self.path / INDEX):
            return Collection.open(self.path)._append(artifacts, force)  # somebody may have appended in between

    def _append(self, artifacts: Artifacts, force: bool) -> Collection:
        grown = self
        try:
            for name, artifact in _named(artifacts):
                if name in grown.entries and grown.entries[name].sha256 == _manifest_hash(artifact):
                    continue
                check_fit(name, artifact, grown, force)
                if name in grown.entries:  # between here and the end the index must not list what is being replaced
                    grown = grown._write({key: item for key, item in grown.entries.items() if key != name})
                grown = replace(grown, entries={**grown.entries, name: _store(artifact, self.path / name)})
        finally:
            grown._write(grown.entries)
        return grown

    def _write(self, entries: Mapping[str, CollectionEntry]) -> Collection:
        with atomic_file(self.path / INDEX) as work:
            work.write_text(index_text(self.base, entries), encoding="utf-8")
        return replace(self, entries=dict(entries))


def build_collection(artifacts: Artifacts, out_dir: str | Path, force: bool = False) -> Collection:
    """Writes a new collection folder; complete or not at all.

    Args:
        artifacts: artifacts or their paths, made for the same base and read one at a time; a mapping gives them other
            names than their own.
        out_dir: new folder.
        force: replace a folder of the same kind, if everything in it was written by this program.

    Raises:
        ArtifactError: none given, or two of the same name.
        BaseMismatch: made for different bases.
    """
    folder = Path(out_dir)
    with atomic_folder(folder, force, COLLECTION) as work:
        made: Collection | None = None
        for name, artifact in _named(artifacts):
            made = made or Collection(work, artifact.manifest.base, {})
            check_fit(name, artifact, made, False)
            made = replace(made, entries={**made.entries, name: _store(artifact, work / name)})
        if made is None:
            raise ArtifactError("a collection needs at least one artifact")
        made._write(made.entries)
    return replace(made, path=folder)


def _named(artifacts: Artifacts) -> Iterator[tuple[str, Artifact]]:
    if isinstance(artifacts, Mapping):
        yield from ((name, load_artifact(item)) for name, item in artifacts.items())
    else:
        yield from ((artifact.name, artifact) for artifact in map(load_artifact, artifacts))


def check_fit(name: str, artifact: Artifact, collection: Collection, force: bool) -> None:
    """Whether an artifact can become a member under this name.

    Raises:
        ArtifactError: the name is taken or unusable.
        BaseMismatch: another base.
    """
    check_name(name)
    taken = {item.casefold() for item in collection.entries if not (force and item == name)}
    if "/" in name or name.casefold() in {*taken, *_TAKEN}:
        raise ArtifactError(
            f"the name '{name}' is taken in this collection; choose another, or ", Hint("force"), " to replace it"
        )
    difference = base_difference(collection.base, artifact.manifest.base)
    if difference:
        raise BaseMismatch(f"a collection has one base, '{name}' has another: {difference}")


def _manifest_hash(artifact: Artifact) -> str:
    file = None if artifact.path is None else artifact.path / FILENAME
    return file_hash(file) if file is not None and file.is_file() else ""


def _store(artifact: Artifact, folder: Path) -> CollectionEntry:
    """Copies (or writes) an artifact; what its manifest lists and is there, nothing else."""
    if _manifest_hash(artifact):
        copy_artifact(artifact, folder, force=True)
    else:
        save_artifact(artifact, folder, (), None, True)
    manifest = Manifest.from_json((folder / FILENAME).read_text(encoding="utf-8"))
    return CollectionEntry.of(manifest, folder / FILENAME)


def index_text(base: Mapping[str, Any], entries: Mapping[str, CollectionEntry]) -> str:
    """The index as JSON, one artifact a line, so that a small change is a small difference."""
    lines = [
        f"{json.dumps(name)}:" + json.dumps(
            {"bytes": item.bytes, "erased": item.erased, "method": item.method, "sha256": item.sha256},
            ensure_ascii=False, separators=(",", ":"),
        )
        for name, item in sorted(entries.items())
    ]  # fmt: skip
    head = json.dumps(dict(base), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return f'{{"schema":{SCHEMA},\n"base":{head},\n"artifacts":{{\n' + ",\n".join(lines) + "\n}}\n"


def read_index(text: str) -> tuple[Mapping[str, Any], dict[str, CollectionEntry]]:
    """Base and entries of an index.

    Raises:
        CorruptArtifact: not an index, damaged, or of a newer schema.
    """
    try:
        data = parse(text)
        schema, base, rows = data["schema"], data["base"], data["artifacts"]
        good = type(schema) is int and isinstance(base, dict) and isinstance(rows, dict)
        good = good and isinstance(base.get("family"), str) and isinstance(base.get("fingerprint") or {}, dict)
        json.dumps(data, ensure_ascii=False).encode()
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{INDEX} is damaged; fetch the collection again") from error
    if not good:
        raise CorruptArtifact(f"{INDEX} is damaged; fetch the collection again")
    if schema > SCHEMA:
        raise CorruptArtifact(f"{INDEX} has schema {schema}, this version reads up to {SCHEMA}; update erase-plugins")
    return base, {name: CollectionEntry.from_dict(name, row) for name, row in rows.items()}

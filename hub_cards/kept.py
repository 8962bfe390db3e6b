"""A push adds: what is published already stays, unless this push brings it anew or somebody asked for its removal.

In a repository that holds nothing of ours, files of the same names are somebody else's and are not replaced either.

Evidence (report, pictures, pairs, results on the page) is about certain weights. Where other weights are pushed it
would be read as if it were about them, so such a push is refused until new evidence or ``prune`` comes with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from erase_plugins.artifacts.manifest import FILENAME, Manifest
from erase_plugins.artifacts.places import INDEX
from erase_plugins.artifacts.reference import check_repo
from erase_plugins.errors import ArtifactError, CorruptArtifact, PushRefused, RequestError
from erase_plugins.evaluation import published, saved
from erase_plugins.hints import Hint, Sentence
from erase_plugins.licences import Licence
from erase_plugins.page.package import pinned
from erase_plugins.plain_text import some
from erase_plugins.readme import ADULT, CARD, front_matter, is_ours, keep_user_text, read
from erase_plugins.types import AttackReport, EvalReport
from erase_plugins.workflow import pairs
from erase_plugins.workflow.collection import read_index
from hub_cards.bundle import Bundle
from hub_cards.remote import RECORDS, Remote

#: keys that our pages write; every other key was added by somebody
OURS = frozenset({
    "base_model", "base_model_relation", "library_name", "pipeline_tag", "license", "license_name", "license_link",
    "tags", "widget", "erased", "erasure", "model-index", "title", "emoji", "colorFrom", "colorTo", "sdk",
    "sdk_version", "python_version", "app_file", "pinned", "short_description", "models",
})  # fmt: skip
#: keys that show pictures and numbers about certain weights
EVIDENCE = frozenset({"widget", "model-index"})
#: the folder of a repository's own weights, rather than of a member of a collection
_WHOLE = ("",)
#: folders of evidence; others are of a collection's artifacts
_FOLDERS = (f"{pairs.FOLDER}/", f"{published.FOUND}/")
#: key of `EVIDENCE` -> file from which an artifact's page makes it; without that it was written by hand
_MADE_FROM = {"model-index": saved.REPORT, "widget": pairs.INDEX}


@dataclass(frozen=True)
class Kept:
    """What stays published.

    Attributes:
        same: the pushed weights are those that are published.
        gone: files that this push removes.
        card: the published page.
        data: its front matter.
        dropped: keys of the front matter that leave.
        report: published evaluation of the same weights, for the page.
        pictures: names of its pictures.
        gallery: published pairs of the same weights; without the bytes of their pictures.
        attacks: published reports of attacks on the same weights, by attack.
    """

    same: bool = False
    gone: tuple[str, ...] = ()
    card: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    report: EvalReport | None = None
    pictures: tuple[str, ...] = ()
    gallery: pairs.Gallery | None = None
    attacks: Mapping[str, AttackReport] = field(default_factory=dict)

    @property
    def licence(self) -> Licence | None:
        """The licence that the page names for the same weights."""
        return Licence.read(self.data) if self.same else None

    @property
    def space(self) -> str | None:
        """The Space where people can try it, as the page names it."""
        return self._told("space", check_repo)

    @property
    def requirement(self) -> str | None:
        """The line for pip that the page gives its readers."""
        return self._told("requirement", pinned)

    def page(self, new: str, adult: bool | None, ours: Iterable[str]) -> str:
        """The new page with what people wrote on the old one: between the marks, and in the front matter.

        Args:
            new: page as it was made.
            adult: False takes the Hub's notice off; otherwise a published one stays.
            ours: tags that this package gives; others are somebody's.
        """
        new = keep_user_text(new, self.card)
        made, leave = read(new), set(self.dropped)
        if "license" in made:
            leave |= {"license_name", "license_link"}
        leave |= set() if self.same else OURS  # what stands there is about these weights
        more = {key: value for key, value in self.data.items() if key not in made and key not in leave}
        tags = _tags(made, self.data, adult, set(ours))
        if not more and tags == made.get("tags"):
            return new
        body = new.split("\n---\n", 1)[1]
        return front_matter({**made, **({"tags": tags} if tags else {}), **more}) + body

    def _told(self, key: str, checked: Callable[[str], str]) -> str | None:
        """What the page says under a key of ours, if it can be used."""
        with suppress(RequestError, KeyError, TypeError):
            return checked(self.data["erasure"][key])
        return None


def keep(bundle: Bundle, remote: Remote, *, prune: bool = False, pictures: bool = True) -> Kept:
    """What of a repository stays when a bundle is pushed there.

    Args:
        bundle: its files with their states.
        remote: what is published.
        prune: remove all evidence that is not brought anew, and artifacts that a collection lacks.
        pictures: False removes the pictures.

    Raises:
        PushRefused: something of another kind is published there, files of the same names that we did not put there,
            evidence about other weights, or artifacts that the pushed collection lacks.
    """
    if remote.commit is None:
        return Kept()
    card = remote.text(bundle, CARD)
    if not prune:
        check_theirs(bundle, remote)
    data, (listed, changed) = read(card), _old(bundle, remote, prune)
    new = {item.name: item.state for item in bundle.files}
    evidence = {name for name in remote.files if is_evidence(name, bundle.record == INDEX)} - set(new)
    drawn = set() if pictures else {name for name in evidence if not published.is_text(name)}
    stale = evidence if prune else drawn | published.replaced(new, evidence)
    stale |= set(filter(pairs.of_gallery, evidence)) if pairs.INDEX in new else set()
    stays = evidence - stale
    keys = EVIDENCE & set(data)
    there = {*remote.files, *new} if bundle.record == FILENAME else set()
    by_hand = {key for key in keys if _MADE_FROM[key] not in there}
    others = {name for name in stays if folder_of(name) in changed} or (by_hand if changed and not prune else set())
    if others:
        names = some(sorted(others, key=lambda name: (name.endswith(".png"), name)))
        fresh = Sentence("bring new evidence (", Hint("report"), ", ", Hint("pairs"), "), or ")
        raise PushRefused(
            f"{bundle.repo} holds evidence about other weights than these: {names}; ",
            fresh if bundle.of_artifact else "", "take the old off the page with ", Hint("prune"),
            " (its history keeps it); nothing was sent",
        )  # fmt: skip
    gone = [name for name in listed if name in remote.files and name not in new]
    dropped = keys if prune or changed else keys - by_hand
    thumbnail = str(data.get("thumbnail")).rpartition("/resolve/main/")[2]  # pages of ours name it in full
    if is_evidence(thumbnail) and thumbnail not in stays:
        dropped |= {"thumbnail"}
    kept = Kept(not changed, tuple(dict.fromkeys((*gone, *sorted(stale)))), card, data, frozenset(dropped))
    if not bundle.of_artifact:
        return kept
    told = published.read_back(stays, partial(remote.text, bundle), bundle.artifact)
    return replace(kept, gallery=_gallery(bundle, remote, stays), **told)


def check_theirs(bundle: Bundle, remote: Remote) -> None:
    """Raises `PushRefused` where a push would replace files of the same names that we did not put there."""
    taken = [item.name for item in bundle.files if item.state == "changed" and item.name in remote.files]
    if taken and not (set(RECORDS) & set(remote.files) or is_ours(remote.text(bundle, CARD))):
        raise PushRefused(
            f"{bundle.repo} holds files that are not known as this program's and would be replaced: {some(taken)}; "
            "push to another repository, or replace them with ", Hint("prune"), " (its history keeps them)"
        )  # fmt: skip


def _old(bundle: Bundle, remote: Remote, prune: bool) -> tuple[Iterable[str], Collection[str]]:
    """What an earlier push of this kind put there: its files, and the folders that hold other weights now.

    Raises:
        PushRefused: something of another kind, or artifacts that the pushed collection lacks.
    """
    if bundle.repo_type == "space":
        return (), () if _same_files(bundle, "artifact/") else _WHOLE
    found = next((name for name in RECORDS if name in remote.files), None)
    if found is None:
        return (), _WHOLE
    if found != bundle.record:
        raise PushRefused(f"{bundle.repo} holds {RECORDS[found]}; push {RECORDS[bundle.record]} to another repository")
    text = remote.text(bundle, found)
    try:
        if found == FILENAME:
            return _artifact(bundle, remote, Manifest.from_json(text))
        if found == INDEX:
            return _collection(bundle, remote, read_index(text)[1], prune)
        listed = [str(name) for name in json.loads(text)["files"]]
    except (CorruptArtifact, ValueError, KeyError, TypeError):
        return (), _WHOLE
    weights = {name for name in listed if name.endswith(".safetensors")}
    same = _same_files(bundle, ".safetensors") and weights <= {item.name for item in bundle.files}
    return listed, () if same else _WHOLE


def _artifact(bundle: Bundle, remote: Remote, old: Manifest) -> tuple[Iterable[str], Collection[str]]:
    """Weights are the same if the files that are read are: those for other programs are made from them."""
    pushed: Manifest = bundle.artifact.manifest
    before, now = ({item.sha256 for item in manifest.files} for manifest in (old, pushed))
    read_before, read_now = ({item.sha256 for item in manifest.essential} for manifest in (old, pushed))
    as_listed = all(remote.files.get(item.name) == item.sha256 for item in old.essential)
    same = as_listed and bool(read_before) and (read_before <= now or read_now <= before)
    return [item.name for item in old.files], () if same else _WHOLE


def _collection(
    bundle: Bundle, remote: Remote, old: Mapping[str, Any], prune: bool
) -> tuple[Iterable[str], Collection[str]]:
    entries = bundle.artifact.entries
    gone = sorted(set(old) - set(entries))
    if gone and not prune:
        count = f"{len(gone)} artifact{'s' if len(gone) > 1 else ''}"
        raise PushRefused(
            f"the collection lacks {count} that {bundle.repo} holds: {some(gone)}; pull and add them, or take them "
            "off with ", Hint("prune"), "; nothing was sent",
        )  # fmt: skip
    changed = {name for name, entry in old.items() if name not in entries or entries[name].sha256 != entry.sha256}
    listed: list[str] = []
    for name in sorted(changed):
        listed.append(f"{name}/{FILENAME}")
        with suppress(CorruptArtifact, ValueError, KeyError, TypeError):
            old_manifest = Manifest.from_json(remote.text(bundle, listed[-1]))
            listed += [f"{name}/{item.name}" for item in old_manifest.files]
    return listed, {*changed, *_WHOLE} if changed else ()


def _same_files(bundle: Bundle, part: str) -> bool:
    """Whether the pushed files with this in their names are there already, and there are some."""
    return {item.state for item in bundle.files if part in item.name} == {"same"}


def _gallery(bundle: Bundle, remote: Remote, names: set[str]) -> pairs.Gallery | None:
    """The published pairs, if they are sound and all there."""
    with suppress(ArtifactError):
        gallery = pairs.parse_index(remote.text(bundle, pairs.INDEX) if pairs.INDEX in names else "")
        if names.issuperset(gallery.names):
            return gallery
    return None


def folder_of(name: str) -> str:
    """The member of a collection whose folder a file is in; empty if it is about the whole repository."""
    return "" if name.startswith(_FOLDERS) else name.rpartition("/")[0].split("/")[0]


def is_evidence(name: str, folders: bool = False) -> bool:
    """Whether a file has the name of a report, its pictures or pairs; with ``folders`` also in an artifact's folder."""
    inner = name.removeprefix(f"{folder_of(name)}/") if folders else name
    return published.is_text(inner) or published.is_picture(inner) or pairs.of_gallery(inner)


def _tags(made: Mapping[str, Any], old: Mapping[str, Any], adult: bool | None, ours: set[str]) -> Any:
    before, now = (found if isinstance(found, list) else [] for found in (old.get("tags"), made.get("tags")))
    erasure = old.get("erasure")
    known = {*ours, *([erasure.get("family")] if isinstance(erasure, Mapping) else ())}
    kept = [
        tag for tag in before
        if isinstance(tag, str) and tag not in now
        and (adult is not False if tag == ADULT else tag not in known and not tag.startswith("erased:"))
    ]  # fmt: skip
    return [*now, *kept] or made.get("tags")

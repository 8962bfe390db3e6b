"""A Space for an artifact: a small Gradio page that draws the base and the erased model side by side, as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.artifacts.manifest import FILENAME, PATCH
from erase_plugins.artifacts.reference import SCHEME, address
from erase_plugins.errors import ArtifactError
from erase_plugins.evaluation.sensitive import adults_only, to_blur
from erase_plugins.families.source import POCKET
from erase_plugins.licences import licence_of
from erase_plugins.markdown import Inert, flat, listed
from erase_plugins.page.package import carried
from erase_plugins.page.studio import Settings
from erase_plugins.readme import ADULT, CARD
from erase_plugins.templates import Pages
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.pairs import Gallery
from erase_plugins.workflow.usage import hub_id

APP = "app.py"
#: folder of a Space's own copy of an artifact
COPY = "artifact"
#: version of Gradio that the page was tried with
GRADIO = "6.31.0"
#: Python that ZeroGPU has and this package runs on; Spaces start with an older one unless told
PYTHON = "3.12"
#: hardware that the page suggests to who copies the Space: the embedded model needs no card
SMALL, CARD_16GB = "cpu-basic", "t4-small"
_PAGES = Pages(Path(__file__).parent / "templates", {"address": lambda path: Inert(address(path)), "hub_id": hub_id})


def space_files(
    artifact: Any,
    repo: str,
    *,
    copy: bool = False,
    gallery: Gallery | None = None,
    blur: bool | None = None,
    adult: bool | None = None,
    license: str | None = None,
    requirement: str | None = None,
) -> dict[str, bytes | Path]:
    """The files of a Space: name -> bytes, or the place of a file that is copied.

    Args:
        artifact: an `Artifact` or its path.
        repo: "owner/name" of the published artifact; the Space has the same name.
        copy: give the Space its own copy of the artifact instead of fetching the published one when it starts.
        gallery: pairs before and after to show.
        blur: make their pictures unrecognisable; by default for explicit concepts and persons.
        adult: ask visitors first; by default for explicit concepts.
        license: licence id; that of the base model if None.
        requirement: line for this package in requirements.txt, pinned (`erase_plugins.page.package`). Without it the
            Space holds the package itself.

    Raises:
        RequestError: the requirement is not pinned.
        ArtifactError: ``copy`` and the artifact is not saved as a folder.
    """

    loaded = load_artifact(artifact)
    manifest = loaded.manifest
    hide = to_blur(manifest.concepts) if blur is None else blur
    shown = {} if gallery is None else (gallery.blur() if hide else gallery).files()
    asks = adults_only(manifest.concepts) if adult is None else adult
    files: dict[str, bytes | Path] = {
        CARD: readme(loaded, repo, license, asks).encode(),
        APP: app(loaded, repo, copy).encode(),
        **carried(manifest.base.get("model") in (None, POCKET), requirement),
        **shown,
    }
    return {**files, **copied(loaded)} if copy else files


def copied(loaded: Any) -> dict[str, bytes | Path]:
    """What a copy of an artifact needs: its manifest and the file that carries every kind of change."""
    place = loaded.path
    if place is None or not place.is_dir():
        raise ArtifactError(f"'{loaded.name}' is not an artifact folder; save it first (artifact.save)")
    listed = [item for item in loaded.manifest.files if (place / item.name).is_file()]
    chosen = [item.name for item in listed if item.layout == PATCH] or [item.name for item in listed]
    return {f"{COPY}/{name}": place / name for name in (FILENAME, *chosen)}


def app(loaded: Any, repo: str, copy: bool) -> str:
    """The text of app.py."""
    manifest = loaded.manifest
    about = _PAGES.page("about.md.j2", {"manifest": manifest}).strip()
    settings = Settings.showing(
        manifest, COPY if copy else f"{SCHEME}{repo}", title=f"Erased: {', '.join(manifest.erased[:5])}",
        heading=f"Erased: {listed(manifest.erased, 5)}", about=about,
    )  # fmt: skip
    return _PAGES.page("app.py.j2", {"settings": vars(settings)})


def readme(loaded: Any, repo: str, license: str | None, adult: bool) -> str:
    """The text of the Space's README.md, with the settings that the Hub reads."""
    manifest = loaded.manifest
    base, licence = hub_id(manifest.base), licence_of(manifest.base, license)
    data = {
        "title": flat(f"Erased: {', '.join(manifest.erased[:3])}")[:60], "emoji": "🧽", "colorFrom": "gray",
        "colorTo": "green", "sdk": "gradio", "sdk_version": GRADIO, "python_version": PYTHON, "app_file": APP,
        "suggested_hardware": SMALL if manifest.base.get("model") in (None, POCKET) else CARD_16GB, "pinned": False,
        "short_description": "Base and erased model, side by side",
        "license": None if licence is None or licence.name else licence.id,
        "models": [repo, *([base] if base else [])],
        "tags": ["erase-plugins", "concept-erasure", *([ADULT] if adult else [])],
    }  # fmt: skip
    return _PAGES.document(data, "space.md.j2", {"manifest": manifest, "repo": repo})


def write_space(files: Mapping[str, bytes | Path], folder: str | Path, force: bool = False) -> Path:
    """Writes the files of a Space into a new folder; all of them or none."""

    target = Path(folder)
    with atomic_folder(target, force, "space") as work:
        for name, source in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    return target

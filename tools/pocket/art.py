"""The free emoji art that the model is trained on: fetched with npm once, cached, read as RGBA sprites.

``python -m tools.pocket.art`` fetches it and reports what resolves.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.atomic import atomic_folder
from erase_plugins.errors import EraseError

if TYPE_CHECKING:
    from PIL.Image import Image

    from erase_plugins.pocket.world import World

KEYWORDS = "keywords.json"


class ArtMissing(EraseError):
    """The art cannot be fetched, or the given folder lacks some of it."""

    exit_code = 4


@dataclass(frozen=True)
class ArtPackage:
    """One npm package of sprites (``path`` inside it, with the code point in place of ``{code}``)."""

    style: str
    spec: str
    path: str
    licence: str

    @property
    def name(self) -> str:
        """Package name without its version."""
        return self.spec.rpartition("@")[0]


PACKAGES = (
    ArtPackage("noto", "emoji-datasource-google@16.0.0", "img/google/64/{code}.png", "Apache-2.0"),
    ArtPackage("twemoji", "emoji-datasource-twitter@16.0.0", "img/twitter/64/{code}.png", "CC-BY-4.0"),
    ArtPackage("fluent", "@lobehub/fluent-emoji-3d@1.1.0", "assets/{code}.webp", "MIT"),
)
WORDS = ArtPackage("keywords", "emojilib@4.0.3", "dist/emoji-en-US.json", "MIT")


def codes(codepoint: str) -> tuple[str, ...]:
    """File stems to try for a code point: as given, without and with the emoji presentation selector."""
    code = codepoint.lower()
    bare = code.removesuffix("-fe0f")
    return tuple(dict.fromkeys((code, bare, f"{bare}-fe0f")))


def default_folder() -> Path:
    """Where fetched art is kept for the next run."""
    from platformdirs import user_cache_path

    return user_cache_path("erase-plugins") / "pocket-art"


def fetch(world: World, folder: Path | None = None) -> Path:
    """The art folder, filled by npm if it is not there yet: ``<style>/<code>.<png|webp>`` and the keywords.

    Raises:
        ArtMissing: npm is absent, or a package cannot be downloaded.
    """
    folder = folder or default_folder()
    if (folder / "sources.json").is_file():
        return folder
    npm = shutil.which("npm")
    if npm is None:
        raise ArtMissing(
            "the art comes as npm packages and npm is not on the PATH; install Node.js, or unpack "
            f"{', '.join(package.spec for package in PACKAGES)} yourself and pass --art DIR"
        )
    stems = {code for item in world.concepts for code in codes(item.codepoint)}
    with atomic_folder(folder, force=True, kind="pocket art") as work, tempfile.TemporaryDirectory() as packed:
        for package in (*PACKAGES, WORDS):
            _unpack(package, _pack(npm, package.spec, Path(packed)), stems, work)
        sources = {package.style: {"package": package.spec, "licence": package.licence} for package in PACKAGES}
        (work / "sources.json").write_text(json.dumps(sources, indent=1) + "\n", encoding="utf-8")
    return folder


def find_sprite(folder: Path, package: ArtPackage, codepoint: str) -> Path | None:
    """A sprite's file: in a fetched folder, or in a folder of unpacked or installed npm packages."""
    inside = (folder / package.name, folder / "node_modules" / package.name, folder / package.name / "package")
    for code in codes(codepoint):
        name = package.path.format(code=code)
        for path in (folder / package.style / Path(name).name, *(root / name for root in inside)):
            if path.is_file():
                return path
    return None


def missing_sprites(world: World, folder: Path) -> list[str]:
    """Names of the sprites that a folder lacks."""
    return [
        f"{item.name} ({package.style})"
        for item in world.concepts
        for package in PACKAGES
        if find_sprite(folder, package, item.codepoint) is None
    ]


def load_sprites(world: World, folder: Path, size: int = 64) -> dict[tuple[str, str], Image]:
    """All sprites of a world as square RGBA pictures, by (concept name, style).

    Raises:
        ArtMissing: some are not in the folder, or cannot be decoded.
    """
    from PIL import Image

    if missing := missing_sprites(world, folder):
        total = len(world.concepts) * len(PACKAGES)
        raise ArtMissing(f"{len(missing)} of {total} sprites are not in '{folder.name}': {', '.join(missing[:6])}")
    sprites = {}
    for item in world.concepts:
        for package in PACKAGES:
            path = find_sprite(folder, package, item.codepoint)
            assert path is not None
            try:
                picture = Image.open(path).convert("RGBA")
            except OSError as error:
                raise ArtMissing(f"'{path.name}' of {package.style} is no readable picture: {error}") from error
            sprites[item.name, package.style] = picture.resize((size, size), Image.Resampling.LANCZOS)
    return sprites


def keywords(folder: Path) -> dict[str, tuple[str, ...]]:
    """Keywords by lower-case code point without the presentation selector; empty if the folder has none."""
    path = next((p for p in (folder / KEYWORDS, folder / WORDS.name / WORDS.path) if p.is_file()), None)
    if path is None:
        return {}
    data = json.loads(path.read_text(encoding="utf-8"))
    return {codes("-".join(f"{ord(char):x}" for char in emoji))[-1].removesuffix("-fe0f"): tuple(words)
            for emoji, words in data.items()}  # fmt: skip


def report(world: World, folder: Path) -> dict[str, Any]:
    """What resolves: sprites found and missing, and how many synonyms are emoji keywords of their concept."""
    missing, known = missing_sprites(world, folder), keywords(folder)
    pairs = [(item, word) for item in world.concepts for word in item.synonyms]
    from_keywords = sum(_is_keyword(word, known.get(item.codepoint.lower().removesuffix("-fe0f"), ()))
                        for item, word in pairs)  # fmt: skip
    total = len(world.concepts) * len(PACKAGES)
    return {"sprites": total - len(missing), "missing": missing, "synonyms": len(pairs), "keywords": from_keywords}


def _is_keyword(word: str, known: Iterable[str]) -> bool:
    plain = {part for entry in known for part in (entry.replace("_", " "), *entry.replace("-", "_").split("_"))}
    return word in plain


def _pack(npm: str, spec: str, folder: Path) -> Path:
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), spec]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired as error:
        raise ArtMissing(f"npm did not deliver {spec} within half an hour; try again or pass --art DIR") from error
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise ArtMissing(f"npm could not fetch {spec}: {reason}; check the network or pass --art DIR")
    return folder / done.stdout.strip().splitlines()[-1]


def _unpack(package: ArtPackage, archive: Path, stems: set[str], target: Path) -> None:
    """Copies only the wanted members, by bytes, so that no path inside the archive is trusted."""
    if package is WORDS:
        wanted = {f"package/{package.path}": target / KEYWORDS}
    else:
        names = {f"package/{package.path.format(code=code)}" for code in stems}
        wanted = {name: target / package.style / Path(name).name for name in names}
        (target / package.style).mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and member.name in wanted:
                source = tar.extractfile(member)
                assert source is not None
                wanted[member.name].write_bytes(source.read())


def main(arguments: list[str] | None = None) -> None:
    """Fetches the art and reports what resolves."""
    import argparse

    from erase_plugins.pocket.world import pocket_world

    parser = argparse.ArgumentParser(prog="python -m tools.pocket.art", description=main.__doc__)
    parser.add_argument("--art", type=Path, help="folder to use instead of the cache")
    folder = parser.parse_args(arguments).art or fetch(pocket_world())
    print(json.dumps(report(pocket_world(), folder), indent=1))


if __name__ == "__main__":
    main()

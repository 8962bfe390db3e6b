"""Art: code points, folders of both kinds, npm faked, npm missing, npm failing."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from erase_plugins.pocket.world import World, WorldConcept
from tools.pocket import art


@pytest.fixture
def world(small_world: World) -> World:
    concepts = (
        WorldConcept("sun", "nature", "2600-FE0F", ("rays",)),
        WorldConcept("dog", "animal", "1F436", ("woof",)),
    )
    return World(concepts, ("noto", "twemoji", "fluent"), small_world.backgrounds, small_world.background_rgb, {}, {})


def png(colour: tuple[int, int, int, int] = (255, 0, 0, 255), size: int = 64) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (size, size), colour).save(buffer, "PNG")
    return buffer.getvalue()


#: what each package holds: one has the selector in its name, one does not, one has a stray path
MEMBERS = {
    "emoji-datasource-google": {"img/google/64/2600-fe0f.png": png(), "img/google/64/1f436.png": png()},
    "emoji-datasource-twitter": {
        "img/twitter/64/2600.png": png(), "img/twitter/64/1f436.png": png(), "../../escaped.png": png(),
    },
    "@lobehub/fluent-emoji-3d": {"assets/2600.webp": png(size=160), "assets/1f436.webp": png(size=160)},
    "emojilib": {"dist/emoji-en-US.json": json.dumps({"☀️": ["sun", "rays"], "🐶": ["dog_face"]}).encode()},
}  # fmt: skip


class FakeNpm:
    """Stands for `npm pack`: writes an archive of the asked package."""

    def __init__(self, fail: str = "") -> None:
        self.fail, self.asked = fail, []

    def __call__(self, command: list[str], **_: object) -> object:
        spec, folder = command[-1], Path(command[command.index("--pack-destination") + 1])
        self.asked.append(spec)
        name = spec.rpartition("@")[0]
        if self.fail and self.fail in name:
            return type("Done", (), {"returncode": 1, "stderr": "npm error code E404\nmore", "stdout": ""})
        file = name.replace("@", "").replace("/", "-") + ".tgz"
        with tarfile.open(folder / file, "w:gz") as tar:
            for path, data in MEMBERS[name].items():
                member = tarfile.TarInfo(f"package/{path}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return type("Done", (), {"returncode": 0, "stderr": "", "stdout": f"{file}\n"})


def test_codes_try_both_presentations():
    assert art.codes("2600-FE0F") == ("2600-fe0f", "2600")
    assert art.codes("1F436") == ("1f436", "1f436-fe0f")


def test_fetch_unpacks_only_what_the_world_needs(world, tmp_path, monkeypatch):
    npm = FakeNpm()
    monkeypatch.setattr(art.shutil, "which", lambda _: "/bin/npm")
    monkeypatch.setattr(art.subprocess, "run", npm)
    folder = art.fetch(world, tmp_path / "deep" / "art")
    assert npm.asked == [package.spec for package in (*art.PACKAGES, art.WORDS)]
    files = sorted(str(path.relative_to(tmp_path / "deep")) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "art/.erase-plugins", "art/fluent/1f436.webp", "art/fluent/2600.webp", "art/keywords.json", "art/noto/1f436.png",
        "art/noto/2600-fe0f.png", "art/sources.json", "art/twemoji/1f436.png", "art/twemoji/2600.png",
    ]  # fmt: skip
    art.fetch(world, folder)
    assert len(npm.asked) == 4  # the second call found everything
    sprites = art.load_sprites(world, folder)
    assert {(name, style): sprite.size for (name, style), sprite in sprites.items()} == {
        (name, style): (64, 64) for name in ("sun", "dog") for style in world.styles
    }
    assert art.report(world, folder) == {"sprites": 6, "missing": [], "synonyms": 2, "keywords": 1}


def test_installed_packages_are_read_in_place(world, tmp_path):
    for name, members in MEMBERS.items():
        for path, data in members.items():
            if ".." not in path:
                target = tmp_path / "node_modules" / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
    assert art.missing_sprites(world, tmp_path) == []
    assert art.load_sprites(world, tmp_path)["sun", "twemoji"].getpixel((5, 5)) == (255, 0, 0, 255)


def test_npm_missing_is_said_clearly(world, tmp_path, monkeypatch):
    monkeypatch.setattr(art.shutil, "which", lambda _: None)
    with pytest.raises(art.ArtMissing, match=r"npm is not on the PATH; install Node\.js.*--art DIR") as caught:
        art.fetch(world, tmp_path / "art")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "art").exists()


def test_failed_package_leaves_no_folder(world, tmp_path, monkeypatch):
    monkeypatch.setattr(art.shutil, "which", lambda _: "/bin/npm")
    monkeypatch.setattr(art.subprocess, "run", FakeNpm(fail="fluent"))
    with pytest.raises(art.ArtMissing, match=r"could not fetch @lobehub/fluent-emoji-3d@1\.1\.0: npm error code E404"):
        art.fetch(world, tmp_path / "art")
    assert list(tmp_path.iterdir()) == []


def test_incomplete_folder_names_what_lacks(world, tmp_path):
    (tmp_path / "noto").mkdir()
    (tmp_path / "noto" / "1f436.png").write_bytes(png())
    with pytest.raises(art.ArtMissing, match=r"5 of 6 sprites .*sun \(noto\)"):
        art.load_sprites(world, tmp_path)


def test_broken_picture_is_named(world, tmp_path):
    for package in art.PACKAGES:
        (tmp_path / package.style).mkdir()
        for code in ("2600", "1f436"):
            data = b"no picture" if (package.style, code) == ("fluent", "2600") else png()
            (tmp_path / package.style / Path(package.path.format(code=code)).name).write_bytes(data)
    with pytest.raises(art.ArtMissing, match=r"'2600\.webp' of fluent is no readable picture"):
        art.load_sprites(world, tmp_path)

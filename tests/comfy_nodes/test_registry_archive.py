"""What ComfyUI's registry reads: a complete description, and an archive without what its scanner takes for an attack."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from PIL import Image

from comfy_nodes import NODE_CLASS_MAPPINGS
from tests.comfy_nodes.conftest import ROOT

DESCRIBED = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: what the scanner of the registry flags, even in a text: sockets, processes, code from text, the environment
FLAGGED = re.compile(
    r"\bimport requests\b|\brequests\.(?:get|post|put|request|Session)\b|urllib\.request|aiohttp\.ClientSession"
    r"|\.connect\(|\.bind\(|\.send\(|os\.environ|\bsubprocess\b|\bos\.(?:system|popen)\b|\b(?:exec|eval)\(|\.eval\("
)
TEXTS = {".py", ".js", ".json", ".toml", ".md", ".txt"}


@pytest.fixture(scope="module")
def archive():
    """Paths of what `comfy node pack` puts into the archive: what git tracks, without what .comfyignore names."""
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")

    def listed(*words):
        found = subprocess.run(
            ["git", "ls-files", "-z", *words], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        return {name for name in found.split("\0") if name}

    return sorted(listed() - listed("-ci", "--exclude-from=.comfyignore"))


def test_everything_that_the_registry_shows_is_given():
    project, comfy = DESCRIBED["project"], DESCRIBED["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,98}", project["name"])
    assert "comfyui" not in project["name"]
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert project["license"]
    assert {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui"} <= comfy.keys()
    assert [item for item in project["classifiers"] if item.startswith(("Operating System ::", "Environment :: GPU"))]


@pytest.mark.parametrize(("field", "ratio", "most"), [("Icon", 1, 400), ("Banner", 21 / 9, 2100)])
def test_pictures_have_the_shape_that_is_asked_for(field, ratio, most):
    address = DESCRIBED["tool"]["comfy"][field]
    repository = DESCRIBED["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    start = f"https://raw.githubusercontent.com/{repository}/main/"
    assert address.startswith(start)
    width, height = Image.open(ROOT / address.removeprefix(start)).size
    assert width / height == pytest.approx(ratio, rel=1e-3)
    assert width <= most


def test_the_archive_holds_nothing_that_is_flagged(archive):
    found = {}
    for name in archive:
        if (ROOT / name).suffix in TEXTS and name != "pyproject.toml":
            hits = FLAGGED.findall((ROOT / name).read_text(encoding="utf-8"))
            if hits:
                found[name] = sorted(set(hits))
    assert found == {}


def test_requirements_bring_no_torch_and_no_address():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert wanted == ["pluggy>=1.5"]
    assert not (ROOT / "install.py").exists()


def test_the_archive_alone_gives_every_node(archive, tmp_path):
    place = tmp_path / "custom_nodes" / "erase-plugins"
    for name in archive:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ROOT / name, place / name)
        except OSError:  # another disk
            shutil.copyfile(ROOT / name, place / name)
    script = (
        "import importlib.util, json, sys\n"
        "sys.path[:] = [item for item in sys.path if item not in ('', sys.argv[2])]\n"
        "sys.meta_path[:] = [item for item in sys.meta_path if 'editable' not in repr(item).lower()]\n"
        "spec = importlib.util.spec_from_file_location('pack', sys.argv[1] + '/__init__.py', "
        "submodule_search_locations=[sys.argv[1]])\n"
        "pack = importlib.util.module_from_spec(spec); sys.modules['pack'] = pack; spec.loader.exec_module(pack)\n"
        "import erase_plugins\n"
        "print(json.dumps([erase_plugins.__file__, sorted(pack.NODE_CLASS_MAPPINGS)]))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(place), str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    where, nodes = json.loads(ran.stdout.splitlines()[-1])
    assert where.startswith(str(place))
    own = [name for name, node in NODE_CLASS_MAPPINGS.items() if node.SPEC.package == "erase-plugins"]
    assert nodes == sorted(own)


def test_our_scripts_do_not_look_again_and_again():
    """Whatever changes tells it: a timer in the browser costs everybody who has the pack, in every graph."""
    for path in (ROOT / "comfy_nodes" / "web").glob("*.js"):
        assert "setInterval" not in path.read_text(encoding="utf-8"), path.name

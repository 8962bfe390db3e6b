"""Artifacts whose layout or family comes from a package that was uninstalled since."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors.torch import save_file

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.store import read_file, read_folder
from erase_plugins.errors import PluginAbsent, RequestError
from erase_plugins.manager import get_manager
from erase_plugins.protocols import Verdict
from tests.layouts.making import artifact_of, random_edit, same_edit


class Foreign:
    """Factors under names of its own; it may say that it loses something."""

    id, title, readers = "foreign", "a layout of somebody else", ("their viewer",)
    reason = ""

    def accepts(self, edit, family):
        return Verdict("lossy" if self.reason else "yes", self.reason)

    def filename(self, slug, family):
        return f"{slug}_{self.id}.safetensors"

    def write(self, edit, family, header, path):
        parts = {
            f"{self.id}|{component}|{key}|{part}": tensor.clone()
            for component, key, delta in edit.items()
            for part, tensor in delta.tensors().items()
        }
        save_file(parts, path, dict(header))

    def sniff(self, keys, header):
        return all(key.startswith(f"{self.id}|") for key in keys)

    def read(self, path, family):
        raise NotImplementedError


class Other(Foreign):
    """A second one."""

    id = "other"


def plugin(*layouts):
    found = SimpleNamespace(__name__="their-package")
    found.erase_layouts = hookimpl(lambda: list(layouts), specname="erase_layouts")
    return found


@pytest.fixture
def edit(pocket_target):
    return random_edit(pocket_target, ("cross_kv",), mixed=False)


def test_another_file_of_the_folder_is_read(pocket_target, edit, tmp_path):
    with get_manager().temporary(plugin(Foreign()), "theirs"):
        made = artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign", "kohya"))
    assert made.manifest.files[0].layout == "foreign"
    back = ep.load_artifact(tmp_path / "art")
    assert same_edit(back.edit, edit)
    assert back.manifest == made.manifest


def test_a_file_that_holds_a_part_is_not_read_in_its_place(pocket_target, edit, tmp_path):
    part = Other()
    part.reason = "only half of it fits"
    with get_manager().temporary(plugin(Foreign(), part), "theirs"):
        artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign", "other"))
    with get_manager().temporary(plugin(part), "theirs"), pytest.raises(PluginAbsent, match="the layout foreign"):
        ep.load_artifact(tmp_path / "art")


def test_the_package_is_named_for_folder_and_file(pocket_target, edit, tmp_path):
    with get_manager().temporary(plugin(Foreign()), "theirs"):
        made = artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign",))
    told = (
        "' has the layout foreign, which no plugin here brings; it was written with their-package: install that, "
        "or ask its author for layout patch"
    )
    with pytest.raises(PluginAbsent) as folder:
        ep.load_artifact(tmp_path / "art")
    assert str(folder.value) == f"'art{told}"
    name = made.manifest.files[0].name
    with pytest.raises(PluginAbsent) as file:
        ep.load_artifact(tmp_path / "art" / name)
    assert str(file.value) == f"'{name}{told}"
    assert (folder.value.exit_code, file.value.exit_code) == (4, 4)


def test_a_package_that_is_installed_but_left_out_is_told_so(pocket_target, edit, tmp_path):
    artifact = artifact_of(pocket_target, edit).save(tmp_path / "art", ("patch",))
    known = get_manager().known()
    families = {name: item for name, item in known.families.items() if name != "sd1"}
    manifest = replace(artifact.manifest, versions={"torch": "2", "pytest": "8", "erase-plugins": "0.1.0"})
    (tmp_path / "art" / FILENAME).write_text(manifest.to_json())
    with pytest.raises(PluginAbsent, match=r"family sd1, .* with pytest, which is installed but not in use: .*list pl"):
        read_folder(tmp_path / "art", replace(known, families=families))
    with pytest.raises(PluginAbsent, match="the family sd1, which no plugin here brings; install the package that do"):
        read_file(tmp_path / "art" / artifact.manifest.files[0].name, None, replace(known, families=families))


def test_a_clash_is_no_absence(pocket_target, edit, tmp_path):
    artifact_of(pocket_target, edit).save(tmp_path / "art", ("kohya",))
    twin = plugin(get_manager().layout("kohya"))
    with get_manager().temporary(twin, "theirs"), pytest.raises(RequestError, match="id 'kohya' is claimed by"):
        ep.load_artifact(tmp_path / "art")


def test_older_artifacts_name_the_package_of_their_method_for_a_family(pocket_target, edit, tmp_path):
    with get_manager().temporary(plugin(Foreign()), "theirs"):
        made = artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign",))
    method = {"id": "x", "package": "no-such-package", "version": "1.2"}
    (tmp_path / "art" / FILENAME).write_text(replace(made.manifest, versions={}, method=method).to_json())
    with pytest.raises(PluginAbsent, match="which no plugin here brings; install the package that does, or ask"):
        ep.load_artifact(tmp_path / "art")  # of a layout that says nothing
    known = get_manager().known()
    with pytest.raises(PluginAbsent, match=r"written with no-such-package 1\.2: install that$"):
        read_folder(tmp_path / "art", replace(known, families={}))


def test_a_sweep_does_not_replace_what_it_cannot_read(pocket_target, edit, tmp_path):
    from erase_plugins.cli.sweep import _finished

    with get_manager().temporary(plugin(Foreign()), "theirs"):
        artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign",))
    with pytest.raises(PluginAbsent):
        _finished(tmp_path / "art", None, "pocket", ())

"""Artifacts whose layout or family comes from a package that was uninstalled since."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file, save_file

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.manifest import FILENAME
from erase_plugins.artifacts.store import read_file, read_folder
from erase_plugins.errors import PluginAbsent, RequestError
from erase_plugins.manager import get_manager
from erase_plugins.protocols import Verdict
from tests.cli.conftest import invoke
from tests.layouts.making import artifact_of, random_edit


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
    assert not difference(back.edit, edit)
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


@pytest.fixture
def gone(pocket_target, tmp_path):
    """What a closed-form method of somebody else made, who is not there any more."""
    uce = type(get_manager().method("uce"))
    found = SimpleNamespace(__name__="their-package")
    found.erase_methods = hookimpl(lambda: [type("Gone", (uce,), {"id": "gone"})()], specname="erase_methods")
    with get_manager().temporary(found, "theirs"):
        ep.erase(pocket_target, "cat", "gone", out=tmp_path / "cat", options={"vocabulary": "200"})
        return ep.erase(pocket_target, ["pizza", "owl"], "gone", out=tmp_path / "art", options={"vocabulary": "200"})


def test_an_artifact_whose_method_is_gone_says_so_and_can_be_applied(pocket_target, gone, tmp_path):
    told = "'art' has the method gone, which no plugin here brings; it was written with their-package: install that"
    ran = invoke("inspect", tmp_path / "art")
    assert ran.code == 0 and f"note: {told}; without, it can be applied, converted and measured" in ran.out
    assert "add, revoke and joint merge are possible" not in ran.out
    file = next((tmp_path / "art").glob("*kohya*"))
    both = invoke("inspect", tmp_path / "art", file, "--json").data["items"]
    assert both[0]["method_absent"].startswith(told) and both[1]["method_absent"].startswith(f"'{file.name}' has the")
    loaded = ep.load_artifact(tmp_path / "art")
    with ep.apply(pocket_target.pipe, loaded) as handle:
        assert handle.patched
    told = told.replace("'art'", f"'{gone.name}'")
    for work in (
        lambda: ep.revoke(loaded, "owl"),
        lambda: ep.add(loaded, "tree", pocket_target),
        lambda: ep.merge([loaded, tmp_path / "cat"]),
    ):
        with pytest.raises(PluginAbsent) as caught:
            work()
        assert str(caught.value) == told


def test_a_method_that_is_gone_with_its_family_says_what_is_needed_to_apply_it(gone, tmp_path, monkeypatch):
    known = get_manager().known()
    families = {name: item for name, item in known.families.items() if name != "sd1"}
    monkeypatch.setattr(type(get_manager()), "known", lambda self: replace(known, families=families))
    told = invoke("inspect", tmp_path / "art", "--json").data["method_absent"]
    assert "has the family sd1, which no plugin here brings" in told and "can be applied" not in told


def test_what_another_program_made_has_no_method_to_be_missed(tmp_path, edit, pocket_target):
    artifact_of(pocket_target, edit).save(tmp_path / "art", ("kohya",))
    file = next((tmp_path / "art").glob("*.safetensors"))
    save_file(load_file(file), tmp_path / "foreign.safetensors")
    assert "method_absent" not in invoke("inspect", tmp_path / "foreign.safetensors", "--json").data


def test_a_sweep_does_not_replace_what_it_cannot_read(pocket_target, edit, tmp_path):
    from erase_plugins.cli.sweep import _finished

    with get_manager().temporary(plugin(Foreign()), "theirs"):
        artifact_of(pocket_target, edit).save(tmp_path / "art", ("foreign",))
    with pytest.raises(PluginAbsent):
        _finished(tmp_path / "art", None, "pocket", ())

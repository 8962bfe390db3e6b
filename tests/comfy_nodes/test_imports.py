"""Where ComfyUI may be imported, and what the nodes may import of the package."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.comfy_nodes.conftest import ROOT

PACK = ROOT / "comfy_nodes"
COMFY = {"comfy", "nodes", "folder_paths", "server", "execution", "node_helpers", "comfy_extras", "comfy_api"}
SOURCES = sorted(PACK.rglob("*.py"))
HEAVY = {"diffusers", "transformers", "peft"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, inside a function) of absolute imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if node is not function
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(item.name, id(node) in inside) for item in node.names]
        if isinstance(node, ast.ImportFrom) and not node.level:
            found.append((node.module, id(node) in inside))
    return found


def test_comfyui_is_imported_inside_functions_and_nothing_heavy_at_all():
    found = [(path.relative_to(PACK).as_posix(), *item) for path in SOURCES for item in imports(path)]
    first = [(file, name, name.split(".")[0]) for file, name, _ in found]
    assert [item for item in found if item[1].split(".")[0] in COMFY and not item[2]] == []
    assert [item for item in first if item[2] in HEAVY] == []
    assert [item for item in first if item[1].startswith(("erase_plugins.methods.", "erase_plugins.cli"))] == []
    assert [item for item in first if item[2] == "comfy_nodes"] == [], "relative: folders may be renamed"


def test_a_top_level_import_is_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import comfy.sd\ndef f():\n    import comfy.lora\n")
    assert imports(file) == [("comfy.sd", False), ("comfy.lora", True)]


def test_the_package_does_not_know_comfyui():
    found = [(path.name, name) for path in sorted((ROOT / "erase_plugins").rglob("*.py")) for name, _ in imports(path)]
    assert found
    assert [item for item in found if item[1].split(".")[0] in (COMFY - {"server"}) | {"comfy_nodes"}] == []


def test_workflows_name_our_nodes_and_their_widgets():
    from comfy_nodes import NODE_CLASS_MAPPINGS

    for file in (ROOT / "example_workflows").glob("*.json"):
        nodes = json.loads(file.read_text(encoding="utf-8"))["nodes"]
        ours = [node for node in nodes if node["type"].startswith("Erase")]
        assert ours
        for node in ours:
            spec = NODE_CLASS_MAPPINGS[node["type"]].SPEC
            sockets = [item.name for item in spec.inputs if item.type.isupper() and item.type not in WIDGETS]
            assert [item["name"] for item in node["inputs"] if "widget" not in item] == sockets
            widgets = [item.name for item in spec.inputs if item.name not in sockets]
            assert len(node["widgets_values"]) == len(widgets)
            assert [item["name"] for item in node["outputs"]] == [item.name for item in spec.outputs]


WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def test_a_clone_is_importable_as_comfyui_does_it(tmp_path):
    """By file, under the folder's path with the dots replaced, without anything of ours on the path."""
    clone = tmp_path / "erase-plugins.v1"
    clone.mkdir()
    for name in ("__init__.py", "comfy_nodes", "erase_plugins"):
        (clone / name).symlink_to(ROOT / name)
    name = str(clone).replace(".", "_x_")
    code = (
        "import sys, importlib.util as u\n"
        f"spec = u.spec_from_file_location({name!r}, {str(clone / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(clone)!r}])\n"
        f"m = u.module_from_spec(spec); sys.modules[{name!r}] = m; spec.loader.exec_module(m)\n"
        "assert 'EraseUCE' in m.NODE_CLASS_MAPPINGS and 'comfy_nodes' not in sys.modules\n"
        f"assert sys.modules[{name + '.comfy_nodes.registry'!r}].FAILURES == {{}}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

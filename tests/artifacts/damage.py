"""Ways to damage an artifact: one file, or a folder with its manifest. Each returns a word for what it did."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from erase_plugins.artifacts.tensors import write_tensors

Mutation = Callable[[random.Random, Path], str]
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 10**30, "", "../../etc/passwd", "\ud800", "a" * 5000, [], {}, [[]], {"a": {"b": []}}, "NaN",
    [None], "C:\\x", "/abs", float("nan"), float("inf"),
)  # fmt: skip


# ---- damage to one file -----------------------------------------------------------------------------------------------


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a sound file."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: Any, data: bytes) -> None:
    """Writes any header, sound or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _truncate(rng: random.Random, path: Path) -> str:
    raw = path.read_bytes()
    path.write_bytes(raw[: rng.randrange(len(raw))])
    return "truncated"


def _flip(rng: random.Random, path: Path) -> str:
    raw = bytearray(path.read_bytes())
    end = len(raw) if rng.random() < 0.5 else min(len(raw), 4000)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        raw[rng.randrange(end)] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(raw))
    return "bits flipped"


def _length(rng: random.Random, path: Path) -> str:
    raw = path.read_bytes()
    claim = rng.choice((0, 1, 7, 2**20, 2**31, 2**63, 2**64 - 1, rng.randrange(2**64)))
    path.write_bytes(struct.pack("<Q", claim) + raw[8:])
    return "header length"


def _entry(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    what = rng.choice(("shape", "dtype", "data_offsets", "swap", "drop", "whole"))
    if what == "shape":
        entry["shape"] = rng.choice(
            ([], [0], [-1, 4], [2**40, 1], [2**62, 4], entry["shape"][::-1], [*entry["shape"], 1], "x", [1.5], [None])
        )
    elif what == "dtype":
        entry["dtype"] = rng.choice(("F16", "BF16", "F64", "I32", "F8_E4M3", "C64", "I64", "BOOL", "", 3, None, []))
    elif what == "data_offsets":
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = rng.choice(
            ([-8, end], [begin, 2**70], [end, begin], [begin], [0, 0], "ab", [begin + 4, end + 4], [None, None])
        )
    elif what == "swap":
        other = rng.choice([key for key in header if key != "__metadata__"])
        header[name], header[other] = header[other], header[name]
    elif what == "drop":
        del header[name]
    else:
        header[name] = rng.choice(_ODD)
    join(path, header, data)
    return f"entry {what}"


def _rename(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    name = rng.choice([key for key in header if key != "__metadata__"])
    fresh = rng.choice((
        "", "x", name + ".extra", "../" + name, name.replace(".", "|"), "a" * 100_000, "\ud800", "\x00", name.upper(),
        "unet|context|lowrank|A", "unet|x|contextmap|A", "statistics|zz", "unet|conv_in.weight|rows|index",
        name.replace("lowrank", "dense"), name.replace("|A", "|B"),
    ))  # fmt: skip
    header[fresh] = header.pop(name)
    join(path, header, data)
    return "renamed"


def _regroup(rng: random.Random, path: Path) -> str:
    """A whole change (all its tensors) under another name or of another kind."""
    header, data = split(path)
    name = rng.choice([key for key in header if key != "__metadata__"])
    if name.count("|") == 3:
        component, key, kind, _ = name.split("|")
        old = f"{component}|{key}|{kind}|"
        component = rng.choice((component, component, "text_encoder", "vae", ""))
        key = rng.choice((key, "context", "conv_in.weight", "x", "", "mid_block"))
        new = f"{component}|{key}|{rng.choice((kind, 'lowrank', 'contextmap', 'addon', 'rows', 'nothing'))}|"
    else:
        old = name.split(".lora_")[0].split(".diff")[0]
        new = rng.choice(
            ("lora_unet_x", "lora_te_x", "unet.x", "", "lora_unet_out_2", "base_model.model.x", old + "_0")
        )
    fresh = {new + key[len(old) :] if key.startswith(old) else key: value for key, value in header.items()}
    join(path, fresh, data)
    return "regrouped"


def _duplicate(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    name = rng.choice(list(header))
    text = json.dumps(header)
    join(path, (text[:-1] + f",{json.dumps(name)}:{json.dumps(header[name])}}}").encode(), data)
    return "duplicate name"


def _nest(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    depth = rng.choice((50, 900, 5000, 200_000))
    nested = rng.choice(("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth))
    text = json.dumps(header)
    if rng.random() < 0.5:
        join(path, (text[:-1] + f',"deep":{nested}}}').encode(), data)
    else:
        meta = header.get("__metadata__", {})
        key = rng.choice(
            ("erase_plugins.manifest", "erase_plugins.edit", "lora_adapter_metadata", "erase_plugins.padding")
        )
        header["__metadata__"] = {**meta, key: nested}
        join(path, header, data)
    return "nesting"


def _metadata(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    meta = header.setdefault("__metadata__", {})
    key = rng.choice([*meta, "lora_adapter_metadata", "erase_plugins.padding", "erase_plugins.component"])
    if rng.random() < 0.5 and meta.get(key, "").startswith("{"):
        inner = json.loads(meta[key])
        inner[rng.choice(list(inner) or ["x"])] = rng.choice(_ODD)
        meta[key] = json.dumps(inner)
    else:
        meta[key] = rng.choice((*_ODD, "{", "[]", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": 1e999}', "null"))
    join(path, header, data)
    return "metadata"


def _values(rng: random.Random, path: Path) -> str:
    header, data = split(path)
    raw = bytearray(data)
    names = [
        key for key, entry in header.items() if key != "__metadata__" and entry["dtype"] == "F32" and entry["shape"]
    ]
    begin, end = header[rng.choice(names)]["data_offsets"]
    value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e38))
    position = begin + 4 * rng.randrange(max((end - begin) // 4, 1))
    raw[position : position + 4] = struct.pack("<f", value)
    join(path, header, bytes(raw))
    return "bad value"


def _reshape(rng: random.Random, path: Path) -> str:
    """Sound header, other shape of the same size or a smaller tensor: absurd ranks, empty factors."""
    header, data = split(path)
    name = rng.choice([key for key in header if key != "__metadata__"])
    entry = header[name]
    count = 1
    for size in entry["shape"]:
        count *= size
    entry["shape"] = rng.choice(
        ([count], [1, count], [count, 1], [count, 1, 1, 1], [1, 1, count], [0, *entry["shape"]])
    )
    if 0 in entry["shape"]:
        begin, end = entry["data_offsets"]
        data = data[:begin] + data[end:]
        entry["data_offsets"] = [begin, begin]
        for other in header.values():
            if isinstance(other, dict) and "data_offsets" in other and other["data_offsets"][0] >= end:
                other["data_offsets"] = [part - (end - begin) for part in other["data_offsets"]]
    join(path, header, data)
    return "reshaped"


def _bomb(rng: random.Random, path: Path) -> str:
    """A few kilobytes that describe a weight of 10^11 values."""
    size = 300_000
    part = torch.zeros(size)
    stem = "lora_unet_conv_in" if rng.random() < 0.5 else "lora_unet_mid_block_attentions_0_proj_in"
    meta = {"format": "pt"}
    write_tensors(path, {f"{stem}.lora_down.weight": part[None], f"{stem}.lora_up.weight": part[:, None]}, meta)
    return "bomb"


class _Evil:
    def __reduce__(self) -> Any:
        return (sys.exit, ("a pickle was executed",))


def _disguise(rng: random.Random, path: Path) -> str:
    buffer = io.BytesIO()
    choice = rng.choice(("pickle", "torch", "zip", "noise", "empty", "json", "html"))
    if choice == "pickle":
        buffer.write(pickle.dumps(_Evil(), protocol=rng.choice((2, 3, 4, 5))))
    elif choice == "torch":
        torch.save({"a": torch.zeros(3)}, buffer)
    elif choice == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../" * rng.randrange(4) + "x" * rng.choice((1, 200)), bytes(100_000))
    elif choice == "noise":
        buffer.write(rng.randbytes(rng.randrange(5000)))
    elif choice == "json":
        buffer.write(b"{}" + bytes(20))
    elif choice == "html":
        buffer.write(b"<!doctype html><title>not found</title>" * 4)
    path.write_bytes(buffer.getvalue())
    return f"disguised {choice}"


FILE_MUTATIONS: tuple[Mutation, ...] = (
    _truncate, _flip, _length, _entry, _rename, _regroup, _duplicate, _nest, _metadata, _values, _reshape, _bomb, _disguise,
)  # fmt: skip


# ---- damage to a folder -----------------------------------------------------------------------------------------------


def reseal(folder: Path) -> None:
    """Makes sizes and hashes of the manifest true again, so that the damage behind them is reached."""
    path = folder / "erase.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    for item in data["files"]:
        raw = (folder / item["name"]).read_bytes()
        item["bytes"], item["sha256"] = len(raw), hashlib.sha256(raw).hexdigest()
    path.write_text(json.dumps(data), encoding="utf-8")


def _inner_file(rng: random.Random, folder: Path) -> str:
    path = rng.choice(sorted(folder.rglob("*.safetensors")))
    kind = rng.choice(FILE_MUTATIONS)(rng, path)
    if rng.random() < 0.8:
        reseal(folder)
        return f"sealed {kind}"
    return f"unsealed {kind}"


def _paths(node: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [where] if where else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found += _paths(value, (*where, key))
    return found


def _manifest(rng: random.Random, folder: Path) -> str:
    path = folder / "erase.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    where = rng.choice(_paths(data))
    node = data
    for key in where[:-1]:
        node = node[key]
    if rng.random() < 0.25:
        del node[where[-1]]
    else:
        node[where[-1]] = rng.choice((*_ODD, 99))
    path.write_bytes(json.dumps(data).encode("utf-8", "surrogatepass"))
    return f"manifest {where[0]}"


def _manifest_text(rng: random.Random, folder: Path) -> str:
    path = folder / "erase.json"
    text = path.read_text(encoding="utf-8")
    depth = rng.choice((900, 3000, 100_000))
    choices: tuple[bytes, ...] = (
        b"", b"[]", b"null", b"{", text[: rng.randrange(len(text))].encode(), b"\xff\xfe" + text.encode(),
        (text.rstrip()[:-1] + ',"name":"other"}').encode(),
        (text.rstrip()[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}").encode(),
        (text.rstrip()[:-1] + ',"number":' + "9" * 6000 + "}").encode(),
        text.encode("utf-16"), bytes(9_000_000),
    )  # fmt: skip
    path.write_bytes(rng.choice(choices))
    return "manifest text"


def _file_name(rng: random.Random, folder: Path) -> str:
    path = folder / "erase.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    item = rng.choice(data["files"])
    item["name"] = rng.choice((
        "../kohya.safetensors", "/etc/passwd", "a/b/c.safetensors", "..", ".", "", "C:\\x.safetensors", "a\\b", "~/x", "x\x00y",
        ".hidden", "con/../../x", "peft_unet", "erase.json", "ünï.safetensors", "x" * 400, 7, None,
    ))  # fmt: skip
    path.write_text(json.dumps(data), encoding="utf-8")
    return "file name"


def _links(rng: random.Random, folder: Path) -> str:
    path = rng.choice(sorted(folder.rglob("*.safetensors")))
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    kind = rng.choice(("file", "loop", "folder", "manifest", "dangling", "missing", "directory"))
    if kind == "folder" and path.parent != folder:
        shutil.move(path.parent, outside / path.parent.name)
        path.parent.symlink_to(outside / path.parent.name)
    elif kind == "manifest":
        shutil.move(folder / "erase.json", outside / "erase.json")
        (folder / "erase.json").symlink_to(outside / "gone.json")
    elif kind == "loop":
        path.unlink()
        path.symlink_to(path.name)
    elif kind == "dangling":
        path.unlink()
        path.symlink_to(outside / "nothing")
    elif kind == "missing":
        path.unlink()
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    else:
        shutil.move(path, outside / path.name)
        path.symlink_to(outside / path.name)
    return f"link {kind}"


FOLDER_MUTATIONS: tuple[Mutation, ...] = (
    _inner_file, _inner_file, _inner_file, _manifest, _manifest, _manifest_text, _file_name, _links
)  # fmt: skip

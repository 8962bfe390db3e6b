"""The client's file cache: are the bytes those that were announced, and what is there without a connection."""

from __future__ import annotations

import hashlib
from pathlib import Path

from erase_plugins.errors import CorruptArtifact

#: what diffusers itself would load from a repository without a manifest
STOCK = "pytorch_lora_weights.safetensors"


def check_blob(path: Path) -> None:
    """Compares a cached file with the hash that its blob is named after (where the cache uses links).

    Raises:
        CorruptArtifact: other bytes than the Hub announced.
    """
    blob = path.resolve()
    if blob.parent.name != "blobs" or len(blob.name) not in (40, 64):
        return
    size = blob.stat().st_size
    found = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\x00" % size)
    with blob.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    if found.hexdigest() != blob.name:
        raise CorruptArtifact(f"{path.name} does not match its hash")


def forget(path: Path) -> None:
    """Takes a cached file away, with the blob behind it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    if blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)


def cached_weights(repo: str, revision: str | None) -> Path | None:
    """Weights of a repository without manifest that were pulled before; None if there is not one clear file."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    wanted = revision or "main"
    if ".." in wanted:
        return None
    known = home / "refs" / wanted
    try:
        commit = known.read_text(encoding="utf-8").strip() if known.is_file() else wanted
        names = sorted(item.name for item in (home / "snapshots" / commit).glob("*.safetensors"))
    except OSError:
        return None
    chosen = STOCK if STOCK in names else names[0] if len(names) == 1 else None
    return None if chosen is None else home / "snapshots" / commit / chosen

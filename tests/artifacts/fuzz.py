"""Damaged and hostile artifacts: each must end in an `EraseError` or load a valid edit, and change no model.

python -m tests.artifacts.fuzz --cases 10000
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

import erase_plugins as ep
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.tensors import write_tensors
from erase_plugins.errors import EraseError
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.artifacts import inspect_file
from erase_plugins.workflow.models import target_of
from tests.artifacts.damage import FILE_MUTATIONS, FOLDER_MUTATIONS
from tests.layouts.making import artifact_of, dense_edit, random_edit

LIMIT_SECONDS = 10.0

# ---- sound material ---------------------------------------------------------------------------------------------------


def every_kind(target: DiffusersTarget) -> Edit:
    """An edit that holds every kind of change and closed-form statistics."""
    generator = torch.Generator().manual_seed(5)

    def noise(*shape: int) -> torch.Tensor:
        return 0.01 * torch.randn(shape, generator=generator)

    cross, own = target.modules("cross_kv")[0], target.modules("self_attn")[0]
    width, text = target.info.width, target.modules("text_mlp")[0]
    return Edit(
        target.family.id,
        {
            "unet": {
                CONTEXT: ContextMap(noise(2, width), noise(width, 2)),
                cross.weight: LowRank(noise(2, cross.shape[1]), noise(cross.shape[0], 2)),
                own.weight: Dense(noise(*own.shape)),
                f"{cross.path.rpartition('.')[0]}.to_out.0.bias": Dense(noise(cross.shape[0])),
                cross.path.rpartition(".")[0]: AddOn(
                    "bottleneck",
                    {"down": noise(2, cross.shape[0]), "up": noise(cross.shape[0], 2)},
                    {"activation": "gelu"},
                ),
            },
            "text_encoder": {
                text.weight: LowRank(noise(1, text.shape[1]), noise(text.shape[0], 1)),
                "embeddings.token_embedding.weight": Rows(torch.tensor([3, 5]), noise(2, 32)),
            },
        },
        {"C": noise(3, width), "H": torch.zeros(4, dtype=torch.int64)},
        {"statistics": {"width": width}},
    )


def build_corpus(root: Path) -> tuple[list[Path], list[Path], Any]:
    """Sound folders, sound single files, and the pipeline they belong to."""
    pipe = tiny_sd1()
    target = target_of(pipe, "tiny")
    lora = random_edit(target, ("cross_kv", "text"), rank=2)
    folders, files = [], []
    for name, edit, layouts in (
        ("kinds", every_kind(target), ("patch",)),
        ("lora", lora, ("patch", "diffusers", "kohya")),
        ("stock", lora, ("kohya",)),
        ("peft", lora, ("peft",)),
        ("dense", dense_edit(target), ("diff",)),
    ):
        saved = artifact_of(target, edit, f"erase_{name}").save(root / name, layouts)
        folders.append(root / name)
        files += [root / name / item.name for item in saved.manifest.files if item.name.endswith(".safetensors")]
    weights = {f"unet.{ref.weight}": target.weight(ref) + 0.01 for ref in target.modules("cross_attn")}
    write_tensors(root / "absolute.safetensors", weights, {"format": "pt"})
    return folders, [*files, root / "absolute.safetensors"], pipe


# ---- running ----------------------------------------------------------------------------------------------------------


def snapshot(pipe: Any) -> list[torch.Tensor]:
    """Copies of all parameters of a pipeline."""
    return [part.detach().clone() for name in ("unet", "text_encoder") for part in getattr(pipe, name).parameters()]


def unchanged(pipe: Any, before: list[torch.Tensor]) -> bool:
    """Whether every parameter is as it was, and no hook is left."""
    now = [part for name in ("unet", "text_encoder") for part in getattr(pipe, name).parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())
    return hooks == 0 and all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


def run_case(rng: random.Random, place: Path, pipe: Any, counts: Counter[str]) -> None:
    """Loads one damaged artifact, and applies it if it loads.

    Raises:
        Exception: anything that is not an `EraseError` is a finding.
    """
    try:
        artifact = ep.load_artifact(place)
    except EraseError as error:
        str(error).encode()  # messages must be printable
        counts["refused"] += 1
        return
    assert isinstance(artifact, Artifact)
    assert len(artifact.edit) > 0
    artifact.edit.check_finite()
    artifact.manifest.to_json().encode()
    counts["loaded"] += 1
    try:
        with ep.apply(pipe, artifact, strength=rng.choice((1.0, 0.0, -0.5))):
            counts["applied"] += 1
    except EraseError as error:
        str(error).encode()
        counts["not applied"] += 1


def run(cases: int, seed: int = 0, progress: bool = False) -> tuple[Counter[str], Counter[str], float]:
    """Runs ``cases`` cases.

    Returns:
        Outcomes, kinds of damage, and the longest time of a case in seconds.

    Raises:
        AssertionError: names the case and what escaped.
    """
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folders, files, pipe = build_corpus(root / "sound")
        before = snapshot(pipe)
        for case in range(cases):
            rng = random.Random(f"{seed}:{case}")
            work = root / "case"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            if rng.random() < 0.5:
                place = work / "art"
                shutil.copytree(rng.choice(folders), place)
                kind = rng.choice(FOLDER_MUTATIONS)(rng, place)
            else:
                source = rng.choice(files)
                if source.name == "adapter_model.safetensors":
                    shutil.copy(source.with_name("adapter_config.json"), work)
                place = work / source.name
                shutil.copy(source, place)
                kind = rng.choice(FILE_MUTATIONS)(rng, place)
            kinds[kind.split(" ")[0]] += 1
            started = time.process_time()
            try:
                run_case(rng, place, pipe, counts)
                if place.is_file():
                    try:
                        inspect_file(place)
                    except EraseError:
                        counts["not inspected"] += 1
                assert unchanged(pipe, before), "the model changed"
            except BaseException as error:
                raise AssertionError(f"case {case} of seed {seed} ({kind}): {type(error).__name__}: {error}") from error
            slowest = max(slowest, time.process_time() - started)
            assert slowest < LIMIT_SECONDS, f"case {case} of seed {seed} ({kind}) took {slowest:.1f} s"
            if progress and (case + 1) % 1000 == 0:
                print(f"{case + 1} cases: {dict(counts)}", flush=True)
    return counts, kinds, slowest


def main() -> None:
    parser = argparse.ArgumentParser(description="fuzzes artifact files and folders")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    counts, kinds, slowest = run(options.cases, options.seed, progress=True)
    print(f"{options.cases} cases in {time.perf_counter() - started:.0f} s, slowest {slowest:.2f} s")
    print("outcomes:", json.dumps(dict(sorted(counts.items()))))
    print("damage:", json.dumps(dict(sorted(kinds.items()))))


if __name__ == "__main__":
    main()

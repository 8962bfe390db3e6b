"""A library of a thousand concepts: swept, published, pulled in part, solved together, and behind gates.

    python -m benchmarks.library --out FOLDER [--concepts 1000] [--jobs 2] [--pulled 100] [--model tiny]

Names are the nouns of `erase_plugins/engine/words.toml`, most common first within their kinds. ``tiny`` is a random
Stable Diffusion 1 of the tests, which says what a library costs and whether it is right, and nothing about pictures;
any model that the commands take can be named instead. The Hub is the one of the tests on this machine. Seconds are
those of the clock; finished artifacts are kept, so a killed run goes on.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

KINDS = (
    "animals", "things", "food", "vehicles", "plants", "nature", "places", "clothes", "music_sport", "people", "body",
)  # fmt: skip
REPOSITORY = "tester/library"
#: options of the closed form of one concept, and of one behind a gate
CLOSED = {"vocabulary": 100}
GATED = {"gated": True, "memory": 4, "gate_words": 400, "vocabulary": 100}
#: names whose prompts are asked for their gates
_ASKED = 200


def main() -> None:
    """Prints one line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--concepts", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pulled", type=int, default=100)
    parser.add_argument("--gated", type=int, default=1000, help="concepts behind gates of one artifact")
    parser.add_argument("--model", default="tiny")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for row in rows(given.out, given.concepts, given.jobs, given.pulled, given.gated, given.model):
        sys.stdout.write(", ".join(f"{name}: {value}" for name, value in row.items()) + "\n")
        sys.stdout.flush()


def names(count: int) -> list[str]:
    """Nouns, kind after kind."""
    from erase_plugins.engine.words import listed

    table = listed()
    found = list(dict.fromkeys(word for kind in KINDS for word in table[kind] if word.isalpha()))
    return found[:count]


def rows(out: Path, count: int, jobs: int, pulled: int, gated: int, model: str) -> Any:
    """Every part in its order; each says its seconds and what it made."""
    import erase_plugins as ep
    from erase_plugins.workflow.collection import build_collection

    if model == "tiny":
        model = str(saved_tiny(out / "tiny"))
    wanted = names(count)
    (out / "names.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    seconds, _ = timed(lambda: swept(out, model, jobs))
    folders = [out / "single" / name for name in wanted]
    yield {"part": "sweep", "concepts": len(wanted), "processes": jobs, "seconds": seconds, "MB": size(out / "single")}
    seconds, library = timed(lambda: build_collection(folders, out / "library", force=True))
    yield {"part": "collection", "artifacts": len(library.entries), "seconds": seconds, "MB": size(out / "library")}
    part = random.Random(0).sample(wanted, min(pulled, len(wanted)))
    yield from shared(out, part)
    seconds, joint = timed(lambda: ep.merge(folders))
    target = ep.load(model)
    together, whole = timed(lambda: ep.erase(target, wanted, "uce", options=CLOSED))
    yield {"part": "all solved together", "concepts": len(joint.manifest.erased), "seconds": seconds,
           "erased at once, seconds": together, "same": equal(joint, whole)}  # fmt: skip
    some = wanted[:gated]
    seconds, behind = timed(lambda: ep.erase(target, some, "null-space", options=GATED))
    yield {"part": "behind gates", "concepts": len(some), "seconds": seconds,
           "MB": size_of(behind.save(out / "gated", force=True, layouts=["patch"]))}  # fmt: skip
    yield {"part": "gates by prompt", **opened(target, behind, some), **step_cost(target, behind, some)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds of the clock, result)."""
    started = time.perf_counter()
    found = work()
    return round(time.perf_counter() - started, 1), found


def saved_tiny(place: Path) -> Path:
    """The random pipeline as a folder."""
    from erase_plugins.testing.tiny import tiny_sd1

    if not (place / "model_index.json").is_file():
        tiny_sd1().save_pretrained(place)
    return place


def swept(out: Path, model: str, jobs: int) -> None:
    """The command as a user runs it."""
    options = [part for name, value in CLOSED.items() for part in ("--set", f"{name}={value}")]
    command = [
        sys.executable, "-c", "from erase_plugins.cli.main import main; main()", "sweep", "uce", "--model", model,
        "--erase-file", str(out / "names.txt"), "--jobs", str(jobs), "--layout", "patch", *options,
        "--out", str(out / "single"),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def shared(out: Path, part: Sequence[str]) -> Any:
    """Published on a Hub of this machine, and a part of it pulled and solved."""
    import hub_cards
    from erase_plugins.testing.hub_server import HubServer

    cache = out / "hub-cache"
    with HubServer() as hub, hub.as_default(cache):
        seconds, done = timed(lambda: hub_cards.push_collection(out / "library", REPOSITORY, license="mit"))
        yield {"part": "push", "seconds": seconds, "commit": done.commit[:8]}
        asked = len(hub.log)
        seconds, artifact = timed(lambda: hub_cards.merged(REPOSITORY, part))
        yield {"part": "pull and solve", "of them": len(artifact.manifest.erased), "seconds": seconds,
               "requests": len(hub.log) - asked}  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    """Whether two edits change the same by the same, to the last bit."""
    import torch

    first, second = list(one.edit.items()), list(other.edit.items())
    return [item[:2] for item in first] == [item[:2] for item in second] and all(
        torch.equal(part, dict(b.tensors())[name])
        for (_, _, a), (_, _, b) in zip(first, second, strict=True)
        for name, part in a.tensors().items()
    )


def opened(pipe: Any, artifact: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """How far "a picture of a NAME" opens the gate of its name, and how many others it opens."""
    import torch

    from erase_plugins.artifacts.gated import GATE
    from erase_plugins.runtime.gates import gate_table, named
    from erase_plugins.workflow.models import target_of

    target = target_of(pipe, "")
    gate = artifact.edit.deltas[target.family.denoiser][GATE]
    asked = random.Random(1).sample(range(len(wanted)), min(_ASKED, len(wanted)))
    prompts = [f"a picture of a {wanted[number]}" for number in asked]
    tokens = target.tokens(prompts)
    ids = tokens.ids[min(tokens.ids)].tolist()
    table = gate_table(target.encode(prompts).embeds, gate.weights["embeddings"], gate.config)
    by_name = torch.tensor([[named(tuple(row), phrases) for phrases in gate.config["names"]] for row in ids])
    table = torch.maximum(table, by_name)
    own = table[range(len(asked)), asked]
    return {
        "own gate open": f"{float((own >= 1).float().mean()):.1%}",
        "other gates open in a prompt": round(float(((table > 0.5).sum(1) - (own > 0.5).long()).float().mean()), 2),
    }


def step_cost(pipe: Any, artifact: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of a pass of the denoiser, bare and with all memories of which one is open."""
    import torch

    import erase_plugins as ep
    from erase_plugins.workflow.models import target_of

    target = target_of(pipe, "")
    denoiser = target.pipe.unet
    size = denoiser.config.sample_size
    latents = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def quickest(name: str) -> float:
        embeds = target.pipe.encode_prompt(f"a picture of a {name}", "cpu", 1, False)[0]
        times = []
        for _ in range(20):
            started = time.perf_counter()
            denoiser(latents, 10, encoder_hidden_states=embeds)
            times.append(time.perf_counter() - started)
        return round(1000 * min(times), 2)

    bare = quickest(wanted[0])
    with ep.apply(pipe, artifact):
        return {"ms a pass, bare": bare, "with all memories": quickest(wanted[0])}


def size(folder: Path) -> float:
    """Megabytes of all files below a folder."""
    return round(sum(item.stat().st_size for item in folder.rglob("*") if item.is_file()) / 1e6, 1)


def size_of(artifact: Any) -> float:
    """Megabytes of an artifact's files."""
    return round(sum(item.bytes for item in artifact.manifest.files) / 1e6, 1)


if __name__ == "__main__":
    main()

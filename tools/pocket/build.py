"""Runs the stages of the recipe in order, each from the checkpoints of those before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from erase_plugins.artifacts.atomic import atomic_file, atomic_folder
from erase_plugins.errors import RequestError
from erase_plugins.pocket.judge import build_network
from erase_plugins.pocket.world import FOLDER
from tools.pocket import export, networks
from tools.pocket.compose import Pictures, Sprites
from tools.pocket.drawing import OnDrawn, load_judge, load_pipeline
from tools.pocket.loop import OnStep, Stage, finished, load_stage, run_stage
from tools.pocket.measure import measure
from tools.pocket.train_denoiser import denoiser_stage
from tools.pocket.train_flow import encode_captions, flow_stage, prepare_transformer, still_recipe, text_projection
from tools.pocket.train_judge import judge_stage, reconstruct
from tools.pocket.train_vae import cache_latents, decoder_stage, vae_stage
from tools.pocket.words import build_tokenizer, save_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.pocket.world import World
    from tools.pocket.recipe import Recipe

#: checkpoints and caches, inside the output folder
WORK = ".training"
#: what a training writes beside its checkpoints
RESULTS = ("model", "flow", "judge.safetensors", "concepts.json", "quality.json")


class Build:
    """Trains one model into a folder with the structure of this package's own.

    Args:
        out: the folder; checkpoints go to ``.training`` in it and may be deleted at the end.
        world: what to draw.
        sprites: RGBA pictures by (concept name, style).
        recipe: sizes, steps, rates, seed.
        device: "cpu" or "cuda". Random numbers come from the CPU in both cases.
        on_step: progress.
    """

    def __init__(
        self,
        out: Path,
        world: World,
        sprites: Sprites,
        recipe: Recipe,
        device: str = "cpu",
        on_step: OnStep | None = None,
    ) -> None:
        self.out, self.world, self.recipe, self.device, self.on_step = out, world, recipe, device, on_step
        self.pictures = Pictures(world, sprites, recipe)
        self.work = out / WORK
        self.work.mkdir(parents=True, exist_ok=True)
        if not (self.work / "recipe.json").is_file():
            export.save_json(asdict(recipe), self.work / "recipe.json")

    def run(self, stage: str, on_drawn: OnDrawn | None = None) -> dict[str, Any]:
        """Trains one stage (see `recipe.STAGES`) to its end and writes what it completes; returns its numbers."""
        steps: dict[str, Callable[[], dict[str, Any]]] = {
            "vae": self._vae,
            "decoder": self._decoder,
            "denoiser": self._denoiser,
            "judge": self._judge,
            "flow": self._flow,
            "measure": lambda: self._measure(on_drawn),
        }
        return steps[stage]()

    def _vae(self) -> dict[str, Any]:
        return {"loss": self._train(vae_stage(self._new_vae(), self.pictures, self.recipe, self.device))}

    def _decoder(self) -> dict[str, Any]:
        vae = self._new_vae()
        load_stage(self.work / "vae.safetensors", {"vae": vae})
        return {"loss": self._train(decoder_stage(vae, self.pictures, self.recipe, self.device))}

    def _denoiser(self) -> dict[str, Any]:
        parts, scheduler = self._new_denoiser(), networks.build_scheduler()
        latents, scaling = self.latents
        losses = {}
        for name in ("denoiser", "refine"):
            if name == "refine":
                load_stage(self.work / "denoiser.safetensors", parts, average=True)
            stage = denoiser_stage(
                name, parts, self.tokenizer, scheduler, latents * scaling, self.pictures, self.recipe, self.device
            )
            losses[name] = self._train(stage)
        load_stage(self.work / "refine.safetensors", parts, average=True)
        vae = self._trained_vae()
        vae.register_to_config(scaling_factor=scaling)
        pipe = export.build_pipeline(vae, parts["unet"], parts["text_encoder"], self.tokenizer, scheduler)
        export.save_model(pipe, self.tokenizer, self.out)
        export.save_world(self.world, self.out, self.recipe.size)
        return {"loss": losses["refine"], "loss_before_refine": losses["denoiser"], "scaling_factor": scaling}

    def _judge(self) -> dict[str, Any]:
        world = self.world
        network = self._seeded(lambda: build_network(len(world.concepts), len(world.styles), len(world.backgrounds)))
        path = self.work / "judge.safetensors"
        decoded = torch.empty(0)
        if finished(path) < self.recipe.judge_steps:
            decoded = reconstruct(self._trained_vae(), self.latents[0], self.device)
        loss = self._train(judge_stage(network, self.pictures, decoded, self.recipe, self.device))
        export.save_judge(network, world, self.out)
        return {"loss": loss}

    def _flow(self) -> dict[str, Any]:
        """From the model of this folder, or the embedded one where the folder has none."""
        base = self.out / "model" if (self.out / "model").is_dir() else FOLDER / "model"
        vae, encoder, tokenizer = export.flow_parts(base, self.recipe.flow_tokens)
        latents, bank = self._flow_data(vae, encoder, tokenizer)
        projection = text_projection(bank["pooled"][bank["text"]])
        network = self._seeded(lambda: networks.build_transformer(self.recipe))
        prepare_transformer(network, bank["states"], self.recipe.seed)
        bank["pooled"] = bank["pooled"] @ projection.mT
        loss = self._train(flow_stage(network, latents * vae.config.scaling_factor, bank, self.recipe, self.device))
        load_stage(self.work / "flow.safetensors", {"transformer": network}, average=True)
        export.save_flow(network, projection, base, self.recipe.flow_tokens, self.out)
        return {"loss": loss}

    def _flow_data(self, vae: Any, encoder: Any, tokenizer: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents and encoded captions, made once."""
        path = self.work / "flow-data.safetensors"
        if not path.is_file():
            plain = still_recipe(self.recipe)
            pictures = Pictures(self.world, self.pictures.sprites, plain)
            bank = encode_captions(encoder.to(self.device), tokenizer, pictures, self.recipe)
            latents = cache_latents(vae.to(self.device), pictures, plain, self.device)
            with atomic_file(path) as work:
                save_file({**bank, "latents": latents}, work)
        bank = load_file(path)
        return bank.pop("latents").float(), bank

    def _measure(self, on_drawn: OnDrawn | None) -> dict[str, Any]:
        for name, stage in (("model/model_index.json", "denoiser"), ("judge.safetensors", "judge")):
            if not (self.out / name).is_file():
                raise RequestError(f"there is no {name} to measure; train it first (--stage {stage})")
        pipe = load_pipeline(self.out / "model").to(self.device)
        judge = load_judge(self.out / "judge.safetensors")
        result = measure(pipe, judge, self.world, self.recipe.seed, self.pictures, on_drawn)
        export.save_json(result, self.out / "quality.json")
        return result

    @cached_property
    def tokenizer(self) -> Any:
        """Built once per output folder, then read, so that a resumed run keeps its ids."""
        from transformers import CLIPTokenizer

        folder = self.work / "tokenizer"
        if not folder.is_dir():
            with atomic_folder(folder, kind="pocket tokenizer") as work:
                save_tokenizer(build_tokenizer(self.world, self.recipe.tokens), work)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)

    @cached_property
    def latents(self) -> tuple[Tensor, float]:
        """Cached latents (labels, copies, 4, h, w), not scaled, and the scaling factor 1 / std."""
        path = self.work / "latents.safetensors"
        if path.is_file():
            latents = load_file(path)["latents"]
        else:
            latents = cache_latents(self._trained_vae(), self.pictures, self.recipe, self.device)
            with atomic_file(path) as work:
                save_file({"latents": latents}, work)
        return latents, 1 / float(latents.float().std())

    def _train(self, stage: Stage) -> float:
        return run_stage(stage, self.work, self.recipe, self.on_step)

    def _seeded(self, build: Callable[[], Any]) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(self.recipe.seed)
            return build().to(self.device)

    def _new_vae(self) -> Any:
        return self._seeded(lambda: networks.build_vae(self.recipe))

    def _new_denoiser(self) -> dict[str, Any]:
        words = len(self.tokenizer)
        return {
            "unet": self._seeded(lambda: networks.build_unet(self.recipe)),
            "text_encoder": self._seeded(lambda: networks.build_text_encoder(self.recipe, words)),
        }

    def _trained_vae(self) -> Any:
        vae = self._new_vae()
        load_stage(self.work / "decoder.safetensors", {"vae": vae})
        return vae.requires_grad_(False).eval()

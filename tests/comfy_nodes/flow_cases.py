"""The Erase node on tiny FLUX and SD3 models beside the same request on diffusers; imported inside ComfyUI by `flow`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import torch
from comfy import sd1_clip
from comfy.text_encoders import flux, sd3_clip, t5
from odd_models import FLUX, SD3, small_model
from transformers import T5TokenizerFast

import erase_plugins as ep
from comfy_nodes import row_maps
from comfy_nodes.nodes.erase import erase
from comfy_nodes.targets import target_of
from erase_plugins.errors import EraseError
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.workflow.models import target_of as diffusers_target

OPTIONS = {"vocabulary": 6}
DOORS = {"flux": ("txt_in", "vector_in.in_layer"), "sd3": ("context_embedder", "y_embedder.mlp.0")}
THEIRS = ("context_embedder", "time_text_embed.text_embedder.linear_1")


def clip_part(encoder: Any, tokens: int, **how: Any) -> Any:
    """One CLIP of ComfyUI with the weights of a transformers one."""
    config = encoder.config.to_dict()
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}
    made = sd1_clip.SDClipModel(
        max_length=tokens, textmodel_json_config=config, dtype=torch.float32, special_tokens=special, model_options={},
        **how,
    )  # fmt: skip
    made.transformer.set_input_embeddings(made.operations.Embedding(config["vocab_size"], config["hidden_size"]))
    weights = {name if name.startswith("text_") else f"text_model.{name}": value
               for name, value in encoder.state_dict().items()}  # fmt: skip
    weights.setdefault("text_projection.weight", torch.eye(config["hidden_size"]))
    missing, unexpected = made.load_sd(weights)
    assert not missing, missing
    assert not unexpected, unexpected
    return made


def t5_part(encoder: Any) -> Any:
    config = {**encoder.config.to_dict(), "model_type": "t5", "dense_act_fn": "gelu_pytorch_tanh"}
    made = sd1_clip.SDClipModel(
        layer="last", textmodel_json_config=config, dtype=torch.float32, special_tokens={"end": 1, "pad": 0},
        model_class=t5.T5, enable_attention_masks=False, return_attention_masks=False, model_options={},
    )  # fmt: skip
    made.transformer.set_input_embeddings(made.operations.Embedding(config["vocab_size"], config["d_model"]))
    missing, _ = made.load_sd(encoder.state_dict())
    assert not missing, missing
    return made


class FluxEncoder(flux.FluxClipModel):
    def __init__(self, pipe: Any) -> None:
        torch.nn.Module.__init__(self)
        self.clip_l = clip_part(pipe.text_encoder, pipe.tokenizer.model_max_length, return_projected_pooled=False)
        self.t5xxl, self.dtypes = t5_part(pipe.text_encoder_2), {torch.float32}


class SD3Encoder(sd3_clip.SD3ClipModel):
    """The original pads rows of CLIP to 4096, which no tiny model has."""

    def __init__(self, pipe: Any) -> None:
        torch.nn.Module.__init__(self)
        tokens, how = (
            pipe.tokenizer.model_max_length,
            {"layer_norm_hidden_state": False, "return_projected_pooled": True},
        )
        self.clip_l, self.clip_g = (clip_part(part, tokens, **how) for part in (pipe.text_encoder, pipe.text_encoder_2))
        for part in (self.clip_l, self.clip_g):  # told when it is made, it refuses an encoder of two layers
            part.layer, part.layer_idx = "hidden", -2
            part.options_default = ("hidden", -2, *part.options_default[2:])
        self.t5xxl, self.dtypes, self.t5_attention_mask = t5_part(pipe.text_encoder_3), {torch.float32}, False

    def encode_token_weights(self, pairs: Any) -> Any:
        (one, first), (two, second) = (
            part.encode_token_weights(pairs[name]) for name, part in (("l", self.clip_l), ("g", self.clip_g))
        )
        rows, _ = self.t5xxl.encode_token_weights(pairs["t5xxl"])[:2]
        both = torch.cat([one, two], -1)
        wide = torch.nn.functional.pad(both, (0, rows.shape[-1] - both.shape[-1]))
        return torch.cat([wide, rows], -2), torch.cat([first, second], -1), {}


def tokenizer_of(pipe: Any, work: Path, least: int) -> Any:
    """ComfyUI's tokenizers of a pipeline, by the names that its text encoders have."""
    t5_name = "tokenizer_3" if hasattr(pipe, "tokenizer_3") else "tokenizer_2"
    for name in ("tokenizer", t5_name):
        getattr(pipe, name).save_pretrained(work / name)
    length = pipe.tokenizer.model_max_length

    def words(key: str) -> Any:
        return sd1_clip.SDTokenizer(str(work / "tokenizer"), max_length=length, embedding_key=key)

    class Tokenizer:
        def __init__(self, **_: Any) -> None:
            self.clip_l = words("clip_l")
            if t5_name == "tokenizer_3":
                self.clip_g = words("clip_g")
            self.t5xxl = sd1_clip.SDTokenizer(
                str(work / t5_name), pad_with_end=False, embedding_size=64, embedding_key="t5xxl",
                tokenizer_class=T5TokenizerFast, has_start_token=False, pad_to_max_length=False, max_length=99999999,
                min_length=least,
            )  # fmt: skip

        def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **how: Any) -> Any:
            parts = {"l": "clip_l", "g": "clip_g", "t5xxl": "t5xxl"}
            return {short: getattr(self, name).tokenize_with_weights(text, return_word_ids, **how)
                    for short, name in parts.items() if hasattr(self, name)}  # fmt: skip

    return Tokenizer


def comfy_clip(encoder: Any, tokenizer: Any) -> Any:
    target = comfy.supported_models_base.ClipTarget(tokenizer, lambda **_: encoder)
    return comfy.sd.CLIP(target, model_options={"dtype": torch.float32})


def pair(name: str, work: Path) -> tuple[Any, Any, Any]:
    """A pipeline of diffusers, and MODEL and CLIP with the same doors and text encoders."""
    pipe = fresh_pipeline(f"tiny_{name}")
    config = FLUX if name == "flux" else SD3
    wide = dict(config) | ({"context_in_dim": 64, "vec_in_dim": 32} if name == "flux" else {"adm_in_channels": 32})
    if name == "sd3":
        wide["context_embedder_config"] = {"target": "torch.nn.Linear",
                                           "params": {"in_features": 64, "out_features": 64}}  # fmt: skip
    model = small_model("Flux" if name == "flux" else "SD3", wide)
    encoders = "text_encoder_2" if name == "flux" else "text_encoder_3"
    getattr(pipe, encoders).config.n_positions = None  # as published ones have it
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for ours, theirs in zip(DOORS[name], THEIRS, strict=True):
            live = pipe.transformer.get_submodule(theirs)
            there = model.model.diffusion_model.get_submodule(ours)
            for part in (there.weight, there.bias):  # whatever memory held, until a checkpoint comes
                part.copy_(0.1 * torch.randn(part.shape, generator=draw))
            live.weight = torch.nn.Parameter(there.weight.detach().float().clone(), requires_grad=False)
            live.bias = torch.nn.Parameter(there.bias.detach().float().clone(), requires_grad=False)
    made = FluxEncoder(pipe) if name == "flux" else SD3Encoder(pipe)
    return pipe, model, comfy_clip(made, tokenizer_of(pipe, work / name, 256 if name == "flux" else 77))


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).abs().max())


def doors(model: Any, name: str) -> list[torch.Tensor]:
    target = target_of(model)
    keys = [f"diffusion_model.{door}.weight" for door in DOORS[name]]
    found = [target.unet.effective(key) for key in keys]
    patches = [model.patches.get(key, []) for key in keys]
    return [
        value if not part else part[-1][1].calculate_weight(value.clone(), key, 1.0, 1.0, None, lambda item: item)
        for value, part, key in zip(found, patches, keys, strict=True)
    ]


def compared(name: str, work: Path) -> dict[str, Any]:
    pipe, model, clip = pair(name, work)
    with torch.inference_mode():
        before = doors(model, name)
        result = erase(model, clip, "pizza -> hamburger", "uce", 1.0, "object", options="vocabulary = 6")
        erased, _, artifact, text = result.values
    there = ep.erase(diffusers_target(pipe, "x"), [ep.Concept("pizza", anchor="hamburger")], "uce", options=OPTIONS)
    one, two = (item.edit.deltas["transformer"]["context"] for item in (artifact, there))
    rows = [
        target.rows(["pizza", "a red house", ""]) for target in (target_of(model, clip), diffusers_target(pipe, "x"))
    ]
    after = doors(erased, name)
    live = [pipe.transformer.get_submodule(theirs).weight for theirs in THEIRS]
    tokens = live[0].shape[1]
    change = two.B.double() @ two.A.double()
    wanted = [live[0].double() + live[0].double() @ change[:tokens, :tokens],
              live[1].double() + live[1].double() @ change[tokens:, tokens:]]  # fmt: skip
    bare = row_maps.without(erased, row_maps.names(erased))
    again = erase(erased, clip, "dog -> cat", "uce", 1.0, "object", options="vocabulary = 6").values
    out = {
        "text": text,
        "rows": far(rows[0].embeds, rows[1].embeds) / max(float(rows[1].embeds.abs().max()), 1),
        "parts": rows[0].parts == rows[1].parts,
        "map": far(one.B.double() @ one.A.double(), change), "size": float(change.abs().max()),
        "weights": max(far(a, b) for a, b in zip(after, wanted, strict=True)),
        "changed": min(far(a, b) for a, b in zip(after, before, strict=True)),
        "bit_exact": all(torch.equal(a, b) for a, b in zip(doors(bare, name), before, strict=True)),
        "untouched": all(torch.equal(a, b) for a, b in zip(doors(model, name), before, strict=True)),
        "off": erase(model, clip, "pizza", "uce", 0.0, "object").values[0] is model,
        "joint": sorted(again[2].manifest.erased),
    }  # fmt: skip
    out["eight_bit"] = eight_bit(model, clip, tokens)
    there.save(work / f"{name}_artifact", ("patch",))
    for case, ask in {
        "trains": lambda: erase(model, clip, "pizza", "esd", 1.0, "object"),
        "other_clip": lambda: erase(model, comfy_pocket(), "pizza", "uce", 1.0, "object"),
    }.items():
        try:
            ask()
            out[case] = ""
        except EraseError as error:
            out[case] = str(error)
    return out


def eight_bit(model: Any, clip: Any, tokens: int) -> dict[str, Any]:
    """What reaches a denoiser whose weights are stored in 8 bits: rows under the map, as they were without it."""
    diffusion = model.model.diffusion_model
    store = {name: value.data for name, value in diffusion.named_parameters() if value.ndim == 2}
    with torch.inference_mode():
        for name, value in diffusion.named_parameters():
            if name in store:
                value.data = value.data.to(torch.float8_e4m3fn)
        erased, _, artifact, text = erase(model, clip, "pizza -> hamburger", "uce", 1.0, "object",
                                          options="vocabulary = 7").values  # fmt: skip
        delta = artifact.edit.deltas["transformer"]["context"]
        change = delta.B.double() @ delta.A.double()
        got: dict[str, Any] = {}

        def executor(_x: Any, _t: Any, _concat: Any, rows: Any, **named: Any) -> None:
            got.update(rows=rows, y=named["y"])

        (wrapper,) = erased.wrappers["apply_model"]["erase_plugins_rows"]
        draw = torch.Generator().manual_seed(0)
        rows, pooled = torch.randn(1, 5, tokens, generator=draw), torch.randn(1, len(change) - tokens, generator=draw)
        wrapper(executor, None, None, None, rows, y=pooled)
        bare = row_maps.without(erased, row_maps.names(erased))
        for name, value in diffusion.named_parameters():
            if name in store:
                value.data = store[name]
    wanted = rows.double() + rows.double() @ change[:tokens, :tokens].T
    other = pooled.double() + pooled.double() @ change[tokens:, tokens:].T
    return {
        "rows": far(got["rows"], wanted), "pooled": far(got["y"], other), "text": text,
        "size": float(change.abs().max()), "left": len(bare.wrappers["apply_model"]["erase_plugins_rows"]),
    }  # fmt: skip


def embedded() -> dict[str, Any]:
    """pocket-flow out of the loader node beside the pipeline: one prediction, and the map of the Erase node."""
    from comfy_nodes.nodes.pocket import load_pocket
    from erase_plugins.workflow.models import as_target

    there = as_target("pocket-flow")
    found: dict[str, Any] = {}
    with torch.inference_mode():
        model, clip, vae, latent, text = load_pocket(1, "pocket-flow").values
        rows, pooled = clip.encode_from_tokens(clip.tokenize("a pizza"), return_pooled=True)
        x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        sigma = torch.tensor([0.6])
        comfy.model_management.load_models_gpu([model])
        mine = model.model.apply_model(x, sigma, c_crossattn=rows, y=pooled)
        theirs = (
            x
            - 0.6
            * there.pipe.transformer(
                x,
                encoder_hidden_states=rows,
                pooled_projections=pooled,
                timestep=600.0 * torch.ones(1),
                return_dict=False,
            )[0]
        )
        found["prediction"] = far(mine, theirs) / max(float(theirs.abs().max()), 1)
        found["still"] = far(mine, x)
        result = erase(model, clip, "pizza -> hamburger", "uce", 1.0, "object", options="vocabulary = 6", vae=vae)
        found["text"] = result.values[3]
        found["pictures"] = len(result.shown["erase_pictures"][0]["images"])
        edit = result.values[2].edit.deltas["transformer"]["context"]
        found["latent"] = list(latent["samples"].shape)
        found["told"] = text
    made = ep.erase(there, [ep.Concept("pizza", anchor="hamburger")], "uce", options=OPTIONS)
    other = made.edit.deltas["transformer"]["context"]
    found["map"] = far(edit.B.double() @ edit.A.double(), other.B.double() @ other.A.double())
    found["size"] = float((other.B.double() @ other.A.double()).abs().max())
    return found


def understood() -> dict[str, Any]:
    """pocket-natural out of the loader node: its CLIP beside the pipeline's, and beside pocket's, on free phrasing."""
    from comfy_nodes.nodes.pocket import load_pocket

    prompt, found = "a big owl under the yellow moon", {}
    pipe = ep.load("pocket-natural")
    with torch.inference_mode():
        model, clip, _, _, text = load_pocket(1, "pocket-natural").values
        states = pipe.encode_prompt(prompt, "cpu", 1, False)[0]
        for name, other in (("clip", clip), ("old", comfy_pocket())):
            found[name] = far(other.encode_from_tokens(other.tokenize(prompt)), states) / float(states.abs().max())
        found["unet"] = far(model.model.diffusion_model.out[2].weight, pipe.unet.conv_out.weight)
    return {**found, "told": text}


def comfy_pocket() -> Any:
    from comfy_nodes.pocket import load_clip
    from erase_plugins.families.source import pocket_folder

    return load_clip(pocket_folder())

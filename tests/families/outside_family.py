"""A plugin file with a model family that this project knows nothing of: no UNet, no diffusers pipeline, own names."""

from __future__ import annotations

from pathlib import Path

from erase_plugins import hookimpl
from erase_plugins.families.base import Family, ModuleRef, TargetInfo

WIDTH, TOKENS = 32, 32


def build(seed: int = 0):
    """The pipeline, untrained."""
    import torch
    from diffusers import DDIMScheduler
    from torch import nn
    from transformers import CLIPTextModel

    from erase_plugins.testing.tiny import _text_config, _tokenizer

    class Mixer(nn.Module):
        """Two layers in which latents read the text rows."""

        def __init__(self) -> None:
            super().__init__()
            self.config = {"layers": 2, "width": WIDTH}
            self.inner = nn.Linear(4, WIDTH)
            self.blocks = nn.ModuleList(
                nn.ModuleDict({"read_k": nn.Linear(WIDTH, WIDTH, bias=False), "read_v": nn.Linear(WIDTH, WIDTH, bias=False)})
                for _ in range(2)
            )  # fmt: skip
            self.outer = nn.Linear(WIDTH, 4)

        @property
        def device(self):
            return self.outer.weight.device

        @property
        def dtype(self):
            return self.outer.weight.dtype

        def forward(self, latents, timestep, encoder_hidden_states, return_dict=True):
            state = self.inner(latents.flatten(2).transpose(1, 2))
            for block in self.blocks:
                keys, values = block["read_k"](encoder_hidden_states), block["read_v"](encoder_hidden_states)
                state = state + (state @ keys.transpose(1, 2) / WIDTH**0.5).softmax(-1) @ values
            return (self.outer(state).transpose(1, 2).reshape(latents.shape),)

    class ToyPipeline:
        def __init__(self, **parts) -> None:
            self.components = parts
            self.__dict__.update(parts)
            self.name_or_path = "toy"

        def encode_prompt(self, prompt, device, num_images_per_prompt, do_classifier_free_guidance):
            ids = self.tokenizer(prompt, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
            return self.text_encoder(ids["input_ids"])[0], None

    torch.manual_seed(seed)
    mixer, encoder = Mixer().eval(), CLIPTextModel(_text_config(WIDTH, WIDTH)).eval()
    return ToyPipeline(mixer=mixer, text_encoder=encoder, tokenizer=_tokenizer(), scheduler=DDIMScheduler())


def save(pipe, folder: Path) -> None:
    """A model folder in the form of diffusers."""
    import json

    from safetensors.torch import save_file

    (folder / "mixer").mkdir(parents=True)
    listed = {"mixer": ["toy", "Mixer"], "text_encoder": ["transformers", "CLIPTextModel"]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline", **listed}))
    (folder / "mixer" / "config.json").write_text(json.dumps({**pipe.mixer.config, "_class_name": "Mixer"}))
    save_file(pipe.mixer.state_dict(), folder / "mixer" / "model.safetensors")
    pipe.text_encoder.save_pretrained(folder / "text_encoder")


class Toy(Family):
    id = "toy"
    title = "Toy family of another package"
    components = ("mixer", "text_encoder")
    denoiser = "mixer"
    groups = {
        "cross_kv": lambda ref: ".read_" in ref.path,
        "cross_k": lambda ref: ref.path.endswith("read_k"),
        "cross_v": lambda ref: ref.path.endswith("read_v"),
    }

    def detect(self, configs):
        return configs.get("mixer", {}).get("_class_name") == "Mixer"

    def info(self, model, configs):
        layers = range(configs["mixer"]["layers"])
        refs = tuple(
            ModuleRef("mixer", f"blocks.{layer}.read_{part}", "linear", (WIDTH, WIDTH), False)
            for layer in layers
            for part in "kv"
        )
        return TargetInfo(self, model, configs, refs, ("toy",), WIDTH, TOKENS, (4, 8, 8))

    def open(self, source, dtype="float32", device="cpu"):
        from safetensors.torch import load_file
        from transformers import CLIPTextModel

        pipe = build(1)
        pipe.mixer.load_state_dict(load_file(source.folder / "mixer" / "model.safetensors"))
        pipe.text_encoder = CLIPTextModel.from_pretrained(source.folder / "text_encoder").eval()
        pipe.components = {**pipe.components, "text_encoder": pipe.text_encoder}
        return pipe


@hookimpl
def erase_families():
    return [Toy()]

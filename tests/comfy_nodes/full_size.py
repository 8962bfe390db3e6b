"""Runs inside the ComfyUI interpreter: the closed-form node on a model of Stable Diffusion 1.5's shapes, random weights.

Usage: python full_size.py COMFY_DIR. Prints processor seconds and memory of the node in two sessions, one after the other: the
first encodes the common words, the later one finds what is needed of them on disk (ERASE_PLUGINS_CACHE). Each is a process of
its own, forked when the model is there, which takes longer to make than to erase from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from typing import Any

NUMBERS: dict[str, Any] = {}
_COMPARED = 5


class Peak:
    """Largest growth of the process's memory within a with-block, in MB."""

    def __init__(self) -> None:
        import psutil

        self.process = psutil.Process()
        self.mb = 0.0

    def __enter__(self) -> Peak:
        self.before, self.going = self.process.memory_info().rss, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.going:
            self.mb = max(self.mb, (self.process.memory_info().rss - self.before) / 2**20)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.going = False
        self.thread.join()


def model_of_sd15() -> Any:
    """MODEL with Stable Diffusion 1.5's UNet in fp16; every tensor is random and small."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
        "context_dim": 768, "num_heads": 8, "num_head_channels": -1, "use_linear_in_transformer": False,
        "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None, "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }  # fmt: skip
    chosen = comfy.supported_models.SD15(config)
    chosen.set_inference_dtype(torch.float16, None)
    model = chosen.get_model({}, "", device=torch.device("cpu"))
    # 860 million values are drawn in seconds; here each tensor has its own piece of a few million
    some = (0.02 * torch.randn(2**22, generator=torch.Generator().manual_seed(0))).to(torch.float16)
    start = 0
    for parameter in model.diffusion_model.parameters():
        count = parameter.numel()
        times = -(-(start + count) // len(some))
        parameter.data = some.repeat(times)[start : start + count].reshape(parameter.shape).clone()
        start = (start + count) % len(some)
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=torch.device("cpu"))


def clip_of_sd15() -> Any:
    """CLIP with the real tokenizer and a random text encoder."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.supported_models_base
    import torch

    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    draw = torch.Generator().manual_seed(1)
    for parameter in clip.cond_stage_model.parameters():
        parameter.data = 0.02 * torch.randn(parameter.shape, generator=draw)
    return clip


def main(comfy_dir: str) -> None:
    sys.path.insert(0, comfy_dir)
    sys.argv = ["x", "--cpu"]
    logging.disable(logging.INFO)
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    with torch.inference_mode():
        model, clip = model_of_sd15(), clip_of_sd15()
    found = {}
    for name in ("first", "later"):
        told, tells = os.pipe()
        if os.fork() == 0:
            try:
                session(model, clip)
                os.write(tells, json.dumps(NUMBERS).encode())
            finally:
                os._exit(0)
        os.close(tells)
        with os.fdopen(told) as answer:
            found[name] = json.loads(answer.read())
        os.wait()
    print("RESULT " + json.dumps(found))


def session(model: Any, clip: Any) -> None:
    """What a session measures of the node."""
    import torch

    from comfy_nodes import NODE_CLASS_MAPPINGS as nodes
    from comfy_nodes.target import ComfyTarget

    with torch.inference_mode():
        ask = {"model": model, "clip": clip, "strength": 1.0, "kind": "object"}
        (encoder,) = [item for item in clip.cond_stage_model.modules() if type(item).__name__ == "CLIPEncoder"]
        encoded: list[int] = []
        counting = encoder.register_forward_hook(lambda _m, _a, out: encoded.append(out[0].shape[0] * out[0].shape[1]))
        with Peak() as peak:
            started = time.process_time()
            result = nodes["EraseUCE"]().execute(erase="van gogh -> painting", **ask)["result"]
            NUMBERS["solve_seconds"] = time.process_time() - started
        counting.remove()
        NUMBERS["encoded_rows"] = sum(encoded)
        NUMBERS["solve_mb"] = peak.mb
        NUMBERS["report"] = result[2]
        NUMBERS["rank"] = result[1].edit.rank
        delta = result[1].edit.deltas["unet"]["context"]
        NUMBERS["map"] = hashlib.sha256((delta.B @ delta.A).numpy().tobytes()).hexdigest()
        started = time.process_time()
        nodes["EraseUCE"]().execute(erase="van gogh -> painting", **{**ask, "strength": 0.5})
        NUMBERS["strength_seconds"] = time.process_time() - started
        target = ComfyTarget(model, clip)
        words = target.vocabulary()[1000 : 1000 + _COMPARED]
        start, whole = target.encode_start(words, 3).embeds, target.encode(words).embeds
        NUMBERS["start_shape"] = list(start.shape)
        NUMBERS["start_difference"] = float((start - whole[:, : start.shape[1]]).abs().max() / whole.abs().max())


if __name__ == "__main__":
    main(sys.argv[1])

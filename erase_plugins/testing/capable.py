"""Each capability of a loaded model, asked once: shapes, finite numbers, and the same answer a second time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def _same(what: str, ask: Callable[[], Any], shape: tuple[int, ...]) -> Any:
    """What is answered, if it is sound."""
    import torch

    first, second = ask(), ask()
    assert tuple(first.shape) == shape, f"{what} have the shape {tuple(first.shape)}, not {shape}"
    assert bool(torch.isfinite(first).all()), f"{what} hold NaN or infinity"
    assert torch.equal(first, second), f"asked twice, {what} differ"
    return first


def _text(model: Any) -> None:
    prompts, info = ["", "a pizza"], model.info
    cond = model.text.encode(prompts)
    _same("encoded prompts", lambda: model.text.encode(prompts).embeds, (2, *cond.embeds.shape[1:]))
    width = model.text.rows(prompts).embeds.shape[-1]
    assert width == info.width, f"text rows are {width} wide, info says {info.width}"
    assert len(cond.last) == 2, f"'last' has {len(cond.last)} rows for two prompts"
    assert model.text.vocabulary(), "the vocabulary is empty"


def _denoiser(model: Any) -> None:
    import torch

    cond = model.text.encode(["", "a pizza"])
    shape = (2, *model.info.latent_shape)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(model.device, model.dtype)
    with torch.no_grad():
        _same("predictions", lambda: model.denoiser.predict(latents, 500, cond), shape)
    steps = model.denoiser.scheduler(3).timesteps
    assert len(steps) >= 3, f"a scheduler of three steps has {len(steps)}"


def _codec(model: Any) -> None:
    import torch

    found, size = model.codec, model.codec.picture_size()
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    given = pictures.clone()

    def encode(what: Any) -> Any:
        return found.latents(what, torch.Generator().manual_seed(4))

    latents = _same("latents", lambda: encode(pictures), (2, *model.info.latent_shape))
    assert torch.equal(pictures, given), "encoding changes the pictures that it is given"
    assert not torch.equal(encode(-pictures), latents), "latents do not depend on the pictures"
    try:
        encode(pictures[:, :1])
    except Exception:  # whatever it raises, nothing was encoded
        return
    raise AssertionError("pictures with one channel in place of three are encoded; refuse them")


def _classifier(model: Any) -> None:
    import torch

    found = model.classifier
    assert len(set(found.labels)) == len(found.labels) > 1, f"labels are {found.labels}; name every class"
    batch = torch.randn(2, *found.input_shape, generator=torch.Generator().manual_seed(3))
    logits = _same("logits", lambda: found.logits(batch), (2, len(found.labels)))
    assert logits.requires_grad, "logits have no gradients; do not compute them under torch.no_grad()"


def _language(model: Any) -> None:
    import torch

    found = model.language
    ids = torch.randint(0, found.words, (2, 5), generator=torch.Generator().manual_seed(3))
    logits = _same("scores", lambda: found.logits(ids), (2, 5, found.words))
    assert logits.requires_grad, "scores have no gradients; do not compute them under torch.no_grad()"
    with torch.no_grad():
        said = found.generate(ids, 2)
    assert tuple(said.shape) == (2, 7), f"generate gives the shape {tuple(said.shape)} for two tokens behind five"
    assert torch.equal(said[:, 5], logits[:, -1].argmax(-1)), "generate does not say the most likely token"
    assert found.hidden(ids, 0).shape[:2] == (2, 5), "hidden states are not (n, tokens, width)"


#: capability -> asks it; words of a family's own are its own matter
CAPABLE: Mapping[str, Callable[[Any], None]] = {
    "text": _text, "denoiser": _denoiser, "codec": _codec, "classifier": _classifier, "language": _language,
}  # fmt: skip

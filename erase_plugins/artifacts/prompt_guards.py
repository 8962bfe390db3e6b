"""Guards that need no fitting, as add-ons: what they hold and the few formulas that making and running them share.

Type `VALUES` (AdaVD, arXiv 2412.06143), at the path of a value projection of cross-attention:
    values (k, tokens, dim): values of the concepts' prompts; null (tokens, dim): values of the empty prompt;
    config: centre and sharpness of `opening`, or always = true for a factor of 1.
Type `SURGERY` (Semantic Surgery, arXiv 2510.22851), at key `SURGERY_KEY`, on the embeddings that the denoiser is given:
    concepts (k, tokens, dim): E(c) - E(""); joint (s, tokens, dim): E("c1, c2") - E("") of subsets;
    config: beta, gamma, subsets (lists of concept numbers), names.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

VALUES, SURGERY = "value_projection", "embedding_surgery"
SURGERY_KEY = "prompts"
#: add-ons that are made for the embeddings of the text encoders
PROMPT_GUARDS = (VALUES, SURGERY)


def opening(likeness: Tensor, centre: float, sharpness: float) -> Tensor:
    """AdaVD's factor 2 / (1 + exp(-sharpness (x - centre))): 0 far below the centre, 1 at it, 2 above."""
    return 2 * torch.sigmoid(sharpness * (likeness - centre))


def presence(context: Tensor, concepts: Tensor) -> Tensor:
    """How much of each concept is in each prompt: mean over positions of the cosine, (batch, k).

    Args:
        context: E(prompt), (batch, tokens, dim).
        concepts: E(c) - E(""), (k, tokens, dim).
    """
    parts = [functional.cosine_similarity(context.float(), part.float()[None], dim=-1).mean(-1) for part in concepts]
    return torch.stack(parts, dim=1)

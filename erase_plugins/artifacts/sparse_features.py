"""Steering of sparse features (SAeUron, arXiv 2501.18052), as an add-on of type `FEATURES` behind a module.

With the features of a sparse autoencoder that stand for a concept, every position h (d,) of the module's output becomes

    h + sum_j (m - 1) z_j w_j,    z_j = relu(e_j h + b_j) where that is above c_j, else 0,

so what the autoencoder does not explain stays as it is, and m = 1 changes nothing. Weights: encode e (f, d), bias b
(f,), threshold c (f,), decode w (f, d), factor m (f,). Only the chosen features are stored; their thresholds stand for
the autoencoder's choice of its k largest features.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FEATURES = "sparse_features"
#: name -> dimensions
SHAPES = {"encode": 2, "bias": 1, "threshold": 1, "decode": 2, "factor": 1}


def steering(tokens: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What is added to tokens (..., d), float32."""
    z = torch.relu(tokens.float() @ weights["encode"].T + weights["bias"])
    z = torch.where(z > weights["threshold"], z, 0.0)
    return (z * (weights["factor"] - 1)) @ weights["decode"]

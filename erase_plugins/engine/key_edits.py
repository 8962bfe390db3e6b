"""Closed-form edits of a linear map y = W k that answers keys with values: which factor A makes dW = R A, in float64.

K (in, n) holds one key per fact, P (in, p) keys whose values must stay, R (out, n) what the map lacks for each fact,
and C (in, in) the second moment of keys of ordinary text. Every function gives A (n, in), so that dW has rank n at most
and R and A are the factors of a LoRA as they are. The systems solved have the size of n + p, not of the map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.errors import RequestError

#: condition number from which keys count as the same
_SINGULAR = 1e10
#: keys that are multiplied at a time
_KEYS = 512


def memit(C: Tensor, K: Tensor, lam: float, P: Tensor | None = None) -> Tensor:
    """Least squares against ordinary keys: the rows of K^T (lam C + K K^T + P P^T)^-1 (MEMIT, arXiv 2210.07229).

    Raises:
        RequestError: C is not positive definite.
    """
    S = _beside(K, P)
    X = torch.cholesky_solve(S, _cholesky(C)) / lam
    return torch.linalg.solve(_eye(S) + S.T @ X, X.T)[: K.shape[1]]


def alphaedit(N: Tensor, K: Tensor, ridge: float, P: Tensor | None = None) -> Tensor:
    """Least squares inside a null space: the rows of ([N (K K^T + P P^T) + ridge I]^-1 N K)^T (arXiv 2410.02355).

    Args:
        N: (in, in) projector on the directions that ordinary keys hardly use, see `null_space`.
        K, P: keys of the facts, and keys that are kept.
        ridge: weight of the change itself.
    """
    S = _beside(K, P)
    inside = N @ S
    return torch.linalg.solve(S.T @ inside + ridge * _eye(S), inside.T)[: K.shape[1]]


def rome(C: Tensor, K: Tensor, P: Tensor | None = None, spread: Tensor | None = None) -> Tensor:
    """The smallest change, measured by ordinary keys, with dW K = R and dW P = 0 (ROME for n = 1, arXiv 2202.05262).

    Args:
        C: second moment of ordinary keys.
        K, P: keys of the facts, and keys whose values stay to the last digit.
        spread: (in, n) keys along which each fact is written, K unless given; ROME takes means over contexts.

    Raises:
        RequestError: C is not positive definite, or two keys are the same.
    """
    S = _beside(K, P)
    U = torch.cholesky_solve(_beside(K if spread is None else spread, P), _cholesky(C))
    system = U.T @ S
    scale = system.diagonal().abs().clamp_min(1e-300).rsqrt()
    if float(torch.linalg.cond(scale[:, None] * system * scale)) > _SINGULAR:
        raise RequestError(
            "two facts, or a fact and one that is kept, look the same to the model: give one row per subject, or use "
            "memit"
        )
    return torch.linalg.solve(system, U.T)[: K.shape[1]]


def null_space(C: Tensor, share: float = 0.7, threshold: float | None = None) -> Tensor:
    """Projector (in, in) on the directions of the smallest second moments.

    Args:
        C: (in, in) second moment of ordinary keys.
        share: of all directions, how many are taken.
        threshold: takes those whose moment is below instead.
    """
    values, vectors = torch.linalg.eigh(C)
    count = int((values < threshold).sum()) if threshold is not None else int(share * len(values))
    return vectors[:, :count] @ vectors[:, :count].T


def moment(keys: Tensor, ridge: float) -> Tensor:
    """Second moment (in, in) of keys (m, in) in float64, with a share of its mean diagonal added to every direction.

    Keys are multiplied as they are, some hundred at a time, which is as exact as they are.
    """
    C = sum(((part.T @ part).double() for part in keys.split(_KEYS)), keys.new_zeros(()).double()) / len(keys)
    return C + ridge * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype, device=C.device)


def _beside(K: Tensor, P: Tensor | None) -> Tensor:
    return K.double() if P is None else torch.cat([K.double(), P.double()], 1)


def _eye(S: Tensor) -> Tensor:
    return torch.eye(S.shape[1], dtype=S.dtype, device=S.device)


def _cholesky(C: Tensor) -> Tensor:
    try:
        return torch.linalg.cholesky(C.double())
    except torch.linalg.LinAlgError as error:
        raise RequestError(
            "the keys of ordinary text leave directions empty; raise statistics_tokens or the ridge"
        ) from error

"""The regularised least-squares edit shared by all closed-form methods, in the small (d x d) space and float64.

For erased rows C, their guides S (columns) and preserved rows P, with B = lam I + e C C^T + p P P^T, the edit of every
key and value projection is Delta W = W K with one K = e (S - C) C^T B^-1 (UCE, arXiv 2308.14761, with the lam term
of the official code). RECE (arXiv 2407.12383) iterates the same solve on derived adversarial rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from erase_plugins.errors import NotFiniteError, RequestError


def solve_map(G: Tensor, X: Tensor, H: Tensor, lam: float) -> Tensor:
    """K of the joint edit.

    Args:
        G: (d, d) sum of e * c c^T over erased rows.
        X: (d, d) sum of e * s c^T (guide times erased row).
        H: (d, d) sum of p * p p^T over preserved rows.
        lam: ridge term, > 0.

    Returns:
        (d, d) float64 with W_new = W (I + K).

    Raises:
        RequestError: lam is not positive.
        NotFiniteError: the system is not solvable.
    """
    if not lam > 0:
        raise RequestError(f"lam={lam} must be positive, otherwise the system has no unique solution")
    G, X, H = G.double(), X.double(), H.double()
    system = lam * torch.eye(G.shape[0], dtype=torch.float64) + G + H
    return right_divide(X - G, system)


def solve_factors(rows: Tensor, guides: Tensor, weights: Tensor, H: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """K = B A as exact factors, rank = number of rows.

    Args:
        rows: (n, d) erased rows.
        guides: (n, d) their guides.
        weights: (n,) scale e of each row.
        H: (d, d) preserved Gram matrix.
        lam: ridge term.

    Returns:
        A (n, d) and B (d, n), float64.
    """
    C, S = rows.double(), guides.double()
    scale = weights.double()[:, None]
    system = lam * torch.eye(C.shape[1], dtype=torch.float64) + C.T @ (scale * C) + H.double()
    return right_divide(scale * C, system), (S - C).T.contiguous()


def solve_in_span(
    rows: Tensor, guides: Tensor, weights: Tensor, kept: Tensor, kept_weights: Tensor, lam: float
) -> tuple[Tensor, Tensor]:
    """K = B A as `solve_factors` gives it, in the smaller space: where all rows are few no (d, d) matrix is formed.

    With Z = [sqrt(e) C, sqrt(p) P] (k, d): C B^-1 = (C - C Z^T (lam I + Z Z^T)^-1 Z) / lam (Woodbury), and for more
    rows than d C (lam I + Z^T Z)^-1 itself.

    Args:
        rows, guides: (n, d).
        weights: (n,) scale e of each row.
        kept: (m, d) preserved rows.
        kept_weights: (m,) scale p of each.
        lam: ridge term.

    Returns:
        A (r, d) with orthonormal rows and B (d, r), float64, at the numerical rank.
    """
    if not lam > 0:
        raise RequestError(f"lam={lam} must be positive, otherwise the system has no unique solution")
    C, S, P = rows.double(), guides.double(), kept.double()
    e, p = weights.double()[:, None], kept_weights.double()[:, None]
    Z = torch.cat([e.sqrt() * C, p.sqrt() * P])
    few = len(Z) <= Z.shape[1]
    system = lam * torch.eye(min(Z.shape), dtype=torch.float64) + (Z @ Z.T if few else Z.T @ Z)
    A = (e * C - right_divide(e * (C @ Z.T), system) @ Z) / lam if few else right_divide(e * C, system)
    Q, R = torch.linalg.qr(A.T)
    left, values, right = torch.linalg.svd((S - C).T @ R.T, full_matrices=False)
    rank = max(int((values > 1e-7 * values[0]).sum()), 1)
    return (right[:rank] @ Q.T).contiguous(), (left[:, :rank] * values[:rank]).contiguous()


def right_divide(left: Tensor, system: Tensor) -> Tensor:
    """left @ system^-1 for a symmetric positive definite system."""
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info):
        raise NotFiniteError("the closed-form system is not positive definite; raise lam or check the embeddings")
    return torch.cholesky_solve(left.T.contiguous(), factor).T.contiguous()


def rece_step(
    M: Tensor, sigma: Tensor, G: Tensor, X: Tensor, H: Tensor, lr: float, lam: float, hold: bool = False,
    weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """One RECE epoch: M times N, with the adversarial rows eliminated.

    With R = (lr I + M^T Sigma M)^-1 M^T Sigma the adversarial rows are C' = R C, so C' C'^T = R G R^T and
    S C'^T = X R^T; no row is ever formed and the cost does not depend on the number of concepts.

    Args:
        M: (d, d) current map.
        sigma: (d, d) sum of W^T W over the original key and value weights.
        G, X: (d, d) Gram matrices of the original rows, S C^T in X, weighted by e.
        H: (d, d) preserved rows, weighted by p.
        lr: regulariser of the adversarial embedding.
        lam: ridge term of the erase step.
        hold: also leave the original rows where they are in this step, so that it does not turn the first erasure
            back, nor repeats it; False is the official form.
        weight: of the adversarial rows.
    """
    if not lr > 0:
        raise RequestError(f"regular_scale={lr} must be positive")
    eye = torch.eye(M.shape[0], dtype=torch.float64)
    R = adversarial_map(M, sigma, lr)
    base = lam * eye + H.double()
    G, X = G.double(), X.double()
    base = base + G if hold else base
    N = right_divide(base + weight * X @ R.T, base + weight * R @ G @ R.T)
    return M @ N


def adversarial_map(M: Tensor, sigma: Tensor, lr: float) -> Tensor:
    """R with c' = R c: the row that makes the edited model produce what c made before (RECE, step A)."""
    middle = M.T @ sigma.double()
    return adversarial_from_sums(middle @ M, middle, lr)


def adversarial_from_sums(A: Tensor, X: Tensor, lr: float, kind: str = "close_regzero") -> Tensor:
    """R of RECE's step A from layer sums, also where layers share no common map.

    Args:
        A: (d, d) sum of Wn^T Wn over the edited weights.
        X: (d, d) sum of Wn^T W0.
        lr: regulariser.
        kind: "close_regzero" pulls c' to zero (paper, default); "close_surrogatereg" pulls it and its values to c.

    Raises:
        RequestError: lr is not positive, or an unknown kind.
    """
    if not lr > 0:
        raise RequestError(f"regular_scale={lr} must be positive")
    A, X = A.double(), X.double()
    eye = torch.eye(A.shape[0], dtype=torch.float64)
    if kind == "close_regzero":
        solved: Tensor = torch.linalg.solve(lr * eye + A, X)
        return solved
    if kind == "close_surrogatereg":
        solved = torch.linalg.solve(lr * eye + (1 + lr) * A, X + lr * A + lr * eye)
        return solved
    raise RequestError(f"unknown adversarial embedding '{kind}'; choose close_regzero or close_surrogatereg")


def best_factors(K: Tensor, sigma: Tensor, rank: int | None, tolerance: float = 1e-7) -> tuple[Tensor, Tensor, float]:
    """Low-rank factors of K that are optimal for all layers at once.

    The error sum_l |W_l (K - B A)|^2 is smallest when A spans the leading eigenvectors of K^T Sigma K, and then equals
    the discarded eigenvalues.

    Args:
        K: (d, d).
        sigma: (d, d) sum of W^T W.
        rank: number of directions; None takes all whose share exceeds ``tolerance``.
        tolerance: relative size (square root of the eigenvalue share) of a direction worth keeping.

    Returns:
        A (r, d), B (d, r), and the relative error: square root of discarded over total energy.
    """
    energy, vectors = torch.linalg.eigh(K.T @ sigma.double() @ K)
    energy = energy.flip(0).clamp_min(0)
    vectors = vectors.flip(1)
    total = float(energy.sum())
    if total == 0:
        return torch.zeros(1, K.shape[0], dtype=torch.float64), torch.zeros(K.shape[0], 1, dtype=torch.float64), 0.0
    wanted = int((energy > tolerance**2 * energy[0]).sum()) if rank is None else min(rank, K.shape[0])
    Q = vectors[:, :wanted]
    error = (float(energy[wanted:].sum()) / total) ** 0.5
    return Q.T.contiguous(), (K @ Q).contiguous(), error


def exact_factors(K: Tensor, tolerance: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Factors of K at its numerical rank, without loss beyond ``tolerance`` relative to the largest singular value.

    Returns:
        A (r, d) with orthonormal rows and B (d, r).
    """
    left, values, right = torch.linalg.svd(K.double(), full_matrices=False)
    rank = max(int((values > tolerance * values[0]).sum()), 1)
    return right[:rank].contiguous(), (left[:, :rank] * values[:rank]).contiguous()

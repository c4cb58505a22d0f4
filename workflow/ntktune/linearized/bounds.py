"""What adding layers to those that are trained can do to a kernel: bounds that always hold."""

import math

import numpy as np
from numpy.typing import ArrayLike


def weyl_bounds(kernel: ArrayLike, added: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds on the eigenvalues of K + S, ascending, (N,) each (Weyl's inequalities).

    λ_i(K) + λ_N(S) ≤ λ_i(K + S) ≤ λ_i(K) + λ_1(S), for symmetric K and S.
    """
    values, more = np.linalg.eigvalsh(kernel), np.linalg.eigvalsh(added)
    return values + more[0], values + more[-1]


def residual_bounds(kernel: ArrayLike, added: ArrayLike, ridge: float) -> tuple[float, float]:
    """Return bounds on yᵀ(K + S + σI)⁻¹y / yᵀ(K + σI)⁻¹y over all labels y.

    1/(1 + η_1) and 1/(1 + η_N), with η the eigenvalues of M^(−1/2) S M^(−1/2), M = K + σI, for
    positive semi-definite K and S and ``ridge`` σ > 0; no further condition. 1/(1 + ‖M⁻¹S‖₂) bounds
    the ratio of the residuals' norms from below (:func:`residual_norm_bound`).
    """
    root = np.linalg.cholesky(np.asarray(kernel, float) + ridge * np.eye(len(kernel)))
    half = np.linalg.solve(root, np.asarray(added, float))
    values = np.linalg.eigvalsh(np.linalg.solve(root, half.T))
    return float(1 / (1 + values[-1])), float(1 / (1 + max(values[0], 0.0)))


def residual_norm_bound(kernel: ArrayLike, added: ArrayLike, ridge: float) -> float:
    """Return a lower bound on ‖(K + S + σI)⁻¹y‖ / ‖(K + σI)⁻¹y‖ over all labels y."""
    inner = np.asarray(kernel, float) + ridge * np.eye(len(kernel))
    return float(1 / (1 + np.linalg.norm(np.linalg.solve(inner, np.asarray(added, float)), 2)))


def smallest_rank(examples: int, outputs: int = 1) -> int:
    """Return the smallest rank r of adapters with r(r + 1)/2 > N·C.

    From there on the linearised problem has no local minimum that is not global (Jang, Lee & Ryu
    2024).
    """
    rank = math.isqrt(2 * examples * outputs)
    while rank * (rank + 1) // 2 <= examples * outputs:
        rank += 1
    return max(rank, 1)

"""What adding layers to those that are trained can do to a kernel: bounds that always hold."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import helmert


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
    values, vectors = np.linalg.eigh(np.asarray(kernel, float))
    half = vectors / np.sqrt(np.maximum(values, 0.0) + ridge)  # M^(−1/2), rotated
    shares = np.linalg.eigvalsh(half.T @ np.asarray(added, float) @ half)
    return float(1 / (1 + shares[-1])), float(1 / (1 + max(shares[0], 0.0)))


def residual_norm_bound(kernel: ArrayLike, added: ArrayLike, ridge: float) -> float:
    """Return a lower bound on ‖(K + S + σI)⁻¹y‖ / ‖(K + σI)⁻¹y‖ over all labels y."""
    inner = np.asarray(kernel, float) + ridge * np.eye(len(kernel))
    return float(1 / (1 + np.linalg.norm(np.linalg.solve(inner, np.asarray(added, float)), 2)))


def addition(
    kernel: ArrayLike, added: ArrayLike, label: ArrayLike, ridge: float
) -> dict[str, float]:
    """Return what training more layers does to a kernel, and what is known of it beforehand.

    ``kernel`` K is of the layers trained so far and ``added`` S of the others, (N, N), both centred
    here, as is ``label`` y, (N,) or (N, C); ``ridge`` is σ. ``residual`` is
    yᵀ(K + S + σI)⁻¹y / yᵀ(K + σI)⁻¹y, and ``residual_low`` and ``residual_high`` are its
    :func:`residual_bounds`; ``largest_low`` and ``largest_high`` are :func:`weyl_bounds` on the
    largest eigenvalue of K + S.
    """
    contrasts = helmert(len(kernel))  # of N − 1 rows: the constant vector is left out
    inner, more = (contrasts @ np.asarray(part, float) @ contrasts.T for part in (kernel, added))
    values = contrasts @ np.asarray(label, float).reshape(len(label), -1)
    before = inner + ridge * np.eye(len(inner))
    after, now = (np.sum(values * np.linalg.solve(m, values)) for m in (before + more, before))
    low, high = residual_bounds(inner, more, ridge)
    largest = [float(bound[-1]) for bound in weyl_bounds(inner, more)]
    return {
        "residual": float(after / now),
        "residual_low": low,
        "residual_high": high,
        "largest_low": largest[0],
        "largest_high": largest[1],
    }


def smallest_rank(examples: int, outputs: int = 1) -> int:
    """Return the smallest rank r of adapters with r(r + 1)/2 > N·C.

    From there on the linearised problem has no local minimum that is not global (Jang, Lee & Ryu
    2024).
    """
    rank = math.isqrt(2 * examples * outputs)
    while rank * (rank + 1) // 2 <= examples * outputs:
        rank += 1
    return max(rank, 1)

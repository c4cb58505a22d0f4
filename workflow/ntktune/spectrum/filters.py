"""What gradient descent and ridge regression make of each eigenvector of a kernel.

Eigenvalues λ have shape (N,) and are 0 or more; α ≤ 1/λ_1 is the step size (SR26 section 3.5).
"""

import numpy as np
from numpy.typing import ArrayLike


def descent_shares(eigenvalues: ArrayLike, times: ArrayLike, step_size: float) -> np.ndarray:
    """Return 1 − (1 − αλ)^t, what gradient descent has learnt of each eigenvector, (T, N)."""
    decay = np.clip(step_size * np.asarray(eigenvalues, dtype=float), 0.0, 1.0)
    steps = np.asarray(times, dtype=float)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = -np.expm1(steps * np.log1p(-decay)[None, :])
    # an eigenvector with αλ = 1 is learnt by the first step, and not before
    return np.where(steps == 0, 0.0, shares)


def descent_filter(eigenvalues: ArrayLike, times: ArrayLike, step_size: float) -> np.ndarray:
    """Return g with 1 − (1 − αλ)^t = λ g(λ), (T, N): Σ_{τ<t} α (1 − αλ)^τ; αt at λ = 0."""
    values, steps = np.asarray(eigenvalues, dtype=float), np.asarray(times, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        sums = descent_shares(values, steps, step_size) / values
    return np.where(values > 0, sums, step_size * steps[:, None])


def ridge_filter(eigenvalues: ArrayLike, ridges: ArrayLike) -> np.ndarray:
    """Return 1 / (λ + ρ), (R, N), for ridges ρ > 0, (R,), in the eigenvalues' units."""
    values, ridges = np.asarray(eigenvalues, dtype=float), np.asarray(ridges, dtype=float)
    return 1.0 / (values[None, :] + ridges[:, None])

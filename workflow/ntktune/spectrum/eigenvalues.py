"""Eigenvalues of K_n = G / n."""

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError

# A Gram summed in float64 is symmetric to rounding, one summed in float32 to about 1e-7
ASYMMETRY = 1e-5


def checked_gram(gram: ArrayLike) -> np.ndarray:
    """Return a Gram in float64, (N, N), made symmetric; UserError if it is no finite Gram."""
    gram = np.asarray(gram, dtype=np.float64)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or len(gram) == 0:
        raise UserError(
            f"a kernel must be a square matrix of at least one row; this one has shape {gram.shape}"
        )
    bad = np.argwhere(~np.isfinite(gram))
    if len(bad):
        i, j = bad[0]
        raise UserError(
            f"the kernel holds {len(bad)} values that are not finite, the first {gram[i, j]} in "
            f"row {i}, column {j}; compute it again in a wider dtype"
        )
    difference = np.abs(gram - gram.T).max()
    if difference > ASYMMETRY * np.abs(gram).max():
        raise UserError(
            f"the kernel is not symmetric: an entry and its mirror differ by {difference:.3g}, "
            f"the largest entry is {np.abs(gram).max():.3g}; this is no Gram matrix"
        )
    return (gram + gram.T) / 2


def eigenvalues(gram: ArrayLike) -> np.ndarray:
    """Return the eigenvalues λ_1 >= … >= λ_N of K_n = G / N, shape (N,) (SR26 eq 5).

    G, shape (N, N), is not divided by N: G[i, j] = ⟨∇f(x_i), ∇f(x_j)⟩. Raises UserError if it
    is not a finite symmetric matrix.

    Examples
    --------
    >>> eigenvalues([[2.0, 0.0], [0.0, 6.0]])
    array([3., 1.])
    """
    gram = checked_gram(gram)
    return np.linalg.eigvalsh(gram)[::-1] / len(gram)


def centred_gram(gram: ArrayLike) -> np.ndarray:
    """Return H G H with H = I − 1/N, (N, N): without the large eigenvalue of a constant part."""
    gram = checked_gram(gram)
    gram = gram - gram.mean(axis=0)
    return gram - gram.mean(axis=1, keepdims=True)

"""How far a kernel has moved (SR26 eq 17)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.decay import LEAST_VALUES, decay_exponent, noise_level
from ntktune.spectrum.eigenvalues import checked_gram, eigenvalues


def kernel_drift(
    before: ArrayLike, now: ArrayLike, precision: float = np.finfo(np.float64).eps
) -> dict[str, float]:
    """Return how a kernel on the same texts has changed.

    Parameters
    ----------
    before, now
        K_0 and K_t, shape (N, N).
    precision
        eps of the precision in which they were computed.

    Returns
    -------
    dict
        ``drift`` ‖K_t − K_0‖/‖K_0‖ in the operator norm and ``drift_frobenius``;
        ``alignment`` ⟨K_t, K_0⟩/(‖K_t‖‖K_0‖), 1 for a change of scale only; ``exponent``, the
        decay exponent a of K_t; NaN where fewer than three eigenvalues are above the noise.

    Raises
    ------
    UserError
        A kernel is not symmetric, not finite or zero, or their sizes differ.
    """
    before, now = checked_gram(before), checked_gram(now)
    change = now - before
    values = eigenvalues(now)
    noise = noise_level(values, precision)
    enough = (values > noise).sum() >= LEAST_VALUES
    return {
        "drift": float(np.linalg.norm(change, 2) / np.linalg.norm(before, 2)),
        "drift_frobenius": float(np.linalg.norm(change) / np.linalg.norm(before)),
        "alignment": float(np.sum(now * before) / np.linalg.norm(now) / np.linalg.norm(before)),
        "exponent": decay_exponent(values, noise_floor=noise).exponent if enough else np.nan,
    }

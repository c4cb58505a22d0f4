"""How far a kernel has moved (SR26 eq 17)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ntktune.spectrum.decay import LEAST_VALUES, decay_exponent, noise_level
from ntktune.spectrum.eigenvalues import checked_gram, eigenvalues


def kernel_drift(
    before: ArrayLike, now: ArrayLike, precision: float = np.finfo(np.float64).eps
) -> dict[str, float]:
    """Return how a kernel on the same texts has changed from K_0 (``before``) to K_t (``now``).

    ``drift`` is ‖K_t − K_0‖/‖K_0‖ in the operator norm, ``drift_frobenius`` in the Frobenius norm;
    ``alignment`` ⟨K_t, K_0⟩/(‖K_t‖‖K_0‖), 1 for a change of scale only; ``exponent`` and
    ``start_exponent`` are the decay exponents a of K_t and K_0, NaN where fewer than three
    eigenvalues are above the noise. ``precision`` is eps of the precision in which both, (N, N),
    were computed. Raises UserError if a kernel is not symmetric, not finite or zero, or their sizes
    differ.
    """
    before, now = checked_gram(before), checked_gram(now)
    change = now - before
    return {
        "drift": float(np.linalg.norm(change, 2) / np.linalg.norm(before, 2)),
        "drift_frobenius": float(np.linalg.norm(change) / np.linalg.norm(before)),
        "alignment": float(np.sum(now * before) / np.linalg.norm(now) / np.linalg.norm(before)),
        "exponent": _exponent(now, precision),
        "start_exponent": _exponent(before, precision),
    }


def _exponent(gram: np.ndarray, precision: float) -> float:
    """Return the decay exponent, NaN where too few eigenvalues are above the noise."""
    values = eigenvalues(gram)
    noise = noise_level(values, precision)
    if (values > noise).sum() < LEAST_VALUES:
        return np.nan
    return decay_exponent(values, noise_floor=noise).exponent

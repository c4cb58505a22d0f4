"""Critical radius and stopping time from eigenvalues (RWY14; SR26 eqs 10-11, section 6.1)."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError


def _checked_eigenvalues(eigenvalues: ArrayLike) -> np.ndarray:
    """Return eigenvalues of K_n, descending; those below 0 are rounding and become 0."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"eigenvalues must be one list of numbers; these have shape {values.shape}")
    if not np.isfinite(values).all():
        raise UserError(
            f"{(~np.isfinite(values)).sum()} of {len(values)} eigenvalues are not finite"
        )
    values = np.sort(np.maximum(values, 0.0))[::-1]
    if values[0] == 0:
        raise UserError(
            "no eigenvalue is positive; a kernel of zeros learns nothing, so it has neither "
            "critical radius nor stopping time"
        )
    return values


def _level(sigma: float, radius: float) -> float:
    """Return C_H / (2eσ)."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(
            f"sigma is {sigma}; the noise must be positive and finite (without noise there is "
            "no reason to stop)"
        )
    if not (math.isfinite(radius) and radius >= 0):
        raise UserError(f"radius is {radius}; C_H must be finite, 0 or more")
    return radius / (2 * math.e * sigma)


def local_rademacher_complexity(eigenvalues: ArrayLike, epsilon: float) -> float:
    """Return R̂(ε) = [(1/n) Σ min(λ̂_i, ε²)]^{1/2} (SR26 eq 10, RWY14 eq 6).

    ``eigenvalues`` are λ̂_i of K_n, (N,); zeros and rounding below zero are allowed. Raises
    UserError if none is positive, some are not finite, or ε is negative.
    """
    values = _checked_eigenvalues(eigenvalues)
    if not epsilon >= 0:
        raise UserError(f"epsilon is {epsilon}; it must be 0 or more")
    return math.sqrt(np.minimum(values, epsilon**2).mean())


def critical_radius(eigenvalues: ArrayLike, *, sigma: float, radius: float = 1.0) -> float:
    """Return ε̂_n, the smallest ε > 0 with R̂(ε) <= C_H ε² / (2eσ) (SR26 eq 11, RWY14 eq 7).

    Exact: with s = ε² and b = (C_H/2eσ)² the equation is (1/n) Σ min(λ̂_i, s) = b s². Its left side
    over s² falls strictly, so there is one root; between two eigenvalues the left side is
    (k s + S_k)/n, with k eigenvalues above s and S_k the sum of the others, and the root is that of
    a quadratic.

    ``eigenvalues`` are λ̂_i of K_n = G/n, (N,); ``sigma`` is σ > 0, the standard deviation of the
    labels' noise in their units; ``radius`` is C_H = ‖f_P − f*‖_H, 1 in RWY14. With C_H = 0 there
    is no shift to learn, and the result is infinite. Raises UserError if σ is not positive, C_H is
    negative, or no eigenvalue is positive.
    """
    values = _checked_eigenvalues(eigenvalues)
    level = _level(sigma, radius)
    if level == 0:
        return math.inf
    n = len(values)
    # S_k for k = 0..n: sums from the smallest up keep the digits of small eigenvalues
    tails = np.append(np.cumsum(values[::-1])[::-1], 0.0)
    # at s = λ_k the k largest count as s; the root is below λ_k if the right side is larger
    with np.errstate(over="ignore"):
        k = int((np.arange(1, n + 1) * values + tails[1:] < n * (level * values) ** 2).sum())
    scaled = 2 * level * math.sqrt(n)  # a factor, because level² may overflow where s does not
    s = (k + math.hypot(k, scaled * math.sqrt(tails[k]))) / scaled / (level * math.sqrt(n))
    return math.sqrt(s)


def stopping_time(
    eigenvalues: ArrayLike, *, sigma: float, step_size: float, radius: float = 1.0
) -> int:
    """Return T̂_max of gradient descent with a constant step size (RWY14; SR26 section 3.5).

    T̂_max = argmin{t >= 1 : R̂(1/√η_t) > C_H/(2eση_t)} − 1 with η_t = t · step_size. Times η_t the
    condition reads [(1/n) Σ η_t min(λ̂_i η_t, 1)]^{1/2} > C_H/(2eσ), whose left side rises with t
    and without bound: it fails up to some t and holds ever after, and that t is found by doubling
    and bisection over the integers. 0 where even the first step fits noise.

    ``step_size`` is α, at most min(1, 1/λ̂_1) in the theory, any positive number here. The rest,
    and what raises UserError, is as for :func:`critical_radius`.
    """
    values = _checked_eigenvalues(eigenvalues)
    level = _level(sigma, radius)
    if not (math.isfinite(step_size) and step_size > 0):
        raise UserError(f"step_size is {step_size}; it must be positive and finite")

    def fits_noise(t: int) -> bool:
        eta = t * step_size
        return math.sqrt(eta) * math.sqrt(np.minimum(values * eta, 1.0).mean()) > level

    late = 1
    while not fits_noise(late):
        late *= 2
    early = late // 2  # does not fit noise yet; 0 stands for the start
    while late - early > 1:
        middle = (early + late) // 2
        early, late = (early, middle) if fits_noise(middle) else (middle, late)
    return early

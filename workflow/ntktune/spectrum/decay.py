"""The power law of a kernel's eigenvalues (SR26 eqs 29-32)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError

LEAST_VALUES = 3  # two points determine a line and leave nothing to judge it by


@dataclass(frozen=True)
class DecayFit:
    """log λ_k = intercept − exponent · log k, by ordinary least squares."""

    exponent: float  # a, 0 where the eigenvalues are alike; in SR26 ω = a / 2
    intercept: float  # c, the logarithm of the fitted λ at k = 1
    stderr: float  # the slope's standard error, as if the residuals were independent
    r_squared: float  # share of the variance of log λ_k that the line explains
    exponential: float  # the same share of a line in k: an exponential decay, as a control
    dropped: int  # eigenvalues of the range at or below the noise level, left out
    first: int  # the range of ranks k, both ends included, counted from 1
    last: int


def noise_level(eigenvalues: ArrayLike, precision: float = np.finfo(np.float64).eps) -> float:
    """Return n·eps·λ_1, the level of float noise; eps is the ``precision`` of the kernel."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    return len(values) * float(precision) * float(values.max())


def _checked(eigenvalues: ArrayLike) -> np.ndarray:
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise UserError(f"eigenvalues must be one list of numbers; these have shape {values.shape}")
    if not np.isfinite(values).all():
        rank = int(np.argmin(np.isfinite(values))) + 1
        raise UserError(f"eigenvalue {rank} of {len(values)} is {values[rank - 1]}, not finite")
    if (np.diff(values) > 0).any():
        rank = int(np.argmax(np.diff(values) > 0)) + 1
        raise UserError(
            f"eigenvalues must descend, but λ_{rank} = {values[rank - 1]:.6g} < "
            f"λ_{rank + 1} = {values[rank]:.6g}; sort them"
        )
    if values[0] <= 0:
        raise UserError(
            f"the largest eigenvalue is {values[0]:.6g}; a kernel's must be positive: all its "
            "gradients are zero, or it is no Gram matrix"
        )
    return values


def decay_exponent(
    eigenvalues: ArrayLike,
    first: int = 1,
    last: int | None = None,
    noise_floor: float | None = None,
) -> DecayFit:
    """Return the power law of eigenvalues: least squares of log λ_k on log k (SR26 eqs 29-32).

    ``eigenvalues`` are λ_1 >= … >= λ_N, (N,); ``first`` and ``last`` the ranks to fit, both
    included, counted from 1 (``last`` None: N). Values at or below ``noise_floor`` are dropped;
    None: N·eps·λ_1 with the eps of float64. Raises UserError unless eigenvalues are finite,
    positive and descending, the range lies in 1..N, and three values are above the noise.

    Examples
    --------
    >>> fit = decay_exponent([8.0, 2.0, 8 / 9, 0.5])
    >>> round(fit.exponent, 12), fit.dropped
    (2.0, 0)
    """
    values = _checked(eigenvalues)
    last = len(values) if last is None else last
    if not 1 <= first <= last <= len(values):
        raise UserError(
            f"the range of ranks {first}..{last} does not lie in 1..{len(values)}, "
            "the eigenvalues there are"
        )
    floor = max(noise_level(values) if noise_floor is None else noise_floor, 0.0)
    ranks, part = np.arange(first, last + 1), values[first - 1 : last]
    usable = part > floor
    if usable.sum() < LEAST_VALUES:
        raise UserError(
            f"only {usable.sum()} of the eigenvalues {first}..{last} are above the float noise "
            f"({floor:.3g}; λ_1 is {values[0]:.3g}); a decay needs {LEAST_VALUES}: use more rows "
            "or a wider dtype"
        )
    x, y = np.log(ranks[usable]), np.log(part[usable])
    dx, dy = x - x.mean(), y - y.mean()
    if np.ptp(part[usable]) <= floor:
        dy = np.zeros_like(dy)  # alike but for rounding
    slope = (dx @ dy) / (dx @ dx)
    residual = dy - slope * dx
    unexplained, total = residual @ residual, dy @ dy
    return DecayFit(
        exponent=max(0.0, float(-slope)),  # of values that descend it is below 0 by rounding alone
        intercept=float(y.mean() - slope * x.mean()),
        stderr=math.sqrt(unexplained / (len(x) - 2) / (dx @ dx)),
        # equal eigenvalues: the horizontal line explains all there is
        r_squared=float(1 - unexplained / total) if total > 0 else 1.0,
        exponential=float(np.corrcoef(ranks[usable], y)[0, 1] ** 2) if total > 0 else 1.0,
        dropped=int((~usable).sum()),
        first=first,
        last=last,
    )


def predicted_rate(exponent: float) -> float:
    """Return a / (a + 1): the error is predicted to fall as n^(−a/(a+1)) (SR26 eq 30)."""
    if not (math.isfinite(exponent) and exponent >= 0):
        raise UserError(f"the decay exponent is {exponent}; a rate needs a finite one, 0 or more")
    return exponent / (exponent + 1)


def rank_ranges(count: int) -> dict[str, tuple[int, int]]:
    """Return the ranges of n ranks to fit: all, and three others to see how much they matter.

    Examples
    --------
    >>> rank_ranges(100)["n/10..9n/10"]
    (10, 90)
    """
    return {
        "1..n": (1, count),
        "2..n": (2, count),
        "1..n/2": (1, count // 2),
        "n/10..9n/10": (-(-count // 10), 9 * count // 10),
    }

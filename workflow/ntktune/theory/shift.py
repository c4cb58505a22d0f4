"""How far the pretrained network is from the target, and how noisy the labels are.

The theory asks for C_H = ‖f_P − f*‖_H and σ. Neither is observed; a smoothed y − f_0 gives both.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from ntktune.errors import UserError

GRID = 121  # ridges tried, evenly spaced in their logarithm, before the best is refined
HIGHEST = 1e3  # times λ_1: a ridge that smooths everything away


@dataclass(frozen=True)
class ShiftEstimate:
    """Kernel ridge smoothing of y − f_0."""

    radius: float  # C_H = (r̂ᵀ G⁺ r̂)^{1/2} of the smoothed shift r̂
    sigma: float  # standard deviation of the residual, ‖y − f_0 − r̂‖² / tr(I − S) rooted
    ridge: float  # λ, added to K_n's eigenvalues
    degrees_of_freedom: float  # tr S
    # Whether the criterion chose λ itself. False where it wants less smoothing than the kernel's
    # precision allows: σ then says what the precision is, and not the noise.
    identified: bool = True


def standardised_labels(label: ArrayLike, kind: str) -> tuple[np.ndarray, float]:
    """Return labels as the network is to meet them, shape (N,), and their unit.

    ``regression``: (label − mean) / sd of the draw; the unit is the sd, in raw labels.
    ``classification``: −1 for class 0 and +1 for class 1, as the logit difference f = l1 − l0 has
    it; the unit is NaN. Raises UserError for other classes, and labels not finite or all the same.
    """
    label = np.asarray(label, dtype=np.float64)
    if not np.isfinite(label).all():
        raise UserError(f"{(~np.isfinite(label)).sum()} of {len(label)} labels are not finite")
    if kind == "classification":
        if not np.isin(label, (0, 1)).all():
            raise UserError(f"classes must be 0 and 1, but these are {np.unique(label).tolist()}")
        return 2 * label - 1, math.nan
    sd = float(label.std())
    if sd == 0:
        raise UserError(
            f"all {len(label)} labels of the draw are {label[0]}; there is nothing to learn"
        )
    return (label - label.mean()) / sd, sd


def rated_noise(label_noise: ArrayLike, kind: str, unit: float) -> float | None:
    """Return σ as the raters' standard errors have it, in the standardised labels' units.

    This is the root mean square of ``label_noise``, raw standard errors, (N,), over the ``unit`` of
    the standardised labels. None for classes, and where one is unknown (NaN) or all are 0.
    """
    noise = np.asarray(label_noise, dtype=np.float64)
    rated = kind == "regression" and bool(np.isfinite(noise).all()) and bool((noise > 0).any())
    return math.sqrt(np.mean(noise**2)) / unit if rated else None


def draw_shift(
    outputs: ArrayLike, label: ArrayLike, label_noise: ArrayLike, kind: str
) -> tuple[np.ndarray, float | None]:
    """Return y − f_0 of a draw, f_0 without its mean, and σ by the raters."""
    labels, unit = standardised_labels(label, kind)
    start = np.asarray(outputs, dtype=np.float64)
    return labels - (start - start.mean()), rated_noise(label_noise, kind, unit)


def shift_estimate(
    gram: ArrayLike,
    shift: ArrayLike,
    precision: float = np.finfo(np.float64).eps,
    criterion: str = "gcv",
) -> ShiftEstimate:
    """Return radius and noise from a kernel ridge smoothing of a noisy shift.

    r̂ = S (y − f_0) with S = G (G + nλI)^{-1}, and C_H² = r̂ᵀ G⁺ r̂ = αᵀ G α with
    α = (G + nλI)^{-1}(y − f_0). With the criterion ``gcv`` λ minimises generalised cross-validation
    (1/n)‖(I − S)(y − f_0)‖² / (tr(I − S)/n)², and σ² = ‖(I − S)(y − f_0)‖² / tr(I − S). With
    ``likelihood`` λ and σ maximise the marginal likelihood of y − f_0 ~ N(0, (σ²/λ)(K_n + λI)),
    whose σ² is (1/n)(y − f_0)ᵀ(I − S)(y − f_0). All of it comes from one eigendecomposition.

    ``gram`` is G, (N, N); ``shift`` y − f_0, (N,); ``precision`` eps of the precision in which the
    kernel was computed: ridges below the noise of its eigenvalues are not tried. Raises UserError
    for shapes that do not fit, values that are not finite, or a kernel of zeros.
    """
    gram, shift = np.asarray(gram, dtype=np.float64), np.asarray(shift, dtype=np.float64)
    n = len(shift)
    if shift.ndim != 1 or gram.shape != (n, n):
        raise UserError(f"a kernel of shape {gram.shape} does not fit {shift.shape} labels")
    if not (np.isfinite(gram).all() and np.isfinite(shift).all()):
        raise UserError("the kernel, the labels or the outputs hold values that are not finite")
    values, vectors = np.linalg.eigh((gram + gram.T) / 2)
    values = np.maximum(values / n, 0.0)  # of K_n; below zero is rounding
    if values[-1] == 0:
        raise UserError("the kernel has no positive eigenvalue; all its gradients are zero")
    rotated = vectors.T @ shift

    def score(log_ridge: float) -> float:
        damped = values + np.exp(log_ridge)
        kept = np.exp(log_ridge) / damped  # eigenvalues of I − S
        if criterion == "likelihood":
            return math.log(np.mean(rotated**2 / damped)) + float(np.log(damped).mean())
        return math.log(np.sum((kept * rotated) ** 2) / n) - 2 * math.log(kept.mean())

    if not shift.any():
        return ShiftEstimate(0.0, 0.0, values[-1] * HIGHEST, 0.0, identified=False)
    low, high = math.log(n * precision * values[-1]), math.log(HIGHEST * values[-1])
    grid = np.linspace(low, high, GRID)
    best = int(np.argmin([score(x) for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    refined = minimize_scalar(score, bounds=around, method="bounded", options={"xatol": 1e-8})
    log_ridge = min((grid[best], float(refined.x)), key=score)
    ridge = math.exp(log_ridge)
    kept = ridge / (values + ridge)
    squared_noise = {
        "gcv": np.sum((kept * rotated) ** 2) / kept.sum(),
        "likelihood": np.mean(kept * rotated**2),
    }
    return ShiftEstimate(
        # α in the eigenbasis is rotated / (n (λ̂ + λ)), so αᵀGα needs no inverse of G
        radius=math.sqrt(np.sum(values * (rotated / (values + ridge)) ** 2) / n),
        sigma=math.sqrt(squared_noise[criterion]),
        ridge=ridge,
        degrees_of_freedom=float(n - kept.sum()),
        identified=best > 0,
    )


def difference_noise(gram: ArrayLike, shift: ArrayLike) -> float:
    """Return the noise from differences between neighbours, [(1/2n) Σ (r_i − r_nn(i))²]^{1/2}.

    Neighbours are nearest in the kernel's distance K_ii + K_jj − 2 K_ij. Where the target hardly
    changes between them this is σ, else more. ``gram`` is G, (N, N); ``shift`` r = y − f_0, (N,).
    """
    gram, shift = np.asarray(gram, dtype=np.float64), np.asarray(shift, dtype=np.float64)
    own = np.diag(gram)
    apart = own[:, None] + own[None, :] - 2 * gram
    np.fill_diagonal(apart, np.inf)
    return math.sqrt(np.mean((shift - shift[apart.argmin(axis=1)]) ** 2) / 2)


def noise_estimate(
    gram: ArrayLike, shift: ArrayLike, estimate: ShiftEstimate, rated: float | None
) -> tuple[float, str]:
    """Return σ and where it is from: the best source that there is.

    That is ``ratings``, the raters' own σ (:func:`rated_noise`); else the ``residual`` of the ridge
    smoothing; else, where the smoothing found no noise, the ``difference`` between neighbours.
    """
    if rated is not None:
        return rated, "ratings"
    if estimate.identified:
        return estimate.sigma, "residual"
    return difference_noise(gram, shift), "difference"

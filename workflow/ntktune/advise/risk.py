"""The error of kernel ridge regression at any number of examples, from one kernel matrix.

The test error of n examples and ridge δ depends on the kernel's eigenvalues λ_i and the target's
coefficients v_i through a threshold κ alone (Jacot et al. 2020; Bordelon, Canatar & Pehlevan 2020;
Simon et al. 2023), which solves Σ λ_i/(λ_i + κ) + δ/κ = n:

    error = n S(κ)/(n − d2(κ)),  S(κ) = Σ v_i² (κ/(λ_i + κ))² + σ²,  d_k(κ) = Σ (λ_i/(λ_i + κ))^k

S, d1 and d2 belong to the population of texts, not to n. A pilot's N texts estimate them at each of
its ridges, with Q = (K + δI)⁻¹: κ = 1/tr Q, d1 = N − δ tr Q, d2 = N − (tr Q)²/tr Q², and
S = yᵀQ²y/tr Q², R = yᵀQy/tr Q; n S/(n − d2) at n = N is generalised cross-validation. So one
matrix predicts the error at any n.

Eigenvalues are those of K, not of K/n. The mean is learned too: kernels and labels are centred, and
n examples have n − 1 degrees of freedom. Errors are summed over the columns of labels.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite import hermgauss
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtr

from ntktune.errors import UserError
from ntktune.linearized.statistics import (
    EPS,
    GUARD,
    CentredSpectrum,
    centred_spectrum,
    directions,
)
from ntktune.selection.laws import POWER, fitted
from ntktune.spectrum import noise_level

RIDGES = np.logspace(2, -6, 161)  # over the largest eigenvalue
LEAST_LEARNED = 2  # d1 above which the eigenvalues' law is read
QUADRATURE = 32  # places of Gauss and Hermite's rule
BEYOND = 1e100  # no kernel and no label: its square is no number


class Risk(NamedTuple):
    """What the error at any n is made of, at some thresholds κ: arrays of the shape (G,).

    ``squared`` is S, ``linear`` R(κ) = Σ v_i² κ/(λ_i + κ) + σ². ``directions`` is
    (tr Q²)²/tr Q⁴, of how many directions S is the mean: its relative standard deviation is about
    √(2/directions) for Gaussian labels. ``variance`` is that of the labels. ``free`` is how many
    examples the mean takes: 1 of centred labels.
    """

    kappa: np.ndarray
    d1: np.ndarray
    d2: np.ndarray
    squared: np.ndarray
    linear: np.ndarray
    directions: np.ndarray
    variance: float
    free: int = 0

    def guarded(self, share: float = GUARD) -> "Risk":
        """Return the thresholds at which S is the mean of at least this share of all directions.

        As the ridge falls to 0, S hangs on the few smallest eigenvalues, and the lowest error over
        all ridges on their luck.
        """
        kept = self.directions >= share * self.directions.max()
        arrays = (array[kept] for array in self[:6])
        return Risk(*arrays, self.variance, self.free)


class Prediction(NamedTuple):
    """What is predicted of a number of examples, at its best ridge; arrays of n's shape.

    ``error`` is the mean squared error of noisy labels; ``ridge`` δ, of K; ``learned`` the
    covariance of prediction and label; ``limited`` whether the pilot's smallest threshold was
    taken, beyond which it has no more to say.
    """

    error: np.ndarray
    ridge: np.ndarray
    learned: np.ndarray
    limited: np.ndarray


class Exponents(NamedTuple):
    """The decay a of eigenvalues λ_i ~ i^(−a), and the source r of a target, v_i² ~ i^(−1−2ar).

    ``rate`` is the exponent of the noisy error at the best ridge, 2a min(r, 1)/(1 + 2a min(r, 1))
    (Cui et al. 2021): a/(a + 1), as in SR26, where r is ½.
    """

    decay: float
    source: float
    rate: float


def threshold(eigenvalues: ArrayLike, count: int, ridge: float = 0.0) -> float:
    """Return κ > 0 with Σ λ_i/(λ_i + κ) + δ/κ = n, for ``count`` n and ``ridge`` δ.

    Raises UserError where there is none: without a ridge n must be below the number of eigenvalues.
    """
    values = np.asarray(eigenvalues, float)
    values = values[values > 0]
    if ridge <= 0 and count >= len(values):
        raise UserError(
            f"without a ridge {count} examples fit all {len(values)} directions of the kernel; "
            "give a ridge above 0"
        )

    def beyond(log: float) -> float:
        return np.sum(values / (values + math.exp(log))) + ridge * math.exp(-log) - count

    high = math.log((values.sum() + ridge) / count)  # where the sum is n at most
    low = high - 1
    while beyond(low) < 0:
        low -= 1
    return math.exp(brentq(beyond, low, high, xtol=1e-15))


def known_risk(
    eigenvalues: ArrayLike, coefficients: ArrayLike, noise: float, kappa: ArrayLike
) -> Risk:
    """Return the :class:`Risk` of a known kernel and target at thresholds ``kappa``, (G,).

    ``coefficients`` are v_i², one for each eigenvalue; ``noise`` is σ².
    """
    values, squares = np.asarray(eigenvalues, float), np.asarray(coefficients, float)
    kappa = np.atleast_1d(np.asarray(kappa, float))
    learned = values / (values + kappa[:, None])
    return Risk(
        kappa,
        learned.sum(axis=1),
        np.sum(learned**2, axis=1),
        (1 - learned) ** 2 @ squares + noise,
        (1 - learned) @ squares + noise,
        np.full(len(kappa), np.inf),
        float(squares.sum() + noise),
    )


def checked(kernel: ArrayLike, label: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel, (N, N), and labels, (N,) or (N, C), as arrays, the labels as (N, C).

    Raises UserError for what is no symmetric kernel, no labels of its texts, or no number.
    """
    kernel, label = np.asarray(kernel, float), np.asarray(label, float)
    if label.ndim not in (1, 2) or kernel.shape != (len(label),) * 2:
        raise UserError(
            f"a kernel of shape {kernel.shape} and labels of shape {label.shape}; give (N, N) and N"
        )
    if not all((np.abs(given) < BEYOND).all() for given in (kernel, label)):
        raise UserError(f"kernel and labels must be finite numbers below {BEYOND:g}")
    if not np.allclose(kernel, kernel.T, rtol=0, atol=1e-3 * np.abs(kernel).max(initial=0)):
        raise UserError("a kernel must be symmetric, K(x, y) = K(y, x); this one is not")
    return kernel, label.reshape(len(label), -1)


def estimated_risk(
    kernel: ArrayLike,
    label: ArrayLike,
    ridges: ArrayLike | None = None,
    *,
    centred: bool = True,
    precision: float = EPS,
) -> Risk:
    """Return the :class:`Risk` that a pilot's kernel, (N, N), and labels, (N,) or (N, C), show.

    ``ridges`` are δ; None for :data:`RIDGES` of the largest eigenvalue, above what is noise in the
    ``precision`` that the kernel was computed in. Unless ``centred``, kernel and labels are taken
    as they are. Raises UserError for a kernel that tells no texts apart, and as :func:`checked`.
    """
    kernel, label = checked(kernel, label)
    if ridges is not None and not (np.asarray(ridges) > 0).all():
        raise UserError(f"ridges must be above 0; there is {np.min(ridges):g}")
    if centred:
        return spectral_risk(
            centred_spectrum(kernel, precision), label - label.mean(axis=0), ridges, free=1
        )
    values, vectors = np.linalg.eigh(kernel)
    spectrum = CentredSpectrum(values, vectors, noise_level(values, precision))
    return spectral_risk(spectrum, label, ridges)


def spectral_risk(
    spectrum: CentredSpectrum, label: np.ndarray, ridges: ArrayLike | None = None, free: int = 0
) -> Risk:
    """Return :func:`estimated_risk` from a kernel's spectrum; ``label`` y is (N, C).

    Of a centred kernel y is centred too, and ``free`` is 1.
    """
    values, vectors, noise = spectrum
    if ridges is None:
        ridges = RIDGES * values[-1]
        ridges = ridges[ridges > noise]
    if not len(ridges):
        raise UserError(
            "the centred kernel is zero but for rounding: its texts are all alike to it"
        )
    squares = np.sum((vectors.T @ label) ** 2, axis=1)
    ridges = np.asarray(ridges, float)
    inverse = 1 / (values + ridges[:, None])  # Q's eigenvalues, (G, N)
    first, second = inverse.sum(axis=1), np.sum(inverse**2, axis=1)
    return Risk(
        1 / first,
        len(values) - ridges * first,
        len(values) - first**2 / second,
        inverse**2 @ squares / second,
        inverse @ squares / first,
        directions(inverse),
        float(squares.sum() / len(values)),
        free,
    )


def left_out(spectrum: CentredSpectrum, label: np.ndarray, ridge: float) -> np.ndarray:
    """Return what kernel ridge regression on all other texts answers to each text, (N, C).

    ``spectrum`` is of the centred kernel, ``label`` is y, (N, C). The answer is
    y_i − r_i/(1 − H_ii) with the residuals r and the diagonal of the smoother H, which learns the
    mean too. The mean of all texts takes the place of that of the others, which is low where y_i is
    high: else answers that learned nothing would be the opposite of the labels.
    """
    values, vectors, _ = spectrum
    shrunk, mean = values / (values + ridge), label.mean(axis=0)
    residuals = label - mean - vectors @ (shrunk[:, None] * (vectors.T @ (label - mean)))
    leverage = 1 / len(label) + vectors**2 @ shrunk
    answers = label - residuals / (1 - leverage)[:, None]
    return answers + (label - mean) / (len(label) - 1)


def predicted(risk: Risk, count: ArrayLike) -> Prediction:
    """Return what is predicted for ``count`` examples n, of any shape, at each n's best ridge.

    error(n) = min over κ with d1(κ) ≤ n of n S(κ)/(n − d2(κ)), and δ = κ (n − d1(κ)). Where no κ
    has d1 ≤ n, the error is the labels' variance.
    """
    n = np.asarray(count, float)[..., None] - risk.free
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where((risk.d1 <= n) & (risk.d2 < n), n * risk.squared / (n - risk.d2), np.inf)
    best = errors.argmin(axis=-1)
    error = np.take_along_axis(errors, best[..., None], axis=-1)[..., 0]
    none = ~np.isfinite(error)
    ridge = risk.kappa[best] * (n[..., 0] - risk.d1[best])
    return Prediction(
        np.where(none, risk.variance, error),
        np.where(none, np.inf, ridge),
        np.where(none, 0.0, risk.variance - risk.linear[best]),
        ~none & (best == risk.kappa.argmin()),
    )


def exponents(risk: Risk) -> Exponents:
    """Return the exponents of a kernel and its task, and the rate that follows from both.

    d1 ~ κ^(−1/a) and S − σ² ~ κ^(2r), where the kernel learns :data:`LEAST_LEARNED` directions or
    more. Of a pilot take the :meth:`Risk.guarded` thresholds. Raises UserError for fewer than three
    of them.
    """
    order = np.argsort(-risk.kappa)
    order = order[risk.d1[order] >= LEAST_LEARNED]
    if len(order) < 3:
        raise UserError(
            f"the kernel learns {LEAST_LEARNED} directions at {len(order)} thresholds; exponents "
            "need three, of more texts"
        )
    small = 1 / risk.kappa[order]
    decay = 1 / np.polyfit(np.log(small), np.log(risk.d1[order]), 1)[0]
    law = fitted(POWER, small, risk.squared[order])
    source = math.exp(law.parameters[0, law.law.parameters.index("log_slope")]) / 2
    fast = 2 * decay * min(source, 1)
    return Exponents(float(decay), source, fast / (1 + fast))


def examples_for(risk: Risk, error: float) -> float:
    """Return the smallest number of examples whose predicted error is ``error`` at most.

    n* = min over κ with S(κ) < ε of max(d1(κ), d2(κ) ε/(ε − S(κ))). Infinite where no κ has that:
    of a pilot, where it cannot tell. Errors just above its smallest S are far beyond it.
    """
    if error >= risk.variance:
        return float(risk.free)  # the mean alone
    below = risk.squared < error
    if not below.any():
        return math.inf
    d1, d2, squared = (array[below] for array in (risk.d1, risk.d2, risk.squared))
    return float(np.maximum(d1, d2 * error / (error - squared)).min()) + risk.free


def explained(prediction: Prediction, variance: float) -> np.ndarray:
    """Return the share of the labels' variance that predictions explain, 1 − error/variance.

    Not below 0. At the best ridge it is the squared correlation of predictions and labels: within
    .003 of the correlation ℓ/√(variance (error − variance + 2ℓ)) for the power laws that tests
    have. It needs no ``learned`` ℓ, an estimate of its own that need not agree with the error.
    """
    return np.maximum(1 - prediction.error / variance, 0.0)


def accuracy(explained: ArrayLike, shares: ArrayLike) -> np.ndarray:
    """Return the share of texts whose class has the largest predicted label.

    ``explained`` ρ is the share of the variance of labels that predictions explain, of any shape;
    labels have one of two values, or a column per class that marks it. ``shares`` p_c are those of
    the C classes among the labels, (C,). A label's prediction is taken as its mean plus ρ of its
    distance from there, plus normal noise of ρ (1 − ρ), shared out by p_c (1 − p_c). Of two classes
    that are as frequent this is Φ(√(ρ/(1 − ρ))).
    """
    shares = np.asarray(shares, float)
    shares = shares[shares > 0]
    learned = np.asarray(explained, float)[..., None, None, None]
    noise = np.maximum(learned * (1 - learned), 1e-12)
    many, (places, weights) = len(shares), hermgauss(QUADRATURE)
    deviation = np.sqrt(noise * shares * (1 - shares) * many / (many - 1))  # (..., 1, 1, C)
    ahead = learned + (1 - learned) * (shares[:, None] - shares)  # of class c before j: (…, C, C)
    # of class c at each place of its own noise: (..., places, C)
    reached = np.sqrt(2) * places[:, None, None] * np.swapaxes(deviation, -1, -2)
    before = ndtr((ahead + reached) / deviation)
    before[..., np.arange(many), np.arange(many)] = 1.0
    return np.prod(before, axis=-1) @ shares @ (weights / np.sqrt(np.pi))

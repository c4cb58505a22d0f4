"""What a kernel at initialisation says of training on it, before any training.

Kernels are K, (N, N), not divided by N; labels y, (N,), or (N, C) of several outputs, from which
f_0 may have been taken. Centred means HKH with H = I − 11ᵀ/N: the mean is learned for nothing, and
N − 1 eigenvectors are left. ``precision`` is eps of the precision in which K was computed: what is
below N·eps·λ_1 is noise, of which nothing is read.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import helmert
from scipy.optimize import minimize_scalar

from ntktune.finetune.regression import RIDGES
from ntktune.spectrum import centred_gram, noise_level

EPS = float(np.finfo(np.float64).eps)
GUARD = 0.5  # share of the directions that an error must be the mean of


class CentredSpectrum(NamedTuple):
    """Of HKH: eigenvalues, ascending, (N − 1,), their vectors, (N, N − 1), and the noise level."""

    values: np.ndarray
    vectors: np.ndarray
    noise: float


def centred_spectrum(kernel: ArrayLike, precision: float = EPS) -> CentredSpectrum:
    """Return the spectrum of a centred kernel.

    The eigenvectors are taken among N − 1 contrasts, which are orthogonal to the constant vector:
    with many eigenvalues of 0 that vector could not be told apart afterwards.
    """
    kernel = np.asarray(kernel, float)
    contrasts = helmert(len(kernel)).T
    values, vectors = np.linalg.eigh(contrasts.T @ kernel @ contrasts)
    noise = noise_level(np.linalg.eigvalsh(kernel), precision)
    return CentredSpectrum(np.maximum(values, 0.0), contrasts @ vectors, noise)


def condition_number(spectrum: CentredSpectrum, ridge: float = 0.0) -> float:
    """Return κ = (λ_1 + λ)/(λ_{N−1} + λ) of the centred kernel.

    Infinite where the smallest eigenvalue is no more than noise and ``ridge`` λ is 0.
    """
    values, _, noise = spectrum
    bottom = (values[0] if values[0] > noise else 0.0) + ridge
    return float((values[-1] + ridge) / bottom) if bottom > 0 else math.inf


def gcv(kernel: ArrayLike, label: ArrayLike, ridge: float) -> float:
    """Return the generalised cross-validation error of kernel ridge regression with one ridge.

    (1/N)‖(I − S)y‖² / ((1/N) tr(I − S))² with S = K(K + δI)⁻¹, summed over outputs (Golub, Heath &
    Wahba 1979); it equals the kernel alignment risk estimator of Jacot et al. 2020.
    """
    kernel, label = np.asarray(kernel, float), np.asarray(label, float)
    left = np.linalg.inv(kernel + ridge * np.eye(len(kernel)))  # (I − S)/δ
    return float(len(kernel) * np.sum((left @ label) ** 2) / np.trace(left) ** 2)


def directions(inverse: np.ndarray) -> np.ndarray:
    """Return of how many directions a predicted error is the mean: (tr Q²)²/tr Q⁴, (R,).

    ``inverse`` are the eigenvalues of Q = (K + δI)⁻¹ at R ridges, (R, N).
    """
    return np.sum(inverse**2, axis=1) ** 2 / np.sum(inverse**4, axis=1)


def best_gcv(spectrum: CentredSpectrum, label: ArrayLike) -> tuple[float, float]:
    """Return the lowest :func:`gcv` of the centred kernel and labels, and its ridge δ.

    Tried are :data:`ntktune.finetune.regression.RIDGES` above the noise, and the noise itself:
    those whose error is the mean of at least half of the directions, (tr Q²)²/tr Q⁴ with
    Q = (K + δI)⁻¹. A smaller ridge leaves the error to the few smallest eigenvalues: with two equal
    texts of one label it would be 0.
    """
    label = np.asarray(label, float).reshape(len(label), -1)
    values, vectors, noise = spectrum
    along = np.sum((vectors.T @ label) ** 2, axis=1)
    ridges = np.append(RIDGES[RIDGES * values[-1] > noise] * values[-1], noise)
    left = 1 / (values + ridges[:, None])  # (R, N − 1)
    errors = len(values) * (left**2 @ along) / left.sum(axis=1) ** 2
    best = int(np.argmin(np.where(directions(left) >= GUARD * len(values), errors, np.inf)))
    return float(errors[best]), float(ridges[best])


def log_evidence(kernel: ArrayLike, label: ArrayLike, ratio: float | None = None) -> float:
    """Return (1/N) log N(y; 0, K/α + I/β), highest over α and β: LogME (You et al. 2021).

    The kernel form also holds where there are fewer texts than features, for which the published
    code gives other numbers. ``ratio`` is t = α/β, None for the best one within 15 powers of ten of
    the largest eigenvalue; of several outputs the mean. Not centred, as published.
    """
    label = np.asarray(label, float).reshape(len(label), -1)
    values, vectors = np.linalg.eigh(np.asarray(kernel, float))
    values, squares = np.maximum(values, 0.0), (vectors.T @ label) ** 2

    def at(log_ratio: float, square: np.ndarray) -> float:
        spread = values * math.exp(-log_ratio) + 1
        fit = math.log(2 * math.pi) + 1 + math.log(np.mean(square / spread))
        return -0.5 * (fit + np.mean(np.log(spread)))

    if ratio is not None:
        return float(np.mean([at(math.log(ratio), square) for square in squares.T]))
    middle, width = math.log(values[-1]), 15 * math.log(10)
    found = []
    for square in squares.T:
        grid = np.linspace(middle - width, middle + width, 301)
        start = grid[np.argmax([at(x, square) for x in grid])]
        near = (start - grid[1] + grid[0], start + grid[1] - grid[0])
        best = minimize_scalar(lambda x, square=square: -at(x, square), bounds=near)
        found.append(max(-best.fun, at(start, square)))
    return float(np.mean(found))


def alignment(kernel: ArrayLike, label: ArrayLike) -> float:
    """Return ⟨HKH, HyyᵀH⟩ / (‖HKH‖ ‖HyyᵀH‖), between 0 and 1 (Cortes et al. 2012)."""
    label = np.asarray(label, float).reshape(len(label), -1)
    label = label - label.mean(axis=0)
    centred, wanted = centred_gram(kernel), label @ label.T
    return float(np.sum(centred * wanted) / (np.linalg.norm(centred) * np.linalg.norm(wanted)))

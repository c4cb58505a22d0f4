"""Gradient descent on a kernel, in closed form: every step from one eigendecomposition."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ntktune.errors import UserError
from ntktune.spectrum.filters import descent_filter, descent_shares


@dataclass(frozen=True)
class KernelDescent:
    """Kernel gradient descent from f_0 on N labels, with f_t − y = (I − αK_n)^t (f_0 − y).

    So early-stopped gradient descent moves a linearised network (SR26 section 3.5, RWY14).
    """

    values: np.ndarray  # λ̂_i of K_n = G/n, ascending, (N,)
    vectors: np.ndarray  # their eigenvectors, (N, N)
    rotated: np.ndarray  # Uᵀ(y − f_0), (N,), or (N, R) for R label vectors
    step_size: float  # α

    def shares(self, times: ArrayLike) -> np.ndarray:
        """Return what is learnt of each eigenvector at some times, (T, N)."""
        return descent_shares(self.values, times, self.step_size)

    def change_elsewhere(self, cross: ArrayLike, time: float) -> np.ndarray:
        """Return f_t − f_0 at other points: K(·, X) (1/n) Σ_{τ<t} α (I − αK_n)^τ (y − f_0).

        ``cross`` is K(others, X), (M, N), not divided by n; ``time`` the number of steps. Returns
        (M,) or (M, R).
        """
        sums = descent_filter(self.values, [time], self.step_size)[0]
        weights = self.vectors @ (sums * self.rotated.T).T
        return np.asarray(cross, dtype=float) @ weights / len(self.values)

    def path_elsewhere(self, cross: ArrayLike, times: ArrayLike) -> np.ndarray:
        """Return :meth:`change_elsewhere` of one label vector at many times, (T, M)."""
        return self.filtered(cross, descent_filter(self.values, times, self.step_size))

    def filtered(self, cross: ArrayLike, filters: np.ndarray) -> np.ndarray:
        """Return K(·, X) (1/n) g(K_n) (y − f_0) at other points, (F, M), for filters g, (F, N)."""
        turned = np.asarray(cross, dtype=float) @ self.vectors / len(self.values)
        return (filters * self.rotated) @ turned.T

    def training_error(self, times: ArrayLike) -> np.ndarray:
        """Return ‖y − f_t‖²/n at some times, (T,) or (T, R)."""
        return (1.0 - self.shares(times)) ** 2 @ self.rotated**2 / len(self.values)

    def degrees_of_freedom(self, times: ArrayLike) -> np.ndarray:
        """Return tr S_t at some times, (T,), S_t the map from y − f_0 to f_t − f_0."""
        return self.shares(times).sum(axis=1)

    def true_error(self, shift: ArrayLike, times: ArrayLike) -> np.ndarray:
        """Return ‖f_t − f*‖²/n at some times, (T,) or (T, R), with ``shift`` f* − f_0, (N,)."""
        shares, n = self.shares(times), len(self.values)
        true = self.vectors.T @ np.asarray(shift, dtype=float)
        crossed = (self.rotated.T * true).T
        return (shares**2 @ self.rotated**2 - 2 * shares @ crossed + true @ true) / n


def theory_step_size(largest: float, factor: float = 1.0) -> float:
    """Return α = min(1, 1/λ̂_1), the largest step size that the theory allows, times a factor.

    ``largest`` is λ̂_1 of K_n, 0 or more. Raises UserError unless 0 < ``factor`` <= 1.
    """
    if not 0 < factor <= 1:
        raise UserError(
            f"step_size_factor is {factor}; it must be above 0 and at most 1: a larger step leaves "
            "what the theory covers"
        )
    return factor * (min(1.0, 1.0 / largest) if largest > 0 else 1.0)


def kernel_descent(
    gram: ArrayLike,
    shift: ArrayLike,
    step_size: float | None = None,
    *,
    step_size_factor: float = 1.0,
) -> KernelDescent:
    """Return kernel gradient descent on a sample.

    ``gram`` is G, (N, N), not divided by n; ``shift`` y − f_0, (N,), or (N, R) for R label vectors;
    ``step_size`` α, above 0 and at most 1/λ̂_1 of K_n, None for :func:`theory_step_size` with
    ``step_size_factor``. Raises UserError for shapes that do not fit, values that are not finite,
    or a step size out of bounds.
    """
    gram, shift = np.asarray(gram, dtype=float), np.asarray(shift, dtype=float)
    n = len(shift)
    if shift.ndim not in (1, 2) or gram.shape != (n, n):
        raise UserError(f"a kernel of shape {gram.shape} does not fit labels of {shift.shape}")
    if not (np.isfinite(gram).all() and np.isfinite(shift).all()):
        raise UserError("the kernel, the labels or the outputs hold values that are not finite")
    values, vectors = np.linalg.eigh((gram + gram.T) / (2 * n))
    values = np.maximum(values, 0.0)  # below zero is rounding
    if step_size is None:
        step_size = theory_step_size(float(values[-1]), step_size_factor)
    largest = 1 / values[-1] if values[-1] > 0 else math.inf
    if not 0 < step_size <= largest * (1 + 1e-12):
        raise UserError(
            f"step_size is {step_size}; it must be above 0 and at most 1/λ̂_1 = {largest:.6g}, or "
            "descent does not converge"
        )
    return KernelDescent(values, vectors, vectors.T @ shift, step_size)

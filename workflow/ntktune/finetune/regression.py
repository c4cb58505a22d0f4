"""Kernel regression and linear probes in closed form, their strength chosen on a hold-out set."""

from collections.abc import Sequence

import numpy as np

from ntktune.spectrum.filters import descent_filter, ridge_filter

# Strengths that the hold-out chooses from: ridges as shares of the largest eigenvalue of K_n, and
# steps of gradient descent with the step size 1/λ̂_1.
RIDGES = np.logspace(2, -9, 89)
STEPS = np.concatenate([[0], np.logspace(0, 10, 81)])


FACTORS = {
    "ridge": (lambda values: ridge_filter(values, RIDGES * values[-1]), RIDGES),
    "descent": (lambda values: descent_filter(values, STEPS, 1 / values[-1]), STEPS),
}


def kernel_weights(
    gram: np.ndarray,
    shift: np.ndarray,
    train: Sequence[int],
    holdout: Sequence[int],
    method: str,
) -> tuple[np.ndarray, float]:
    """Return the weights α of kernel regression, the regularisation chosen on the hold-out.

    α = g(K(X, X)) (y − f_0(X)), so that f̂ = f_0 + K(·, X) α: with ``ridge`` g(λ) = 1/(λ + ρ λ_1),
    with ``descent`` g(λ) = (1 − (1 − λ/λ_1)^t)/λ, kernel gradient descent stopped after t steps of
    size 1/λ̂_1 (SR26 section 3.5, RWY14; their equivalence is SR26 eqs 27-28).

    ``gram`` is K, not divided by n, of M rows; ``shift`` is y − f_0, (M,) or (M, C) of C outputs,
    of which those of ``train`` and ``holdout``, places of rows, are used. Returns α, (n,) or (n,
    C), and the strength (the ridge share ρ or the steps t) with the lowest hold-out squared error
    over all outputs; of equal ones the one that learns least.
    """
    make, strengths = FACTORS[method]
    train, holdout = np.asarray(train), np.asarray(holdout)
    values, vectors = np.linalg.eigh(gram[np.ix_(train, train)])
    values = np.maximum(values, 0.0)
    if values[-1] == 0:  # a kernel of zeros learns nothing
        return np.zeros_like(shift[train]), float(strengths[0])
    along = vectors.T @ shift[train].reshape(len(train), -1)  # (n, C)
    across = gram[np.ix_(holdout, train)] @ vectors
    wanted = shift[holdout].reshape(len(holdout), -1)
    factors = make(values)  # (strengths, n)
    losses = sum(
        ((factors * one @ across.T - known) ** 2).mean(axis=1)
        for one, known in zip(along.T, wanted.T, strict=True)
    )
    best = int(np.argmin(losses))
    weights = vectors @ (factors[best][:, None] * along)
    return weights.reshape(shift[train].shape), float(strengths[best])


def kernel_prediction(
    gram: np.ndarray,
    start: np.ndarray,
    target: np.ndarray,
    train: Sequence[int],
    holdout: Sequence[int],
    others: Sequence[int],
    method: str,
) -> tuple[np.ndarray, float]:
    """Return what kernel regression predicts of ``others``, and its strength.

    ``start`` and ``target`` are f_0 and y, (M,) or (M, C), of which the targets of ``others`` are
    not used; the rest is as in :func:`kernel_weights`.
    """
    weights, strength = kernel_weights(gram, target - start, train, holdout, method)
    others = np.asarray(others)
    return start[others] + gram[np.ix_(others, np.asarray(train))] @ weights, strength


def probe_head(
    features: np.ndarray, target: np.ndarray, train: Sequence[int], holdout: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a linear probe: ridge regression with intercept, in closed form.

    ``features`` has shape (M, D); ``target``, (M,) or (M, C), is used of the places of rows
    ``train`` and ``holdout``. Returns the weights, (D,) or (D, C), the intercept, () or (C,), and
    the strength (:func:`kernel_weights`).
    """
    some = np.asarray(train)
    middle, mean = features[some].mean(axis=0), target[some].mean(axis=0)
    centred = features - middle
    dual, strength = kernel_weights(centred @ centred.T, target - mean, train, holdout, "ridge")
    weights = centred[some].T @ dual
    return weights, mean - middle @ weights, strength
